//! Putting one path back onto the GPU that runs. The standby's agent does it and remembers it; our record has no part in it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use warmspare_domain::association::{Association, Phase};
use warmspare_domain::policy::Policy;
use warmspare_wire::agent::{Existing, Outcome, PutBack, PutBackActivity, Request};

use super::{App, Body, Failure, point_choice, unexpected};
use crate::config::{Scope, check_below};

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
    let path = below(&a.policy, &wish.path).map_err(Failure::bad_request)?;
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

/// People copy paths from the GPU, where they are absolute.
fn below(policy: &Policy, path: &str) -> Result<String, String> {
    let root = policy.source_path.trim_end_matches('/');
    let below = (path.strip_prefix(root))
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|_| path.starts_with('/'));
    let below = below.unwrap_or(path).trim_end_matches('/');
    check_below(below).map_err(|fix| format!("path `{}` cannot be used: {fix}", path.escape_default()))?;
    Ok(below.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::fixture;

    #[test]
    fn a_path_may_be_written_as_it_lies_on_the_gpu() {
        let mut policy = fixture(1).policy;
        policy.source_path = "/workspace/".to_owned();
        for (given, meant) in [
            ("/workspace/src/a.py", "src/a.py"),
            ("src/", "src"),
            ("runs/best.pt", "runs/best.pt"),
        ] {
            assert_eq!(below(&policy, given).as_deref(), Ok(meant));
        }
        for given in ["/workspace", "/workspaces/x", "/etc/passwd", "", "/", "../x", "a/./b"] {
            let refused = below(&policy, given).unwrap_err();
            assert!(refused.contains("below source_path"), "{given}: {refused}");
        }
    }
}
