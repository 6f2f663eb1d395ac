//! The agent protocol: one [`Call`] as JSON on standard input of `warmspare-agent call`, one [`Answer`] on its standard output.
//!
//! Nothing of a call travels in the command line, so no text from outside ever meets a shell.

use serde::{Deserialize, Serialize};
pub use warmspare_domain::association::PointChoice;
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{AssociationId, Epoch, GpuId, RecoveryPointId};
use warmspare_domain::units::{Bytes, Timestamp};

/// The version of every message in this module.
pub const SCHEMA: u32 = 1;

/// One request to the agent on a standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// [`SCHEMA`] of the caller.
    pub schema: u32,
    /// What to do.
    pub request: Request,
}

impl Call {
    /// A call in the current schema.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self {
            schema: SCHEMA,
            request,
        }
    }
}

/// What the control plane asks of the agent. Every request may be repeated, late or half-done without harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Makes the standby's key pair unless it exists, and answers its public half.
    Prepare,
    /// Ties the standby to a GPU: pins its host key, writes the marker into its tree, remembers the epoch.
    Bind(Bind),
    /// Starts a pass, or reports the one under way.
    Sync(Sync),
    /// Reports without doing anything.
    Status,
    /// Lists the recovery points, oldest first.
    RecoveryPoints,
    /// Starts pushing a recovery point to a host and verifying it there, or reports the push under way.
    Restore(Restore),
    /// Lets one key pull one recovery point, read-only, until an instant.
    AuthorizeDownload(AuthorizeDownload),
}

/// See [`Request::Bind`].
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

/// See [`Request::Sync`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// Refused unless it is the epoch bound.
    pub epoch: Epoch,
    /// A pass that started before this instant (the agent's clock is not asked; it is the time of the request) is not enough:
    /// one more follows it at once. This is how the last-gasp pass outruns a pass already under way.
    pub urgency: Urgency,
    /// How long the answer may wait for the pass to end, in milliseconds. The pass itself goes on regardless.
    pub wait_ms: u64,
}

/// How soon a pass must start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// A pass under way serves.
    Due,
    /// Only a pass that starts after this request serves.
    LastGasp,
}

/// See [`Request::Restore`].
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
    /// How long the answer may wait for the job to end, in milliseconds. The job itself goes on regardless.
    pub wait_ms: u64,
    /// Which GPU the target is; only remembered, for whoever lost the record of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuId>,
}

/// See [`Request::AuthorizeDownload`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizeDownload {
    /// One OpenSSH public key line, type and base64 only.
    pub public_key: String,
    /// When the permission ends.
    pub until: Timestamp,
    /// Which recovery point may be read.
    pub point: PointChoice,
}

/// What the agent says to a [`Call`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`SCHEMA`] of the agent.
    pub schema: u32,
    /// The result.
    pub outcome: Outcome,
}

impl Answer {
    /// An answer in the current schema.
    #[must_use]
    pub fn new(outcome: Outcome) -> Self {
        Self {
            schema: SCHEMA,
            outcome,
        }
    }
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// To [`Request::Prepare`].
    Prepared {
        /// The standby's public key, one OpenSSH line.
        public_key: String,
    },
    /// To [`Request::Bind`], [`Request::Sync`], [`Request::Status`] and [`Request::Restore`].
    Status(Box<Status>),
    /// To [`Request::RecoveryPoints`].
    RecoveryPoints(Vec<RecoveryPoint>),
    /// To [`Request::AuthorizeDownload`].
    DownloadAuthorized {
        /// The recovery point that the key may read.
        point: RecoveryPoint,
        /// When the permission ends.
        until: Timestamp,
    },
    /// The request was understood and not done.
    Refused(Refusal),
}

/// Why the agent did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind, for the caller to branch on.
    pub kind: RefusalKind,
    /// For a person: what failed, what state the data is in, what to do.
    pub message: String,
}

