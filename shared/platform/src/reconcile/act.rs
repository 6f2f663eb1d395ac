//! Carries out effects. No choices here: what goes wrong goes back to the rules as an event.

use std::time::Duration;

use tracing::{debug, warn};
use warmspare_domain::association::{Association, Link};
use warmspare_domain::effect::{Accept, Effect, EffectKind, StandbyRef, Urgency};
use warmspare_domain::event::Event;
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{Epoch, GpuId};
use warmspare_domain::observed::{Endpoint, SshHost};
use warmspare_domain::problem::{Problem, ProblemKind};
use warmspare_domain::units::MicroUsd;
use warmspare_wire::agent::{
    self, Bind, Host, Outcome, Refusal, RefusalKind, Request, Restore, RestoreActivity, Status, Sync,
};

use super::Reconciler;
use crate::ports::{AgentError, Destroyed, GpuRow, ProviderError, RentWish, RentalLabel};
use crate::report;

/// Shorter than the lease of 120 s that the rules take for it, so that two calls that rent for one wish never overlap.
const RENT_LIMIT: Duration = Duration::from_secs(90);

impl Reconciler {
    /// Carries out one effect and answers what became of it.
    pub(super) async fn act(&self, a: &Association, effect: &Effect) -> Vec<Event> {
        let kind = effect.kind();
        let (standbys, gpus) = (&self.world.standbys, &self.world.gpus);
        match effect {
            Effect::CreateStandby { standby, machine } => match standbys.create(a, standby, machine).await {
                Ok(()) => Vec::new(),
                Err(error) => vec![refused_order(a, standby, &error)],
            },
            Effect::StartStandby { standby } => done(kind, standbys.start(standby).await),
            Effect::StopStandby { standby } => done(kind, standbys.stop(standby).await),
            Effect::GrowDisk { standby, gb } => match standbys.grow_disk(standby, *gb).await {
                Ok(()) => vec![Event::DiskGrown {
                    attempt: a.standby.attempt,
                    gb: *gb,
                }],
                Err(error) => vec![failed(kind, &error)],
            },
            Effect::DeleteStandby { standby, warrant } => done(kind, standbys.delete(standby, *warrant).await),
            Effect::DeleteDisk { standby, warrant } => done(kind, standbys.delete_disk(standby, *warrant).await),
            Effect::DestroyRental { gpu, warrant } => done(kind, gpus.destroy(*gpu, *warrant).await),
            Effect::DestroySuperseded { gpu, warrant } => match gpus.destroy(*gpu, *warrant).await {
                Ok(Destroyed::AlreadyGone) => vec![Event::SupersededGone { gpu: *gpu }],
                Ok(Destroyed::Ordered) => Vec::new(),
                Err(error) => vec![failed(kind, &error)],
            },
            Effect::RentGpu {
                epoch,
                like,
                max_price_per_hour,
            } => self.rent(a, *epoch, *like, *max_price_per_hour).await,
            Effect::Bind {
                endpoint,
                gpu,
                host,
                epoch,
                accept,
            } => self.bind(a, endpoint, *gpu, host, *epoch, *accept).await,
            Effect::Sync {
                endpoint,
                epoch,
                urgency,
            } => self.sync(a, endpoint, *epoch, *urgency).await,
            Effect::Rescue {
                endpoint,
                gpu,
                epoch,
                loss,
            } => self.rescue(a, endpoint, *gpu, *epoch, *loss).await,
            Effect::Restore {
                endpoint,
                epoch,
                point,
                target,
                host,
            } => {
                let request = Restore {
                    epoch: *epoch,
                    point: point.clone(),
                    target: self.host(host),
                    target_path: a.policy.source_path.clone(),
                    first: a.policy.first.clone(),
                    wait_ms: millis(self.settings.pass_wait),
                    gpu: Some(*target),
                };
                self.restore(a, endpoint, *target, request).await
            }
        }
    }

