//! Settings, read once, into types; all that is wrong is said at once.
//!
//! A setting comes from the environment as `WARMSPARE_<NAME>` or from a TOML file under its name in small letters; the environment wins.
//! A secret may be given as `<name>_file` instead, which names a file that holds it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use warmspare_domain::disk_speed;
use warmspare_domain::ids::{Deployment, Zone};
use warmspare_domain::policy::{
    Failover, MachineSpec, Policy, Provisioning, StandbyProvider, SupersededGpu, WhenDeletedAtVast,
};
use warmspare_domain::units::{MicroUsd, Seconds};

use crate::disk_choice::DiskWish;
use crate::placement::{DEFAULT_MAX_DISTANCE_KM, ZoneWish};

mod reader;

use reader::Reader;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our installation: machines carry it in their names and labels.
    pub deployment: Deployment,
    /// Where `serve` listens.
    pub listen: SocketAddr,
    /// Where the local process keeps its state.
    pub state_dir: PathBuf,
    /// The rules that a new association starts with.
    pub policy: Policy,
    /// Whether the machine's zone is fixed or chosen near the GPU.
    pub zone: ZoneWish,
    /// Whether the disk's type is fixed or chosen by the load.
    pub disk: DiskWish,
    /// Whether `on_gpu_created` makes standbys.
    pub auto_standby: bool,
    /// Vast.ai.
    pub vast: VastConfig,
    /// Google Cloud.
    pub gcp: GcpConfig,
    /// Secrets of those who call us.
    pub callers: CallerConfig,
    /// The machines and what runs on them.
    pub machines: MachineConfig,
    /// Time between two beats.
    pub beat: Duration,
    /// Time between two sweeps.
    pub sweep: Duration,
}

/// How Vast.ai is reached.
#[derive(Debug, Clone)]
pub struct VastConfig {
    /// The console's address.
    pub url: String,
    /// The account's key.
    pub api_key: SecretString,
    /// Which share of Vast's minimum intervals between calls is kept, in percent; 0 suits simulated clouds only.
    pub pace_percent: u8,
    /// The most that a standby there may cost an hour.
    pub standby_max_price_per_hour: MicroUsd,
    /// The image of a standby there.
    pub standby_image: String,
}

/// How Google Cloud is reached.
#[derive(Debug, Clone)]
pub struct GcpConfig {
    /// Compute Engine's address.
    pub url: String,
    /// The address of Google's price list.
    pub billing_url: String,
    /// The address of Google's Resource Manager, which knows who may do what.
    pub resource_manager_url: String,
    /// The project that pays; `None` where all standbys are at Vast.
    pub project: Option<String>,
    /// The VPC network of the standbys.
    pub network: String,
    /// A service account's key file; without one the workstation's login or the machine's own identity is used.
    pub credentials: Option<PathBuf>,
}

/// The secrets of those who call us.
#[derive(Debug, Clone)]
pub struct CallerConfig {
    /// Signs the hooks.
    pub hook_secret: Option<SecretString>,
    /// Vast signs its notifications with it.
    pub webhook_secret: Option<SecretString>,
    /// Who may use the API.
    pub api_tokens: Vec<ApiToken>,
}

/// Someone who may use the API. Only the hash of the token is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// What they may do.
    pub scope: Scope,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
}

/// What is kept of an API token: its SHA-256 in hex.
#[must_use]
pub fn token_hash(token: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(token.as_bytes()))
}

/// What a caller of the API may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look.
    Read,
    /// Look and act.
    Operate,
}

/// The machines and what runs on them.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// The login on GPUs.
    pub gpu_user: String,
    /// The login of the hosts' daemons that serve the disks of paused GPUs.
    pub gpu_disk_user: String,
    /// The login on standbys.
    pub standby_user: String,
    /// The SSH port of standbys.
    pub standby_ssh_port: u16,
    /// Where the agent keeps the data on a standby.
    pub standby_data_dir: String,
    /// Whether the agent runs as root through sudo, so that owners of files are kept.
    pub standby_sudo: bool,
    /// The agent's binary that is pushed to standbys; by default the one beside this program.
    pub agent_binary: Option<PathBuf>,
    /// The operator's private key; made in the state directory when it is not given.
    pub operator_key: Option<PathBuf>,
    /// The start-up script of standbys; the built-in one when it is not given.
    pub startup_script: Option<PathBuf>,
}

/// A setting that is wrong or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which setting.
    pub setting: String,
    /// What is wrong, and what to write instead.
    pub text: String,
}

