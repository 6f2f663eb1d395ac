//! A data disk that fills: recovery points are thinned first (by the agent), then the disk grows, up to the user's cap.

use crate::association::{Association, DataDisk, Retry, Space};
use crate::decide::rescue;
use crate::effect::{Effect, StandbyRef};
use crate::observed::DiskSeen;
use crate::problem::Problem;
use crate::reason::Reason;
use crate::units::Timestamp;

/// The least that a disk grows at once: disks only grow, but each growth is a call, and Google allows few in a row.
const LEAST_STEP_GB: u32 = 10;

/// A file system that covers this share of its disk, in percent, has grown to it.
const COVERED_PERCENT: u64 = 90;

impl Association {
    /// The size of the standby's data disk, in GB as Compute Engine counts them.
    #[must_use]
    pub fn disk_gb(&self) -> u32 {
        self.policy.machine.disk_gb.max(self.standby.disk.grown_to_gb)
    }

    /// What the disk would grow to next: half as much again, within the cap; `None` when the cap is reached.
    #[must_use]
    pub fn next_disk_gb(&self) -> Option<u32> {
        let now = self.disk_gb();
        let next = now
            .saturating_add((now / 2).max(LEAST_STEP_GB))
            .min(self.policy.max_disk_gb);
        (next > now).then_some(next)
    }
}

/// Takes in what the agent says of its disk. One that has not yet taken up the last growth is not short: it is growing.
pub(super) fn reported(a: &mut Association, disk: DiskSeen) {
    a.standby.disk.space = match disk {
        DiskSeen::Fine => Space::Enough,
        DiskSeen::Short { total_gb } if u64::from(total_gb) * 100 >= u64::from(a.disk_gb()) * COVERED_PERCENT => {
            Space::Short
        }
        DiskSeen::Short { .. } => Space::Enough,
    };
}

pub(super) fn due(a: &Association, now: Timestamp) -> Option<Effect> {
    let disk = &a.standby.disk;
    if disk.space == Space::Enough || disk.refused.as_ref().is_some_and(|refused| !refused.is_due(now)) {
        return None;
    }
    Some(Effect::GrowDisk {
        standby: StandbyRef::of(a),
        gb: a.next_disk_gb()?,
    })
}

pub(super) fn refused(a: &mut Association, problem: &Problem, now: Timestamp) -> Reason {
    let refused = &mut a.standby.disk.refused;
    refused.get_or_insert_with(|| Retry::fresh(now)).note(problem, now);
    Reason::RetryLater
}

pub(super) fn grown(a: &mut Association, attempt: u16, gb: u32, now: Timestamp) -> Reason {
    if attempt != a.standby.attempt || gb <= a.disk_gb() {
        return Reason::AlreadySo;
    }
    a.standby.disk = DataDisk {
        grown_to_gb: gb,
        ..DataDisk::default()
    };
    rescue::room_was_made(a, now);
    Reason::DiskGrown
}
