//! What is to be done, in the imperative. Every effect may run twice, late, or half, without harm.

use crate::association::{Association, PointChoice};
use crate::ids::{Epoch, GpuId, StandbyName, Zone};
use crate::observed::{Endpoint, SshHost};
use crate::policy::{MachineSpec, StandbyProvider};
use crate::units::{MicroUsd, Timestamp};
use crate::warrant::ReleaseWarrant;

/// What is to be done. The shell that does it has no choices left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Order the standby's machine with its data disk. An order of the same name that already landed is the same order.
    CreateStandby {
        /// Which.
        standby: StandbyRef,
        /// What to order.
        machine: MachineSpec,
    },
    /// Start the standby's stopped machine.
    StartStandby {
        /// Which.
        standby: StandbyRef,
    },
    /// Stop the standby's machine; its disk stays.
    StopStandby {
        /// Which.
        standby: StandbyRef,
    },
    /// Put the agent on the standby, let its key into the GPU, and tie it to that GPU.
    Bind {
        /// The standby.
        endpoint: Endpoint,
        /// The GPU.
        gpu: GpuId,
        /// Where the GPU answers.
        host: SshHost,
        /// The epoch it binds.
        epoch: Epoch,
        /// Whether a person accepted the source as it is.
        accept: Accept,
    },
    /// Pull.
    Sync {
        /// The standby.
        endpoint: Endpoint,
        /// Refused by the agent unless it is bound to this.
        epoch: Epoch,
        /// Whether a pass under way is enough.
        urgency: Urgency,
    },
    /// Pull the last changes of a paused GPU from its disk, through its provider.
    Rescue {
        /// The standby.
        endpoint: Endpoint,
        /// The paused GPU.
        gpu: GpuId,
        /// Refused by the agent unless it is bound to this.
        epoch: Epoch,
        /// Which loss: its instant. The same GPU may be paused again, with other changes on its disk.
        loss: Timestamp,
    },
    /// Grow the standby's data disk to this size. One that has it is left as it is; none ever shrinks.
    GrowDisk {
        /// Whose.
        standby: StandbyRef,
        /// Its size from then on, in GB.
        gb: u32,
    },
    /// Rent a GPU like the lost one. A GPU that carries this epoch's label already is that GPU.
    RentGpu {
        /// The epoch it is for; its label carries it.
        epoch: Epoch,
        /// The model to look for is that of this GPU.
        like: GpuId,
        /// The most it may cost an hour.
        max_price_per_hour: MicroUsd,
    },
    /// Push a recovery point to a GPU and verify it there.
    Restore {
        /// The standby.
        endpoint: Endpoint,
        /// The epoch that the target will have.
        epoch: Epoch,
        /// What.
        point: PointChoice,
        /// The target.
        target: GpuId,
        /// Where the target answers.
        host: SshHost,
    },
    /// Destroy a GPU that we rented and never bound.
    DestroyRental {
        /// Which.
        gpu: GpuId,
        /// What allows it.
        warrant: ReleaseWarrant,
    },
    /// Destroy the GPU whose data runs, verified, elsewhere.
    DestroySuperseded {
        /// Which.
        gpu: GpuId,
        /// What allows it.
        warrant: ReleaseWarrant,
    },
    /// Delete the standby's machine; its disk stays.
    DeleteStandby {
        /// Which.
        standby: StandbyRef,
        /// What allows it.
        warrant: ReleaseWarrant,
    },
    /// Delete the standby's data disk.
    DeleteDisk {
        /// Whose.
        standby: StandbyRef,
        /// What allows it.
        warrant: ReleaseWarrant,
    },
}

/// Which standby machine is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StandbyRef {
    /// Its name.
    pub name: StandbyName,
    /// Its zone.
    pub zone: Zone,
    /// Who rents it out.
    pub provider: StandbyProvider,
}

impl StandbyRef {
    /// The standby of the association's current attempt.
    #[must_use]
    pub fn of(association: &Association) -> Self {
        Self {
            name: association.standby.name.clone(),
            zone: association.standby.zone.clone(),
            provider: association.policy.machine.provider,
        }
    }
}

/// Whether a person looked at a halt and wants the source as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Accept {
    /// Guards stay as they are.
    Nothing,
    /// Pin its host key anew, mark its tree anew, and let the next pass through the deletion guard once.
    SourceAsItIs,
}

/// How soon a pass must start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// A pass under way serves.
    Due,
    /// Only a pass that starts after this request serves.
    LastGasp,
}

/// An effect without its data, for logs and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the words are those of `Effect`")]
pub enum EffectKind {
    CreateStandby,
    StartStandby,
    StopStandby,
    Bind,
    Sync,
    Rescue,
    GrowDisk,
    RentGpu,
    Restore,
    DestroyRental,
    DestroySuperseded,
    DeleteStandby,
    DeleteDisk,
}

impl Effect {
    /// The effect without its data.
    #[must_use]
    pub fn kind(&self) -> EffectKind {
        match self {
            Self::CreateStandby { .. } => EffectKind::CreateStandby,
            Self::StartStandby { .. } => EffectKind::StartStandby,
            Self::StopStandby { .. } => EffectKind::StopStandby,
            Self::Bind { .. } => EffectKind::Bind,
            Self::Sync { .. } => EffectKind::Sync,
            Self::Rescue { .. } => EffectKind::Rescue,
            Self::GrowDisk { .. } => EffectKind::GrowDisk,
            Self::RentGpu { .. } => EffectKind::RentGpu,
            Self::Restore { .. } => EffectKind::Restore,
            Self::DestroyRental { .. } => EffectKind::DestroyRental,
            Self::DestroySuperseded { .. } => EffectKind::DestroySuperseded,
            Self::DeleteStandby { .. } => EffectKind::DeleteStandby,
            Self::DeleteDisk { .. } => EffectKind::DeleteDisk,
        }
    }
}

impl std::fmt::Display for EffectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CreateStandby => "create standby",
            Self::StartStandby => "start standby",
            Self::StopStandby => "stop standby",
            Self::Bind => "bind",
            Self::Sync => "sync",
            Self::Rescue => "rescue",
            Self::GrowDisk => "grow disk",
            Self::RentGpu => "rent GPU",
            Self::Restore => "restore",
            Self::DestroyRental => "destroy rental",
            Self::DestroySuperseded => "destroy superseded GPU",
            Self::DeleteStandby => "delete standby",
            Self::DeleteDisk => "delete disk",
        })
    }
}
