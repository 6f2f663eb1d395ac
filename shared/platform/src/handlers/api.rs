//! The HTTPS API for tools and for the command line.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use warmspare_domain::association::{Association, Link, Phase, PointChoice};
use warmspare_domain::event::{Destination, Event, Subject};
use warmspare_domain::ids::{GpuId, RecoveryPointId};
use warmspare_domain::policy::StandbyProvider;
use warmspare_domain::reason::Reason;
use warmspare_domain::units::{MicroUsd, Timestamp};
use warmspare_wire::agent::{AuthorizeDownload, Compare, Comparison, Outcome, Partial, RecoveryPoint, Request};

use super::hooks::HookAnswer;
use super::view::AssociationView;
use super::{App, Failure, machines, rebuild, seal, words};
use crate::config::Scope;
use crate::ports::StandbyLabel;

mod body;
pub mod change;
mod costs;
mod doctor;
mod put_back;

pub(super) use body::Body;
use change::PolicyChange;

/// How long a download permission lasts unless the caller says otherwise.
const DOWNLOAD_HOURS: u32 = 1;

/// The longest download permission: a day is enough for a terabyte over a home line's first hop.
const DOWNLOAD_HOURS_AT_MOST: u32 = 24;

/// How long a question to an agent may take while a caller waits.
const AGENT_LIMIT: Duration = Duration::from_secs(20);

/// All paths under `/v1`.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/machines", get(machines::list))
        .route("/v1/associations", get(list).post(protect))
        .route("/v1/associations/{gpu}", get(show).patch(configure))
        .route("/v1/associations/{gpu}/plan", get(plan))
        .route("/v1/associations/{gpu}/recovery-points", get(recovery_points))
        .route(
            "/v1/associations/{gpu}/recovery-points/compare",
            get(compare_recovery_points),
        )
        .route("/v1/associations/{gpu}/sync/start", post(start_sync))
        .route("/v1/associations/{gpu}/sync/stop", post(stop_sync))
        .route("/v1/associations/{gpu}/accept-source", post(accept_source))
        .route("/v1/associations/{gpu}/fail", post(fail))
        .route("/v1/associations/{gpu}/restore", post(restore))
        .route(
            "/v1/associations/{gpu}/put-back",
            get(put_back::look).post(put_back::start),
        )
        .route("/v1/associations/{gpu}/download", post(download))
        .route("/v1/associations/{gpu}/release", post(release))
        .route("/v1/rebuild", post(rebuild::rebuild))
        .route("/v1/doctor", get(doctor::examine))
        .route("/v1/estimate", get(costs::estimate_costs))
        .with_state(app)
}

impl App {
    fn allow(&self, headers: &HeaderMap, scope: Scope) -> Result<(), Failure> {
        seal::check_token(headers, &self.callers.api_tokens, scope)
    }

    async fn known(&self, gpu: &str) -> Result<Association, Failure> {
        let gpu: GpuId = gpu.parse()?;
        self.find(gpu).await?.ok_or_else(|| Failure::unknown_gpu(gpu))
    }

    fn view(&self, a: &Association) -> AssociationView {
        let world = self.reconciler.world();
        AssociationView::new(a, world.pulses.get(a.id).as_ref(), world.clock.now())
    }

    /// Applies a request of the user; one that does not fit the phase is an error for them.
    async fn ask(&self, a: &Association, event: &Event) -> Result<Json<AssociationView>, Failure> {
        let applied = self.apply(a.id, event).await?;
        if matches!(
            applied.reason,
            Reason::NotNow | Reason::NothingSaved | Reason::AlreadyReleased
        ) {
            let phase = applied.association.phase.name();
            return Err(Failure::conflict(format!(
                "GPU {} is {phase}: {}; nothing was changed",
                a.gpu,
                words(applied.reason)
            )));
        }
        Ok(Json(self.view(&applied.association)))
    }
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default)]
    all: bool,
}

async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<AssociationView>>, Failure> {
    app.allow(&headers, Scope::Read)?;
    let associations = if query.all {
        app.reconciler.everything().await?
    } else {
        app.reconciler.live().await?
    };
    let views = associations.iter().map(|a| app.view(a)).collect();
    Ok(Json(views))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Protect {
    gpu: GpuId,
    expected_files: Option<u64>,
}

async fn protect(
    State(app): State<App>,
    headers: HeaderMap,
    Body(body): Body<Protect>,
) -> Result<Json<HookAnswer>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    app.protect(body.gpu, body.expected_files).await.map(Json)
}

