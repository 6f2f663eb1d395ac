//! The hooks of tools that manage GPUs: `on_gpu_created`, `on_gpu_destroyed`, `mark_gpu_failed`.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;
use warmspare_domain::association::{Association, Phase, PhaseName};
use warmspare_domain::event::{Event, Subject};
use warmspare_domain::ids::{AssociationId, GpuId};
use warmspare_wire::hooks::{GpuCreated, GpuDestroyed, GpuFailed};

use super::{App, Failure, log_refusal, seal, words};
use crate::ports::{RentalLabel, StandbyLabel, StoreError};
use crate::report;

/// The reason that lets a standby go. Every other one keeps the data.
pub const USER_REQUEST: &str = "user_request";

/// What a hook answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookAnswer {
    /// What was done, for programs: `accepted`, `already_so`, `duplicate`, `disabled`.
    pub result: &'static str,
    /// The association, when there is one.
    pub association: Option<AssociationId>,
    /// Its phase.
    pub phase: Option<PhaseName>,
    /// What was decided, for people.
    pub reason: String,
}

/// `POST /hooks/gpu-created`, `/hooks/gpu-destroyed` and `/hooks/gpu-failed`, each signed.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/hooks/gpu-created", post(gpu_created))
        .route("/hooks/gpu-destroyed", post(gpu_destroyed))
        .route("/hooks/gpu-failed", post(gpu_failed))
        .with_state(app)
}

async fn gpu_created(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    answer("gpu-created", async {
        let hook: GpuCreated = open(&app, &headers, &body)?;
        app.once(&hook.event_id, app.on_gpu_created(hook.gpu_id)).await
    })
    .await
}

async fn gpu_destroyed(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    answer("gpu-destroyed", async {
        let hook: GpuDestroyed = open(&app, &headers, &body)?;
        app.once(&hook.event_id, app.on_gpu_destroyed(hook.gpu_id, &hook.reason))
            .await
    })
    .await
}

async fn gpu_failed(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    answer("gpu-failed", async {
        let hook: GpuFailed = open(&app, &headers, &body)?;
        app.once(&hook.event_id, app.mark_gpu_failed(hook.gpu_id)).await
    })
    .await
}

async fn answer(what: &str, work: impl Future<Output = Result<HookAnswer, Failure>>) -> Response {
    match work.await {
        Ok(answer) => (StatusCode::OK, Json(answer)).into_response(),
        Err(failure) => {
            log_refusal(what, &failure);
            failure.into_response()
        }
    }
}

/// Checks the signature first, then reads the body.
fn open<T: DeserializeOwned>(app: &App, headers: &HeaderMap, body: &Bytes) -> Result<T, Failure> {
    let now = app.reconciler.world().clock.now();
    seal::check(headers, seal::HOOK, body, app.callers.hook_secret.as_ref(), now)?;
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body is not this hook's JSON: {error}")))
}

impl App {
    /// Does the work unless this event was taken in lately; remembers it only when the work succeeded.
    pub(super) async fn once(
        &self,
        event_id: &str,
        work: impl Future<Output = Result<HookAnswer, Failure>>,
    ) -> Result<HookAnswer, Failure> {
        if event_id.is_empty() || event_id.len() > 128 {
            return Err(Failure::bad_request("event_id must have 1 to 128 characters"));
        }
        let now = self.reconciler.world().clock.now();
        if self.seen_events.contains(event_id, now) {
            return Ok(HookAnswer {
                result: "duplicate",
                association: None,
                phase: None,
                reason: "this event was taken in before".to_owned(),
            });
        }
        let answer = work.await?;
        self.seen_events.insert(event_id, now);
        Ok(answer)
    }

    /// A GPU was rented: makes a standby for it, unless that is switched off.
    ///
    /// # Errors
    /// When Vast or the store do not answer; nothing was made then.
    pub async fn on_gpu_created(&self, gpu: GpuId) -> Result<HookAnswer, Failure> {
        if !self.auto_standby {
            let reason = "auto_standby_enabled is false: nothing is made. `warmspare protect` still works".to_owned();
            return Ok(HookAnswer {
                result: "disabled",
                association: None,
                phase: None,
                reason,
            });
        }
        // A late report of its creation must not undo a release.
        match self.find(gpu).await? {
            Some(known) => Ok(already(&known)),
            None => self.protect(gpu, None).await,
        }
    }

