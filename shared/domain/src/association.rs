//! The durable record that ties one GPU to its standby: the unit of state and decision.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::halt::HaltReason;
use crate::ids::{
    AssociationId, CheckpointName, Deployment, Epoch, GpuId, InvalidName, RecoveryPointId, StandbyName, Zone,
};
use crate::observed::Endpoint;
use crate::policy::Policy;
use crate::reason::Reason;
use crate::units::{MicroUsd, Timestamp};
use crate::warrant::{Ground, ReleaseWarrant};

/// What ties one GPU to its standby.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Association {
    /// Its durable name.
    pub id: AssociationId,
    /// Which installation of warmspare owns it.
    pub deployment: Deployment,
    /// The GPU it is bound to now.
    pub gpu: GpuId,
    /// The fencing number of that binding. Rises with every other GPU, every other standby, and every other wish about the source; never falls.
    pub epoch: Epoch,
    /// Where it stands.
    pub phase: Phase,
    /// Whether the user wants copying to go on.
    pub copying: Copying,
    /// The standby.
    pub standby: Standby,
    /// Whether there is anything to restore.
    pub saved: Saved,
    /// What we remember about the GPU between two looks.
    pub watch: GpuWatch,
    /// The highest epoch ever given out. Every target of a restore gets one of its own, so that a verdict about one target is never
    /// taken for another's; it becomes `epoch` when the target is bound.
    pub last_epoch: Epoch,
    /// GPUs whose data now lives elsewhere. They may come back by themselves and are never read again.
    pub superseded: BTreeSet<GpuId>,
    /// When the next costly attempt may be made, and why it waits.
    pub retry: Retry,
    /// What the GPU is, so that one like it can be rented when its row is gone.
    pub profile: GpuProfile,
    /// The user's rules.
    pub policy: Policy,
    /// When it was made.
    pub created_at: Timestamp,
    /// The last transitions, oldest first.
    pub history: Vec<Transition>,
}

/// Transitions that are kept per association: enough for a bad day, small enough to read in one object.
pub const HISTORY_LENGTH: usize = 32;

/// Where an association stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The standby is ordered, not yet usable.
    Provisioning,
    /// The first pass is under way.
    Seeding,
    /// At least one recovery point; passes go on.
    Protected,
    /// The GPU is lost, the data kept.
    Holding(Loss),
    /// A replacement receives the data.
    Restoring {
        /// What made it necessary.
        loss: Loss,
        /// How it goes.
        job: RestoreJob,
    },
    /// No copying until a person decides.
    Halted {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: HaltReason,
    },
    /// Deleting, until the provider confirms absence.
    Releasing {
        /// Since when.
        since: Timestamp,
        /// What allows it.
        warrant: ReleaseWarrant,
    },
    /// Tombstone; nothing bills.
    Released {
        /// Since when.
        since: Timestamp,
        /// What allowed it.
        ground: Ground,
    },
}

/// A phase without its data, for history, logs and tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words are those of `Phase`")]
pub enum PhaseName {
    Provisioning,
    Seeding,
    Protected,
    Holding,
    Restoring,
    Halted,
    Releasing,
    Released,
}

impl Phase {
    /// The phase without its data.
    #[must_use]
    pub fn name(&self) -> PhaseName {
        match self {
            Self::Provisioning => PhaseName::Provisioning,
            Self::Seeding => PhaseName::Seeding,
            Self::Protected => PhaseName::Protected,
            Self::Holding(_) => PhaseName::Holding,
            Self::Restoring { .. } => PhaseName::Restoring,
            Self::Halted { .. } => PhaseName::Halted,
            Self::Releasing { .. } => PhaseName::Releasing,
            Self::Released { .. } => PhaseName::Released,
        }
    }
}

impl std::fmt::Display for PhaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Provisioning => "provisioning",
            Self::Seeding => "seeding",
            Self::Protected => "protected",
            Self::Holding => "holding",
            Self::Restoring => "restoring",
            Self::Halted => "halted",
            Self::Releasing => "releasing",
            Self::Released => "released",
        })
    }
}

