//! What the user wants for one GPU, as data that travels with its association.

use serde::{Deserialize, Serialize};

use crate::ids::{PathBelow, Zone};
use crate::units::{MicroUsd, Seconds};

/// The rules of one association. Unknown fields are refused from people (at the edge) and tolerated from the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// The directory on the GPU that is copied, absolute or relative to the login's home.
    pub source_path: String,
    /// rsync patterns that are not copied.
    pub excludes: Vec<String>,
    /// rsync patterns that are copied although an exclude fits them, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub includes: Vec<String>,
    /// Paths below [`Self::source_path`] that travel before all others, in this order: in a first pass, and in a restore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<PathBelow>,
    /// A shell command that runs on the GPU, in the directory that is copied, before each pass; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub before_pass: String,
    /// The largest lag promised; health says so when it is exceeded.
    pub lag_objective: Seconds,
    /// A pass that would remove more than this share of the files halts. 1 to 100.
    pub max_deleted_percent: u8,
    /// The most that copying may take of the GPU's network, in KiB a second; 0 sets no limit. The last-gasp pass and the rescue know none.
    #[serde(default)]
    pub bandwidth_kib_per_s: u32,
    /// The standby to order.
    pub machine: MachineSpec,
    /// What the standby's data disk may grow to when it fills, in GB; one that is not above its size lets it never grow.
    #[serde(default)]
    pub max_disk_gb: u32,
    /// How long the data of a lost GPU is kept before the standby is released.
    pub retention: Seconds,
    /// How long a holding standby's machine stays up; after that only its disk is paid.
    pub stop_standby_after: Seconds,
    /// What a deletion at Vast means that nobody told us of.
    pub when_deleted_at_vast: WhenDeletedAtVast,
    /// What happens when the GPU is lost.
    pub failover: Failover,
    /// What happens to the old GPU once its data runs, verified, on another.
    pub superseded: SupersededGpu,
}

impl Policy {
    /// What programs make again by themselves, by the names that only they use: compiled Python, package downloads, compiled GPU
    /// kernels, a disk's own directories. Never logs, `.git`, data or models: who misses those has lost work.
    pub const DEFAULT_EXCLUDES: [&str; 9] = [
        "__pycache__/",
        ".cache/pip/",
        ".cache/uv/",
        ".npm/_cacache/",
        ".conda/pkgs/",
        ".nv/ComputeCache/",
        ".triton/cache/",
        "/.Trash-*/",
        "/lost+found/",
    ];
    /// The longest [`Self::before_pass`], in bytes.
    pub const LONGEST_COMMAND: usize = 4000;
    /// 90 s: two beats and a pass; beyond it something is wrong. `design.md`, Phases.
    pub const DEFAULT_LAG_OBJECTIVE: Seconds = Seconds(90);
    /// Half: ordinary clean-ups stay below it, wiped and half-mounted trees do not.
    pub const DEFAULT_MAX_DELETED_PERCENT: u8 = 50;
    /// 0: a disk never shrinks again and is paid for as long as it exists, so growing takes the user's word.
    pub const DEFAULT_MAX_DISK_GB: u32 = 0;
    /// 7 days: a week-end and a business trip; about $1 for a 100 GB pd-standard disk.
    pub const DEFAULT_RETENTION: Seconds = Seconds(7 * 24 * 3600);
    /// 1 hour: long enough to restore or download at once, short enough to be cheap.
    pub const DEFAULT_STOP_STANDBY_AFTER: Seconds = Seconds(3600);
}

/// The standby machine to order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Compute Engine machine type, e.g. `e2-medium`.
    pub machine_type: String,
    /// Size of the data disk, in GB as Compute Engine counts them (2^30 bytes).
    pub disk_gb: u32,
    /// Compute Engine disk type, e.g. `pd-standard`.
    pub disk_type: String,
    /// Spot or standard.
    pub provisioning: Provisioning,
    /// Where to try, in this order; never empty. [`Zone::at_vast`] alone for a standby at Vast.
    pub zones: Vec<Zone>,
    /// Who rents it out. Objects of before there was a choice have none, and are at Google.
    #[serde(default, skip_serializing_if = "StandbyProvider::is_gcp")]
    pub provider: StandbyProvider,
}

/// Who rents the standby out. Machine type, disk type and provisioning mean something at Google only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandbyProvider {
    /// Compute Engine: a virtual machine with a data disk of its own.
    #[default]
    Gcp,
    /// Vast.ai: a container on demand, whose disk lives and dies with it.
    Vastai,
}

impl StandbyProvider {
    /// Whether it is Google, which stored objects leave unsaid.
    #[must_use]
    pub fn is_gcp(&self) -> bool {
        match self {
            Self::Gcp => true,
            Self::Vastai => false,
        }
    }
}

impl std::fmt::Display for StandbyProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gcp => "gcp",
            Self::Vastai => "vastai",
        })
    }
}

/// How the provider sells the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provisioning {
    /// Cheap, and taken back at times; its disk stays.
    Spot,
    /// At the full price.
    Standard,
}

/// What a deletion at Vast means that nobody told us of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenDeletedAtVast {
    /// It may have been the host, empty credit or the contract's end: keep the data.
    Hold,
    /// The user says that deletions at Vast are always theirs: release the standby.
    Release,
}

/// What happens when the GPU is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failover {
    /// The standby holds the data until the user asks.
    Manual,
    /// A GPU of the same model is rented and the data restored onto it, when the loss is certainly not the user's own doing.
    Automatic {
        /// The most that the replacement may cost an hour.
        max_price_per_hour: MicroUsd,
    },
}

/// What happens to the old GPU once its data runs, verified, on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupersededGpu {
    /// It stays, and its storage is billed: it may hold what was written after the last pass.
    Keep,
    /// It is destroyed at Vast.
    Destroy,
}
