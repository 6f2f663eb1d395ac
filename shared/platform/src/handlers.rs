//! What comes in over HTTP. Each part is a router of its own, so that a function mounts one and `serve` mounts all.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tracing::warn;
use warmspare_domain::association::{Association, Phase, Target};
use warmspare_domain::event::Event;
use warmspare_domain::ids::{AssociationId, GpuId, Zone};
use warmspare_domain::policy::{MachineSpec, Policy, StandbyProvider};
use warmspare_domain::reason::Reason;
use warmspare_domain::units::MicroUsd;

use crate::config::{CallerConfig, Config, MachineConfig};
use crate::disk_choice::{DiskWish, choose};
use crate::doctor::Examine;
use crate::placement::{Placement, ZoneWish, place};
use crate::ports::{GpuRow, StoreError};
use crate::reconcile::{Applied, Reconciler};
use crate::report;

pub mod api;
mod failure;
pub mod hooks;
pub mod machines;
pub mod page;
mod rebuild;
pub mod replay;
pub mod seal;
pub mod vast_webhook;
pub mod view;

pub use failure::Failure;

/// Makes somebody look at an association soon: in `serve` a beat starts at once, on Lambda a message is queued.
#[async_trait]
pub trait Nudge: Send + Sync {
    /// Asks for a beat of this association. What cannot be asked for comes with the next ordinary beat.
    async fn nudge(&self, id: AssociationId);
}

/// What running the handlers costs.
#[derive(Debug, Clone, Copy)]
pub enum ControlPlane {
    /// A process on the user's own machine.
    OwnProcess,
    /// Functions, whose price a month for one GPU falls with the number of GPUs.
    Functions(fn(u32) -> MicroUsd),
}

/// The standby that a GPU would get.
struct Wanted {
    machine: MachineSpec,
    placement: Placement,
    disk_reason: String,
}

impl Wanted {
    /// Where and what, and why.
    fn words(&self) -> String {
        let disk = match self.machine.provider {
            StandbyProvider::Gcp => format!("{} disk", self.machine.disk_type),
            StandbyProvider::Vastai => format!("{} GB of disk", self.machine.disk_gb),
        };
        format!("{}; {disk}: {}", self.placement.explanation, self.disk_reason)
    }
}

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    /// Takes in events.
    pub reconciler: Reconciler,
    /// Makes somebody look soon.
    pub nudge: Arc<dyn Nudge>,
    /// The rules that a new association starts with.
    pub default_policy: Policy,
    /// Where standbys are made.
    pub zone: ZoneWish,
    /// Which disks they get.
    pub disk: DiskWish,
    /// What running the handlers costs.
    pub control_plane: ControlPlane,
    /// Whether `on_gpu_created` makes standbys.
    pub auto_standby: bool,
    /// The secrets of those who call.
    pub callers: Arc<CallerConfig>,
    /// The machines.
    pub machines: Arc<MachineConfig>,
    /// Events that were taken in lately.
    pub seen_events: Arc<replay::SeenEvents>,
    /// Examines this deployment with its own rights, where that can be done.
    pub examiner: Option<Arc<dyn Examine>>,
}

impl App {
    /// The handlers' share of the settings.
    #[must_use]
    pub fn new(config: &Config, reconciler: Reconciler, nudge: Arc<dyn Nudge>) -> Self {
        Self {
            reconciler,
            nudge,
            default_policy: config.policy.clone(),
            zone: config.zone.clone(),
            disk: config.disk.clone(),
            control_plane: ControlPlane::OwnProcess,
            auto_standby: config.auto_standby,
            callers: Arc::new(config.callers.clone()),
            machines: Arc::new(config.machines.clone()),
            seen_events: Arc::default(),
            examiner: None,
        }
    }

