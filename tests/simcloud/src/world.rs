//! The whole simulated cloud: what both sides share, and the clock that drives delayed changes.

use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::compute::Compute;
use crate::faults::Faults;
use crate::journal::Journal;
use crate::machine::Site;
use crate::options::{Options, Scale};
use crate::storage::Storage;
use crate::token::Tokens;
use crate::vast::Vast;

/// Everything that a sim is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) scale: Scale,
    pub(crate) site: Site,
    pub(crate) login_user: String,
    pub(crate) standby_port: u16,
    pub(crate) base_url: OnceLock<String>,
    pub(crate) faults: Faults,
    pub(crate) journal: Journal,
    pub(crate) tokens: Tokens,
    pub(crate) client: reqwest::Client,
    pub(crate) watchdog: Mutex<Option<Child>>,
    pub(crate) temporary: Mutex<Option<tempfile::TempDir>>,
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) runtime: tokio::runtime::Handle,
    /// Held while a change to Compute Engine is accepted: two inserts of one name must not both succeed.
    pub(crate) compute_gate: Mutex<()>,
    state: Mutex<State>,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) vast: Vast,
    pub(crate) compute: Compute,
    pub(crate) storage: Storage,
    /// Rights that the account lacks, as far as it asks for them.
    pub(crate) denied: std::collections::BTreeSet<String>,
}

/// The parts of a world that exist before it does.
pub(crate) struct Foundation {
    pub(crate) options: Options,
    pub(crate) site: Site,
    pub(crate) login_user: String,
    pub(crate) standby_port: u16,
    pub(crate) watchdog: Child,
    pub(crate) temporary: Option<tempfile::TempDir>,
    pub(crate) client: reqwest::Client,
}

impl World {
    pub(crate) fn new(parts: Foundation) -> Arc<Self> {
        let vast = Vast::new(parts.options.vast_credit, parts.options.rate_limits);
        Arc::new(Self {
            scale: Scale(parts.options.time_scale),
            site: parts.site,
            login_user: parts.login_user,
            standby_port: parts.standby_port,
            base_url: OnceLock::new(),
            faults: Faults::default(),
            journal: Journal::default(),
            tokens: Tokens::default(),
            client: parts.client,
            watchdog: Mutex::new(Some(parts.watchdog)),
            temporary: Mutex::new(parts.temporary),
            closed: watch::channel(false).0,
            runtime: tokio::runtime::Handle::current(),
            compute_gate: Mutex::new(()),
            state: Mutex::new(State {
                vast,
                compute: Compute::default(),
                storage: Storage::default(),
                denied: std::collections::BTreeSet::new(),
            }),
            options: parts.options,
        })
    }

    /// The state, for a short look or change; no machine is touched while it is held.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something after so many simulated seconds, unless the sim has ended by then.
    pub(crate) fn after(self: &Arc<Self>, seconds: f64, what: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let delay = self.scale.of(seconds);
        let world = Arc::clone(self);
        let ended = self.ended();
        self.runtime.spawn(async move {
            let due = tokio::select! {
                () = ended => false,
                () = tokio::time::sleep(delay) => true,
            };
            if due {
                let _ = tokio::task::spawn_blocking(move || what(&world)).await;
            }
        });
    }

    /// Resolves when the sim ends.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = self.closed.subscribe();
        async move {
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }

    pub(crate) fn base_url(&self) -> &str {
        self.base_url.get().map_or("", String::as_str)
    }

    pub(crate) fn root(&self) -> &PathBuf {
        &self.site.root
    }
}

/// Unix time in seconds.
pub(crate) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