/// Whether the user wants copying to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copying {
    /// Yes.
    On,
    /// The user stopped it.
    Off,
}

/// The standby of an association: one machine and one data disk of one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Standby {
    /// Which order made it; the name carries it. Rises only when the attempt before holds no data.
    pub attempt: u16,
    /// Its name.
    pub name: StandbyName,
    /// Where it is, or is to be.
    pub zone: Zone,
    /// Whether an order may still be under way.
    pub order: Order,
    /// Whether and where it answers.
    pub link: Link,
    /// Whether its agent pulls from the GPU of our epoch.
    pub binding: Binding,
    /// Complete looks in a row that found neither the machine nor its disk.
    pub gone_reads: u8,
    /// How its data disk stands.
    #[serde(default)]
    pub disk: DataDisk,
    /// A holding standby stays up until then, because somebody downloads.
    pub wanted_until: Timestamp,
}

/// How the standby's data disk stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DataDisk {
    /// What it grew to since it was ordered; 0 when it did not.
    pub grown_to_gb: u32,
    /// Whether there is room on it.
    pub space: Space,
    /// Why it could not be enlarged, and when it is tried again; apart from what else is tried, so that neither waits for the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Retry>,
}

/// Whether there is room on a data disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// There is.
    #[default]
    Enough,
    /// Hardly any, although old recovery points were given up.
    Short,
}

/// Whether an order for the standby's machine may still be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Never ordered.
    Never,
    /// Sent; the machine has not been seen since, and may appear late.
    Sent {
        /// When it was last sent.
        at: Timestamp,
    },
    /// The machine was seen after the order.
    Landed,
}

/// Whether and where the standby answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// No machine of this name was seen up yet.
    None,
    /// It answered here last.
    Up(Endpoint),
    /// It did not answer, or is not up. The key stays pinned for the same machine.
    Lost(Endpoint),
}

/// Whether the agent pulls from the GPU of our epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// It has to be bound (again): to a first GPU, another epoch, or the same GPU at another address.
    Stale,
    /// As `Stale`, and a person said that the source is right as it is now.
    StaleAndAccepted,
    /// It is.
    Bound,
}

/// Whether there is anything to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Saved {
    /// No recovery point yet.
    Nothing,
    /// At least one recovery point.
    Points,
}

/// What we remember about the GPU between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuWatch {
    /// Whether to ask the provider at the next beat.
    pub trust: Trust,
    /// Complete reads in a row that did not list it.
    pub absent_reads: u8,
    /// Reads in a row in which its host was dark.
    pub dark_reads: u8,
    /// Whether the provider announced that it will stop.
    pub outbid: OutbidNotice,
}

impl GpuWatch {
    /// Nothing is suspicious.
    pub const CALM: Self = Self {
        trust: Trust::Fine,
        absent_reads: 0,
        dark_reads: 0,
        outbid: OutbidNotice::None,
    };
}

/// Whether to ask the provider about the GPU at the next beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Passes complete: no need to.
    Fine,
    /// Something hinted at trouble.
    Doubted,
}

/// Whether the provider announced that the GPU will stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutbidNotice {
    /// No.
    None,
    /// Yes, and the last-gasp pass is still to be asked for.
    Announced,
    /// Yes, and the agent took the order for the last-gasp pass.
    PassAsked {
        /// When it did.
        at: Timestamp,
    },
}

/// That, when and how the GPU was lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Loss {
    /// When we knew.
    pub since: Timestamp,
    /// How.
    pub cause: LossCause,
    /// Whether its last changes are still to be fetched from its disk.
    #[serde(default)]
    pub rescue: Rescue,
    /// For a person: why it was given up before the agent could try; empty when it was not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rescue_problem: String,
}

/// Whether a lost GPU's last changes are still to be fetched from its disk, through its provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rescue {
    /// There is no way to, or no longer one.
    #[default]
    Over,
    /// They are.
    Wanted {
        /// Attempts that did not even begin.
        failures: u8,
        /// Not before this instant.
        not_before: Timestamp,
        /// Attempts of which the agent told that they failed; it tells of each more than once.
        #[serde(default)]
        told: u8,
    },
    /// Everything that the disk held was fetched.
    Complete,
}

