//! How passes go, and what they brought.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{Epoch, RecoveryPointId};
use warmspare_domain::units::{Bytes, Timestamp};

use super::is_default;

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
    /// A guard stopped it: see [`Status::halt`](super::Status::halt).
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
