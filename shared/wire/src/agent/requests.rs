//! What is asked of a standby, verb by verb.

use serde::{Deserialize, Serialize};
use warmspare_domain::association::PointChoice;
use warmspare_domain::ids::{AssociationId, Epoch, GpuId, PathBelow, RecoveryPointId};
use warmspare_domain::units::Timestamp;

use super::is_default;

/// See [`Request::Bind`](super::Request::Bind).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Whose standby this is. A standby serves one association for life.
    pub association: AssociationId,
    /// Refused when lower than the epoch already bound.
    pub epoch: Epoch,
    /// Where the GPU is. The same epoch may be bound again at another address: a GPU's address changes when it resumes.
    pub source: Host,
    /// The directory on the GPU, absolute or relative to the login's home.
    pub source_path: String,
    /// Whether a changed host key, a missing marker and a thinned-out tree are what the operator wants.
    pub accept: Accept,
    /// A pass that would remove more than this share of the files halts. 1 to 100; 100 switches the guard off.
    pub max_deleted_percent: u8,
    /// rsync patterns that are not copied.
    pub excludes: Vec<String>,
    /// rsync patterns that are copied although an exclude fits them, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub includes: Vec<String>,
    /// Paths below the directory that travel before all others in a first pass, in this order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: Vec<PathBelow>,
    /// A shell command that runs on the GPU, in the directory that is copied, before each pass; empty for none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before_pass: String,
    /// The most that a pass may take of the network, in KiB a second; 0 sets no limit. A last-gasp pass knows none.
    #[serde(default)]
    pub bandwidth_kib_per_s: u32,
    /// Which GPU that is; only remembered, for whoever lost the record of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuId>,
}

/// Whether a person looked at a halt and wants the source as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// Guards stay as they are.
    Nothing,
    /// Pin the host key anew, write the marker anew, and let the next pass through the deletion guard once.
    SourceAsItIs,
}

/// Where a machine answers SSH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Address or name.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Login name.
    pub user: String,
}

/// See [`Request::Sync`](super::Request::Sync).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// Refused unless it is the epoch bound.
    pub epoch: Epoch,
    /// A pass that started before this instant (the agent's clock is not asked; it is the time of the request) is not enough:
    /// one more follows it at once. This is how the last-gasp pass outruns a pass already under way.
    pub urgency: Urgency,
    /// How long the answer may wait for the pass to end, in milliseconds. The pass itself goes on regardless.
    pub wait_ms: u64,
    /// Whether the agent goes on by itself between two calls.
    #[serde(default, skip_serializing_if = "is_default")]
    pub live: Live,
}

/// Whether the agent copies what changes between two calls, every few seconds, until no call came for two minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Live {
    /// Only when it is asked.
    #[default]
    Off,
    /// By itself, where a watcher tells what changed and a recovery point costs nothing.
    On,
}

/// How soon a pass must start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// A pass under way serves.
    Due,
    /// Only a pass that starts after this request serves, and it takes no time for anything but what changed: the GPU is about to stop.
    LastGasp,
}

/// See [`Request::Rescue`](super::Request::Rescue).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// Refused unless it is the epoch bound, and when a restore under a later one was accepted.
    pub epoch: Epoch,
    /// Which loss: its instant. A call with the same one resumes; another one begins anew.
    pub loss: Timestamp,
    /// The machine that serves the disk: the host, not the container.
    pub host: Host,
    /// The name of the GPU's module there.
    pub module: String,
    /// How long the answer may wait for the pull to end, in milliseconds. The pull itself goes on regardless.
    pub wait_ms: u64,
}

/// See [`Request::Restore`](super::Request::Restore).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The epoch that the target will have. A call with the same epoch and target resumes; a higher epoch replaces the job.
    pub epoch: Epoch,
    /// Which recovery point.
    pub point: PointChoice,
    /// The machine to push to.
    pub target: Host,
    /// The directory there. Nothing that is already there and not in the recovery point is touched.
    pub target_path: String,
    /// Paths in the recovery point that travel before all others, in this order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: Vec<PathBelow>,
    /// How long the answer may wait for the job to end, in milliseconds. The job itself goes on regardless.
    pub wait_ms: u64,
    /// Which GPU the target is; only remembered, for whoever lost the record of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuId>,
}

/// See [`Request::PutBack`](super::Request::PutBack).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBack {
    /// Refused unless it is the epoch bound, and when a restore under a later one was accepted.
    pub epoch: Epoch,
    /// A file or a directory with all that is in it.
    pub path: PathBelow,
    /// Which recovery point; without one the newest that has the path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub point: Option<PointChoice>,
    /// What becomes of a file that is there and differs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub existing: Existing,
    /// How long the answer may wait for the job to end, in milliseconds. The job itself goes on regardless.
    pub wait_ms: u64,
}

/// What becomes of a file that is there and differs from the recovery point's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// It stays as it is, and is counted.
    #[default]
    Keep,
    /// It makes room, and is moved below `.warmspare/replaced/` on the GPU.
    Replace,
}

/// See [`Request::Compare`](super::Request::Compare).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The recovery point to start from.
    pub from: RecoveryPointId,
    /// The recovery point to compare it with.
    pub to: PointChoice,
    /// How many changes the answer may list. All are counted.
    pub at_most: u64,
}

/// See [`Request::AuthorizeDownload`](super::Request::AuthorizeDownload).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizeDownload {
    /// One OpenSSH public key line, type and base64 only.
    pub public_key: String,
    /// When the permission ends.
    pub until: Timestamp,
    /// Which recovery point may be read.
    pub point: PointChoice,
}