/// How a GPU was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// The provider announced it, then paused the GPU.
    Outbid,
    /// Paused without notice: the user stopped it, lowered the bid, or the notice was lost.
    Paused,
    /// The account has no credit left.
    OutOfCredit,
    /// The contract's end date has passed.
    ContractEnded,
    /// The host gives no sign of life.
    HostDark,
    /// Vast no longer lists it, and nobody told us why.
    Gone,
    /// A tool reported it failed.
    ReportedFailed,
    /// A tool reported it destroyed, not by the user.
    ReportedDestroyed,
    /// Copying had halted, and the user restored elsewhere.
    SourceHalted,
    /// Not the GPU was lost but our record of it: the record was rebuilt, and the GPU is to be looked at.
    RecordLost,
    /// As `RecordLost`, and nothing says for certain which GPU has the newest data.
    RecordUnclear,
}

impl LossCause {
    /// Every cause, for tests and tables.
    pub const ALL: [Self; 11] = [
        Self::Outbid,
        Self::Paused,
        Self::OutOfCredit,
        Self::ContractEnded,
        Self::HostDark,
        Self::Gone,
        Self::ReportedFailed,
        Self::ReportedDestroyed,
        Self::SourceHalted,
        Self::RecordLost,
        Self::RecordUnclear,
    ];

    /// Whether seeing the GPU run again undoes the loss. What a tool or a person declared, only they take back.
    #[must_use]
    pub fn heals_by_itself(self) -> bool {
        match self {
            Self::Outbid
            | Self::Paused
            | Self::OutOfCredit
            | Self::ContractEnded
            | Self::HostDark
            | Self::Gone
            | Self::RecordLost => true,
            Self::ReportedFailed | Self::ReportedDestroyed | Self::SourceHalted | Self::RecordUnclear => false,
        }
    }

    /// Whether the GPU's disk is still there while its host is online, so that its provider can hand out what is on it.
    /// `reference/vast/vast-api.md` §9.
    #[must_use]
    pub fn leaves_the_disk(self) -> bool {
        match self {
            Self::Outbid | Self::Paused | Self::OutOfCredit | Self::ContractEnded => true,
            Self::HostDark
            | Self::Gone
            | Self::ReportedFailed
            | Self::ReportedDestroyed
            | Self::SourceHalted
            | Self::RecordLost
            | Self::RecordUnclear => false,
        }
    }

    /// Whether it is certainly not the user's own doing, so that renting a replacement cannot surprise them.
    #[must_use]
    pub fn allows_automatic_failover(self) -> bool {
        match self {
            Self::Outbid | Self::HostDark | Self::ReportedFailed => true,
            Self::Paused
            | Self::OutOfCredit
            | Self::ContractEnded
            | Self::Gone
            | Self::ReportedDestroyed
            | Self::SourceHalted
            | Self::RecordLost
            | Self::RecordUnclear => false,
        }
    }
}

impl std::fmt::Display for LossCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Outbid => "outbid",
            Self::Paused => "paused at Vast (stopped by you, or outbid without notice)",
            Self::OutOfCredit => "stopped because the Vast account has no credit",
            Self::ContractEnded => "stopped because its contract ended",
            Self::HostDark => "its host gives no sign of life",
            Self::Gone => "no longer listed at Vast",
            Self::ReportedFailed => "reported failed",
            Self::ReportedDestroyed => "reported destroyed, not by its user",
            Self::SourceHalted => "copying had halted, and the data was restored elsewhere",
            Self::RecordLost => "its record was lost and rebuilt; the GPU is looked at next",
            Self::RecordUnclear => {
                "its record was lost and rebuilt, but which GPU has the newest data is not certain: start copying if it is this one, or restore"
            }
        })
    }
}

/// A restore under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RestoreJob {
    /// What is restored.
    pub point: PointChoice,
    /// The epoch that the target will have; no other target ever had it.
    pub epoch: Epoch,
    /// Where to.
    pub target: Target,
    /// Targets that were tried and given up in this job.
    pub failed_targets: u8,
}

