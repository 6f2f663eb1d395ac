//! What the reconciler needs of the world. The adapters fulfil it; tests fulfil it with fakes.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use warmspare_domain::association::{Association, GpuProfile};
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::{AssociationId, Deployment, Epoch, GpuId};
use warmspare_domain::observed::{Endpoint, GpuSeen, Observed, StandbySeen};
use warmspare_domain::policy::{MachineSpec, StandbyProvider};
use warmspare_domain::problem::{Problem, ProblemKind};
use warmspare_domain::units::{MicroUsd, Timestamp};
use warmspare_domain::warrant::ReleaseWarrant;
use warmspare_wire::agent::{Outcome, Request};

use crate::prices::{LivePrices, Rates};

/// Tells the time. The only clock of the control plane.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The state of a stored object: it changes with every write, and no two writes share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// An association with the version it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The association.
    pub association: Association,
    /// Its version.
    pub version: Version,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first. Read again and decide again.
    #[error("the association of {0} was changed by somebody else meanwhile")]
    Conflict(AssociationId),
    /// The object is not what this version of the program can read.
    #[error("the stored association of {id} cannot be read")]
    Corrupt {
        /// Which.
        id: AssociationId,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer, or one that promises nothing. A write may have happened.
    #[error("the association store did not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where associations live. One object per GPU; no delete: a tombstone outlasts late events and expires by a rule of the store.
///
/// # Guarantees
/// Writes are conditional on a version, and a write whose answer was lost is recognised by its nonce: it is reported as done, not as a conflict. Only
/// when somebody wrote over it before we could look it is a conflict, as every lost race: read again and decide again.
#[async_trait]
pub trait AssociationStore: Send + Sync {
    /// Reads one; `None` when there is none.
    async fn get(&self, id: AssociationId) -> Result<Option<Versioned>, StoreError>;

    /// Writes a new one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when one exists.
    async fn create(&self, association: &Association) -> Result<Version, StoreError>;

    /// Writes over the version that was read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is no longer that version.
    async fn update(&self, association: &Association, read_at: &Version) -> Result<Version, StoreError>;

    /// Lists every association with its version, in the order of their ids. A warm process reads only those whose version changed.
    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError>;
}

/// Why a provider did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// There is no such thing.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The provider has none to sell there now.
    #[error("no capacity for {what}")]
    CapacityExhausted {
        /// What was asked for, and where.
        what: String,
    },
    /// The account may not have more.
    #[error("the quota is used up: {detail}")]
    QuotaExceeded {
        /// The provider's words.
        detail: String,
    },
    /// The name belongs to something that is not ours.
    #[error("{what} exists already and is not ours")]
    NameTaken {
        /// Which name.
        what: String,
    },
    /// Nothing fits the wish and the price.
    #[error("no offer fits: {detail}")]
    NoOffer {
        /// The wish, in words.
        detail: String,
    },
    /// The account has no credit.
    #[error("the account has no credit: {detail}")]
    OutOfCredit {
        /// The provider's words.
        detail: String,
    },
    /// Our credentials or rights were refused.
    #[error("access was refused: {detail}")]
    Denied {
        /// The provider's words, without secrets.
        detail: String,
    },
    /// We are to slow down.
    #[error("the provider asks to slow down")]
    RateLimited {
        /// For how long, when it said so.
        retry_after: Option<Duration>,
    },
    /// The thing is in a state that does not allow it now, for example a disk that is still attached.
    #[error("not possible now: {detail}")]
    NotReady {
        /// The provider's words.
        detail: String,
    },
    /// The request is wrong in itself.
    #[error("the provider calls the request invalid: {detail}")]
    Invalid {
        /// The provider's words.
        detail: String,
    },
    /// No answer, or a server error. A write may or may not have happened.
    #[error("no answer from {provider}: {detail}")]
    OutcomeUnknown {
        /// Who did not answer.
        provider: &'static str,
        /// What came instead, without secrets.
        detail: String,
    },
}

