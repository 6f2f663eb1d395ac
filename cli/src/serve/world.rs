//! The real world behind the ports: Vast, Compute Engine, SSH, a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use warmspare_platform::adapters::compute::{ComputeEngine, ComputeSettings};
use warmspare_platform::adapters::directory::DirectoryAssociations;
use warmspare_platform::adapters::google::GoogleCredentials;
use warmspare_platform::adapters::ssh::{RunAs, SshAgents, SshSettings, operator_key};
use warmspare_platform::adapters::vast::{VastGpus, VastSettings};
use warmspare_platform::config::Config;
use warmspare_platform::ports::Clock;
use warmspare_platform::pulse::Pulses;
use warmspare_platform::reconcile::World;

/// What a standby runs at every start: formats and mounts its data disk, installs rsync.
const STARTUP_SCRIPT: &str = include_str!("../../../infra/standby-startup.sh");

/// Connects the ports to the real things; calls nobody yet.
pub(super) async fn real(config: &Config, pulses: Arc<Pulses>, clock: Arc<dyn Clock>) -> anyhow::Result<World> {
    let key = match &config.machines.operator_key {
        Some(path) => path.clone(),
        None => config.state_dir.join("operator_ed25519"),
    };
    let public_key =
        operator_key(&key).with_context(|| format!("the operator key {} cannot be used", key.display()))?;
    let vast = VastSettings {
        base_url: config.vast.url.clone(),
        pace: f64::from(config.vast.pace_percent) / 100.0,
        ..VastSettings::new(config.vast.api_key.clone())
    };
    let compute = compute_settings(config, public_key)?;
    let tokens = match &config.gcp.credentials {
        Some(path) => GoogleCredentials::from_key_file(path)?,
        None => GoogleCredentials::find().await?,
    };
    let ssh = SshSettings {
        user: config.machines.standby_user.clone(),
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
    let associations = config.state_dir.join("associations");
    Ok(World {
        store: Arc::new(
            DirectoryAssociations::open(&associations)
                .with_context(|| format!("the store {} cannot be used", associations.display()))?,
        ),
        gpus: Arc::new(VastGpus::new(vast)?),
        standbys: Arc::new(ComputeEngine::new(compute, Arc::new(tokens))?),
        agents: Arc::new(SshAgents::new(ssh)?),
        clock,
        pulses,
    })
}

fn compute_settings(config: &Config, public_key: String) -> anyhow::Result<ComputeSettings> {
    let startup_script = match &config.machines.startup_script {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
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
        ..ComputeSettings::new(config.gcp.project.clone(), config.deployment.clone(), public_key)
    })
}

fn agent_binary(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let here = std::env::current_exe().context("where is this program?")?;
    let beside = here.with_file_name("warmspare-agent");
    if !beside.is_file() {
        bail!(
            "there is no agent at {}; build it with `make build`, or name it in agent_binary",
            beside.display()
        );
    }
    Ok(beside)
}
