//! What can keep the agent from doing what it was asked, as outcomes that callers branch on.

use std::io;

use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{AssociationId, Epoch};
use warmspare_wire::agent::{PassFailureKind, Refusal, RefusalKind};

use crate::guard::Tripped;

/// Why a call or a pass did not succeed. Each text says what failed, how the data stands, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The standby serves another association.
    #[error(
        "this standby serves association {bound}, not {asked}; its data was not touched. Use the standby of {asked}, or a new one"
    )]
    ForeignAssociation {
        /// The one it serves.
        bound: AssociationId,
        /// The one in the request.
        asked: AssociationId,
    },
    /// The request carries an epoch that is not current.
    #[error(
        "epoch {asked} is not current, the standby is at epoch {current}; nothing was changed. Read the association again and use its epoch"
    )]
    StaleEpoch {
        /// The epoch of the request.
        asked: Epoch,
        /// The epoch that counts.
        current: Epoch,
    },
    /// No GPU was bound.
    #[error("this standby is not bound to a GPU yet; it holds no data. Bind it first")]
    NotBound,
    /// There is nothing to restore from.
    #[error(
        "no recovery point fits ({wanted}); nothing was changed. List them first: `warmspare points GPU`, or on the standby `warmspare-agent recovery-points`"
    )]
    NoRecoveryPoint {
        /// What was asked for.
        wanted: String,
    },
    /// A field of the request is not acceptable.
    #[error("the request is not acceptable: {0}; nothing was changed. Correct it and ask again")]
    BadRequest(String),
    /// Something else is to be done first.
    #[error("{0}; nothing was changed. Ask again when that is done")]
    Busy(String),
    /// The other machine does not answer SSH, or the connection broke.
    #[error(
        "cannot reach {host} over SSH ({detail}); every recovery point is intact. Check that the machine runs; the next attempt carries on"
    )]
    Unreachable {
        /// Address and port.
        host: String,
        /// The last words of ssh or rsync.
        detail: String,
    },
    /// The other machine refuses the standby's key.
    #[error(
        "{host} refuses the standby's key; every recovery point is intact. Attach the key that `prepare` answers to that machine"
    )]
    KeyRefused {
        /// Address and port.
        host: String,
    },
    /// A guard holds.
    #[error(
        "copying is halted: {reason} ({detail}); every recovery point is intact and can be restored. Look at the GPU, then bind again and accept the source as it is, or restore"
    )]
    Halted {
        /// Which guard.
        reason: HaltReason,
        /// The numbers behind it.
        detail: String,
    },
    /// A program is not installed.
    #[error("{program} is missing on {place}; every recovery point is intact. Install it there: {remedy}")]
    ProgramMissing {
        /// The program.
        program: &'static str,
        /// Where it is missing.
        place: String,
        /// A command that installs it.
        remedy: &'static str,
    },
    /// The data disk is full.
    #[error(
        "the standby's data disk is full; every recovery point is intact, newer changes are only on the GPU. Enlarge the disk or exclude files"
    )]
    DiskFull,
    /// The disk that a restore fills is full.
    #[error(
        "the disk of {host} is full; every recovery point is intact. Make room there, or take a machine with a larger disk: what arrived is used again"
    )]
    TargetFull {
        /// Address and port.
        host: String,
    },
    /// The work was stopped: by a newer request, a signal, or a kill.
    #[error(
        "the work was interrupted ({0}); every recovery point is intact. The next attempt carries on where it stopped"
    )]
    Interrupted(String),
    /// rsync failed in a way that nothing above covers.
    #[error("rsync failed ({0}); every recovery point is intact. The next attempt starts over")]
    Rsync(String),
    /// The other machine did something else than was asked of it.
    #[error("{0}; every recovery point is intact. The next attempt starts over")]
    Unexpected(String),
    /// The local disk did not do as told.
    #[error("cannot {doing} on the standby; every complete recovery point is kept. Check the data disk")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl From<Tripped> for AgentError {
    fn from((reason, detail): Tripped) -> Self {
        Self::Halted { reason, detail }
    }
}

/// The text of an error with its causes, for a person.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

impl AgentError {
    /// An input/output error with what was tried; a full disk is its own outcome.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::DiskFull;
        }
        Self::Io {
            doing: doing.into(),
            source,
        }
    }

    /// The text with its causes, for a person.
    #[must_use]
    pub fn message(&self) -> String {
        with_causes(self)
    }

    /// The refusal that answers a call.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let kind = match self {
            Self::ForeignAssociation { .. } => RefusalKind::ForeignAssociation,
            Self::StaleEpoch { .. } => RefusalKind::StaleEpoch,
            Self::NotBound => RefusalKind::NotBound,
            Self::NoRecoveryPoint { .. } => RefusalKind::NoRecoveryPoint,
            Self::BadRequest(_) => RefusalKind::BadRequest,
            Self::Busy(_) => RefusalKind::Failed,
            Self::Unreachable { .. } => RefusalKind::Unreachable,
            Self::KeyRefused { .. } => RefusalKind::KeyRefused,
            Self::Halted { .. } => RefusalKind::Halted,
            Self::ProgramMissing { .. } => RefusalKind::ProgramMissing,
            Self::DiskFull => RefusalKind::DiskFull,
            Self::TargetFull { .. } | Self::Interrupted(_) | Self::Rsync(_) | Self::Unexpected(_) | Self::Io { .. } => {
                RefusalKind::Failed
            }
        };
        Refusal {
            kind,
            message: self.message(),
        }
    }

    /// The kind of a pass that failed like this.
    #[must_use]
    pub fn pass_failure_kind(&self) -> PassFailureKind {
        match self {
            Self::Unreachable { .. } => PassFailureKind::GpuUnreachable,
            Self::KeyRefused { .. } => PassFailureKind::KeyRefused,
            Self::ProgramMissing { .. } => PassFailureKind::ProgramMissing,
            Self::DiskFull => PassFailureKind::DiskFull,
            Self::Interrupted(_) => PassFailureKind::Interrupted,
            Self::Halted { .. } => PassFailureKind::Halted,
            Self::ForeignAssociation { .. }
            | Self::StaleEpoch { .. }
            | Self::NotBound
            | Self::NoRecoveryPoint { .. }
            | Self::BadRequest(_)
            | Self::Busy(_)
            | Self::TargetFull { .. }
            | Self::Rsync(_)
            | Self::Unexpected(_)
            | Self::Io { .. } => PassFailureKind::Failed,
        }
    }
}
