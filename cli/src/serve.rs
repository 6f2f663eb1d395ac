//! `warmspare serve`: the whole control plane in one process, for one person.
//!
//! The same handlers and the same reconciler as on Lambda; a directory is the store, a ticker the schedule.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use clap::Args;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};
use warmspare_domain::ids::AssociationId;
use warmspare_platform::assemble::reconcile_settings;
use warmspare_platform::config::{ApiToken, Config, Scope, token_hash};
use warmspare_platform::doctor::Examiner;
use warmspare_platform::handlers::{App, Nudge, router};
use warmspare_platform::pulse::Pulses;
use warmspare_platform::reconcile::Reconciler;
use warmspare_platform::report;

use crate::stop::asked_to_stop;
use crate::{settings, verbs::token};

mod heartbeat;
mod world;

/// Run everything in this process.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// A TOML file with settings; the environment wins over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the settings, say what is wrong with them, and do nothing else.
    #[arg(long)]
    check: bool,
}

impl Serve {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        start_logging();
        let mut config = match settings::load(self.config.as_deref()) {
            Ok(config) => config,
            Err(error) => {
                eprintln!("warmspare: {error:#}");
                return Ok(ExitCode::from(2));
            }
        };
        if self.check {
            println!("the settings are fine");
            return Ok(ExitCode::SUCCESS);
        }
        make_private_directory(&config.state_dir)?;
        if config.callers.api_tokens.is_empty() {
            config.callers.api_tokens.push(own_token(&config.state_dir)?);
        }
        serve(config).await?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let pulses = Arc::new(Pulses::default());
    heartbeat::read(&config.state_dir, &pulses);
    let world = world::real(&config, Arc::clone(&pulses)).await?;
    let reconciler = Reconciler::new(world, reconcile_settings(&config));
    let (nudges, nudged) = Nudges::new();
    let mut app = App::new(&config, reconciler.clone(), Arc::new(nudges));
    app.examiner = Some(Arc::new(Examiner::local(&config)));
    let listener = tokio::net::TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; is another `warmspare serve` running?",
            config.listen
        )
    })?;
    let stop = asked_to_stop()?;
    info!(
        "listening on http://{}; state in {}",
        listener.local_addr()?,
        config.state_dir.display()
    );
    tokio::spawn(answer_nudges(reconciler.clone(), nudged));
    tokio::spawn(beat(reconciler.clone(), config.beat, config.state_dir.clone()));
    tokio::spawn(sweep(reconciler, config.sweep));
    axum::serve(listener, router(app))
        .with_graceful_shutdown(async move {
            stop.await;
            info!("stopping; passes under way go on at the standbys");
        })
        .await
        .context("the HTTP server failed")
}

/// A beat never waits for the one before: a slow one only makes the next ones skip.
async fn beat(reconciler: Reconciler, every: Duration, state_dir: PathBuf) {
    let mut ticker = tokio::time::interval(every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticker.tick().await;
        match reconciler.live().await {
            Ok(live) => {
                let beat = reconciler.beat_all(live.iter().map(|a| a.id).collect()).await;
                info!(associations = beat.associations, failed = beat.failed, "beat done");
                heartbeat::write(&state_dir, &reconciler.world().pulses);
            }
            Err(error) => error!(
                error = report::chain(&error),
                "the association store did not answer; the next beat tries again"
            ),
        }
    }
}

async fn sweep(reconciler: Reconciler, every: Duration) {
    let mut ticker = tokio::time::interval(every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticker.tick().await;
        if let Err(error) = reconciler.sweep().await {
            error!(
                error = report::chain(&error),
                "the sweep could not read the association store; the next one tries again"
            );
        }
    }
}

/// Nudges that wait for their beat; the same association waits only once.
struct Nudges {
    waiting: Arc<Mutex<BTreeSet<AssociationId>>>,
    channel: UnboundedSender<AssociationId>,
}

/// The other end of [`Nudges`].
struct Nudged {
    waiting: Arc<Mutex<BTreeSet<AssociationId>>>,
    channel: UnboundedReceiver<AssociationId>,
}

impl Nudges {
    fn new() -> (Self, Nudged) {
        let (sender, receiver) = unbounded_channel();
        let waiting = Arc::new(Mutex::new(BTreeSet::new()));
        (
            Self {
                waiting: Arc::clone(&waiting),
                channel: sender,
            },
            Nudged {
                waiting,
                channel: receiver,
            },
        )
    }
}

#[async_trait]
impl Nudge for Nudges {
    async fn nudge(&self, id: AssociationId) {
        let is_new = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        if is_new && self.channel.send(id).is_err() {
            warn!(gpu.id = %id, "the process is stopping; the next one looks");
        }
    }
}

async fn answer_nudges(reconciler: Reconciler, mut nudged: Nudged) {
    while let Some(id) = nudged.channel.recv().await {
        // Forget it before the beat reads the state: a nudge from now on means another beat.
        nudged
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        let reconciler = reconciler.clone();
        tokio::spawn(async move {
            if let Err(error) = reconciler.beat(id).await {
                warn!(gpu.id = %id, error = report::chain(&error), "a nudged beat failed; the next beat tries again");
            }
        });
    }
}

fn start_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,russh=warn,hyper=warn"));
    // A second subscriber is refused only in tests that start two; the first one serves.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        // Where the terminal is gone it would complain there, and panic over that.
        .log_internal_errors(false)
        .try_init();
}

fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the state directory {}", path.display()))
}

/// A token for the person who runs this process, so that the command line works at once.
fn own_token(state_dir: &Path) -> anyhow::Result<ApiToken> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = state_dir.join("token");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let fresh = token::new_token();
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            writeln!(file, "{fresh}")?;
            info!("an API token for you is in {}", path.display());
            fresh
        }
        Err(error) => return Err(anyhow!(error).context(format!("cannot read {}", path.display()))),
    };
    let mut sha256 = [0; 32];
    hex::decode_to_slice(token_hash(text.trim()), &mut sha256)?;
    Ok(ApiToken {
        scope: Scope::Operate,
        sha256,
    })
}
