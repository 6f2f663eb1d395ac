//! Restores, what is put back, and rescues: whether they run, and how they ended.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use warmspare_domain::ids::{Epoch, PathBelow, RecoveryPointId};
use warmspare_domain::units::{Bytes, Timestamp};

use super::{Progress, is_default};

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
        /// The target did not let the standby in, or has no rsync: it may be starting still.
        #[serde(default, skip_serializing_if = "is_default")]
        not_ready: bool,
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
                match (put, kept) {
                    (0, 0) => write!(
                        f,
                        "{path} was there already as in {point}, {files} files ({bytes}): nothing was missing"
                    ),
                    (_, 0) => write!(
                        f,
                        "{path} is there as in {point}: {put} entries were put there, {files} files ({bytes}) were read on both sides"
                    ),
                    _ => write!(
                        f,
                        "{path}: {put} entries of {point} were put there; {kept} were there before, differ, and stay as they are"
                    ),
                }?;
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