    async fn rent(&self, a: &Association, epoch: Epoch, like: GpuId, cap: MicroUsd) -> Vec<Event> {
        let label = RentalLabel {
            deployment: self.settings.deployment.clone(),
            association: a.id,
            epoch,
        };
        let wish = RentWish {
            label,
            like: GpuRow::from_profile(like, &a.profile),
            max_price_per_hour: cap,
        };
        let renting = tokio::time::timeout(RENT_LIMIT, self.world.gpus.rent(&wish));
        let outcome = renting.await.unwrap_or_else(|_| {
            let detail = format!("the rent took longer than {} s", RENT_LIMIT.as_secs());
            Err(ProviderError::OutcomeUnknown {
                provider: "Vast",
                detail,
            })
        });
        match outcome {
            Ok(gpu) => vec![Event::Rented { epoch, gpu }],
            Err(error) if error.certainly_did_not_happen() => vec![Event::RentRefused {
                epoch,
                problem: error.problem(),
            }],
            Err(error) => vec![failed(EffectKind::RentGpu, &error)],
        }
    }

    async fn bind(
        &self,
        a: &Association,
        endpoint: &Endpoint,
        gpu: GpuId,
        host: &SshHost,
        epoch: Epoch,
        accept: Accept,
    ) -> Vec<Event> {
        let kind = EffectKind::Bind;
        let public_key = match self.public_key(kind, endpoint).await {
            Ok(public_key) => public_key,
            Err(events) => return events,
        };
        // A key that is in already is all that copying needs: a provider that does not answer must not hold it up.
        let let_in = self.world.gpus.attach_key(gpu, &public_key).await;
        if let Err(error) = &let_in {
            warn!(
                error = report::chain(error),
                "the GPU's provider took no key; perhaps it is in already"
            );
        }
        let request = Bind {
            association: a.id,
            epoch,
            source: self.host(host),
            source_path: a.policy.source_path.clone(),
            accept: match accept {
                Accept::Nothing => agent::Accept::Nothing,
                Accept::SourceAsItIs => agent::Accept::SourceAsItIs,
            },
            max_deleted_percent: a.policy.max_deleted_percent,
            excludes: a.policy.excludes.clone(),
            includes: a.policy.includes.clone(),
            first: a.policy.first.clone(),
            before_pass: a.policy.before_pass.clone(),
            bandwidth_kib_per_s: a.policy.bandwidth_kib_per_s,
            gpu: Some(gpu),
        };
        match self.call(endpoint, Request::Bind(request)).await {
            Ok(Outcome::Status(status)) => {
                self.note(a, &status);
                vec![Event::Bound { epoch }]
            }
            Ok(Outcome::Refused(mut refusal)) => {
                let closed = matches!(refusal.kind, RefusalKind::KeyRefused | RefusalKind::Unreachable);
                if let (true, Err(error)) = (closed, &let_in) {
                    refusal.message = format!("{} ({})", refusal.message, report::chain(error));
                }
                self.refused(a, kind, endpoint, &refusal).await
            }
            Ok(other) => vec![out_of_protocol(kind, &other)],
            Err(error) => agent_failed(kind, &error),
        }
    }

    /// The public half of the standby's key. The private one never leaves the standby.
    async fn public_key(&self, kind: EffectKind, endpoint: &Endpoint) -> Result<String, Vec<Event>> {
        match self.call(endpoint, Request::Prepare).await {
            Ok(Outcome::Prepared { public_key }) => Ok(public_key),
            Ok(Outcome::Refused(refusal)) => Err(vec![problem_event(kind, problem_of(&refusal, None))]),
            Ok(other) => Err(vec![out_of_protocol(kind, &other)]),
            Err(error) => Err(agent_failed(kind, &error)),
        }
    }

    /// Lets the standby's key into a GPU.
    pub(super) async fn let_in(&self, kind: EffectKind, endpoint: &Endpoint, gpu: GpuId) -> Result<(), Vec<Event>> {
        let public_key = self.public_key(kind, endpoint).await?;
        self.world
            .gpus
            .attach_key(gpu, &public_key)
            .await
            .map_err(|error| vec![failed(kind, &error)])
    }

