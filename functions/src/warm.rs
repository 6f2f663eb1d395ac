//! The world of one execution environment: built once, built anew when a secret changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tracing::{info, warn};
use warmspare_platform::adapters::gcs::{GcsAssociations, GcsHeartbeats, GcsObjects, GcsSettings};
use warmspare_platform::adapters::google::{Federated, GoogleCredentials, TokenSource};
use warmspare_platform::assemble::{self, Surroundings, reconcile_settings};
use warmspare_platform::config::Config;
use warmspare_platform::doctor::{BucketPlace, Examiner};
use warmspare_platform::handlers::{App, ControlPlane, Nudge};
use warmspare_platform::pulse::Pulses;
use warmspare_platform::recalled::Recalled;
use warmspare_platform::reconcile::Reconciler;
use warmspare_platform::report;

use crate::costs;
use crate::parameters;
use crate::queue::{NextSlot, QueueNudge, TickQueue};
use crate::schedule::BeatSchedule;
use crate::settings::{FunctionSettings, GoogleAccess, environment};
use crate::ticks::Work;

/// How long secrets are believed. A rotated one is in use after that, without a deploy.
const SECRETS_LAST: Duration = Duration::from_secs(300);

/// How long the heartbeats of other functions are believed.
const HEARTBEATS_LAST: Duration = Duration::from_secs(10);

/// Where a function may write; it is gone with the execution environment.
const SCRATCH: &str = "/tmp/warmspare";

/// One execution environment.
pub struct Warm {
    ssm: aws_sdk_ssm::Client,
    sqs: aws_sdk_sqs::Client,
    scheduler: aws_sdk_scheduler::Client,
    heartbeats: Heartbeats,
    kept: Mutex<Option<Kept>>,
}

/// Whether an invocation wants to know what the agents said to other functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heartbeats {
    Unread,
    Read,
}

struct Kept {
    ready: Arc<Ready>,
    secrets: BTreeMap<String, String>,
    secrets_read: Instant,
    heartbeats_read: Option<Instant>,
}

/// What an invocation works with.
pub struct Ready {
    /// The handlers' world.
    pub app: App,
    /// The queue of ticks.
    pub queue: Option<TickQueue>,
    /// The schedule of the beat.
    pub schedule: Option<Arc<BeatSchedule>>,
    /// The store, and what is remembered of it.
    pub recalled: Arc<Recalled>,
    /// What the agents said last.
    pub heartbeats: GcsHeartbeats,
    /// How many shards a beat is spread over.
    pub shards: u32,
}

impl Warm {
    /// Makes the AWS clients, once; calls nobody yet.
    pub async fn new() -> Self {
        let aws = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        Self {
            ssm: aws_sdk_ssm::Client::new(&aws),
            sqs: aws_sdk_sqs::Client::new(&aws),
            scheduler: aws_sdk_scheduler::Client::new(&aws),
            heartbeats: Heartbeats::Unread,
            kept: Mutex::new(None),
        }
    }

    /// The same, for a function that shows how the agents are.
    #[must_use]
    pub fn with_heartbeats(mut self) -> Self {
        self.heartbeats = Heartbeats::Read;
        self
    }