    /// Finds the association that a GPU belongs to or once belonged to.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn find(&self, gpu: GpuId) -> Result<Option<Association>, StoreError> {
        let own = self.reconciler.world().store.get(AssociationId::of(gpu)).await?;
        let own = own.map(|read| read.association);
        if own.as_ref().is_some_and(is_live) {
            return Ok(own);
        }
        // Rare: a GPU that took over another one's data, perhaps after its own was let go.
        let everything = self.reconciler.everything().await?;
        let serves_it = |a: &&Association| is_live(a) && (a.gpu == gpu || is_target(a, gpu));
        if let Some(live) = everything.iter().find(serves_it) {
            return Ok(Some(live.clone()));
        }
        // Tombstones count, too: they are what a late event must find.
        let knew_it = |a: &Association| a.gpu == gpu || a.superseded.contains(&gpu) || is_target(a, gpu);
        Ok(own.or_else(|| everything.into_iter().find(knew_it)))
    }

    /// The standby for a GPU by the settings, the prices of the day and what is expected of its load.
    async fn wanted(&self, row: &GpuRow, expected_files: Option<u64>) -> Result<Wanted, Failure> {
        match self.default_policy.machine.provider {
            StandbyProvider::Gcp => self.wanted_at_google(row, expected_files).await,
            StandbyProvider::Vastai => Ok(self.wanted_at_vast()),
        }
    }

    fn wanted_at_vast(&self) -> Wanted {
        let mut machine = self.default_policy.machine.clone();
        machine.zones = vec![Zone::at_vast()];
        Wanted {
            placement: Placement {
                zones: machine.zones.clone(),
                explanation: "at Vast, on demand: a CPU offer when there is one, else the cheapest acceptable offer with a GPU; never on the GPU's \
                              own host"
                    .to_owned(),
            },
            machine,
            disk_reason: "its size is fixed for life".to_owned(),
        }
    }

    async fn wanted_at_google(&self, row: &GpuRow, expected_files: Option<u64>) -> Result<Wanted, Failure> {
        let prices = self.reconciler.world().prices.current().await;
        let mut machine = self.default_policy.machine.clone();
        let disk = choose(&self.disk, machine.disk_gb, expected_files);
        machine.disk_type = disk.disk_type;
        let placement = place(&row.geolocation, &self.zone, &machine, &prices);
        let placement = placement.map_err(|error| Failure::unavailable(error.to_string()))?;
        machine.zones.clone_from(&placement.zones);
        Ok(Wanted {
            machine,
            placement,
            disk_reason: disk.why,
        })
    }

    /// Takes in an event about a known association, and has it looked at when it changed anything.
    async fn apply(&self, id: AssociationId, event: &Event) -> Result<Applied, Failure> {
        let applied = self
            .reconciler
            .apply(id, event)
            .await?
            .ok_or_else(|| Failure::unknown_gpu(id.first_gpu()))?;
        if applied.changed {
            self.nudge.nudge(id).await;
        }
        Ok(applied)
    }
}

fn is_live(a: &Association) -> bool {
    !matches!(a.phase, Phase::Released { .. })
}

fn is_target(a: &Association, gpu: GpuId) -> bool {
    match &a.phase {
        Phase::Restoring { job, .. } => match job.target {
            Target::Gpu { gpu: target, .. } => target == gpu,
            Target::ToRent { .. } => false,
        },
        Phase::Provisioning
        | Phase::Seeding
        | Phase::Protected
        | Phase::Holding(_)
        | Phase::Halted { .. }
        | Phase::Releasing { .. }
        | Phase::Released { .. } => false,
    }
}

/// Everything on one port, as `warmspare serve` offers it.
pub fn router(app: App) -> Router {
    Router::new()
        .merge(hooks::router(app.clone()))
        .merge(vast_webhook::router(app.clone()))
        .merge(api::router(app.clone()))
        .merge(page::router(app))
        .route("/healthz", get(|| async { "ok" }))
        .fallback(|| async {
            Failure::new(
                StatusCode::NOT_FOUND,
                "no_such_path",
                "there is nothing at this path; the README lists the paths",
            )
        })
}

/// Logs what a handler turned down; the caller gets the same words.
fn log_refusal(what: &str, failure: &Failure) {
    warn!(error = %failure, "refused a call to {what}");
}

/// A reason in words, for answers.
fn words(reason: Reason) -> String {
    reason.to_string()
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = report::chain(&error), "the association store failed");
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "the association store did not take the change; nothing was done. Send it again in a few seconds",
        )
    }
}
