//! load → observe → decide → commit → act, and the results back in as events.
//!
//! Commit comes before act: if we die in between, the next beat derives the same effects again from the state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{Instrument, debug, info, info_span, warn};
use warmspare_domain::association::{Association, Link, Phase, PhaseName};
use warmspare_domain::decide::{Decision, decide, needs};
use warmspare_domain::event::Event;
use warmspare_domain::ids::{AssociationId, Deployment, GpuId};
use warmspare_domain::reason::Reason;

use crate::associations::read_many;
use crate::ports::{Agents, AssociationStore, Clock, GpuRow, Gpus, Standbys, StoreError, Versioned};
use crate::prices::PriceList;
use crate::pulse::Pulses;
use crate::report;

mod act;
mod observe;
mod rebuild;
mod rescue;
mod sweep;

pub use rebuild::{RebuildError, RebuildLine, RebuildMode, RebuildResult};
pub use sweep::{Orphan, SweepReport};

/// Rounds of look, decide and act in one beat: enough for bind and first pass in one go, few enough that a beat ends.
const ROUNDS_PER_BEAT: usize = 4;

/// Lost races before we leave an association to whoever keeps winning them; the next beat comes anyway.
const COMMIT_ATTEMPTS: usize = 8;

/// Associations that one beat drives at the same time. An SSH connection costs 53 KiB; `reference/rust/dependencies.md` §5.
const CONCURRENCY: usize = 64;

/// How long before its end a process begins nothing new: the longest single step, a rent of 90 s, may still end well.
const CLOSING_TIME: Duration = Duration::from_secs(100);

/// Everything that the reconciler reaches the world through.
#[derive(Clone)]
pub struct World {
    /// Where associations live.
    pub store: Arc<dyn AssociationStore>,
    /// The provider of GPUs.
    pub gpus: Arc<dyn Gpus>,
    /// The provider of standbys.
    pub standbys: Arc<dyn Standbys>,
    /// The agents on the standbys.
    pub agents: Arc<dyn Agents>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// What the agents said last.
    pub pulses: Arc<Pulses>,
    /// What standbys cost.
    pub prices: Arc<PriceList>,
}

/// How the reconciler behaves.
#[derive(Debug, Clone)]
pub struct ReconcileSettings {
    /// Our installation.
    pub deployment: Deployment,
    /// The login on GPUs: `root` at Vast.
    pub gpu_user: String,
    /// How long a beat waits for a pass to end before it leaves it running.
    pub pass_wait: Duration,
    /// The longest that one exchange with an agent may take.
    pub agent_limit: Duration,
}

/// Turns events into decisions, and decisions into effects.
#[derive(Clone)]
pub struct Reconciler {
    world: World,
    settings: Arc<ReconcileSettings>,
    closes_at: Option<Instant>,
}

/// What an event did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The association after it.
    pub association: Association,
    /// Why.
    pub reason: Reason,
    /// Whether anything was written.
    pub changed: bool,
}

/// What one beat did, in counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BeatReport {
    /// Associations driven.
    pub associations: usize,
    /// Associations that could not be read or written.
    pub failed: usize,
}

impl Reconciler {
    /// A reconciler over this world.
    #[must_use]
    pub fn new(world: World, settings: ReconcileSettings) -> Self {
        Self {
            world,
            settings: Arc::new(settings),
            closes_at: None,
        }
    }

    /// The same reconciler in a process that lives so long only: its beats begin no round and no effect that might be cut off. What was decided
    /// and not begun follows from the state, so the next beat derives it again.
    #[must_use]
    pub fn for_at_most(&self, left: Duration) -> Self {
        // With little time in all, half of it is for work: a beat that never acts is worse than one that is cut off.
        let closing = CLOSING_TIME.min(left / 2);
        Self {
            closes_at: Some(Instant::now() + left - closing),
            ..self.clone()
        }
    }