async fn show(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
) -> Result<Json<AssociationView>, Failure> {
    app.allow(&headers, Scope::Read)?;
    let a = app.known(&gpu).await?;
    Ok(Json(AssociationView {
        cost: app.cost(&a).await,
        ..app.view(&a)
    }))
}

async fn configure(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
    Body(change): Body<PolicyChange>,
) -> Result<Json<AssociationView>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    let policy = change.applied_to(&a.policy).map_err(Failure::bad_request)?;
    app.ask(&a, &Event::PolicyChanged(Box::new(policy))).await
}

/// What the next beat would do.
#[derive(Debug, Serialize)]
struct Plan {
    effects: Vec<String>,
    reason: String,
    phase_after: String,
}

async fn plan(State(app): State<App>, headers: HeaderMap, Path(gpu): Path<String>) -> Result<Json<Plan>, Failure> {
    app.allow(&headers, Scope::Read)?;
    let a = app.known(&gpu).await?;
    let decision = app.reconciler.plan(&a).await;
    Ok(Json(Plan {
        effects: decision
            .effects
            .iter()
            .map(|effect| effect.kind().to_string())
            .collect(),
        reason: words(decision.reason),
        phase_after: decision.next.phase.name().to_string(),
    }))
}

async fn recovery_points(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
) -> Result<Json<Vec<RecoveryPoint>>, Failure> {
    app.allow(&headers, Scope::Read)?;
    let a = app.known(&gpu).await?;
    app.recovery_points_of(&a).await.map(Json)
}

/// Which recovery points to compare, and how many changes to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareWish {
    from: String,
    to: Option<String>,
    at_most: Option<u64>,
}

/// The latest unless something else is named: an id, or a checkpoint.
fn point_choice(text: Option<&str>) -> Result<PointChoice, Failure> {
    Ok(text.map_or(Ok(PointChoice::Latest), str::parse)?)
}

/// How many changes are listed unless the caller says otherwise.
const CHANGES_LISTED: u64 = 1000;

async fn compare_recovery_points(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
    Query(wish): Query<CompareWish>,
) -> Result<Json<Comparison>, Failure> {
    app.allow(&headers, Scope::Read)?;
    let a = app.known(&gpu).await?;
    let (from, to) = (point_choice(Some(&wish.from))?, point_choice(wish.to.as_deref())?);
    let points = app.recovery_points_of(&a).await?;
    let request = Request::Compare(Compare {
        // The agent takes no name here.
        from: listed(&points, &from, &a)?,
        to: PointChoice::Id(listed(&points, &to, &a)?),
        at_most: wish.at_most.unwrap_or(CHANGES_LISTED),
    });
    let outcome = app.question(&a, request).await?;
    let Outcome::Compared(comparison) = outcome else {
        return Err(unexpected(&outcome));
    };
    Ok(Json(*comparison))
}

/// The recovery point of the list, oldest first, that is meant.
fn listed(points: &[RecoveryPoint], choice: &PointChoice, a: &Association) -> Result<RecoveryPointId, Failure> {
    let found = match choice {
        PointChoice::Latest => points.last(),
        PointChoice::Id(id) => points.iter().find(|point| point.id == *id),
        PointChoice::Checkpoint(name) => points.iter().rfind(|point| point.checkpoints.contains(name)),
        PointChoice::Partial => None,
    };
    found.map(|point| point.id.clone()).ok_or_else(|| {
        Failure::conflict(format!(
            "`{choice}` is no recovery point of GPU {0} and no checkpoint in one; `warmspare points {0}` lists them",
            a.gpu
        ))
    })
}

async fn start_sync(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
) -> Result<Json<AssociationView>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    app.ask(&a, &Event::SyncStartRequested).await
}

async fn stop_sync(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
) -> Result<Json<AssociationView>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    app.ask(&a, &Event::SyncStopRequested).await
}

async fn accept_source(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
) -> Result<Json<AssociationView>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    app.ask(&a, &Event::SourceAccepted).await
}

async fn fail(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
) -> Result<Json<HookAnswer>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    app.mark_gpu_failed(a.gpu).await.map(Json)
}

/// Where and what to restore: one of `onto` and `rent`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreWish {
    onto: Option<GpuId>,
    rent: Option<RentTerms>,
    point: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RentTerms {
    max_dollars_per_hour: f64,
}