impl ProviderError {
    /// What the rules make of it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let kind = match self {
            Self::NotFound { .. } | Self::NotReady { .. } => ProblemKind::Failed,
            Self::CapacityExhausted { .. } => ProblemKind::CapacityExhausted,
            Self::QuotaExceeded { .. } => ProblemKind::QuotaExceeded,
            Self::NameTaken { .. } => ProblemKind::NameTaken,
            Self::NoOffer { .. } => ProblemKind::NoOffer,
            Self::OutOfCredit { .. } => ProblemKind::OutOfCredit,
            Self::Denied { .. } => ProblemKind::Denied,
            Self::RateLimited { .. } => ProblemKind::RateLimited,
            Self::Invalid { .. } => ProblemKind::Invalid,
            Self::OutcomeUnknown { .. } => ProblemKind::OutcomeUnknown,
        };
        Problem {
            kind,
            detail: self.to_string(),
        }
    }

    /// Whether the request certainly had no effect, so that another one may be made elsewhere.
    #[must_use]
    pub fn certainly_did_not_happen(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::CapacityExhausted { .. }
            | Self::QuotaExceeded { .. }
            | Self::NameTaken { .. }
            | Self::NoOffer { .. }
            | Self::OutOfCredit { .. }
            | Self::Denied { .. }
            | Self::RateLimited { .. }
            | Self::NotReady { .. }
            | Self::Invalid { .. } => true,
            Self::OutcomeUnknown { .. } => false,
        }
    }
}

/// A GPU as its provider lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuRow {
    /// Which.
    pub id: GpuId,
    /// Its state.
    pub seen: GpuSeen,
    /// Its label at the provider; empty when it has none.
    pub label: String,
    /// The model, e.g. `RTX 4090`.
    pub model: String,
    /// How many GPUs the instance has.
    pub gpu_count: u32,
    /// Where it is, as the provider writes it, e.g. `Texas, US`; empty when unknown.
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

impl GpuRow {
    /// A row for a GPU that may no longer be listed, from what was remembered of it.
    #[must_use]
    pub fn from_profile(id: GpuId, profile: &GpuProfile) -> Self {
        Self {
            id,
            seen: GpuSeen::Dark,
            label: String::new(),
            model: profile.model.clone(),
            gpu_count: profile.gpu_count,
            geolocation: profile.geolocation.clone(),
            disk_gb: profile.disk_gb,
            image: profile.image.clone(),
            price_per_hour: profile.price_per_hour,
            upload_price_per_gb: profile.upload_price_per_gb,
            interruptible: profile.interruptible,
        }
    }

    /// What is worth remembering of it.
    #[must_use]
    pub fn profile(&self) -> GpuProfile {
        GpuProfile {
            model: self.model.clone(),
            gpu_count: self.gpu_count,
            geolocation: self.geolocation.clone(),
            disk_gb: self.disk_gb,
            image: self.image.clone(),
            price_per_hour: self.price_per_hour,
            upload_price_per_gb: self.upload_price_per_gb,
            interruptible: self.interruptible,
        }
    }
}

/// What to rent.
#[derive(Debug, Clone, PartialEq)]
pub struct RentWish {
    /// The label that the new GPU must carry; unique for this wish.
    pub label: RentalLabel,
    /// The model, number of GPUs, disk size and image to match, and the country to prefer.
    pub like: GpuRow,
    /// The most it may cost an hour.
    pub max_price_per_hour: MicroUsd,
}

/// The label on a GPU that we rented: `ws/<deployment>/<association>/e<epoch>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RentalLabel {
    /// Our installation.
    pub deployment: Deployment,
    /// For which association.
    pub association: AssociationId,
    /// For which epoch of it.
    pub epoch: Epoch,
}

impl std::fmt::Display for RentalLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ws/{}/{}/e{}", self.deployment, self.association, self.epoch)
    }
}

impl RentalLabel {
    /// Reads a label back; `None` when it is not one of this deployment's.
    #[must_use]
    pub fn parse(label: &str, deployment: &Deployment) -> Option<Self> {
        let rest = label
            .strip_prefix("ws/")?
            .strip_prefix(deployment.as_str())?
            .strip_prefix('/')?;
        let (association, epoch) = rest.split_once("/e")?;
        let number: u32 = epoch.parse().ok()?;
        Some(Self {
            deployment: deployment.clone(),
            association: association.parse().ok()?,
            epoch: Epoch::numbered(number)?,
        })
    }
}