    /// Whether it is too late to begin anything.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closes_at.is_some_and(|at| Instant::now() >= at)
    }

    /// The world it works on.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Our installation.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.settings.deployment
    }

    /// Takes in one event: loads, decides, commits. A lost race is decided again on the newer state. `None` when there is no such association.
    ///
    /// # Errors
    /// When the store does not answer, or the race is lost again and again; nothing was changed then, and repeating it is safe.
    pub async fn apply(&self, id: AssociationId, event: &Event) -> Result<Option<Applied>, StoreError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let Some(read) = self.world.store.get(id).await? else {
                return Ok(None);
            };
            match self.decide_and_commit(&read, event).await {
                Ok(decision) => return Ok(Some(applied(&read, decision))),
                Err(StoreError::Conflict(_)) => debug!(gpu.id = %id, "lost a race, deciding again"),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict(id))
    }

    async fn decide_and_commit(&self, read: &Versioned, event: &Event) -> Result<Decision, StoreError> {
        let before = &read.association;
        let decision = decide(before, event, self.world.clock.now());
        if decision.next != *before {
            self.world.store.update(&decision.next, &read.version).await?;
            log_transition(before, &decision);
        }
        Ok(decision)
    }

    /// Drives one association until it is calm or the round limit is reached. Two at once are fine, in one process or in two: the store
    /// decides races, and a last-gasp pass must not wait for the beat that waits for a long pass.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn beat(&self, id: AssociationId) -> Result<(), StoreError> {
        self.beat_with(id, &Prefetched::default()).await
    }

    async fn beat_with(&self, id: AssociationId, prefetched: &Prefetched) -> Result<(), StoreError> {
        async {
            for round in 0..ROUNDS_PER_BEAT {
                let known = if round == 0 { prefetched } else { &Prefetched::default() };
                if !self.round(id, known).await? {
                    break;
                }
            }
            Ok(())
        }
        .instrument(info_span!("beat", gpu.id = %id))
        .await
    }

    /// Looks and decides, and does nothing.
    pub async fn plan(&self, a: &Association) -> Decision {
        let seen = self.observe(a, &Prefetched::default()).await;
        decide(a, &Event::Looked(seen), self.world.clock.now())
    }

    /// One look, decision and its effects. Answers whether another round is worth it.
    async fn round(&self, id: AssociationId, prefetched: &Prefetched) -> Result<bool, StoreError> {
        if self.is_closing() {
            info!("no time is left to begin anything; the next beat goes on");
            return Ok(false);
        }
        let Some(read) = self.world.store.get(id).await? else {
            return Ok(false);
        };
        if let Phase::Released { .. } = read.association.phase {
            return Ok(false);
        }
        if needs(&read.association, self.world.clock.now()).agent
            && let Some(report) = self.inquire(&read.association).await
            && self.apply(id, &report).await?.is_some_and(|applied| applied.changed)
        {
            return Ok(true);
        }
        let seen = self.observe(&read.association, prefetched).await;
        // What was seen belongs to the state that asked for it: after a lost race, look again.
        let decision = match self.decide_and_commit(&read, &Event::Looked(seen)).await {
            Ok(decision) => decision,
            Err(StoreError::Conflict(_)) => return Ok(true),
            Err(error) => return Err(error),
        };
        let was_silent = matches!(read.association.standby.link, Link::Lost(_));
        let mut still_silent = false;
        let mut changed = decision.next.phase.name() != read.association.phase.name();
        for effect in &decision.effects {
            if self.is_closing() {
                info!(effect = %effect.kind(), "no time is left to begin it; the next beat derives it again");
                return Ok(false);
            }
            for event in self.act(&decision.next, effect).await {
                still_silent |= was_silent && event == Event::StandbyUnreachable;
                changed |= self.apply(id, &event).await?.is_some_and(|applied| applied.changed);
            }
        }
        // Another round would wait as long for nothing, and whoever beats many waits for this one.
        Ok(changed && !still_silent)
    }

    /// Drives these associations, many at a time; what they need of the GPUs' provider is asked for once.
    pub async fn beat_all(&self, ids: Vec<AssociationId>) -> BeatReport {
        let prefetched = Arc::new(self.prefetch(&ids).await);
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        let mut beats = JoinSet::new();
        let associations = ids.len();
        for id in ids {
            let (this, prefetched, slots) = (self.clone(), Arc::clone(&prefetched), Arc::clone(&slots));
            beats.spawn(async move {
                let _slot = slots.acquire().await;
                this.beat_with(id, &prefetched).await.map_err(|error| (id, error))
            });
        }
        let mut failed = 0;
        while let Some(outcome) = beats.join_next().await {
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err((id, error))) => {
                    failed += 1;
                    warn!(gpu.id = %id, error = report::chain(&error), "a beat could not read or write its association; the next one tries again");
                }
                Err(panicked) => {
                    failed += 1;
                    tracing::error!(error = %panicked, "a beat panicked");
                }
            }
        }
        BeatReport { associations, failed }
    }

    /// The associations that are not released, by id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn live(&self) -> Result<Vec<Association>, StoreError> {
        let mut associations = self.everything().await?;
        associations.retain(|a| a.phase.name() != PhaseName::Released);
        Ok(associations)
    }

    /// All associations, tombstones included, by id. One that cannot be read is reported and left out.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn everything(&self) -> Result<Vec<Association>, StoreError> {
        let ids = self.world.store.list().await?.into_iter().map(|(id, _)| id);
        let read = read_many(&self.world.store, ids).await?;
        Ok(read.into_iter().map(|read| read.association).collect())
    }

    async fn prefetch(&self, ids: &[AssociationId]) -> Prefetched {
        let mut wanted = Vec::new();
        for id in ids {
            if let Ok(Some(read)) = self.world.store.get(*id).await {
                let needs = needs(&read.association, self.world.clock.now());
                wanted.extend(needs.gpu.into_iter().chain(needs.target));
            }
        }
        if wanted.is_empty() {
            return Prefetched::default();
        }
        wanted.sort_unstable();
        wanted.dedup();
        let rows = self.look_at_gpus(&wanted).await;
        Prefetched { asked: wanted, rows }
    }
}

/// What was asked of the GPUs' provider before the beats began; `rows` is `None` when it did not answer completely.
#[derive(Debug, Default)]
struct Prefetched {
    asked: Vec<GpuId>,
    rows: Option<BTreeMap<GpuId, GpuRow>>,
}

fn applied(read: &Versioned, decision: Decision) -> Applied {
    let changed = decision.next != read.association;
    Applied {
        association: decision.next,
        reason: decision.reason,
        changed,
    }
}

fn log_transition(before: &Association, decision: &Decision) {
    let (from, to) = (before.phase.name(), decision.next.phase.name());
    if from != to {
        info!(gpu.id = %before.id, phase.from = %from, phase.to = %to, epoch = %decision.next.epoch, reason = %decision.reason, "phase changed");
    } else if decision.reason != Reason::Steady {
        debug!(gpu.id = %before.id, phase.from = %from, reason = %decision.reason, "decided");
    }
}
