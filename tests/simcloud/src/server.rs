//! The HTTP server: journals every request, lets faults befall it, and hands it to its cloud.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{self, Body};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::faults::FaultAction;
use crate::http::{Call, Reply};
use crate::journal::Recorded;
use crate::world::{World, now};
use crate::{billing, compute, control, rights, storage, token, vast};

/// Larger than any request of either API.
const BODY_LIMIT: usize = 16 << 20;

pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new().fallback(answer).with_state(world)
}

async fn answer(State(world): State<Arc<World>>, request: Request) -> Response {
    let (parts, stream) = request.into_parts();
    let Ok(raw) = body::to_bytes(stream, BODY_LIMIT).await else {
        return Reply::text(413, "body too large").into_response();
    };
    let call = Call::new(&parts.method, &parts.uri, &parts.headers, raw);
    if call.segments.first().is_some_and(|first| first == "sim") {
        return blocking(&world, call, control::route).await.into_response();
    }
    let at = now();
    let fault = world.faults.take(&call);
    let refusal = fault.as_ref().and_then(FaultAction::refusal);
    let dropped = matches!(fault, Some(FaultAction::DropRequest));
    let reply = match refusal {
        Some(refusal) => refusal,
        None if dropped => Reply::text(499, ""),
        None => blocking(&world, call.clone(), dispatch).await,
    };
    let lost = dropped || matches!(fault, Some(FaultAction::LoseAnswer));
    world.journal.add(recorded(&call, reply.status, lost, at));
    if let Some(FaultAction::Slow { milliseconds }) = fault {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
    if lost { broken() } else { reply.into_response() }
}

/// Answers on a thread that may block: machines start and stop in there.
async fn blocking(world: &Arc<World>, call: Call, route: fn(&Arc<World>, &Call) -> Reply) -> Reply {
    let world = Arc::clone(world);
    let done = tokio::task::spawn_blocking(move || route(&world, &call)).await;
    done.unwrap_or_else(|panic| Reply::text(500, format!("simcloud failed: {panic}")))
}

fn dispatch(world: &Arc<World>, call: &Call) -> Reply {
    match call.parts().as_slice() {
        ["compute", ..] => compute::route(world, call),
        ["token"] => token::exchange(world, call),
        ["v1", "projects", question] => rights::of_project(world, call, question),
        ["v1", "services", ..] => billing::route(world, call),
        ["storage" | "upload", ..] => storage::route(world, call),
        _ => vast::route(world, call),
    }
}

fn recorded(call: &Call, status: u16, answer_lost: bool, at: f64) -> Recorded {
    let mut query = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (name, value) in &call.query {
        query.entry(name.clone()).or_default().push(value.clone());
    }
    // The token exchange carries a signed assertion, which belongs in no file.
    let secret = call.path == "/token";
    let body = if secret {
        json!("hidden")
    } else if let Some((metadata, _)) = storage::multipart(call) {
        metadata
    } else {
        call.json().unwrap_or(Value::Null)
    };
    Recorded {
        method: call.method.clone(),
        // Discovery documents list an upload under its plain path.
        path: call.path.strip_prefix("/upload").unwrap_or(&call.path).to_owned(),
        query,
        body,
        status,
        answer_lost,
        at,
    }
}

/// A response whose body fails at once: the server closes the connection before a byte of it is sent.
fn broken() -> Response {
    let lost = std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the answer is lost on purpose");
    Response::new(Body::new(Broken(Some(lost))))
}

struct Broken(Option<std::io::Error>);

impl http_body::Body for Broken {
    type Data = body::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<body::Bytes>, std::io::Error>>> {
        std::task::Poll::Ready(self.0.take().map(Err))
    }
}
