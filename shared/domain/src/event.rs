//! What happened, in the past tense: requests, looks at the world, and results of effects.

use crate::association::PointChoice;
use crate::effect::EffectKind;
use crate::ids::{Epoch, GpuId};
use crate::observed::{AgentReport, Seen};
use crate::policy::Policy;
use crate::problem::Problem;
use crate::units::MicroUsd;

/// What happened. An event only changes what is wanted or records a fact; effects follow from state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The user destroyed the GPU or asked to let the standby go.
    ReleaseRequested {
        /// Which one they meant.
        subject: Subject,
    },
    /// A tool found the GPU lost.
    GpuFailedReported {
        /// Which one it meant.
        subject: Subject,
    },
    /// A tool reported the GPU destroyed, not by its user.
    GpuDestroyedReported {
        /// Which one it meant.
        subject: Subject,
    },
    /// Vast announced that the GPU will be stopped.
    OutbidAnnounced {
        /// Which one.
        gpu: GpuId,
    },
    /// Something hints at a change; look at the GPU now.
    LookRequested,
    /// The user stopped the copying.
    SyncStopRequested,
    /// The user wants the copying to go on, after they stopped it or after a loss that a tool had declared.
    SyncStartRequested,
    /// The user looked at a halt and wants the source as it is now.
    SourceAccepted,
    /// The user asked for the data on another GPU.
    RestoreRequested {
        /// What to restore.
        point: PointChoice,
        /// Where to.
        destination: Destination,
    },
    /// Somebody downloads: a holding standby is to be up for a while.
    StandbyWanted,
    /// The user changed the rules.
    PolicyChanged(Box<Policy>),
    /// We looked at the world. The only event that makes effects.
    Looked(Seen),
    /// The agent was bound to the GPU of this epoch.
    Bound {
        /// That epoch.
        epoch: Epoch,
    },
    /// The agent answered.
    AgentReported(AgentReport),
    /// The agent took the order for the last-gasp pass.
    LastGaspAccepted,
    /// The standby did not answer.
    StandbyUnreachable,
    /// The data disk of this attempt's standby has grown.
    DiskGrown {
        /// That attempt.
        attempt: u16,
        /// Its size now, in GB.
        gb: u32,
    },
    /// A GPU was rented for this epoch, or found under its label.
    Rented {
        /// That epoch.
        epoch: Epoch,
        /// The GPU.
        gpu: GpuId,
    },
    /// Vast confirmed that a superseded GPU is gone.
    SupersededGone {
        /// Which one.
        gpu: GpuId,
    },
    /// The provider definitely did not make the standby of this attempt.
    StandbyRefused {
        /// That attempt.
        attempt: u16,
        /// Why.
        problem: Problem,
    },
    /// Vast definitely did not rent us a GPU for this epoch.
    RentRefused {
        /// That epoch.
        epoch: Epoch,
        /// Why.
        problem: Problem,
    },
    /// Another effect did not happen, or its outcome is unknown: the problem tells.
    EffectFailed {
        /// Which effect.
        effect: EffectKind,
        /// Why.
        problem: Problem,
    },
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The association, whichever GPU it is bound to.
    Association,
    /// This GPU; when the data has moved on to another, the request is about the past.
    Gpu(GpuId),
}

/// Where the user wants the data restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// On a GPU that is rented for it.
    Rent {
        /// The most it may cost an hour.
        max_price_per_hour: MicroUsd,
    },
    /// On this GPU of theirs.
    Onto(GpuId),
}
