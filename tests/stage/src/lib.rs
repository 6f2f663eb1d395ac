//! The stage on which the demo and the end-to-end stories play: simulated clouds, `warmspare serve` as a process of its own, and the hands of a
//! user at Vast, at the hooks and at the API.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use simcloud::{DataDisks, Options, Simcloud, Timing};
use tokio::process::{Child, Command};
use warmspare_platform::config::token_hash;

mod hands;

/// The workspace's name in a GPU's home, and the path that is copied.
pub const WORKSPACE: &str = "workspace";

/// How long the local process may take to answer; it does little more before that than bind a port.
const SERVE_STARTS_WITHIN: Duration = Duration::from_secs(30);

/// How a stage is set.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The `warmspare` program.
    pub program: PathBuf,
    /// Factor on the clouds' measured durations.
    pub time_scale: f64,
    /// Seconds between two beats.
    pub beat_s: u64,
    /// Settings of `warmspare serve` on top of the stage's own, by name in small letters; an empty text removes one.
    pub settings: BTreeMap<String, String>,
    /// The clouds' unscaled durations.
    pub timing: Timing,
    /// What the standbys' data disks are made of.
    pub data_disks: DataDisks,
}

impl Setting {
    /// Fast clouds, a beat a second.
    #[must_use]
    pub fn fast(program: PathBuf) -> Self {
        let time_scale = 0.02;
        Self {
            program,
            time_scale,
            beat_s: 1,
            settings: BTreeMap::new(),
            timing: timing(time_scale),
            data_disks: DataDisks::Directories,
        }
    }

    /// With one more setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// The clouds' durations for a scale: booting is played faster than stopping, because the data's last way out is measured in real seconds. Live
/// it takes 10.6 to 32 s from notice to stop (`reference/vast/live-interruptions.json`); on stage it takes a quarter of the shorter half.
#[must_use]
pub fn timing(time_scale: f64) -> Timing {
    let slower = 0.25_f64.max(time_scale) / time_scale;
    Timing {
        outbid_kill: (10.6 * slower, 16.0 * slower),
        ..Timing::default()
    }
}

/// Everything that is on stage.
pub struct Stage {
    /// The clouds.
    pub cloud: Simcloud,
    directory: PathBuf,
    setting: Setting,
    port: u16,
    serve: Option<Child>,
    token: String,
    hook_secret: String,
    webhook_secret: String,
    http: reqwest::Client,
}

impl Stage {
    /// Starts the clouds and `warmspare serve`.
    ///
    /// # Errors
    /// When either does not start; the message has the end of its log.
    pub async fn set(setting: Setting) -> anyhow::Result<Self> {
        let mut stage = Self::set_clouds(setting).await?;
        if let Err(error) = stage.start_serve().await {
            stage.strike(false).await;
            return Err(error);
        }
        Ok(stage)
    }

    /// Starts the clouds only.
    ///
    /// # Errors
    /// When they do not start.
    pub async fn set_clouds(setting: Setting) -> anyhow::Result<Self> {
        // Until all of it stands, a failure removes it.
        let temporary = tempfile::Builder::new().prefix("ws-").tempdir()?;
        let directory = temporary.path().to_owned();
        let options = Options {
            dir: Some(directory.join("clouds")),
            time_scale: setting.time_scale,
            timing: setting.timing.clone(),
            data_disks: setting.data_disks,
            ..Options::default()
        };
        let cloud = Simcloud::start(options)
            .await
            .context("the simulated clouds did not start")?;
        let key_file = directory.join("service-account.json");
        cloud
            .write_service_account(&key_file)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
        let secret = || hex::encode(rand::random::<[u8; 16]>());
        let (token, hook_secret) = (secret(), secret());
        let mut stage = Self {
            cloud,
            directory,
            setting,
            port,
            serve: None,
            token,
            hook_secret,
            webhook_secret: String::new(),
            http,
        };
        stage.webhook_secret = stage.register_webhook().await?;
        // From here on `strike` decides what becomes of it.
        let _ = temporary.keep();
        Ok(stage)
    }

    /// Starts `warmspare serve`, again after it was killed: with the same port and state.
    ///
    /// # Errors
    /// When it does not answer; the message has the end of its log.
    pub async fn start_serve(&mut self) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = Command::new(&self.setting.program);
        command
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        self.set_environment(&mut command);
        self.serve = Some(
            command
                .spawn()
                .with_context(|| format!("cannot start {}", self.setting.program.display()))?,
        );
        let outcome = self.await_serve().await;
        outcome.with_context(|| format!("the log of `warmspare serve` ends with:\n{}", self.log_tail()))
    }

