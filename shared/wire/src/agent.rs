//! The agent protocol: one [`Call`] as JSON on standard input of `warmspare-agent call`, one [`Answer`] on its standard output.
//!
//! Nothing of a call travels in the command line, so no text from outside ever meets a shell.

use serde::{Deserialize, Serialize};
pub use warmspare_domain::association::PointChoice;
use warmspare_domain::units::Timestamp;

mod comparison;
mod jobs;
mod passes;
mod requests;
mod status;

pub use comparison::{Change, ChangeKind, Comparison};
pub use jobs::{PutBackActivity, RescueActivity, RestoreActivity, RestoreStep};
pub use passes::{Halt, InMotion, PassActivity, PassFailure, PassFailureKind, PassReport, PassScope, Progress};
pub use requests::{
    Accept, AuthorizeDownload, Bind, Compare, Existing, Host, Live, PutBack, Rescue, Restore, Sync, Urgency,
};
pub use status::{
    Binding, DiskSpace, Missed, Partial, Points, RecoveryPoint, RestoreTarget, Source, Status, Traffic, Watcher,
};

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

/// What is not said is the default; so messages of before a field existed stay as they were.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