impl RestoreJob {
    /// Whether it ends when the lost GPU runs again: while none was found to restore onto, what is newest is on that one. An older
    /// recovery point was asked for in spite of what is on it; and while a call may be under way, a GPU may have been rented.
    #[must_use]
    pub fn yields_to_a_return(&self, loss: &Loss) -> bool {
        let nothing_rented = matches!(self.target, Target::ToRent { lease: Lease::Free, .. });
        nothing_rented && self.point == PointChoice::Latest && loss.cause.heals_by_itself()
    }
}

/// Which recovery point is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointChoice {
    /// The newest complete one.
    Latest,
    /// This one.
    Id(RecoveryPointId),
    /// The newest one that holds this checkpoint as it was when it was named.
    Checkpoint(CheckpointName),
    /// None: what arrived of a first pass that is not complete. Only for downloads.
    Partial,
}

impl fmt::Display for PointChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str(CheckpointName::LATEST),
            Self::Id(id) => id.fmt(f),
            Self::Checkpoint(name) => name.fmt(f),
            Self::Partial => f.write_str(CheckpointName::PARTIAL),
        }
    }
}

impl FromStr for PointChoice {
    type Err = InvalidName;

    /// Reads `latest`, `partial`, an id, or the name of a checkpoint.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text == CheckpointName::LATEST {
            return Ok(Self::Latest);
        }
        if text == CheckpointName::PARTIAL {
            return Ok(Self::Partial);
        }
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Checkpoint),
        }
    }
}

/// Where a restore goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// To a GPU that has to be rented first.
    ToRent {
        /// The most it may cost an hour.
        max_price_per_hour: MicroUsd,
        /// Whether a rent call may be under way.
        lease: Lease,
    },
    /// To this GPU.
    Gpu {
        /// Which.
        gpu: GpuId,
        /// Since when we wait for it or push to it.
        since: Timestamp,
        /// Whether it came from us.
        origin: TargetOrigin,
    },
}

/// Whether a call that rents a GPU may be under way. Vast has no idempotency key, so two such calls must never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lease {
    /// None is.
    Free,
    /// One may be, until then; its label carries the job's epoch.
    Taken {
        /// When a new call may be made. It looks for the label of the old one first.
        until: Timestamp,
    },
}

/// Whether a restore's target came from us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetOrigin {
    /// We rented it and destroy it when it is of no use.
    Rented {
        /// The cap under which the next one would be rented.
        max_price_per_hour: MicroUsd,
    },
    /// The user named it; we never destroy it.
    Chosen,
}

/// When the next costly attempt may be made. Passes never wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retry {
    /// Failures in a row.
    pub failures: u8,
    /// Not before this instant.
    pub not_before: Timestamp,
    /// For a person: what went wrong last; empty when nothing did.
    pub problem: String,
}

/// What a GPU is, as its provider described it when it was first seen. Empty and zero mean that it was not told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GpuProfile {
    /// The model, e.g. `RTX 4090`.
    pub model: String,
    /// How many GPUs the instance has.
    pub gpu_count: u32,
    /// Where it is, as the provider writes it, e.g. `Texas, US`.
    pub geolocation: String,
    /// Its disk, in GB; it is fixed for life.
    pub disk_gb: u32,
    /// The image it runs.
    pub image: String,
    /// What it costs an hour.
    pub price_per_hour: MicroUsd,
    /// What a GB of its outgoing traffic costs; synchronising pays it.
    pub upload_price_per_gb: MicroUsd,
    /// Whether it is rented by bid, so that it can be outbid.
    pub interruptible: bool,
}

/// A step in an association's life.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// From which phase.
    pub from: PhaseName,
    /// To which phase.
    pub to: PhaseName,
    /// Why.
    pub reason: Reason,
}

