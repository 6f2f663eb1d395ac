//! `POST /v1/rebuild`: records made anew from the standbys.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::api::Body;
use super::{App, Failure, seal};
use crate::config::Scope;
use crate::reconcile::{RebuildError, RebuildLine, RebuildMode, RebuildResult};
use crate::report;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RebuildWish {
    #[serde(default)]
    dry_run: bool,
}

/// What became of every association that has a standby.
#[derive(Debug, Serialize)]
pub(super) struct Rebuilt {
    dry_run: bool,
    associations: Vec<RebuildLine>,
}

/// Works for a bounded time; whoever sees `waiting` asks again.
pub(super) async fn rebuild(
    State(app): State<App>,
    headers: HeaderMap,
    Body(wish): Body<RebuildWish>,
) -> Result<Json<Rebuilt>, Failure> {
    seal::check_token(&headers, &app.callers.api_tokens, Scope::Operate)?;
    let dry_run = wish.dry_run;
    let mode = if dry_run {
        RebuildMode::DryRun
    } else {
        RebuildMode::ForReal
    };
    let associations = app.reconciler.rebuild(&app.default_policy, mode).await?;
    if !dry_run {
        for line in associations.iter().filter(|line| line.result == RebuildResult::Rebuilt) {
            app.nudge.nudge(line.association).await;
        }
    }
    Ok(Json(Rebuilt { dry_run, associations }))
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        tracing::warn!(error = report::chain(&error), "nothing could be rebuilt");
        Failure::unavailable(format!(
            "{}; nothing was changed. Send it again in a few seconds",
            report::chain(&error)
        ))
    }
}