/// All that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} setting{} must be put right; nothing was started:",
            self.0.len(),
            if self.0.len() == 1 { "" } else { "s" }
        )?;
        for Problem { setting, text } in &self.0 {
            write!(f, "\n  {setting} (environment: {}): {text}", environment_name(setting))?;
        }
        Ok(())
    }
}

/// The environment variable of a setting.
#[must_use]
pub fn environment_name(setting: &str) -> String {
    format!("WARMSPARE_{}", setting.to_uppercase())
}

/// A setting as `warmspare settings` lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its name in a TOML file.
    pub name: &'static str,
    /// Its default in words.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default, meaning }
}

/// Every setting. A test holds this list against what is really read.
pub const SETTINGS: &[Setting] = &[
    setting("vast_api_key", "required", "key of the Vast.ai account"),
    setting("standby_provider", "gcp", "gcp or vastai: who rents out new standbys"),
    setting(
        "vast_standby_max_price_per_hour",
        "0.10",
        "what a standby at Vast may cost, in dollars an hour",
    ),
    setting("vast_standby_disk_size", "100", "disk of a standby at Vast in GB"),
    setting("vast_standby_image", "ubuntu:24.04", "image of a standby at Vast"),
    setting(
        "gcp_project",
        "required for gcp",
        "Google Cloud project that pays for the standbys",
    ),
    setting(
        "gcp_credentials",
        "login or metadata server",
        "service account key file (GOOGLE_APPLICATION_CREDENTIALS works, too)",
    ),
    setting(
        "gcp_zone",
        "the cheapest near the GPU",
        "always make standbys in this zone",
    ),
    setting(
        "gcp_max_distance_km",
        "2000",
        "how far from the region nearest to the GPU a cheaper one may be; 0: always the nearest",
    ),
    setting(
        "gcp_default_region",
        "us-central1",
        "region when nobody knows where the GPU is",
    ),
    setting("gcp_machine_type", "e2-medium", "machine type of standbys"),
    setting("gcp_disk_size", "100", "size of the data disk in GB"),
    setting(
        "gcp_disk_type",
        "by expected_files",
        "type of the data disk: pd-standard, or pd-balanced for many small files",
    ),
    setting(
        "expected_files",
        "unknown",
        "how many files a GPU's source path will have; it decides the type of the disk",
    ),
    setting("gcp_spot", "true", "Spot machines: cheap, and taken back at times"),
    setting("gcp_network", "default", "VPC network of the standbys"),
    setting("gcp_url", "Google's", "address of Compute Engine's API"),
    setting(
        "gcp_billing_url",
        "Google's",
        "address of Google's price list (Cloud Billing)",
    ),
    setting(
        "gcp_resource_manager_url",
        "Google's",
        "address of Google's Resource Manager, which `doctor` asks for permissions",
    ),
    setting("vast_url", "Vast's", "address of Vast.ai's API"),
    setting(
        "vast_pace_percent",
        "100",
        "share of Vast's minimum intervals between calls that is kept; lower it for simulated clouds only",
    ),
    setting(
        "auto_standby_enabled",
        "true",
        "whether the hook gpu-created makes standbys",
    ),
    setting("source_path", "/workspace", "directory on the GPU that is copied"),
    setting(
        "excludes",
        "caches that programs make again",
        "rsync patterns that are not copied, separated by commas; `none` for none",
    ),
    setting(
        "includes",
        "none",
        "rsync patterns that are copied although an exclude fits them, too",
    ),
    setting(
        "first",
        "none",
        "paths in source_path, written with or without it, that travel before all others, in a first pass and in a restore",
    ),
    setting(
        "before_pass",
        "no command",
        "shell command on the GPU, in source_path, before each pass: a database dump, for example",
    ),
    setting("lag_objective_s", "90", "lag in seconds beyond which health is bad"),
    setting(
        "max_deleted_percent",
        "50",
        "a pass that would delete more of the files halts",
    ),
    setting(
        "bandwidth_kib_per_s",
        "0",
        "the most that copying may take of a GPU's network; 0: no limit",
    ),
    setting(
        "max_disk_gb",
        "0",
        "what a standby's data disk may grow to when it fills; 0: never",
    ),
    setting("retention_s", "604800", "how long the data of a lost GPU is kept"),
    setting(
        "stop_standby_after_s",
        "3600",
        "how long the machine of a lost GPU's standby stays up",
    ),
    setting(
        "when_deleted_at_vast",
        "hold",
        "hold or release, when a GPU disappears at Vast untold",
    ),
    setting("failover", "manual", "manual or automatic"),
    setting(
        "failover_max_price_per_hour",
        "none",
        "what a replacement may cost, in dollars an hour",
    ),
    setting(
        "superseded_gpu",
        "keep",
        "keep or destroy the old GPU once its data runs, verified, on another",
    ),
    setting("hook_secret", "none: hooks refused", "secret that signs the hooks"),
    setting(
        "webhook_secret",
        "none: webhooks refused",
        "secret that Vast signs its notifications with",
    ),
    setting(
        "api_tokens",
        "one for you, in the state",
        "read:<sha256> or operate:<sha256>, separated by commas",
    ),
    setting("listen", "127.0.0.1:8787", "where `serve` listens"),
    setting("state_dir", "~/.local/state/warmspare", "where `serve` keeps its state"),
    setting("deployment", "main", "name of this installation; machines carry it"),
    setting("beat_s", "30", "seconds between two beats"),
    setting("sweep_s", "300", "seconds between two sweeps"),
    setting("gpu_user", "root", "login on GPUs"),
    setting(
        "gpu_disk_user",
        "vastai_kaalia",
        "login of the hosts' daemons that serve the disks of paused GPUs",
    ),
    setting("standby_user", "warmspare", "login on standbys"),
    setting("standby_ssh_port", "22", "SSH port of standbys"),
    setting(
        "standby_data_dir",
        "/var/lib/warmspare",
        "where the agent keeps the data on a standby",
    ),
    setting(
        "standby_sudo",
        "true",
        "run the agent as root, so that owners of files are kept",
    ),
    setting(
        "agent_binary",
        "beside this program",
        "the agent that is pushed to standbys",
    ),
    setting(
        "operator_key",
        "made in the state",
        "private key that logs in to standbys",
    ),
    setting("startup_script", "built in", "start-up script of standbys"),
];