    /// Makes a standby for a GPU, also for one that was released before, unless its data had moved on to another by then. Doing it twice
    /// makes one. `expected_files` decides the type of its disk.
    ///
    /// # Errors
    /// When Vast does not list the GPU, its old standby is still being deleted, its data had moved on, or Vast or the store do not answer;
    /// nothing was made then.
    pub async fn protect(&self, gpu: GpuId, expected_files: Option<u64>) -> Result<HookAnswer, Failure> {
        if let Some(known) = self.find(gpu).await? {
            match known.phase {
                Phase::Released { .. } => {}
                Phase::Releasing { .. } => {
                    return Err(Failure::conflict(format!(
                        "the standby of GPU {gpu} is just being deleted; nothing was made. Protect it again when `warmspare show {gpu}` says released"
                    )));
                }
                Phase::Provisioning
                | Phase::Seeding
                | Phase::Protected
                | Phase::Holding(_)
                | Phase::Restoring { .. }
                | Phase::Halted { .. } => return Ok(already(&known)),
            }
        }
        let world = self.reconciler.world();
        let rows = world.gpus.look(&[gpu]).await.map_err(|error| {
            tracing::warn!(gpu.id = %gpu, error = report::chain(&error), "Vast was asked for a new GPU");
            Failure::unavailable(format!(
                "Vast did not answer when asked for GPU {gpu} ({error}); nothing was made. Send it again"
            ))
        })?;
        let row = rows.get(&gpu).ok_or_else(|| {
            Failure::new(
                StatusCode::NOT_FOUND,
                "not_at_vast",
                format!("this Vast account lists no GPU {gpu}; nothing was made. Check the id and the API key"),
            )
        })?;
        // A replacement of ours already has its standby.
        if let Some(label) = RentalLabel::parse(&row.label, self.reconciler.deployment())
            && let Some(read) = world.store.get(label.association).await?
            && !matches!(read.association.phase, Phase::Releasing { .. } | Phase::Released { .. })
        {
            return Ok(already(&read.association));
        }
        // A standby must not get a standby, which would get one, too.
        if let Some(label) = StandbyLabel::parse(&row.label) {
            return Err(Failure::conflict(format!(
                "instance {gpu} is no GPU to protect but a standby of warmspare itself ({label}); nothing was made"
            )));
        }
        let wanted = self.wanted(row, expected_files).await?;
        let why = wanted.words();
        let mut policy = self.default_policy.clone();
        policy.machine = wanted.machine;
        let now = world.clock.now();
        let tombstone = world.store.get(AssociationId::of(gpu)).await?;
        let mut association = match &tombstone {
            Some(read) if !matches!(read.association.phase, Phase::Released { .. }) => {
                return Ok(already(&read.association));
            }
            Some(read) => Association::protected_again(&read.association, policy, now).ok_or_else(|| {
                Failure::conflict(format!(
                    "the data of GPU {gpu} had moved on to GPU {} before it was released; nothing was made. Protect that one, or rent another",
                    read.association.gpu
                ))
            })?,
            None => Association::new(self.reconciler.deployment().clone(), gpu, policy, now),
        };
        association.profile = row.profile();
        let stored = match &tombstone {
            Some(read) => world.store.update(&association, &read.version).await,
            None => world.store.create(&association).await,
        };
        match stored {
            Ok(_) => {}
            Err(StoreError::Conflict(_)) => return Ok(already(&association)),
            Err(error) => return Err(error.into()),
        }
        info!(gpu.id = %gpu, standby.name = %association.standby.name, reason = why, "a new association");
        self.nudge.nudge(association.id).await;
        let reason = format!("a standby is being made; {why}");
        Ok(HookAnswer {
            result: "accepted",
            association: Some(association.id),
            phase: Some(PhaseName::Provisioning),
            reason,
        })
    }

    /// A GPU is gone. Only the user's own request lets the standby go; everything else keeps the data.
    ///
    /// # Errors
    /// When the store does not answer, or the GPU is unknown and nothing is to be prevented.
    pub async fn on_gpu_destroyed(&self, gpu: GpuId, reason: &str) -> Result<HookAnswer, Failure> {
        let users = reason == USER_REQUEST;
        let Some(known) = self.find(gpu).await? else {
            return if users {
                self.leave_tombstone(gpu).await
            } else {
                Err(Failure::unknown_gpu(gpu))
            };
        };
        let subject = Subject::Gpu(gpu);
        let event = if users {
            Event::ReleaseRequested { subject }
        } else {
            Event::GpuDestroyedReported { subject }
        };
        self.report(&known, &event).await
    }

    /// The user's request came before the creation was reported: the late report must make nothing.
    async fn leave_tombstone(&self, gpu: GpuId) -> Result<HookAnswer, Failure> {
        let world = self.reconciler.world();
        let policy = self.default_policy.clone();
        let deployment = self.reconciler.deployment().clone();
        let tombstone = Association::released_before_it_began(deployment, gpu, policy, world.clock.now());
        match world.store.create(&tombstone).await {
            Ok(_) => Ok(HookAnswer {
                result: "accepted",
                association: Some(tombstone.id),
                phase: Some(PhaseName::Released),
                reason: "no standby was kept for it; a late report of its creation will make none".to_owned(),
            }),
            // Its creation was reported in the very same moment.
            Err(StoreError::Conflict(id)) => {
                let applied = self
                    .apply(
                        id,
                        &Event::ReleaseRequested {
                            subject: Subject::Gpu(gpu),
                        },
                    )
                    .await?;
                Ok(taken(&applied))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A tool found a GPU lost: the standby keeps the data.
    ///
    /// # Errors
    /// When the store does not answer, or the GPU is unknown.
    pub async fn mark_gpu_failed(&self, gpu: GpuId) -> Result<HookAnswer, Failure> {
        let known = self.find(gpu).await?.ok_or_else(|| Failure::unknown_gpu(gpu))?;
        self.report(
            &known,
            &Event::GpuFailedReported {
                subject: Subject::Gpu(gpu),
            },
        )
        .await
    }

    pub(super) async fn report(&self, known: &Association, event: &Event) -> Result<HookAnswer, Failure> {
        let applied = self.apply(known.id, event).await?;
        Ok(taken(&applied))
    }
}

fn taken(applied: &crate::reconcile::Applied) -> HookAnswer {
    HookAnswer {
        result: if applied.changed { "accepted" } else { "already_so" },
        association: Some(applied.association.id),
        phase: Some(applied.association.phase.name()),
        reason: words(applied.reason),
    }
}

fn already(a: &Association) -> HookAnswer {
    let reason = format!("standby {} belongs to it already", a.standby.name);
    HookAnswer {
        result: "already_so",
        association: Some(a.id),
        phase: Some(a.phase.name()),
        reason,
    }
}