    async fn sync(&self, a: &Association, endpoint: &Endpoint, epoch: Epoch, urgency: Urgency) -> Vec<Event> {
        let wire_urgency = match urgency {
            Urgency::Due => agent::Urgency::Due,
            Urgency::LastGasp => agent::Urgency::LastGasp,
        };
        let request = Request::Sync(Sync {
            epoch,
            urgency: wire_urgency,
            wait_ms: millis(self.settings.pass_wait),
            live: agent::Live::On,
        });
        match self.call(endpoint, request).await {
            Ok(Outcome::Status(status)) => {
                self.note(a, &status);
                let accepted = (urgency == Urgency::LastGasp).then_some(Event::LastGaspAccepted);
                accepted
                    .into_iter()
                    .chain([Event::AgentReported(report::agent(&status))])
                    .collect()
            }
            Ok(Outcome::Refused(refusal)) => self.refused(a, EffectKind::Sync, endpoint, &refusal).await,
            Ok(other) => vec![out_of_protocol(EffectKind::Sync, &other)],
            Err(error) => agent_failed(EffectKind::Sync, &error),
        }
    }

    async fn restore(&self, a: &Association, endpoint: &Endpoint, target: GpuId, request: Restore) -> Vec<Event> {
        let kind = EffectKind::Restore;
        // The key is let in once per job, not once per beat: Vast takes one such call in two seconds.
        let under_way = match self.call(endpoint, Request::Status).await {
            Ok(Outcome::Status(status)) => is_under_way(&status.restore, request.epoch),
            Ok(Outcome::Refused(refusal)) => return vec![problem_event(kind, problem_of(&refusal, None))],
            Ok(other) => return vec![out_of_protocol(kind, &other)],
            Err(error) => return agent_failed(kind, &error),
        };
        if !under_way && let Err(events) = self.let_in(kind, endpoint, target).await {
            return events;
        }
        match self.call(endpoint, Request::Restore(request)).await {
            Ok(Outcome::Status(status)) => {
                self.note(a, &status);
                vec![Event::AgentReported(report::agent(&status))]
            }
            Ok(Outcome::Refused(refusal)) => vec![problem_event(kind, problem_of(&refusal, None))],
            Ok(other) => vec![out_of_protocol(kind, &other)],
            Err(error) => agent_failed(kind, &error),
        }
    }

    /// The agent understood and did not do it: its status tells the rules why.
    pub(super) async fn refused(
        &self,
        a: &Association,
        kind: EffectKind,
        endpoint: &Endpoint,
        refusal: &Refusal,
    ) -> Vec<Event> {
        debug!(effect = %kind, reason = refusal.message, "the agent refused");
        let status = match self.call(endpoint, Request::Status).await {
            Ok(Outcome::Status(status)) => status,
            Ok(_) => return vec![problem_event(kind, problem_of(refusal, None))],
            Err(error) => return agent_failed(kind, &error),
        };
        self.note(a, &status);
        let problem = problem_event(kind, problem_of(refusal, status.halt.as_ref().map(|halt| halt.reason)));
        let reported = Event::AgentReported(report::agent(&status));
        // A refused pass says all that matters in its status; the problem would only delay the next attempt.
        if kind == EffectKind::Sync && matters_in_status(refusal.kind) {
            vec![reported]
        } else {
            vec![problem, reported]
        }
    }

    /// Asks the agent what it holds; silence tells nothing.
    pub(super) async fn inquire(&self, a: &Association) -> Option<Event> {
        let Link::Up(endpoint) = &a.standby.link else {
            return None;
        };
        match self.call(endpoint, Request::Status).await {
            Ok(Outcome::Status(status)) => {
                self.note(a, &status);
                Some(Event::AgentReported(report::agent(&status)))
            }
            Ok(_) | Err(_) => None,
        }
    }

    pub(super) async fn call(&self, endpoint: &Endpoint, request: Request) -> Result<Outcome, AgentError> {
        self.world
            .agents
            .call(endpoint, request, self.settings.agent_limit)
            .await
    }

    pub(super) fn note(&self, a: &Association, status: &Status) {
        self.world.pulses.note(a.id, self.world.clock.now(), status.clone());
    }

    fn host(&self, host: &SshHost) -> Host {
        Host {
            address: host.address.clone(),
            port: host.port,
            user: self.settings.gpu_user.clone(),
        }
    }
}

fn matters_in_status(kind: RefusalKind) -> bool {
    match kind {
        RefusalKind::StaleEpoch
        | RefusalKind::NotBound
        | RefusalKind::Halted
        | RefusalKind::Unreachable
        | RefusalKind::KeyRefused => true,
        RefusalKind::ForeignAssociation
        | RefusalKind::NoRecoveryPoint
        | RefusalKind::BadRequest
        | RefusalKind::ProgramMissing
        | RefusalKind::DiskFull
        | RefusalKind::Failed => false,
    }
}

