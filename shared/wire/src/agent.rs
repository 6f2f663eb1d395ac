//! The agent protocol: one [`Call`] as JSON on standard input of `warmspare-agent call`, one [`Answer`] on its standard output.
//!
//! Nothing of a call travels in the command line, so no text from outside ever meets a shell.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
pub use warmspare_domain::association::PointChoice;
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{AssociationId, CheckpointName, Epoch, GpuId, PathBelow, RecoveryPointId};
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
    /// Lists what changed between two recovery points.
    Compare(Compare),
    /// Starts pulling the tree from the disk of the paused GPU, through its provider's rsync module, or reports the pull under way.
    Rescue(Rescue),
    /// Starts pushing a recovery point to a host and verifying it there, or reports the push under way.
    Restore(Restore),
    /// Starts putting one path of a recovery point back onto the GPU that is bound, or reports the job under way.
    PutBack(PutBack),
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

/// What is not said is the default; so messages of before a field existed stay as they were.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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

/// See [`Request::Rescue`].
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
    /// Paths in the recovery point that travel before all others, in this order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: Vec<PathBelow>,
    /// How long the answer may wait for the job to end, in milliseconds. The job itself goes on regardless.
    pub wait_ms: u64,
    /// Which GPU the target is; only remembered, for whoever lost the record of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuId>,
}

/// See [`Request::PutBack`].
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

/// See [`Request::Compare`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The recovery point to start from.
    pub from: RecoveryPointId,
    /// The recovery point to compare it with.
    pub to: PointChoice,
    /// How many changes the answer may list. All are counted.
    pub at_most: u64,
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
    /// To [`Request::Bind`], [`Request::Sync`], [`Request::Rescue`], [`Request::Status`], [`Request::Restore`] and [`Request::PutBack`].
    Status(Box<Status>),
    /// To [`Request::RecoveryPoints`].
    RecoveryPoints(Vec<RecoveryPoint>),
    /// To [`Request::Compare`].
    Compared(Box<Comparison>),
    /// To [`Request::AuthorizeDownload`].
    DownloadAuthorized {
        /// The recovery point that the key may read.
        point: RecoveryPoint,
        /// When the permission ends.
        until: Timestamp,
    },
    /// To [`Request::AuthorizeDownload`] of what is not a recovery point.
    PartialDownloadAuthorized {
        /// What the key may read.
        partial: Partial,
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

impl Display for Progress {
    /// Bytes and files, the rate, and how long the rest takes at this rate.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rate = Bytes(self.bytes_per_second);
        if self.bytes_total.0 == 0 {
            return write!(f, "{} at {rate}/s", self.bytes_done);
        }
        let (bytes, all) = (self.bytes_done, self.bytes_total);
        write!(
            f,
            "{bytes} of {all}, {} of {} files at {rate}/s",
            self.files_done, self.files_total
        )?;
        match self.seconds_left() {
            Some(seconds @ ..120) => write!(f, ", {seconds} s left"),
            Some(seconds @ ..7200) => write!(f, ", {} min left", seconds / 60),
            Some(seconds) => write!(f, ", {} h {} min left", seconds / 3600, seconds / 60 % 60),
            None => Ok(()),
        }
    }
}

impl Progress {
    /// How long the rest takes at this rate, in seconds; `None` while the total or the rate is not known.
    #[must_use]
    pub fn seconds_left(&self) -> Option<u64> {
        let total = Some(self.bytes_total.0).filter(|total| *total > 0)?;
        total
            .saturating_sub(self.bytes_done.0)
            .checked_div(self.bytes_per_second)
    }
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
    /// Files that could not be read whole, and keep their last good version. At most 100 are named, each in one line: `\n`, `\\`, and
    /// `\xff` for what is no UTF-8.
    pub kept_back: Vec<String>,
    /// The recovery point of this state.
    pub point: RecoveryPointId,
    /// What it looked at.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scope: PassScope,
    /// Changes that this full scan found and the watcher had not told of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub missed: u64,
    /// Why the command that runs before each pass failed, for a person. The pass went on without it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub command_failed: Option<String>,
    /// Files that changed while they were copied. At most 100 are named; where no watcher runs, none is known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub in_motion: Vec<InMotion>,
}

/// A file that changed while it was copied: its copy may be neither what it was nor what it became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InMotion {
    /// Its path below the synced directory, written as in [`PassReport::kept_back`].
    pub file: String,
    /// The newest recovery point that has it as it was at some instant. Thinning leaves that one for a week.
    pub whole_in: Option<RecoveryPointId>,
}

impl Display for InMotion {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { file, whole_in } = self;
        write!(
            f,
            "{file} changed while it was copied, which is well for a log and tears most else; "
        )?;
        match whole_in {
            Some(point) => write!(f, "whole in recovery point {point}"),
            None => f.write_str("no older recovery point has it whole"),
        }
    }
}

/// What a pass looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassScope {
    /// Every file.
    #[default]
    Everything,
    /// What the watcher said had changed.
    Changes,
    /// Nothing: the watcher said that nothing had changed.
    Nothing,
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
    /// It failed in another way.
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

/// What changed between two recovery points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The recovery point started from.
    pub from: RecoveryPoint,
    /// The recovery point compared with it.
    pub to: RecoveryPoint,
    /// Entries that only the second has.
    pub added: u64,
    /// Entries that both have and that differ in kind, size, time or mode.
    pub changed: u64,
    /// Entries that only the first has.
    pub deleted: u64,
    /// The first of them, in the order of names.
    pub changes: Vec<Change>,
}