/// The label on an instance at Vast that is a standby: `ws/<deployment>/<association>/s<attempt>`, with `/disk` behind it once its machine was
/// deleted and only what lies on its disk is left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StandbyLabel {
    /// Our installation.
    pub deployment: Deployment,
    /// For which association.
    pub association: AssociationId,
    /// For which attempt of it.
    pub attempt: u16,
    /// What is left of it.
    pub part: LabelledKind,
}

impl std::fmt::Display for StandbyLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ws/{}/{}/s{}", self.deployment, self.association, self.attempt)?;
        match self.part {
            LabelledKind::Machine => Ok(()),
            LabelledKind::Disk => f.write_str("/disk"),
        }
    }
}

impl StandbyLabel {
    /// Reads a label back, whichever deployment's it is; `None` when it is not a standby's.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        let mut words = label.strip_prefix("ws/")?.split('/');
        let (deployment, association) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let attempt = words.next()?.strip_prefix('s')?.parse().ok()?;
        let part = match (words.next(), words.next()) {
            (None, None) => LabelledKind::Machine,
            (Some("disk"), None) => LabelledKind::Disk,
            (Some(_), None | Some(_)) | (None, Some(_)) => return None,
        };
        Some(Self {
            deployment,
            association,
            attempt,
            part,
        })
    }
}

/// Whether something was still there when it was destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destroyed {
    /// It was, and the provider took the order.
    Ordered,
    /// The provider does not know it (any more).
    AlreadyGone,
}

/// Where the disk of a GPU can be read with rsync, also while the GPU is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskModule {
    /// Address or name of the host, not of the container.
    pub address: String,
    /// Its SSH port.
    pub port: u16,
    /// The login there.
    pub user: String,
    /// The name of the GPU's module.
    pub module: String,
}

/// The provider of GPUs.
#[async_trait]
pub trait Gpus: Send + Sync {
    /// Looks at these GPUs in one complete read. Those that are missing from the answer are absent: a short read is an error, never an absence.
    async fn look(&self, gpus: &[GpuId]) -> Result<BTreeMap<GpuId, GpuRow>, ProviderError>;

    /// Lists every GPU of the account, completely.
    async fn all(&self) -> Result<Vec<GpuRow>, ProviderError>;

    /// Lets a public key into a GPU. Repeating it is fine.
    async fn attach_key(&self, gpu: GpuId, public_key: &str) -> Result<(), ProviderError>;

    /// Says where the disk of a GPU can be read, by the keys that may log in to it, for as long as its host is online.
    async fn disk_module(&self, gpu: GpuId) -> Result<DiskModule, ProviderError>;

    /// Rents a GPU, or finds the one that carries the wish's label already.
    ///
    /// # Guarantees
    /// On an error for which [`ProviderError::certainly_did_not_happen`] holds, nothing was rented.
    async fn rent(&self, wish: &RentWish) -> Result<GpuId, ProviderError>;

    /// Destroys a GPU with its disk.
    async fn destroy(&self, gpu: GpuId, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError>;
}

/// What the provider says of a standby's machine and disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyLook {
    /// The machine.
    pub machine: Observed<StandbySeen>,
    /// Its data disk; looked at when the machine is absent, else `Unknown`.
    pub disk: Observed<()>,
}

/// Something billable that carries our labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledStandby {
    /// Its association, from its label.
    pub association: AssociationId,
    /// Its attempt, from its label.
    pub attempt: u16,
    /// Its name and zone.
    pub standby: StandbyRef,
    /// What it is.
    pub kind: LabelledKind,
    /// The GPU in its label, so that associations can be rebuilt from the standbys alone.
    pub gpu: GpuId,
    /// What was rented for it, in words, when the provider's listing tells.
    pub detail: Option<String>,
}

impl LabelledStandby {
    /// Whether it is, or has in it, the disk with the data: at Vast a machine and its disk are one thing.
    #[must_use]
    pub fn has_data_disk(&self) -> bool {
        match self.standby.provider {
            StandbyProvider::Gcp => self.kind == LabelledKind::Disk,
            StandbyProvider::Vastai => true,
        }
    }
}

/// What carries our labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelledKind {
    /// A machine.
    Machine,
    /// A data disk.
    Disk,
}

/// The provider of standbys.
#[async_trait]
pub trait Standbys: Send + Sync {
    /// Looks at a standby's machine, and at its disk when there is no machine.
    async fn look(&self, standby: &StandbyRef) -> Result<StandbyLook, ProviderError>;

