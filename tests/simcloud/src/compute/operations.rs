//! Operations: accepted now, finished later, and only then known to have failed.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Compute, Outcome, Place, filter, link, not_found, timestamp};
use crate::http::{Call, Payload, Reply};
use crate::world::{World, now};

/// How long `wait` holds a request at most; the real one says about two minutes.
const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) id: u64,
    pub(crate) kind: String,
    pub(crate) target: String,
    pub(crate) target_id: u64,
    pub(crate) status: Status,
    pub(crate) failure: Option<Failure>,
    user: String,
    request: Option<String>,
    inserted: f64,
    ended: Option<f64>,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Running,
    Done,
}

/// Why an operation failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) details: Value,
    pub(crate) http: (u16, &'static str),
}

/// What an operation is about.
pub(crate) struct Target<'a> {
    pub(crate) kind: &'a str,
    pub(crate) zone: &'a str,
    /// `instances/<name>` or `disks/<name>`.
    pub(crate) resource: String,
    pub(crate) id: u64,
}

impl Operation {
    fn row(&self, world: &World) -> Value {
        let path = format!("zones/{}/operations/{}", self.zone, self.name);
        let (status, progress) = match self.status {
            Status::Pending => ("PENDING", 0),
            Status::Running => ("RUNNING", 50),
            Status::Done => ("DONE", 100),
        };
        let mut row = json!({
            "kind": "compute#operation", "id": self.id.to_string(), "name": self.name, "zone": link(world, &format!("zones/{}", self.zone)),
            "operationType": self.kind, "targetLink": link(world, &self.target), "targetId": self.target_id.to_string(),
            "status": status, "user": self.user, "progress": progress, "insertTime": timestamp(self.inserted),
            "startTime": timestamp(self.inserted), "selfLink": link(world, &path),
        });
        if let Some(ended) = self.ended {
            row["endTime"] = json!(timestamp(ended));
        }
        if let Some(request) = &self.request {
            row["clientOperationId"] = json!(request);
        }
        if let Some(failure) = &self.failure {
            row["error"] = json!({"errors": [{"code": failure.code, "message": failure.message, "errorDetails": failure.details}]});
            row["httpErrorStatusCode"] = json!(failure.http.0);
            row["httpErrorMessage"] = json!(failure.http.1);
        }
        row
    }
}

/// Enters an operation, PENDING, and answers its name.
pub(crate) fn begin(compute: &mut Compute, target: &Target<'_>, user: &str) -> String {
    let id = compute.fresh_id();
    let name = format!(
        "operation-{}-{}",
        time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000,
        uuid::Uuid::new_v4().simple()
    );
    let operation = Operation {
        name: name.clone(),
        zone: target.zone.to_owned(),
        id,
        kind: target.kind.to_owned(),
        target: format!("zones/{}/{}", target.zone, target.resource),
        target_id: target.id,
        status: Status::Pending,
        failure: None,
        user: user.to_owned(),
        request: None,
        inserted: now(),
        ended: None,
    };
    compute
        .operations
        .insert((target.zone.to_owned(), name.clone()), operation);
    name
}

/// Lets an operation run for so many seconds and then do its work.
pub(crate) fn run(
    world: &Arc<World>,
    place: Place,
    seconds: f64,
    work: impl FnOnce(&Arc<World>) -> Result<(), Failure> + Send + 'static,
) {
    let running = place.clone();
    world.after(seconds * 0.2, move |world| {
        if let Some(operation) = world
            .state()
            .compute
            .operations
            .get_mut(&running)
            .filter(|one| one.status == Status::Pending)
        {
            operation.status = Status::Running;
        }
    });
    world.after(seconds, move |world| {
        let outcome = work(world);
        finish(&mut world.state().compute, &place, outcome);
    });
}

/// Ends an operation.
pub(crate) fn finish(compute: &mut Compute, place: &Place, outcome: Result<(), Failure>) {
    if let Some(operation) = compute.operations.get_mut(place) {
        operation.status = Status::Done;
        operation.failure = outcome.err();
        operation.ended = Some(now());
    }
}

/// The operation as an answer.
pub(crate) fn reply(world: &World, zone: &str, name: &str) -> Outcome {
    let state = world.state();
    match state.compute.operations.get(&(zone.to_owned(), name.to_owned())) {
        Some(operation) => Ok(Reply::ok(operation.row(world))),
        None => Err(not_found(&format!(
            "projects/{}/zones/{zone}/operations/{name}",
            world.options.project
        ))),
    }
}

/// Accepts a request once: a repeat with the same `requestId` is answered with the first one's operation.
pub(super) fn once(world: &Arc<World>, call: &Call, zone: &str, accept: impl FnOnce() -> Outcome) -> Outcome {
    let _gate = world.compute_gate.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(request) = call.query("requestId") else {
        return accept();
    };
    let known = |operation: &&Operation| operation.zone == zone && operation.request.as_deref() == Some(request);
    let first = world
        .state()
        .compute
        .operations
        .values()
        .find(known)
        .map(|operation| operation.name.clone());
    if let Some(first) = first {
        return reply(world, zone, &first);
    }
    let accepted = accept()?;
    if let Payload::Json(body) = &accepted.body
        && let Some(name) = body["name"].as_str()
        && let Some(operation) = world
            .state()
            .compute
            .operations
            .get_mut(&(zone.to_owned(), name.to_owned()))
    {
        operation.request = Some(request.to_owned());
        return Ok(Reply::ok(operation.row(world)));
    }
    Ok(accepted)
}

/// `…/operations/…`
pub(super) fn route(world: &Arc<World>, call: &Call, zone: &str, rest: &[&str]) -> Outcome {
    match (call.method.as_str(), rest) {
        ("GET", []) => {
            let state = world.state();
            let rows = state
                .compute
                .operations
                .values()
                .filter(|one| one.zone == zone)
                .map(|one| one.row(world))
                .collect();
            drop(state);
            filter::zone_list(world, call, "operation", &format!("zones/{zone}/operations"), rows)
        }
        ("GET", [name]) => reply(world, zone, name),
        ("POST", [name, "wait"]) => wait(world, zone, name),
        _ => Err(super::error(404, "notFound", "Not Found")),
    }
}

fn wait(world: &Arc<World>, zone: &str, name: &str) -> Outcome {
    let place = (zone.to_owned(), name.to_owned());
    let deadline = Instant::now() + WAIT_LIMIT;
    // Requests are answered on blocking threads, so waiting here holds nobody up.
    while Instant::now() < deadline && !*world.closed.borrow() {
        let status = world
            .state()
            .compute
            .operations
            .get(&place)
            .map(|operation| operation.status);
        if status.is_none_or(|status| status == Status::Done) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    reply(world, zone, name)
}