/// The kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The standby serves another association.
    ForeignAssociation,
    /// The request's epoch is not the one bound (sync), or lower than it (bind, restore).
    StaleEpoch,
    /// Nothing is bound yet.
    NotBound,
    /// No recovery point fits.
    NoRecoveryPoint,
    /// The caller's schema is newer than the agent's, or a field is not acceptable.
    BadRequest,
    /// The other machine could not be reached over SSH.
    Unreachable,
    /// The other machine refused the standby's key.
    KeyRefused,
    /// A guard holds: see the status.
    Halted,
    /// A needed program is missing on the standby or on the other machine.
    ProgramMissing,
    /// The data disk is full.
    DiskFull,
    /// Anything else, for example an input/output error.
    Failed,
}

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
    /// What it pulls, once it is bound: whoever lost its record asks here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Where the restore job pushes to, if there ever was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_target: Option<RestoreTarget>,
}

/// Where a restore job pushes to, as its [`Restore`] said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTarget {
    /// Which GPU, when it was told.
    pub gpu: Option<GpuId>,
    /// Where it answered.
    pub host: Host,
}

/// What a bound standby pulls, as its [`Bind`] said.
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

/// Whether a pass is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassActivity {
    /// None.
    Idle,
    /// This one.
    Running {
        /// When it started.
        started_at: Timestamp,
        /// How far it is.
        progress: Progress,
    },
}

/// How far a pass or a restore is. Totals are 0 until they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub bytes_done: Bytes,
    /// Bytes in all.
    pub bytes_total: Bytes,
    /// Files done.
    pub files_done: u64,
    /// Files in all.
    pub files_total: u64,
    /// Bytes a second, lately.
    pub bytes_per_second: u64,
}

/// A complete pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassReport {
    /// When it started: the instant that its recovery point represents.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The epoch of the GPU it pulled from.
    pub epoch: Epoch,
    /// Regular files in the tree.
    pub files: u64,
    /// Their size.
    pub bytes: Bytes,
    /// Files created or changed.
    pub changed_files: u64,
    /// Files deleted.
    pub deleted_files: u64,
    /// Bytes that crossed the network, both ways.
    pub wire_bytes: Bytes,
    /// Files that changed while they were read or could not be read, and keep their last good version. At most 100 are named.
    pub kept_back: Vec<String>,
    /// The recovery point of this state.
    pub point: RecoveryPointId,
}

/// A pass that did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassFailure {
    /// When it gave up.
    pub at: Timestamp,
    /// The kind, for the caller to branch on.
    pub kind: PassFailureKind,
    /// For a person.
    pub message: String,
    /// Failures in a row.
    pub in_a_row: u32,
}

/// The kinds of [`PassFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassFailureKind {
    /// The GPU did not answer SSH, or the connection broke.
    GpuUnreachable,
    /// The GPU refused the standby's key.
    KeyRefused,
    /// rsync is missing on the GPU.
    ProgramMissing,
    /// The data disk is full.
    DiskFull,
    /// The standby was stopped or the agent was killed in mid-pass.
    Interrupted,
    /// A guard stopped it: see [`Status::halt`].
    Halted,
    /// rsync failed in another way.
    Failed,
}

/// A guard that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// Since when.
    pub at: Timestamp,
    /// Which guard.
    pub reason: HaltReason,
    /// The numbers behind it, for a person.
    pub detail: String,
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
}

/// Whether a restore is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreActivity {
    /// None was ever asked for.
    Never,
    /// Copying or verifying.
    Running {
        /// The epoch that the target will have.
        epoch: Epoch,
        /// Which recovery point.
        point: RecoveryPointId,
        /// Where it stands.
        step: RestoreStep,
        /// When the job started.
        started_at: Timestamp,
        /// How far the step is.
        progress: Progress,
    },
    /// Done, and every file of the recovery point was read back and equals it by checksum.
    Verified {
        /// The epoch that the target will have.
        epoch: Epoch,
        /// Which recovery point.
        point: RecoveryPointId,
        /// When the job started.
        started_at: Timestamp,
        /// When it ended.
        ended_at: Timestamp,
        /// Regular files.
        files: u64,
        /// Their size.
        bytes: Bytes,
    },
    /// It ended without success. What was copied stays and is used when it is asked for again.
    Failed {
        /// The epoch that the target would have had.
        epoch: Epoch,
        /// When it ended.
        at: Timestamp,
        /// For a person.
        message: String,
    },
}

/// The two halves of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStep {
    /// Files travel.
    Copying,
    /// Both ends are read and compared by checksum.
    Verifying,
}

/// The data disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpace {
    /// Its size.
    pub total: Bytes,
    /// What the agent may still use.
    pub free: Bytes,
}