    /// The world, with secrets that are at most [`SECRETS_LAST`] old.
    ///
    /// # Errors
    /// When a setting or a secret is missing or wrong. The next invocation tries again.
    pub fn ready(&self) -> Work<'_, anyhow::Result<Arc<Ready>>> {
        Box::pin(self.warmed())
    }

    async fn warmed(&self) -> anyhow::Result<Arc<Ready>> {
        let mut kept = self.kept.lock().await;
        match kept.as_mut() {
            Some(kept) if kept.secrets_read.elapsed() < SECRETS_LAST => {}
            Some(kept) => self.refresh(kept).await,
            None => *kept = Some(self.build(self.secrets().await?).await?),
        }
        let kept = kept.as_mut().context("a world was just built")?;
        if self.heartbeats == Heartbeats::Read && kept.heartbeats_read.is_none_or(|at| at.elapsed() > HEARTBEATS_LAST) {
            match kept.ready.heartbeats.read().await {
                Ok(pulses) => kept.ready.app.reconciler.world().pulses.restore(pulses),
                Err(error) => warn!(
                    error = report::chain(&error),
                    "the heartbeats could not be read; what is shown is older"
                ),
            }
            kept.heartbeats_read = Some(Instant::now());
        }
        Ok(Arc::clone(&kept.ready))
    }

    /// With old secrets we go on when new ones cannot be had: a beat that is signed with yesterday's key is better than none.
    async fn refresh(&self, kept: &mut Kept) {
        kept.secrets_read = Instant::now();
        match self.secrets().await {
            Ok(secrets) if secrets == kept.secrets => {}
            Ok(secrets) => match self.build(secrets).await {
                Ok(built) => {
                    info!("secrets changed; the new ones are in use");
                    *kept = built;
                }
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "changed secrets cannot be used; the old ones stay"
                ),
            },
            Err(error) => warn!(
                error = format!("{error:#}"),
                "secrets could not be read again; the old ones stay"
            ),
        }
    }

    async fn secrets(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let own = FunctionSettings::take_from(&mut environment())?;
        parameters::read(&self.ssm, &own.parameters).await
    }

    async fn build(&self, secrets: BTreeMap<String, String>) -> anyhow::Result<Kept> {
        let mut settings = environment();
        let own = FunctionSettings::take_from(&mut settings)?;
        settings.extend(secrets.clone());
        settings
            .entry("state_dir".to_owned())
            .or_insert_with(|| SCRATCH.to_owned());
        let scratch = PathBuf::from(settings.get("state_dir").map_or(SCRATCH, String::as_str));
        make_private_directory(&scratch)?;
        if let Some(key) = settings.remove("operator_key") {
            let path = scratch.join("operator_ed25519");
            write_private(&path, key.trim_end())?;
            settings.insert("operator_key".to_owned(), path.display().to_string());
        }
        let google_key = settings.remove("gcp_key");
        let config = Config::from_settings(&settings).map_err(|error| anyhow::anyhow!("{error}"))?;
        let tokens = google_access(&own, &config, google_key)?;
        let bucket = GcsSettings {
            endpoint: own.storage_url.clone(),
            bucket: own.bucket.clone(),
        };
        let place = BucketPlace {
            url: own.storage_url.clone(),
            name: own.bucket.clone(),
        };
        let examiner = Examiner::functions(&config, Arc::clone(&tokens), place);
        let objects = GcsObjects::new(bucket, Arc::clone(&tokens)).await?;
        let heartbeats = objects.heartbeats();
        let price_shelf = Arc::new(objects.prices());
        let recalled = Arc::new(Recalled::over(Arc::new(GcsAssociations::over(objects))));
        let around = Surroundings {
            store: Arc::clone(&recalled) as _,
            tokens: Some(tokens),
            pulses: Arc::new(Pulses::default()),
            price_shelf,
        };
        let world = assemble::world(&config, around)?;
        let reconciler = Reconciler::new(world, reconcile_settings(&config));
        let schedule = own
            .schedule
            .map(|settings| Arc::new(BeatSchedule::new(self.scheduler.clone(), &config.deployment, settings)));
        let queue = own.tick_queue_url.map(|url| TickQueue::new(self.sqs.clone(), url));
        let nudge: Arc<dyn Nudge> = match &queue {
            Some(queue) => Arc::new(QueueNudge::new(queue.clone(), schedule.clone())),
            None => Arc::new(NextSlot),
        };
        let mut app = App::new(&config, reconciler, nudge);
        app.examiner = Some(Arc::new(examiner));
        app.control_plane = ControlPlane::Functions(costs::per_gpu_month);
        let ready = Ready {
            app,
            queue,
            schedule,
            recalled,
            heartbeats,
            shards: own.shards,
        };
        Ok(Kept {
            ready: Arc::new(ready),
            secrets,
            secrets_read: Instant::now(),
            heartbeats_read: None,
        })
    }
}

fn google_access(own: &FunctionSettings, config: &Config, key: Option<String>) -> anyhow::Result<Arc<dyn TokenSource>> {
    Ok(match (&own.google, key, &config.gcp.credentials) {
        (
            GoogleAccess::Federated {
                audience,
                service_account,
            },
            _,
            _,
        ) => Arc::new(Federated::new(audience, service_account)?),
        (GoogleAccess::Key, Some(key), _) => Arc::new(GoogleCredentials::from_key(&SecretString::from(key))?),
        (GoogleAccess::Key, None, Some(path)) => Arc::new(GoogleCredentials::from_key_file(path)?),
        (GoogleAccess::Key, None, None) => anyhow::bail!(
            "there is no way into Google Cloud: set WARMSPARE_GCP_AUDIENCE and WARMSPARE_GCP_SERVICE_ACCOUNT (infra/google-setup.sh prints them), or put a service account key into {}gcp_key",
            own.parameters
        ),
    })
}

fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// The operator key, where the SSH side reads it. OpenSSH's format ends in a line feed.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| writeln!(file, "{text}"))
        .and_then(|()| std::fs::rename(&fresh, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
