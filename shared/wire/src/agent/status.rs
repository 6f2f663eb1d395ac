//! What a standby says of itself.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use warmspare_domain::ids::{AssociationId, CheckpointName, Epoch, GpuId, PathBelow, RecoveryPointId};
use warmspare_domain::units::{Bytes, Timestamp};

use super::{
    Halt, Host, PassActivity, PassFailure, PassReport, PutBackActivity, RescueActivity, RestoreActivity, is_default,
};

/// How a standby stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The standby's clock when it answered.
    pub now: Timestamp,
    /// What it is bound to.
    pub binding: Binding,
    /// The pass under way, if any.
    pub pass: PassActivity,
    /// The last complete pass.
    pub last_complete: Option<PassReport>,
    /// The last pass that did not complete, when none completed since.
    pub last_failure: Option<PassFailure>,
    /// The guard that holds, if any.
    pub halt: Option<Halt>,
    /// What could be restored.
    pub points: Points,
    /// The restore job, if there ever was one.
    pub restore: RestoreActivity,
    /// The data disk.
    pub disk: DiskSpace,
    /// Who tells what changed on the GPU.
    #[serde(default, skip_serializing_if = "is_default")]
    pub watcher: Watcher,
    /// What full scans found that the watcher had not told of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub missed: Missed,
    /// Until when the agent goes on by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub live_until: Option<Timestamp>,
    /// The last rescue, if there ever was one.
    #[serde(default)]
    pub rescue: RescueActivity,
    /// The last path that was put back onto the GPU, if there ever was one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub put_back: PutBackActivity,
    /// What passes put on the wire.
    #[serde(default)]
    pub traffic: Traffic,
    /// What it pulls, once it is bound: whoever lost its record asks here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Where the restore job pushes to, if there ever was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_target: Option<RestoreTarget>,
}

/// Whether a watcher on the GPU tells what changed there, as the last pass found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watcher {
    /// No pass has looked yet.
    #[default]
    Unknown,
    /// It is listing the tree; until it knows it all, passes scan everything.
    Starting,
    /// It tells what changed.
    Watching {
        /// How many directories it watches.
        directories: u64,
    },
    /// There is none, and every pass scans everything.
    Missing {
        /// Why, and what to do, for a person.
        reason: String,
    },
}

impl Display for Watcher {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not known yet"),
            Self::Starting => f.write_str("is listing the tree; until it knows it, passes look at every file"),
            Self::Watching { directories } => write!(f, "tells what changes in {directories} directories"),
            Self::Missing { reason } => write!(f, "none, so every pass looks at every file: {reason}"),
        }
    }
}

/// Changes that full scans found and the watcher had not told of, since the standby was made: written through memory maps, or by other
/// machines on a shared disk. They arrive with the full scan, which comes every 15 minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// How many.
    pub changes: u64,
    /// The start of the last pass that found any.
    pub last_at: Option<Timestamp>,
}

/// Where a restore job pushes to, as its [`Restore`](super::Restore) said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTarget {
    /// Which GPU, when it was told.
    pub gpu: Option<GpuId>,
    /// Where it answered.
    pub host: Host,
}

/// What a bound standby pulls, as its [`Bind`](super::Bind) said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Which GPU, when it was told.
    pub gpu: Option<GpuId>,
    /// Where the GPU answered when it was bound.
    pub host: Host,
    /// The directory on the GPU.
    pub path: String,
    /// rsync patterns that are not copied.
    pub excludes: Vec<String>,
    /// rsync patterns that are copied all the same.
    #[serde(default, skip_serializing_if = "is_default")]
    pub includes: Vec<String>,
    /// Paths that travel before all others.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: Vec<PathBelow>,
    /// The command that runs before each pass; empty for none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before_pass: String,
    /// A pass that would remove more than this share of the files halts.
    pub max_deleted_percent: u8,
}

/// What a standby is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// Nothing yet.
    Unbound,
    /// This.
    Bound {
        /// The association it serves.
        association: AssociationId,
        /// The epoch of the GPU it pulls from.
        epoch: Epoch,
    },
}

/// What could be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Points {
    /// How many recovery points there are.
    pub count: u64,
    /// The newest.
    pub latest: Option<RecoveryPoint>,
    /// The oldest.
    pub oldest: Option<RecoveryPointId>,
    /// Bytes of an unfinished first pass: some of the data, not restorable as a whole.
    pub partial: Bytes,
}

/// What arrived of a first pass that is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// Regular files, beginnings of files among them.
    pub files: u64,
    /// Their size.
    pub bytes: Bytes,
}

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Its name.
    pub id: RecoveryPointId,
    /// The instant it represents: the start of its pass.
    pub taken_at: Timestamp,
    /// The latest instant up to which a later pass found nothing changed since.
    pub confirmed_at: Timestamp,
    /// The epoch of the GPU it came from.
    pub epoch: Epoch,
    /// Regular files.
    pub files: u64,
    /// Their size.
    pub bytes: Bytes,
    /// The checkpoints that it holds as they were when they were named.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checkpoints: Vec<CheckpointName>,
}

/// What passes put on the wire, both ways, by days in UTC; of those that broke off about what had arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Since midnight.
    pub today: Bytes,
    /// Today and the 29 days before.
    pub last_30_days: Bytes,
}

/// The data disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpace {
    /// Its size.
    pub total: Bytes,
    /// What the agent may still use.
    pub free: Bytes,
    /// Whether that is less than it keeps free for the next pass, although all older recovery points are given up and their space is back.
    /// While a pass is under way nobody can tell.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exhausted: bool,
}
