//! Makes records anew from the labels on the standbys and what their agents remember, when the store lost them.
//!
//! # Guarantees
//! Nothing is deleted, and no record that exists is touched. Every step may be cut off and repeated: a standby that has to come up first is
//! answered as waiting, and the next call goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{info, warn};
use warmspare_domain::association::{Association, PhaseName};
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::{AssociationId, Epoch, GpuId};
use warmspare_domain::observed::{Endpoint, GpuSeen, Observed, SshHost, StandbySeen};
use warmspare_domain::policy::Policy;
use warmspare_domain::rebuild::{
    BoundSource, ListedGpu, Remains, RememberedGpu, Rental, StandbyRemains, provisional, rebuild,
};
use warmspare_wire::agent::{Binding, Host, Outcome, Request, Status};

use super::{CONCURRENCY, Reconciler};
use crate::ports::{AgentError, GpuRow, LabelledStandby, ProviderError, RentalLabel, StoreError};
use crate::report;

/// How long one call works on one association: functions are cut off at 30 s, and listing comes before.
const LIMIT: Duration = Duration::from_secs(18);

/// How long one standby may take to answer.
const AGENT_LIMIT: Duration = Duration::from_secs(12);

/// Whether anything may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildMode {
    /// Standbys are started, records written.
    ForReal,
    /// Only what is up is asked; nothing is started or written.
    DryRun,
}

/// What became of one association's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildResult {
    /// It was written anew; in a dry run it would be.
    Rebuilt,
    /// There is one; it was not touched.
    Exists,
    /// Its standby has to come up first: ask again.
    Waiting,
    /// It cannot be: no record was written, nothing deleted.
    Cannot,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RebuildLine {
    /// Which association.
    pub association: AssociationId,
    /// Its standbys.
    pub standbys: Vec<String>,
    /// What became of it.
    pub result: RebuildResult,
    /// The GPU it is bound to, when its record is known.
    pub gpu: Option<GpuId>,
    /// The epoch of that binding.
    pub epoch: Option<Epoch>,
    /// The phase it starts in.
    pub phase: Option<PhaseName>,
    /// For a person: what was found, and what to do.
    pub detail: String,
}

