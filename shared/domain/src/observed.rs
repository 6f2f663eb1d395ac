//! What the providers and the agent last told us, in the words of the domain.

use serde::{Deserialize, Serialize};

use crate::halt::HaltReason;
use crate::ids::{Epoch, GpuId};
use crate::policy::StandbyProvider;
use crate::units::Timestamp;

/// What a provider last told us about a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed<T> {
    /// It answered, completely: no such machine.
    Absent,
    /// We did not ask, or our call got no answer. It may exist and be billing.
    Unknown,
    /// It answered with this.
    Present(T),
}

/// Everything that one look brought. What was not looked at is `Unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The GPU that the association is bound to.
    pub gpu: Observed<GpuSeen>,
    /// The standby's machine.
    pub standby: Observed<StandbySeen>,
    /// The standby's data disk.
    pub disk: Observed<()>,
    /// The GPU that a restore goes to.
    pub target: Observed<GpuSeen>,
}

impl Seen {
    /// Nothing was looked at.
    pub const NOTHING: Self = Self {
        gpu: Observed::Unknown,
        standby: Observed::Unknown,
        disk: Observed::Unknown,
        target: Observed::Unknown,
    };
}

/// A GPU at Vast, `reference/vast/vast-api.md` §12.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuSeen {
    /// Being provisioned, or its container is coming up again.
    Starting,
    /// Its container runs and answers SSH here, if at all.
    Running(SshHost),
    /// `exited` and meant to be: the disk survives and it may come back by itself.
    Paused(PauseCause),
    /// `offline` or `unknown`: the host gives no sign of life.
    Dark,
}

/// Why a GPU is paused, as far as Vast tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseCause {
    /// Outbid, or stopped by the user: Vast shows both alike.
    OutbidOrStopped,
    /// The account has no credit left, which stops every GPU at once.
    OutOfCredit,
    /// The contract's end date has passed: it cannot be started again.
    ContractEnded,
}

/// Where a GPU answers SSH.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SshHost {
    /// Address or name.
    pub address: String,
    /// TCP port.
    pub port: u16,
}

/// A standby's machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandbySeen {
    /// On its way up, or up but its host key is not published yet.
    Booting,
    /// Up.
    Running(Endpoint),
    /// On its way down.
    Stopping,
    /// Down, disk kept: preempted, or stopped by us.
    Stopped,
}

/// Where a standby answers SSH, and by which key it is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The provider's number of the machine; another number is another machine, with other host keys.
    pub instance: u64,
    /// External address; another one after every stop and start.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// `ssh-ed25519 AAAA…`, as the machine published it through the provider.
    pub host_key: String,
    /// Who rents the machine out; how one logs in and where its data lies depend on it.
    #[serde(default, skip_serializing_if = "StandbyProvider::is_gcp")]
    pub provider: StandbyProvider,
}

/// What the agent on the standby reported, reduced to what decisions need.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AgentReport {
    /// The epoch it is bound to.
    pub bound: BoundTo,
    /// The guard that holds.
    pub halt: Option<HaltReason>,
    /// Whether there is anything to restore.
    pub points: PointsSeen,
    /// What keeps passes from completing.
    pub trouble: PassTrouble,
    /// The restore job.
    pub restore: RestoreSeen,
    /// The last rescue.
    pub rescue: RescueSeen,
    /// The data disk.
    pub disk: DiskSeen,
}

/// The standby's data disk, as its agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskSeen {
    /// There is room, or recovery points that can still be given up.
    Fine,
    /// There is hardly any.
    Short {
        /// The size of its file system, in GB.
        total_gb: u32,
    },
}

/// What the agent is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BoundTo {
    /// Nothing.
    Nothing,
    /// The GPU of this epoch.
    Epoch(Epoch),
}

/// Whether there is anything to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PointsSeen {
    /// No recovery point yet.
    None,
    /// At least one.
    Some,
}

/// What keeps passes from completing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PassTrouble {
    /// Nothing.
    None,
    /// The GPU does not answer.
    GpuUnreachable,
    /// The GPU refuses the standby's key.
    KeyRefused,
    /// Something else, which looking at the GPU will not explain.
    Other,
}

/// The restore job on the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RestoreSeen {
    /// None.
    Idle,
    /// Copying or verifying, for the GPU that will have this epoch.
    Running(Epoch),
    /// Done and verified by checksum.
    Verified(Epoch),
    /// Ended without success.
    Failed(Epoch),
    /// Ended because the target did not let the standby in, or lacks a program: it may be starting still.
    NotReady(Epoch),
}

/// The last rescue on the standby. Each names the loss it was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RescueSeen {
    /// None.
    Idle,
    /// Under way.
    Running(Timestamp),
    /// Everything that the disk held is in a recovery point.
    Complete(Timestamp),
    /// It broke off, and may be tried again.
    Failed {
        /// The loss.
        loss: Timestamp,
        /// Attempts so far.
        attempts: u8,
    },
    /// A guard would not have what the disk shows: trying again changes nothing.
    Refused(Timestamp),
}

/// A machine or GPU that the sweep found with our label on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Found {
    /// A standby machine or its disk, made by this attempt.
    Standby {
        /// The attempt in its name.
        attempt: u16,
    },
    /// A GPU that we rented for this epoch.
    Rental {
        /// Which GPU.
        gpu: GpuId,
        /// The epoch in its label.
        epoch: Epoch,
    },
}