impl Config {
    /// Reads settings from names in small letters to their texts.
    ///
    /// # Errors
    /// Everything that is wrong or missing, and every name that is no setting: none is silently ignored.
    pub fn from_settings(settings: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(settings);
        let config = Self::read(&mut reader);
        reader.finish(config)
    }

    fn read(read: &mut Reader<'_>) -> Self {
        let failover = read_failover(read);
        let source_path = read.checked("source_path", "/workspace", check_path);
        let zone = read_zone(read);
        let disk = read_disk(read);
        let provider = read.one_of(
            "standby_provider",
            &[("gcp", StandbyProvider::Gcp), ("vastai", StandbyProvider::Vastai)],
        );
        Self {
            deployment: read.parsed(
                "deployment",
                "main",
                "use 1 to 16 of a-z, 0-9 and -, starting with a letter",
            ),
            listen: read.parsed("listen", "127.0.0.1:8787", "use ADDRESS:PORT"),
            state_dir: read.path("state_dir").unwrap_or_else(default_state_dir),
            policy: Policy {
                first: read.paths_below("first", &source_path),
                source_path,
                excludes: read.list_or("excludes", &Policy::DEFAULT_EXCLUDES),
                includes: read.list_or("includes", &[]),
                before_pass: read.checked("before_pass", "", check_command),
                lag_objective: read.seconds("lag_objective_s", Policy::DEFAULT_LAG_OBJECTIVE),
                max_deleted_percent: read.bounded("max_deleted_percent", Policy::DEFAULT_MAX_DELETED_PERCENT, 1..=100),
                machine: MachineSpec {
                    provider,
                    machine_type: read.checked("gcp_machine_type", "e2-medium", check_resource),
                    disk_gb: read_disk_size(read, provider),
                    disk_type: match &disk {
                        DiskWish::Fixed(disk_type) => disk_type.clone(),
                        DiskWish::ByLoad { .. } => disk_speed::CHEAP.to_owned(),
                    },
                    provisioning: if read.yes_or_no("gcp_spot", true) {
                        Provisioning::Spot
                    } else {
                        Provisioning::Standard
                    },
                    zones: Vec::new(),
                },
                bandwidth_kib_per_s: read.bounded("bandwidth_kib_per_s", 0, 0..=10_000_000),
                max_disk_gb: read.bounded("max_disk_gb", Policy::DEFAULT_MAX_DISK_GB, 0..=65_536),
                retention: read.seconds("retention_s", Policy::DEFAULT_RETENTION),
                stop_standby_after: read.seconds("stop_standby_after_s", Policy::DEFAULT_STOP_STANDBY_AFTER),
                when_deleted_at_vast: read.one_of(
                    "when_deleted_at_vast",
                    &[
                        ("hold", WhenDeletedAtVast::Hold),
                        ("release", WhenDeletedAtVast::Release),
                    ],
                ),
                failover,
                superseded: read.one_of(
                    "superseded_gpu",
                    &[("keep", SupersededGpu::Keep), ("destroy", SupersededGpu::Destroy)],
                ),
            },
            zone,
            disk,
            auto_standby: read.yes_or_no("auto_standby_enabled", true),
            vast: VastConfig {
                url: read.checked("vast_url", "https://console.vast.ai", check_url),
                pace_percent: read.bounded("vast_pace_percent", 100, 0..=100),
                standby_max_price_per_hour: read_standby_price(read),
                standby_image: read.checked("vast_standby_image", "ubuntu:24.04", check_image),
                api_key: read.required_secret("vast_api_key", "make one at https://cloud.vast.ai/manage-keys/"),
            },
            gcp: GcpConfig {
                url: read.checked("gcp_url", "https://compute.googleapis.com", check_url),
                billing_url: read.checked("gcp_billing_url", "https://cloudbilling.googleapis.com", check_url),
                resource_manager_url: read.checked(
                    "gcp_resource_manager_url",
                    "https://cloudresourcemanager.googleapis.com",
                    check_url,
                ),
                project: read_project(read, provider),
                network: read.checked("gcp_network", "default", check_resource),
                credentials: read.existing_file("gcp_credentials"),
            },
            callers: CallerConfig {
                hook_secret: read.secret("hook_secret"),
                webhook_secret: read.secret("webhook_secret"),
                api_tokens: read.api_tokens("api_tokens"),
            },
            machines: MachineConfig {
                gpu_user: read.checked("gpu_user", "root", check_login),
                gpu_disk_user: read.checked("gpu_disk_user", "vastai_kaalia", check_login),
                standby_user: read.checked("standby_user", "warmspare", check_login),
                standby_ssh_port: read.bounded("standby_ssh_port", 22, 1..=65_535),
                standby_data_dir: read.checked("standby_data_dir", "/var/lib/warmspare", check_remote_dir),
                standby_sudo: read.yes_or_no("standby_sudo", true),
                agent_binary: read.existing_file("agent_binary"),
                operator_key: read.existing_file("operator_key"),
                startup_script: read.existing_file("startup_script"),
            },
            beat: read.seconds("beat_s", Seconds(30)).duration(),
            sweep: read.seconds("sweep_s", Seconds(300)).duration(),
        }
    }
}

