//! Putting one path back onto the GPU that runs. The standby's agent does it and remembers it; our record has no part in it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use warmspare_domain::association::{Association, Phase};
use warmspare_domain::ids::PathBelow;
use warmspare_wire::agent::{Existing, Outcome, PutBack, PutBackActivity, Request};

use super::{App, Body, Failure, point_choice, unexpected};
use crate::config::Scope;

/// How long the answer waits for the end: most paths are small.
const WAIT_MS: u64 = 5000;

/// What to put back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    path: String,
    point: Option<String>,
    #[serde(default)]
    replace: bool,
}

/// Starts the job; the same wish again, while it is under way, only reports it.
pub(super) async fn start(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
    Body(wish): Body<Wish>,
) -> Result<Json<PutBackActivity>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let a = app.known(&gpu).await?;
    refuse_without_gpu(&a)?;
    let path = PathBelow::read(&wish.path, &a.policy.source_path)?;
    let point = wish.point.map(|point| point_choice(Some(&point))).transpose()?;
    let request = Request::PutBack(PutBack {
        epoch: a.epoch,
        path,
        point,
        existing: if wish.replace {
            Existing::Replace
        } else {
            Existing::Keep
        },
        wait_ms: WAIT_MS,
    });
    activity(&app.question(&a, request).await?)
}

/// How the last one stands.
pub(super) async fn look(
    State(app): State<App>,
    headers: HeaderMap,
    Path(gpu): Path<String>,
) -> Result<Json<PutBackActivity>, Failure> {
    app.allow(&headers, Scope::Read)?;
    let a = app.known(&gpu).await?;
    activity(&app.question(&a, Request::Status).await?)
}

fn activity(outcome: &Outcome) -> Result<Json<PutBackActivity>, Failure> {
    let Outcome::Status(status) = outcome else {
        return Err(unexpected(outcome));
    };
    Ok(Json(status.put_back.clone()))
}

fn refuse_without_gpu(a: &Association) -> Result<(), Failure> {
    match &a.phase {
        Phase::Holding(_) | Phase::Restoring { .. } => Err(Failure::conflict(format!(
            "GPU {0} is lost, so nothing can be put back onto it: restore everything onto another (`warmspare restore {0} --rent` or `--onto`), or fetch the path with `warmspare download {0} --path`",
            a.gpu
        ))),
        Phase::Provisioning
        | Phase::Seeding
        | Phase::Protected
        | Phase::Halted { .. }
        | Phase::Releasing { .. }
        | Phase::Released { .. } => Ok(()),
    }
}