    /// Orders the machine with its data disk. A disk of the right name is attached as it is.
    ///
    /// # Guarantees
    /// Repeating an order that landed is no second order. On an error for which [`ProviderError::certainly_did_not_happen`] holds, there
    /// is no machine. `Ok` means the order was taken, not that the machine is up.
    async fn create(
        &self,
        association: &Association,
        standby: &StandbyRef,
        machine: &MachineSpec,
    ) -> Result<(), ProviderError>;

    /// Starts a stopped machine.
    async fn start(&self, standby: &StandbyRef) -> Result<(), ProviderError>;

    /// Stops a machine; its disk stays.
    async fn stop(&self, standby: &StandbyRef) -> Result<(), ProviderError>;

    /// Grows a data disk to this size in GB while it is in use. A disk that is as large already is left as it is.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] where a disk's size is fixed for life.
    async fn grow_disk(&self, standby: &StandbyRef, gb: u32) -> Result<(), ProviderError>;

    /// Deletes a machine; its data disk stays.
    async fn delete(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError>;

    /// Deletes a data disk.
    async fn delete_disk(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError>;

    /// Lists every machine and disk of this deployment, in every zone, completely.
    async fn all(&self) -> Result<Vec<LabelledStandby>, ProviderError>;

    /// What a standby costs: this one, or the one that the GPU would get now. `None` where prices are published instead.
    ///
    /// # Errors
    /// [`ProviderError::NoOffer`] when the GPU would get none now.
    async fn market_price(
        &self,
        _gpu: GpuId,
        _standby: Option<&StandbyRef>,
        _machine: &MachineSpec,
    ) -> Result<Option<MarketPrice>, ProviderError> {
        Ok(None)
    }
}

/// What a standby costs where nobody publishes prices: a host's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarketPrice {
    /// What it is, and where, in words.
    pub what: String,
    /// What an hour costs, its storage included.
    pub per_hour: MicroUsd,
    /// What a GB costs that the standby pulls, if the host says so.
    pub download_per_gb: Option<MicroUsd>,
    /// What a GB costs that it sends, if the host says so.
    pub upload_per_gb: Option<MicroUsd>,
}

/// Why an agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The standby could not be reached, or the connection broke.
    #[error("cannot reach the standby at {address} over SSH: {detail}")]
    Unreachable {
        /// Where.
        address: String,
        /// What happened.
        detail: String,
    },
    /// Whoever answered there is not the standby.
    #[error("the machine at {address} does not have the standby's host key; nothing was sent to it")]
    HostKeyMismatch {
        /// Where.
        address: String,
    },
    /// The standby refused the operator key.
    #[error("the standby at {address} refused the operator key")]
    KeyRefused {
        /// Where.
        address: String,
    },
    /// The agent could not be put there, or did not speak our protocol.
    #[error("the agent on the standby failed: {detail}")]
    Broken {
        /// What happened.
        detail: String,
    },
}

/// The agents on the standbys.
#[async_trait]
pub trait Agents: Send + Sync {
    /// Makes one call; puts the right version of the agent there first. `limit` bounds the whole exchange.
    async fn call(&self, standby: &Endpoint, request: Request, limit: Duration) -> Result<Outcome, AgentError>;
}

/// Reads what the provider of standbys asks for them, by region.
#[async_trait]
pub trait PriceCatalogue: Send + Sync {
    /// Reads all of it, which may take minutes: never in a beat.
    ///
    /// # Errors
    /// When it could not be read to its end, or nothing in it can be believed.
    async fn read(&self) -> Result<BTreeMap<String, Rates>, ProviderError>;
}

/// Why a price list could not be put aside or found again. Nothing hangs on it.
pub type ShelfError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the last price list for the next process.
#[async_trait]
pub trait PriceShelf: Send + Sync {
    /// Finds it; `None` when there is none that this version can read.
    ///
    /// # Errors
    /// When the place did not answer.
    async fn load(&self) -> Result<Option<LivePrices>, ShelfError>;

    /// Puts it there instead of the one before.
    ///
    /// # Errors
    /// When the place did not answer.
    async fn save(&self, prices: &LivePrices) -> Result<(), ShelfError>;
}