/// Both sizes are read, so that neither setting is an unknown one.
fn read_disk_size(read: &mut Reader<'_>, provider: StandbyProvider) -> u32 {
    let at_google = read.bounded("gcp_disk_size", 100, 10..=65_536);
    let at_vast = read.bounded("vast_standby_disk_size", 100, 10..=65_536);
    match provider {
        StandbyProvider::Gcp => at_google,
        StandbyProvider::Vastai => at_vast,
    }
}

/// Where all standbys are at Vast no project is needed; one that is named keeps the standbys there looked after.
fn read_project(read: &mut Reader<'_>, provider: StandbyProvider) -> Option<String> {
    let name = "gcp_project";
    match provider {
        StandbyProvider::Gcp => Some(read.required(
            name,
            "the id of the Google Cloud project that pays for the standbys (or set standby_provider to vastai)",
        )),
        StandbyProvider::Vastai => read.text(name).map(ToOwned::to_owned),
    }
}

fn read_standby_price(read: &mut Reader<'_>) -> MicroUsd {
    let name = "vast_standby_max_price_per_hour";
    let default = MicroUsd(100_000);
    let Some(text) = read.text(name) else { return default };
    let price = text.parse().ok().and_then(MicroUsd::from_dollars);
    price.filter(|price| price.0 > 0).unwrap_or_else(|| {
        read.wrong(
            name,
            &format!("`{text}` is not a price: use dollars an hour, e.g. 0.10"),
        );
        default
    })
}

fn check_image(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-' | b':' | b'@');
    if !text.is_empty() && text.bytes().all(plain) {
        Ok(())
    } else {
        Err("use an image such as ubuntu:24.04".to_owned())
    }
}