fn is_under_way(restore: &RestoreActivity, wanted: Epoch) -> bool {
    match restore {
        RestoreActivity::Running { epoch, .. } | RestoreActivity::Verified { epoch, .. } => *epoch == wanted,
        RestoreActivity::Never | RestoreActivity::Failed { .. } => false,
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An order that certainly failed is tried in the next zone; any other failure leaves us where we are.
fn refused_order(a: &Association, standby: &StandbyRef, error: &ProviderError) -> Event {
    let attempt = a.standby.attempt;
    match error {
        ProviderError::CapacityExhausted { .. }
        | ProviderError::QuotaExceeded { .. }
        | ProviderError::NameTaken { .. }
        | ProviderError::Invalid { .. } => {
            warn!(standby.name = %standby.name, error = report::chain(error), "the standby was refused there");
            Event::StandbyRefused {
                attempt,
                problem: error.problem(),
            }
        }
        ProviderError::NotFound { .. }
        | ProviderError::NoOffer { .. }
        | ProviderError::OutOfCredit { .. }
        | ProviderError::Denied { .. }
        | ProviderError::RateLimited { .. }
        | ProviderError::NotReady { .. }
        | ProviderError::OutcomeUnknown { .. } => failed(EffectKind::CreateStandby, error),
    }
}

fn done<T>(kind: EffectKind, outcome: Result<T, ProviderError>) -> Vec<Event> {
    outcome.err().map(|error| failed(kind, &error)).into_iter().collect()
}

pub(super) fn failed(kind: EffectKind, error: &ProviderError) -> Event {
    warn!(effect = %kind, error = report::chain(error), "an effect failed; it is tried again later");
    problem_event(kind, error.problem())
}

pub(super) fn problem_event(effect: EffectKind, problem: Problem) -> Event {
    Event::EffectFailed { effect, problem }
}

pub(super) fn agent_failed(kind: EffectKind, error: &AgentError) -> Vec<Event> {
    warn!(effect = %kind, error = report::chain(error), "the standby's agent did not answer");
    let detail = error.to_string();
    match error {
        AgentError::Unreachable { .. } | AgentError::HostKeyMismatch { .. } => vec![Event::StandbyUnreachable],
        AgentError::KeyRefused { .. } => {
            vec![
                Event::StandbyUnreachable,
                problem_event(
                    kind,
                    Problem {
                        kind: ProblemKind::Denied,
                        detail,
                    },
                ),
            ]
        }
        AgentError::Broken { .. } => vec![problem_event(
            kind,
            Problem {
                kind: ProblemKind::Failed,
                detail,
            },
        )],
    }
}

pub(super) fn out_of_protocol(kind: EffectKind, outcome: &Outcome) -> Event {
    warn!(effect = %kind, answer = ?std::mem::discriminant(outcome), "the agent answered something else than was asked");
    let detail = "the agent answered something else than was asked; it is replaced when its version differs".to_owned();
    problem_event(
        kind,
        Problem {
            kind: ProblemKind::Failed,
            detail,
        },
    )
}

pub(super) fn problem_of(refusal: &Refusal, halt: Option<HaltReason>) -> Problem {
    let kind = match (refusal.kind, halt) {
        (RefusalKind::Halted, Some(reason)) => ProblemKind::Halted(reason),
        (RefusalKind::StaleEpoch, _) => ProblemKind::StaleEpoch,
        (RefusalKind::Unreachable | RefusalKind::KeyRefused, _) => ProblemKind::Unreachable,
        (RefusalKind::ProgramMissing, _) => ProblemKind::ProgramMissing,
        (RefusalKind::NoRecoveryPoint, _) => ProblemKind::NoRecoveryPoint,
        (RefusalKind::BadRequest | RefusalKind::ForeignAssociation, _) => ProblemKind::Invalid,
        (RefusalKind::Halted, None) | (RefusalKind::NotBound | RefusalKind::DiskFull | RefusalKind::Failed, _) => {
            ProblemKind::Failed
        }
    };
    Problem {
        kind,
        detail: refusal.message.clone(),
    }
}