impl Association {
    /// A new association: nothing ordered yet, everything to be done by the next look.
    ///
    /// # Assumptions
    /// `policy.machine.zones` is not empty; the edge checks it.
    #[must_use]
    pub fn new(deployment: Deployment, gpu: GpuId, policy: Policy, now: Timestamp) -> Self {
        let id = AssociationId::of(gpu);
        let zone = policy.machine.zones.first().cloned();
        let zone = zone.unwrap_or_else(|| "us-central1-a".parse().expect("a literal zone parses"));
        Self {
            id,
            gpu,
            epoch: Epoch::FIRST,
            phase: Phase::Provisioning,
            copying: Copying::On,
            standby: Standby {
                attempt: 1,
                name: StandbyName::new(&deployment, id, 1),
                zone,
                order: Order::Never,
                link: Link::None,
                binding: Binding::Stale,
                gone_reads: 0,
                disk: DataDisk::default(),
                wanted_until: now,
            },
            deployment,
            saved: Saved::Nothing,
            watch: GpuWatch {
                trust: Trust::Doubted,
                ..GpuWatch::CALM
            },
            last_epoch: Epoch::FIRST,
            superseded: BTreeSet::new(),
            retry: Retry::fresh(now),
            profile: GpuProfile::default(),
            policy,
            created_at: now,
            history: Vec::new(),
        }
    }

    /// A tombstone for a GPU whose destruction we heard of before its creation.
    #[must_use]
    pub fn released_before_it_began(deployment: Deployment, gpu: GpuId, policy: Policy, now: Timestamp) -> Self {
        let mut association = Self::new(deployment, gpu, policy, now);
        association.enter(
            Phase::Released {
                since: now,
                ground: Ground::UserRequest,
            },
            Reason::ReleasedBeforeItBegan,
            now,
        );
        association
    }

    /// A new life after a release, because the user asks for it: under a new epoch, and with a standby of another name, so that
    /// nothing late from the old life passes for this one. `None` when its data had moved on: what this record knows of the GPUs
    /// that came after is all that keeps them from being taken for leftovers.
    #[must_use]
    pub fn protected_again(released: &Self, policy: Policy, now: Timestamp) -> Option<Self> {
        if released.gpu != released.id.first_gpu() || !released.superseded.is_empty() {
            return None;
        }
        let mut again = Self::new(released.deployment.clone(), released.id.first_gpu(), policy, now);
        again.phase = released.phase.clone();
        again.history = released.history.clone();
        again.enter(Phase::Provisioning, Reason::ProtectedAgain, now);
        again.last_epoch = released.last_epoch;
        again.take_next_epoch();
        again.standby.attempt = released.standby.attempt.saturating_add(1);
        again.standby.name = StandbyName::new(&again.deployment, again.id, again.standby.attempt);
        Some(again)
    }

    /// Moves to another phase and remembers it.
    pub(crate) fn enter(&mut self, phase: Phase, reason: Reason, now: Timestamp) {
        let (from, to) = (self.phase.name(), phase.name());
        self.phase = phase;
        self.history.push(Transition {
            at: now,
            from,
            to,
            reason,
        });
        if self.history.len() > HISTORY_LENGTH {
            self.history.remove(0);
        }
    }

    /// Gives the binding a new epoch, so that whatever was said or asked under the old one is refused, and has the agent bound again.
    pub(crate) fn take_next_epoch(&mut self) {
        self.last_epoch = self.last_epoch.next();
        self.epoch = self.last_epoch;
        self.standby.binding = Binding::Stale;
    }

    /// Orders the standby anew under another name, in the next zone of the policy. Only for a standby that holds no data.
    pub(crate) fn next_attempt(&mut self) {
        let standby = &mut self.standby;
        standby.attempt = standby.attempt.saturating_add(1);
        let zones = &self.policy.machine.zones;
        let here = zones
            .iter()
            .position(|zone| *zone == standby.zone)
            .map_or(0, |index| index + 1);
        if let Some(zone) = zones.get(here % zones.len().max(1)) {
            standby.zone = zone.clone();
        }
        standby.name = StandbyName::new(&self.deployment, self.id, standby.attempt);
        standby.order = Order::Never;
        standby.link = Link::None;
        standby.binding = Binding::Stale;
        standby.gone_reads = 0;
        standby.disk = DataDisk::default();
        self.saved = Saved::Nothing;
    }
}