/// Why nothing could be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The standbys could not be listed completely.
    #[error("the standbys could not be listed")]
    Standbys(#[source] ProviderError),
    /// The GPUs could not be listed completely.
    #[error("the GPUs could not be listed")]
    Gpus(#[source] ProviderError),
    /// The store did not list what it has.
    #[error("the records could not be listed")]
    Store(#[from] StoreError),
}

/// What all associations share in one call.
struct Listing {
    policy: Policy,
    mode: RebuildMode,
    gpus: Vec<GpuRow>,
    known: Vec<Association>,
}

/// How far a standby is.
enum Asked {
    Answered(Box<(Endpoint, Status)>),
    Waiting(String),
    Cannot(String),
}

impl Reconciler {
    /// Writes a record for every labelled standby that has none. `policy` is that of a new association.
    ///
    /// # Errors
    /// When a listing is not complete; nothing was done then.
    pub async fn rebuild(&self, policy: &Policy, mode: RebuildMode) -> Result<Vec<RebuildLine>, RebuildError> {
        let found = self.world.standbys.all().await.map_err(RebuildError::Standbys)?;
        let gpus = self.world.gpus.all().await.map_err(RebuildError::Gpus)?;
        let listing = Arc::new(Listing {
            policy: policy.clone(),
            mode,
            gpus,
            known: self.live().await?,
        });
        let mut by_association: BTreeMap<AssociationId, Vec<LabelledStandby>> = BTreeMap::new();
        for row in found {
            by_association.entry(row.association).or_default().push(row);
        }
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        let mut work = JoinSet::new();
        for (id, rows) in by_association {
            let (this, listing, slots) = (self.clone(), Arc::clone(&listing), Arc::clone(&slots));
            work.spawn(async move {
                let names: BTreeSet<String> = rows.iter().map(|row| row.standby.name.to_string()).collect();
                let limited = tokio::time::timeout(LIMIT, async {
                    let _slot = slots.acquire().await;
                    this.rebuild_one(id, rows, &listing).await
                });
                let line = limited
                    .await
                    .unwrap_or_else(|_| waiting(id, "it takes longer than one call may last"));
                RebuildLine {
                    standbys: names.into_iter().collect(),
                    ..line
                }
            });
        }
        let mut lines = work.join_all().await;
        lines.sort_by_key(|line| line.association);
        Ok(lines)
    }

    async fn rebuild_one(&self, id: AssociationId, rows: Vec<LabelledStandby>, listing: &Listing) -> RebuildLine {
        match self.world.store.get(id).await {
            Ok(None) => {}
            Ok(Some(read)) => return line(&read.association, RebuildResult::Exists, "its record exists".to_owned()),
            Err(error @ StoreError::Corrupt { .. }) => {
                return cannot(id, &format!("{}; it is left as it is", report::chain(&error)));
            }
            Err(error) => return waiting(id, &report::chain(&error)),
        }
        let mut remains = Vec::new();
        for row in with_disks(rows) {
            match self.ask(&row, listing).await {
                Asked::Answered(answer) => remains.push(standby_remains(row, &answer.0, &answer.1)),
                Asked::Waiting(why) => return waiting(id, &why),
                Asked::Cannot(why) => return cannot(id, &why),
            }
        }
        let remains = self.remains(id, remains, &listing.gpus);
        match rebuild(&remains, &listing.policy, self.world.clock.now()) {
            Ok(association) => self.record(&association, listing).await,
            Err(why) => cannot(
                id,
                &format!(
                    "{why}. No record was written and nothing deleted; machines that were started for the question still run. Look at them in the console, and delete what is of no use"
                ),
            ),
        }
    }

    /// Asks a standby what it holds; brings it up first.
    async fn ask(&self, row: &LabelledStandby, listing: &Listing) -> Asked {
        let (standby, name) = (&row.standby, &row.standby.name);
        let look = match self.world.standbys.look(standby).await {
            Ok(look) => look,
            Err(error) => return undone(&error),
        };
        let do_it = listing.mode == RebuildMode::ForReal;
        match (look.machine, look.disk) {
            (Observed::Present(StandbySeen::Running(endpoint)), _) => self.ask_agent(endpoint).await,
            (Observed::Present(StandbySeen::Booting | StandbySeen::Stopping), _) => {
                Asked::Waiting(format!("{name} is on its way up or down"))
            }
            (Observed::Present(StandbySeen::Stopped), _) if do_it => {
                let started = self.world.standbys.start(standby).await;
                ordered(started, format!("{name} was stopped and is being started to be asked"))
            }
            (Observed::Absent, Observed::Present(())) if do_it => {
                let now = self.world.clock.now();
                let deployment = &self.settings.deployment;
                let record = provisional(
                    deployment,
                    row.association,
                    row.attempt,
                    standby,
                    row.gpu,
                    &listing.policy,
                    now,
                );
                let machine = &record.policy.machine;
                let created = self.world.standbys.create(&record, standby, machine).await;
                ordered(created, format!("the disk of {name} gets its machine again"))
            }
            (Observed::Present(StandbySeen::Stopped), _) | (Observed::Absent, Observed::Present(())) => {
                Asked::Waiting(format!("{name} is not up; it would be started to be asked"))
            }
            (Observed::Unknown, _) | (Observed::Absent, Observed::Absent | Observed::Unknown) => {
                Asked::Waiting(format!("{name} is listed, but the provider does not tell its state"))
            }
        }
    }

    async fn ask_agent(&self, endpoint: Endpoint) -> Asked {
        match self.world.agents.call(&endpoint, Request::Status, AGENT_LIMIT).await {
            Ok(Outcome::Status(status)) => Asked::Answered(Box::new((endpoint, *status))),
            Ok(Outcome::Refused(refusal)) => Asked::Cannot(refusal.message),
            Ok(_) => Asked::Cannot(format!(
                "the agent at {} answered something else than was asked",
                endpoint.address
            )),
            Err(error @ AgentError::HostKeyMismatch { .. }) => {
                Asked::Cannot(format!("{error}. Look at the machine in the console"))
            }
            // A machine answers SSH before it knows our key and has mounted its disk.
            Err(
                error @ (AgentError::Unreachable { .. } | AgentError::KeyRefused { .. } | AgentError::Broken { .. }),
            ) => Asked::Waiting(error.to_string()),
        }
    }

    fn remains(&self, association: AssociationId, standbys: Vec<StandbyRemains>, gpus: &[GpuRow]) -> Remains {
        let rental = |row: &GpuRow| {
            let label = RentalLabel::parse(&row.label, &self.settings.deployment)?;
            (label.association == association).then_some(Rental {
                gpu: row.id,
                epoch: label.epoch,
            })
        };
        Remains {
            deployment: self.settings.deployment.clone(),
            association,
            standbys,
            rentals: gpus.iter().filter_map(rental).collect(),
            gpus: gpus.iter().map(listed).collect(),
        }
    }

    /// Writes the record, unless somebody else has one for the same GPU or wrote this one meanwhile.
    async fn record(&self, a: &Association, listing: &Listing) -> RebuildLine {
        if let Some(other) = listing.known.iter().find(|other| other.gpu == a.gpu) {
            let why = format!(
                "its standby copies GPU {}, which belongs to standby {} by now; nothing was changed. Release one of them",
                a.gpu, other.standby.name
            );
            return cannot(a.id, &why);
        }
        let kept: Vec<String> = a.superseded.iter().map(ToString::to_string).collect();
        let mut detail = format!(
            "it keeps its data at least until {}",
            self.world.clock.now() + a.policy.retention.duration()
        );
        if !kept.is_empty() {
            detail = format!("{detail}; not read and not destroyed: {}", kept.join(", "));
        }
        if listing.mode == RebuildMode::DryRun {
            return line(a, RebuildResult::Rebuilt, detail);
        }
        match self.world.store.create(a).await {
            Ok(_) => {
                info!(gpu.id = %a.id, standby.name = %a.standby.name, epoch = %a.epoch, phase.to = %a.phase.name(), "a lost record was rebuilt");
                line(a, RebuildResult::Rebuilt, detail)
            }
            Err(StoreError::Conflict(_)) => {
                let detail = "somebody else wrote its record just now".to_owned();
                line(a, RebuildResult::Exists, detail)
            }
            Err(error) => waiting(a.id, &report::chain(&error)),
        }
    }
}

/// One row for each standby that has a data disk; the machine's label is at least as new as its disk's.
fn with_disks(rows: Vec<LabelledStandby>) -> Vec<LabelledStandby> {
    let mut standbys: BTreeMap<StandbyRef, Vec<LabelledStandby>> = BTreeMap::new();
    for row in rows {
        standbys.entry(row.standby.clone()).or_default().push(row);
    }
    let with_data = standbys
        .into_values()
        .filter(|rows| rows.iter().any(LabelledStandby::has_data_disk));
    with_data
        .filter_map(|rows| rows.into_iter().min_by_key(|row| row.kind))
        .collect()
}

fn standby_remains(row: LabelledStandby, endpoint: &Endpoint, status: &Status) -> StandbyRemains {
    StandbyRemains {
        attempt: row.attempt,
        standby: row.standby,
        labelled_gpu: row.gpu,
        endpoint: endpoint.clone(),
        serves: match &status.binding {
            Binding::Unbound => None,
            Binding::Bound { association, .. } => Some(*association),
        },
        report: report::agent(status),
        source: status.source.as_ref().map(|source| BoundSource {
            gpu: place(source.gpu, &source.host),
            path: source.path.clone(),
            excludes: source.excludes.clone(),
            includes: source.includes.clone(),
            first: source.first.clone(),
            before_pass: source.before_pass.clone(),
            max_deleted_percent: source.max_deleted_percent,
        }),
        restore_target: status
            .restore_target
            .as_ref()
            .map(|target| place(target.gpu, &target.host)),
    }
}

fn place(gpu: Option<GpuId>, host: &Host) -> RememberedGpu {
    RememberedGpu {
        gpu,
        host: SshHost {
            address: host.address.clone(),
            port: host.port,
        },
    }
}

fn listed(row: &GpuRow) -> ListedGpu {
    ListedGpu {
        gpu: row.id,
        host: match &row.seen {
            GpuSeen::Running(host) => Some(host.clone()),
            GpuSeen::Starting | GpuSeen::Paused(_) | GpuSeen::Dark => None,
        },
        profile: row.profile(),
    }
}

fn ordered(outcome: Result<(), ProviderError>, waiting: String) -> Asked {
    match outcome {
        Ok(()) => Asked::Waiting(waiting),
        Err(error) => undone(&error),
    }
}

/// What may pass is waited for; what a person has to change is said.
fn undone(error: &ProviderError) -> Asked {
    warn!(
        error = report::chain(error),
        "a standby could not be asked what it holds"
    );
    let words = error.to_string();
    match error {
        ProviderError::CapacityExhausted { .. }
        | ProviderError::RateLimited { .. }
        | ProviderError::NotReady { .. }
        | ProviderError::OutcomeUnknown { .. } => Asked::Waiting(words),
        ProviderError::NotFound { .. }
        | ProviderError::QuotaExceeded { .. }
        | ProviderError::NameTaken { .. }
        | ProviderError::NoOffer { .. }
        | ProviderError::OutOfCredit { .. }
        | ProviderError::Denied { .. }
        | ProviderError::Invalid { .. } => Asked::Cannot(words),
    }
}

fn line(a: &Association, result: RebuildResult, detail: String) -> RebuildLine {
    RebuildLine {
        association: a.id,
        standbys: vec![a.standby.name.to_string()],
        result,
        gpu: Some(a.gpu),
        epoch: Some(a.epoch),
        phase: Some(a.phase.name()),
        detail,
    }
}

fn without_record(association: AssociationId, result: RebuildResult, detail: &str) -> RebuildLine {
    RebuildLine {
        association,
        standbys: Vec::new(),
        result,
        gpu: None,
        epoch: None,
        phase: None,
        detail: detail.to_owned(),
    }
}

fn waiting(association: AssociationId, why: &str) -> RebuildLine {
    without_record(association, RebuildResult::Waiting, why)
}

fn cannot(association: AssociationId, why: &str) -> RebuildLine {
    without_record(association, RebuildResult::Cannot, why)
}