async fn restore(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
    Body(wish): Body<RestoreWish>,
) -> Result<Json<AssociationView>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    let destination = match (wish.onto, wish.rent) {
        (Some(target), None) => {
            app.check_target(&a, target).await?;
            Destination::Onto(target)
        }
        (None, Some(terms)) => {
            let cap = MicroUsd::from_dollars(terms.max_dollars_per_hour).filter(|cap| cap.0 > 0);
            Destination::Rent {
                max_price_per_hour: cap
                    .ok_or_else(|| Failure::bad_request("max_dollars_per_hour must be a price above 0"))?,
            }
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(Failure::bad_request(
                "say where to: either {\"onto\": \"vast-123\"} or {\"rent\": {\"max_dollars_per_hour\": 0.4}}",
            ));
        }
    };
    let point = match point_choice(wish.point.as_deref())? {
        PointChoice::Partial => {
            return Err(Failure::bad_request(
                "what arrived of a first pass can only be downloaded, not restored: it may be in the middle of anything",
            ));
        }
        point @ (PointChoice::Latest | PointChoice::Id(_) | PointChoice::Checkpoint(_)) => point,
    };
    app.check_point(&a, &point).await?;
    app.ask(&a, &Event::RestoreRequested { point, destination }).await
}

/// One key may pull one recovery point, straight from the standby.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DownloadWish {
    public_key: String,
    hours: Option<u32>,
    point: Option<String>,
}

/// How to pull it.
#[derive(Debug, Serialize)]
struct DownloadTerms {
    address: String,
    port: u16,
    user: String,
    host_key: String,
    until: Timestamp,
    #[serde(flatten)]
    content: Content,
}

/// What is there to pull.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Point(RecoveryPoint),
    Partial(Partial),
}

async fn download(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
    Body(wish): Body<DownloadWish>,
) -> Result<Json<DownloadTerms>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    let hours = wish.hours.unwrap_or(DOWNLOAD_HOURS);
    if !(1..=DOWNLOAD_HOURS_AT_MOST).contains(&hours) {
        return Err(Failure::bad_request(format!(
            "hours must be 1 to {DOWNLOAD_HOURS_AT_MOST}"
        )));
    }
    refuse_released(&a)?;
    // A standby that rests is woken; the caller asks again until it is up.
    let applied = app.apply(a.id, &Event::StandbyWanted).await?;
    let a = applied.association;
    let Link::Up(endpoint) = &a.standby.link else {
        app.nudge.nudge(a.id).await;
        return Err(Failure::unavailable(format!(
            "the standby of GPU {} is being started for the download; ask again in a few seconds",
            a.gpu
        )));
    };
    let until = app.reconciler.world().clock.now() + Duration::from_secs(u64::from(hours) * 3600);
    let point = point_choice(wish.point.as_deref())?;
    let request = Request::AuthorizeDownload(AuthorizeDownload {
        public_key: wish.public_key,
        until,
        point,
    });
    let outcome = app.question(&a, request).await?;
    let (content, until) = match outcome {
        Outcome::DownloadAuthorized { point, until } => (Content::Point(point), until),
        Outcome::PartialDownloadAuthorized { partial, until } => (Content::Partial(partial), until),
        other @ (Outcome::Prepared { .. }
        | Outcome::Status(_)
        | Outcome::RecoveryPoints(_)
        | Outcome::Compared(_)
        | Outcome::Refused(_)) => return Err(unexpected(&other)),
    };
    Ok(Json(DownloadTerms {
        address: endpoint.address.clone(),
        port: endpoint.port,
        user: match endpoint.provider {
            StandbyProvider::Gcp => app.machines.standby_user.clone(),
            StandbyProvider::Vastai => app.machines.gpu_user.clone(),
        },
        host_key: endpoint.host_key.clone(),
        until,
        content,
    }))
}

/// Deleting needs the GPU's id typed again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    confirm: GpuId,
}

async fn release(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
    Body(body): Body<Release>,
) -> Result<Json<HookAnswer>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    if body.confirm != a.gpu && body.confirm != a.id.first_gpu() {
        return Err(Failure::bad_request(format!(
            "to delete the standby and all recovery points of GPU {}, send {{\"confirm\": \"{}\"}}",
            a.gpu, a.gpu
        )));
    }
    app.report(
        &a,
        &Event::ReleaseRequested {
            subject: Subject::Association,
        },
    )
    .await
    .map(Json)
}