    async fn await_serve(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < SERVE_STARTS_WITHIN {
            if let Some(status) = self.serve.as_mut().and_then(|serve| serve.try_wait().transpose()) {
                bail!("`warmspare serve` ended at once ({})", status?);
            }
            if self
                .http
                .get(format!("{}/healthz", self.serve_url()))
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!(
            "`warmspare serve` did not answer within {} s",
            SERVE_STARTS_WITHIN.as_secs()
        )
    }

    /// Kills `warmspare serve` as the out-of-memory killer would: no farewell.
    pub async fn kill_serve(&mut self) {
        if let Some(mut serve) = self.serve.take() {
            drop(serve.kill().await);
        }
    }

    /// Gives a command the environment of `warmspare serve` on this stage, and nothing of ours.
    pub fn set_environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WARMSPARE_")) {
            command.env_remove(name);
        }
        command
            .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
            .env("NO_COLOR", "1");
        let own = self.own_settings();
        let extra = self
            .setting
            .settings
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        let settings: BTreeMap<String, String> = own
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .chain(extra)
            .collect();
        for (name, value) in settings.into_iter().filter(|(_, value)| !value.is_empty()) {
            command.env(format!("WARMSPARE_{}", name.to_uppercase()), value);
        }
    }

    fn own_settings(&self) -> Vec<(&'static str, String)> {
        let options = self.cloud.options();
        vec![
            ("deployment", "stage".to_owned()),
            ("listen", format!("127.0.0.1:{}", self.port)),
            ("state_dir", self.state_dir().display().to_string()),
            ("vast_url", self.cloud.vast_url()),
            ("vast_api_key", options.vast_api_key.clone()),
            ("vast_pace_percent", "0".to_owned()),
            ("gcp_url", self.cloud.compute_url()),
            ("gcp_billing_url", self.cloud.billing_url()),
            ("gcp_resource_manager_url", self.cloud.base_url().to_owned()),
            ("gcp_project", options.project.clone()),
            (
                "gcp_credentials",
                self.directory.join("service-account.json").display().to_string(),
            ),
            ("hook_secret", self.hook_secret.clone()),
            ("webhook_secret", self.webhook_secret.clone()),
            ("api_tokens", format!("operate:{}", token_hash(&self.token))),
            ("source_path", WORKSPACE.to_owned()),
            ("gpu_user", self.cloud.login_user().to_owned()),
            ("gpu_disk_user", self.cloud.login_user().to_owned()),
            ("standby_user", self.cloud.login_user().to_owned()),
            ("standby_ssh_port", self.cloud.standby_ssh_port().to_string()),
            ("standby_data_dir", "data".to_owned()),
            ("standby_sudo", "false".to_owned()),
            ("beat_s", self.setting.beat_s.to_string()),
            ("sweep_s", (2 * self.setting.beat_s).to_string()),
        ]
    }

    /// Where `warmspare serve` answers.
    #[must_use]
    pub fn serve_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The token of its API.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where `warmspare serve` keeps its state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// A directory of the stage's own, gone when it is struck.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A GPU's workspace, as its own file system has it.
    ///
    /// # Errors
    /// When the GPU does not exist.
    pub fn workspace(&self, gpu: u64) -> anyhow::Result<PathBuf> {
        let home = self
            .cloud
            .home(&gpu.to_string())
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(home.join(WORKSPACE))
    }

    /// The log of `warmspare serve`.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("serve.log")
    }

    /// Its last lines that say more than that a beat or a sweep had nothing to tell.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let quiet = |line: &&str| line.ends_with(" failed=0") || line.ends_with(" destroyed=0 orphans=0");
        let lines: Vec<_> = log.lines().filter(|line| !quiet(line)).collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Ends everything that was started; `keep` leaves the directory with its logs.
    pub async fn strike(mut self, keep: bool) {
        self.kill_serve().await;
        self.cloud.shutdown().await;
        if keep {
            // Whoever closed the terminal reads no more.
            let _ = writeln!(
                std::io::stderr(),
                "the stage's directory is {}",
                self.directory.display()
            );
        } else {
            drop(std::fs::remove_dir_all(&self.directory));
        }
    }
}

/// An instant as the API writes it; such texts sort by time.
#[must_use]
pub fn timestamp(since_1970: Duration) -> String {
    warmspare_domain::units::Timestamp::from_millis(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
        .to_string()
}

/// A text in an answer, or `-`.
#[must_use]
pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