impl Display for Comparison {
    /// One line for each change listed, then the counts.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            let sign = match change.kind {
                ChangeKind::Added => '+',
                ChangeKind::Changed => '~',
                ChangeKind::Deleted => '-',
            };
            let size = |bytes: Option<Bytes>| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
            let (before, after) = (size(change.bytes_before), size(change.bytes_after));
            writeln!(f, "{sign} {before:>10} -> {after:>10}  {}", change.path)?;
        }
        let Self {
            added,
            changed,
            deleted,
            ..
        } = self;
        let listed = u64::try_from(self.changes.len()).unwrap_or(u64::MAX);
        let rest = (added + changed + deleted).saturating_sub(listed);
        let not_listed = if rest > 0 {
            format!(", {rest} of them not listed")
        } else {
            String::new()
        };
        let (from, to) = (&self.from.id, &self.to.id);
        writeln!(
            f,
            "{added} added, {changed} changed, {deleted} deleted from {from} to {to}{not_listed}"
        )
    }
}

/// One entry that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its path below the root, in one line: control characters and bytes that are no UTF-8 are escaped with a backslash.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Its size in the first recovery point; 0 for what is no regular file.
    pub bytes_before: Option<Bytes>,
    /// Its size in the second.
    pub bytes_after: Option<Bytes>,
}

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Only the second has it.
    Added,
    /// Both have it, not the same.
    Changed,
    /// Only the first has it.
    Deleted,
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
        /// Since when all that was to travel first is there, not verified yet: whoever needs no more can begin to work.
        #[serde(default, skip_serializing_if = "is_default")]
        first_there_at: Option<Timestamp>,
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

/// Whether a path is, or was, put back onto the GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PutBackActivity {
    /// Never asked for.
    #[default]
    Never,
    /// Copying or verifying.
    Running {
        /// The path.
        path: PathBelow,
        /// Which recovery point.
        point: RecoveryPointId,
        /// Where it stands.
        step: RestoreStep,
        /// How far the step is.
        progress: Progress,
    },
    /// Done, and everything at the path was read back.
    Verified {
        /// The path.
        path: PathBelow,
        /// Which recovery point.
        point: RecoveryPointId,
        /// When it ended.
        ended_at: Timestamp,
        /// Regular files at the path in the recovery point.
        files: u64,
        /// Their size.
        bytes: Bytes,
        /// Entries that got their place; a directory that was missing counts once, with all that is in it.
        put: u64,
        /// Entries that are there, differ from the recovery point, and were kept.
        kept: u64,
        /// Where on the GPU lies what made room, below the directory that is copied; `None` when nothing did.
        #[serde(default, skip_serializing_if = "is_default")]
        replaced: Option<String>,
    },
    /// It ended without success. What arrived stays, and is used when it is asked for again.
    Failed {
        /// The path.
        path: PathBelow,
        /// When it ended.
        at: Timestamp,
        /// For a person.
        message: String,
    },
}

impl PutBackActivity {
    /// Which path it is about.
    #[must_use]
    pub fn path(&self) -> Option<&PathBelow> {
        match self {
            Self::Never => None,
            Self::Running { path, .. } | Self::Verified { path, .. } | Self::Failed { path, .. } => Some(path),
        }
    }
}

impl Display for PutBackActivity {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("nothing yet"),
            Self::Running {
                path,
                point,
                step,
                progress,
            } => write!(f, "{path} of {point}: {step}, {progress}"),
            Self::Verified {
                path,
                point,
                files,
                bytes,
                put,
                kept,
                replaced,
                ..
            } => {
                if *kept > 0 {
                    return write!(
                        f,
                        "{path}: {put} entries of {point} were put there; {kept} were there before, differ, and stay as they are"
                    );
                }
                if *put == 0 {
                    return write!(
                        f,
                        "{path} was there already as in {point}, {files} files ({bytes}): nothing was missing"
                    );
                }
                write!(
                    f,
                    "{path} is there as in {point}: {put} entries were put there, {files} files ({bytes}) were read on both sides"
                )?;
                match replaced {
                    None => Ok(()),
                    Some(aside) => write!(f, "; what made room is on the GPU in {aside}"),
                }
            }
            Self::Failed { path, message, .. } => write!(f, "{path} failed: {message}"),
        }
    }
}

/// Whether the disk of a paused GPU is, or was, pulled through its provider. Each names the loss it was for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RescueActivity {
    /// Never asked for.
    #[default]
    Never,
    /// Under way.
    Running {
        /// The loss.
        loss: Timestamp,
        /// How far it is.
        progress: Progress,
    },
    /// Everything that the disk held is in this recovery point.
    Complete {
        /// The loss.
        loss: Timestamp,
        /// The recovery point.
        point: RecoveryPointId,
        /// When it ended.
        at: Timestamp,
        /// Files that it brought or changed.
        changed_files: u64,
    },
    /// It broke off. What arrived is used again.
    Failed {
        /// The loss.
        loss: Timestamp,
        /// Attempts so far.
        attempts: u8,
        /// When it ended.
        at: Timestamp,
        /// For a person.
        message: String,
    },
    /// A guard would not have what the disk shows; the recovery points are as they were.
    Refused {
        /// The loss.
        loss: Timestamp,
        /// When.
        at: Timestamp,
        /// For a person.
        message: String,
    },
}

/// What passes put on the wire, both ways, by days in UTC; of those that broke off about what had arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Since midnight.
    pub today: Bytes,
    /// Today and the 29 days before.
    pub last_30_days: Bytes,
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

impl Display for RestoreStep {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copying => "copying",
            Self::Verifying => "verifying",
        })
    }
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
