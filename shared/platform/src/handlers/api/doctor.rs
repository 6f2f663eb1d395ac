//! `GET /v1/doctor`: the deployment examines itself with its own rights.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;

use crate::config::Scope;
use crate::doctor::Report;
use crate::handlers::{App, Failure};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    #[serde(default)]
    test_webhook: bool,
}

/// Takes the scope to operate, because it writes a probe and tells about quotas and credit.
pub(super) async fn examine(
    State(app): State<App>,
    headers: HeaderMap,
    Query(wish): Query<Wish>,
) -> Result<Json<Report>, Failure> {
    app.allow(&headers, Scope::Operate)?;
    let examiner = app.examiner.ok_or_else(|| {
        Failure::unavailable(
            "this process cannot examine itself; run `warmspare doctor --config FILE` where its settings are",
        )
    })?;
    Ok(Json(Report::of(examiner.examine(wish.test_webhook).await)))
}