fn read_failover(read: &mut Reader<'_>) -> Failover {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Manual,
        Automatic,
    }
    let word = read.one_of("failover", &[("manual", Word::Manual), ("automatic", Word::Automatic)]);
    let cap = read.text("failover_max_price_per_hour").map(ToOwned::to_owned);
    match (word, cap) {
        (Word::Manual, None) => Failover::Manual,
        (Word::Manual, Some(_)) => {
            read.wrong(
                "failover_max_price_per_hour",
                "it means nothing while failover is `manual`: remove it or set failover to `automatic`",
            );
            Failover::Manual
        }
        (Word::Automatic, None) => {
            read.wrong(
                "failover_max_price_per_hour",
                "missing: automatic failover rents a GPU, so say what it may cost an hour in dollars, e.g. 0.40",
            );
            Failover::Manual
        }
        (Word::Automatic, Some(text)) => match text
            .parse()
            .ok()
            .and_then(MicroUsd::from_dollars)
            .filter(|cap| cap.0 > 0)
        {
            Some(max_price_per_hour) => Failover::Automatic { max_price_per_hour },
            None => {
                read.wrong(
                    "failover_max_price_per_hour",
                    &format!("`{text}` is not a price: use dollars an hour, e.g. 0.40"),
                );
                Failover::Manual
            }
        },
    }
}

fn read_zone(read: &mut Reader<'_>) -> ZoneWish {
    let default_region = read.text("gcp_default_region").unwrap_or("us-central1").to_owned();
    let near = ZoneWish::Near {
        default_region,
        max_distance_km: read.bounded("gcp_max_distance_km", DEFAULT_MAX_DISTANCE_KM, 0..=20_100),
    };
    if let Err(error) = near.check() {
        read.wrong("gcp_default_region", &error.to_string());
    }
    let fixed = match read.text("gcp_zone").map(str::parse::<Zone>) {
        None => return near,
        Some(Ok(zone)) => ZoneWish::Fixed(zone),
        Some(Err(error)) => {
            read.wrong("gcp_zone", &error.to_string());
            return near;
        }
    };
    if let Err(error) = fixed.check() {
        read.wrong("gcp_zone", &error.to_string());
    }
    fixed
}

fn read_disk(read: &mut Reader<'_>) -> DiskWish {
    let expected_files = match read.bounded("expected_files", 0, 0..=u64::MAX) {
        0 => None,
        files => Some(files),
    };
    match read.text("gcp_disk_type") {
        None => DiskWish::ByLoad { expected_files },
        Some(_) => DiskWish::Fixed(read.checked("gcp_disk_type", disk_speed::CHEAP, check_resource)),
    }
}

fn default_state_dir() -> PathBuf {
    // The last resort is the directory we stand in; `state_dir` says so in the start-up line either way.
    PathBuf::from("warmspare-state")
}

/// The synced directory on a GPU. The agent gets it as data, never as part of a command; this only refuses what cannot be meant.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn check_path(text: &str) -> Result<(), String> {
    let climbs = text.split('/').any(|part| part == "..");
    // rsync would expand these on the GPU.
    let expands = text.contains(['*', '?', '[', '\\']);
    if text.is_empty() || text.starts_with('-') || expands || text.chars().any(char::is_control) {
        Err("use a directory such as /workspace".to_owned())
    } else if climbs {
        Err("it must not climb with `..`: use the directory itself, such as /workspace".to_owned())
    } else if matches!(text.trim_end_matches('/'), "" | "/root" | "~") {
        Err("do not copy / or /root: a restore would break the new GPU's SSH keys. Use /workspace".to_owned())
    } else {
        Ok(())
    }
}

/// Whether this can run before each pass.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn check_command(text: &str) -> Result<(), String> {
    if text.len() > Policy::LONGEST_COMMAND {
        return Err(format!(
            "it is longer than {} bytes: put it into a script on the GPU and name that",
            Policy::LONGEST_COMMAND
        ));
    }
    if text.contains('\0') {
        return Err("it holds a zero byte: use a shell command such as ./dump.sh".to_owned());
    }
    Ok(())
}

fn check_resource(text: &str) -> Result<(), String> {
    let good = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if good {
        Ok(())
    } else {
        Err("use lower-case letters, digits and -".to_owned())
    }
}

fn check_login(text: &str) -> Result<(), String> {
    let good = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !text.starts_with('-');
    if good && !text.is_empty() {
        Ok(())
    } else {
        Err("use a login name: letters, digits, -, _ and .".to_owned())
    }
}

fn check_remote_dir(text: &str) -> Result<(), String> {
    let good = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
    let climbs = text.split('/').any(|part| part == "..");
    if good && !climbs && !text.is_empty() && !text.starts_with('-') {
        Ok(())
    } else {
        Err("use a path of letters, digits, -, _, . and /, without `..`".to_owned())
    }
}

fn check_url(text: &str) -> Result<(), String> {
    let loopback = ["http://127.", "http://localhost", "http://[::1]"]
        .iter()
        .any(|start| text.starts_with(start));
    if text.starts_with("https://") || loopback {
        Ok(())
    } else {
        Err("use https:// (plain http only to this machine), since it carries your credentials".to_owned())
    }
}

#[cfg(test)]
mod tests;
