//! The real world behind the ports, from settings: Vast, Compute Engine, SSH, and whichever store the caller brings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::adapters::billing::CloudBilling;
use crate::adapters::compute::{ComputeEngine, ComputeSettings};
use crate::adapters::google::TokenSource;
use crate::adapters::providers::StandbyProviders;
use crate::adapters::ssh::{OperatorKeyError, RunAs, SshAgents, SshSettings, SshSetupError, operator_key};
use crate::adapters::vast::{VastGpus, VastSettings, VastStandbySettings, VastStandbys};
use crate::config::Config;
use crate::ports::{AssociationStore, Clock, PriceCatalogue, PriceShelf, ProviderError, Standbys};
use crate::prices::PriceList;
use crate::pulse::Pulses;
use crate::reconcile::{ReconcileSettings, World};

/// What a standby runs at every start: formats and mounts its data disk, installs rsync.
const STARTUP_SCRIPT: &str = include_str!("../../../infra/standby-startup.sh");

/// What differs between one local process and a function.
pub struct Surroundings {
    /// Where associations live.
    pub store: Arc<dyn AssociationStore>,
    /// Who gives access to Google Cloud; `None` where no project is named.
    pub tokens: Option<Arc<dyn TokenSource>>,
    /// What the agents said last.
    pub pulses: Arc<Pulses>,
    /// Where the last price list is kept.
    pub price_shelf: Arc<dyn PriceShelf>,
}

/// Why the world cannot be set up. Nothing was called.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The operator's key.
    #[error("the operator key cannot be used")]
    OperatorKey(#[source] Box<OperatorKeyError>),
    /// A file that the settings name.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no agent to push.
    #[error("there is no agent at {0}; build it with `make build`, or name it in agent_binary")]
    NoAgent(PathBuf),
    /// A provider's client.
    #[error("a provider's client cannot be set up")]
    Provider(#[from] ProviderError),
    /// The SSH side.
    #[error("SSH to the standbys cannot be set up")]
    Ssh(#[from] SshSetupError),
}

/// Connects the ports to the real things; calls nobody yet.
///
/// # Errors
/// When a file is missing or a setting does not fit; nothing was called.
pub fn world(config: &Config, around: Surroundings) -> Result<World, SetupError> {
    let key = operator_key_path(config);
    let public_key = operator_key(&key).map_err(|error| SetupError::OperatorKey(Box::new(error)))?;
    let vast = VastSettings {
        base_url: config.vast.url.clone(),
        pace: f64::from(config.vast.pace_percent) / 100.0,
        disk_user: config.machines.gpu_disk_user.clone(),
        ..VastSettings::new(config.vast.api_key.clone())
    };
    let vast = Arc::new(VastGpus::new(vast)?);
    let catalogue = match &around.tokens {
        Some(tokens) => {
            Some(Arc::new(CloudBilling::new(&config.gcp.billing_url, Arc::clone(tokens))?) as Arc<dyn PriceCatalogue>)
        }
        None => None,
    };
    let standbys = standbys(config, &vast, public_key, around.tokens)?;
    let ssh = SshSettings {
        user: config.machines.standby_user.clone(),
        vast_user: config.machines.gpu_user.clone(),
        run_as: if config.machines.standby_sudo {
            RunAs::Root
        } else {
            RunAs::Login
        },
        ..SshSettings::new(
            key,
            agent_binary(config.machines.agent_binary.as_deref())?,
            config.machines.standby_data_dir.clone(),
        )
    };
    let clock = Arc::new(SystemClock);
    Ok(World {
        store: around.store,
        gpus: vast,
        standbys: Arc::new(standbys),
        agents: Arc::new(SshAgents::new(ssh)?),
        prices: Arc::new(PriceList::new(catalogue, around.price_shelf, clock.clone())),
        clock,
        pulses: around.pulses,
    })
}

/// How the reconciler behaves with these settings.
#[must_use]
pub fn reconcile_settings(config: &Config) -> ReconcileSettings {
    ReconcileSettings {
        deployment: config.deployment.clone(),
        gpu_user: config.machines.gpu_user.clone(),
        // Half a beat: a short pass is reported by the beat that started it, a long one by a later beat.
        pass_wait: config.beat / 2,
        agent_limit: config.beat / 2 + Duration::from_secs(30),
    }
}

pub(crate) fn operator_key_path(config: &Config) -> PathBuf {
    let given = config.machines.operator_key.clone();
    given.unwrap_or_else(|| config.state_dir.join("operator_ed25519"))
}

/// Whoever may have standbys of ours: Vast always, since the account is there, and Google where a project is named.
fn standbys(
    config: &Config,
    vast: &Arc<VastGpus>,
    public_key: String,
    tokens: Option<Arc<dyn TokenSource>>,
) -> Result<StandbyProviders, SetupError> {
    let settings = VastStandbySettings {
        deployment: config.deployment.clone(),
        max_price_per_hour: config.vast.standby_max_price_per_hour,
        image: config.vast.standby_image.clone(),
        data_dir: config.machines.standby_data_dir.clone(),
        operator_public_key: public_key.clone(),
    };
    let gcp: Option<Arc<dyn Standbys>> = match (&config.gcp.project, tokens) {
        (Some(project), Some(tokens)) => {
            let compute = compute_settings(config, project, public_key)?;
            Some(Arc::new(ComputeEngine::new(compute, tokens)?))
        }
        (Some(_) | None, Some(_) | None) => None,
    };
    Ok(StandbyProviders {
        gcp,
        vastai: Some(Arc::new(VastStandbys::new(Arc::clone(vast), settings)?)),
    })
}

fn compute_settings(config: &Config, project: &str, public_key: String) -> Result<ComputeSettings, SetupError> {
    let startup_script = match &config.machines.startup_script {
        Some(path) => std::fs::read_to_string(path).map_err(|source| SetupError::File {
            path: path.clone(),
            source,
        })?,
        None => STARTUP_SCRIPT.to_owned(),
    };
    // A beat must not wait long for an order; what it does not see now, the next one sees.
    let operation_wait = (config.beat / 2).min(Duration::from_secs(20));
    Ok(ComputeSettings {
        base_url: format!("{}/compute/v1/", config.gcp.url.trim_end_matches('/')),
        network: config.gcp.network.clone(),
        ssh_port: config.machines.standby_ssh_port,
        ssh_user: config.machines.standby_user.clone(),
        startup_script: Some(startup_script),
        operation_wait,
        poll_every: (operation_wait / 10).min(Duration::from_secs(1)),
        ..ComputeSettings::new(project.to_owned(), config.deployment.clone(), public_key)
    })
}

pub(crate) fn agent_binary(given: Option<&Path>) -> Result<PathBuf, SetupError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let here = std::env::current_exe().map_err(|source| SetupError::File {
        path: "the path of this program".into(),
        source,
    })?;
    let beside = here.with_file_name("warmspare-agent");
    if beside.is_file() {
        Ok(beside)
    } else {
        Err(SetupError::NoAgent(beside))
    }
}

/// This machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> warmspare_domain::units::Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        warmspare_domain::units::Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}