impl App {
    /// A target that has a standby of its own would have two masters.
    async fn check_target(&self, a: &Association, target: GpuId) -> Result<(), Failure> {
        match self.find(target).await? {
            Some(other) if other.id != a.id && !matches!(other.phase, Phase::Released { .. }) => {
                Err(Failure::conflict(format!(
                    "GPU {target} has a standby of its own ({}); release that first: warmspare release {target}",
                    other.standby.name
                )))
            }
            Some(own) if own.id == a.id => Ok(()),
            Some(_) | None => self.check_is_there(target).await,
        }
    }

    /// A name that is not there is said before a GPU is rented for it. A standby that does not answer now is asked when it does.
    async fn check_point(&self, a: &Association, point: &PointChoice) -> Result<(), Failure> {
        if *point == PointChoice::Latest || !matches!(a.standby.link, Link::Up(_)) {
            return Ok(());
        }
        match self.recovery_points_of(a).await {
            Ok(points) => listed(&points, point, a).map(drop),
            Err(_) => Ok(()),
        }
    }

    /// Vast lists it, and not as a standby: those are listed like GPUs, and data that was restored onto one would go with it.
    async fn check_is_there(&self, target: GpuId) -> Result<(), Failure> {
        let rows = self.reconciler.world().gpus.look(&[target]).await.map_err(|error| {
            Failure::unavailable(format!(
                "Vast did not answer when asked for GPU {target} ({error}); nothing was begun"
            ))
        })?;
        let row = rows.get(&target).ok_or_else(|| {
            Failure::new(
                StatusCode::NOT_FOUND,
                "not_at_vast",
                format!("this Vast account lists no GPU {target} to restore onto; nothing was begun. Check the id"),
            )
        })?;
        match StandbyLabel::parse(&row.label) {
            Some(label) => Err(Failure::conflict(format!(
                "instance {target} is no GPU to restore onto but a standby of warmspare itself ({label}); nothing was begun"
            ))),
            None => Ok(()),
        }
    }

    async fn recovery_points_of(&self, a: &Association) -> Result<Vec<RecoveryPoint>, Failure> {
        let outcome = self.question(a, Request::RecoveryPoints).await?;
        let Outcome::RecoveryPoints(points) = outcome else {
            return Err(unexpected(&outcome));
        };
        Ok(points)
    }

    /// Asks the agent while the caller waits.
    async fn question(&self, a: &Association, request: Request) -> Result<Outcome, Failure> {
        refuse_released(a)?;
        let Link::Up(endpoint) = &a.standby.link else {
            let state = match a.phase {
                Phase::Provisioning => "is still being made; nothing is saved yet",
                Phase::Seeding
                | Phase::Protected
                | Phase::Holding(_)
                | Phase::Restoring { .. }
                | Phase::Halted { .. }
                | Phase::Releasing { .. }
                | Phase::Released { .. } => "is not up now; its data is safe on its disk",
            };
            return Err(Failure::unavailable(format!("the standby of GPU {} {state}", a.gpu)));
        };
        let outcome = self
            .reconciler
            .world()
            .agents
            .call(endpoint, request, AGENT_LIMIT)
            .await;
        match outcome {
            Ok(Outcome::Refused(refusal)) => Err(Failure::conflict(refusal.message)),
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                // It may rest, or be preempted: the next beat looks, and starts it when somebody wants it.
                self.apply(a.id, &Event::StandbyUnreachable).await?;
                Err(Failure::unavailable(format!(
                    "{error}; the data on its disk is not touched, and the standby is being looked after. Ask again in a few seconds"
                )))
            }
        }
    }
}

fn refuse_released(a: &Association) -> Result<(), Failure> {
    match &a.phase {
        Phase::Releasing { since, .. } => Err(Failure::conflict(format!(
            "GPU {} was released at {since}: its standby and its data are being deleted",
            a.gpu
        ))),
        Phase::Released { since, .. } => Err(Failure::conflict(format!(
            "GPU {} was released at {since}: its standby and its data are deleted",
            a.gpu
        ))),
        Phase::Provisioning
        | Phase::Seeding
        | Phase::Protected
        | Phase::Holding(_)
        | Phase::Restoring { .. }
        | Phase::Halted { .. } => Ok(()),
    }
}

fn unexpected(outcome: &Outcome) -> Failure {
    tracing::error!(answer = ?std::mem::discriminant(outcome), "the agent answered something else than was asked");
    Failure::unavailable(
        "the agent answered something else than was asked; it is replaced at the next beat when its version differs",
    )
}
