//! The Compute Engine side: its routes, its answers, its VMs and disks. Facts: `reference/google/compute.md` (2026-11).

mod catalogue;
mod checks;
pub(crate) mod disks;
mod filter;
mod guest;
mod insert;
pub(crate) mod instances;
pub(crate) mod lifecycle;
pub(crate) mod operations;
mod schema;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::{Call, Reply};
use crate::token;
use crate::world::World;
use disks::Disk;
use instances::Vm;
use operations::Operation;

pub use lifecycle::QuotaRefusal;

/// A resource's zone and name.
pub(crate) type Place = (String, String);

/// The state of the Compute Engine side.
#[derive(Debug, Default)]
pub(crate) struct Compute {
    pub(crate) instances: BTreeMap<Place, Vm>,
    pub(crate) disks: BTreeMap<Place, Disk>,
    pub(crate) operations: BTreeMap<Place, Operation>,
    /// Zones without capacity.
    pub(crate) exhausted: BTreeSet<String>,
    /// Whether and how new VMs exceed the quota.
    pub(crate) quota: Option<QuotaRefusal>,
    next_id: u64,
}

impl Compute {
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        // As long as real ones, which overflow a double's 53 bits on purpose of being strings.
        4_800_000_000_000_000_000 + self.next_id * 7_919
    }
}

/// An error in Google's shape.
pub(crate) fn error(code: u16, reason: &str, message: &str) -> Reply {
    Reply::json(
        code,
        json!({"error": {"code": code, "message": message, "errors": [{"message": message, "domain": "global", "reason": reason}]}}),
    )
}

fn invalid(field: &str, value: &str, why: &str) -> Reply {
    error(
        400,
        "invalid",
        &format!("Invalid value for field '{field}': '{value}'. {why}"),
    )
}

fn not_found(what: &str) -> Reply {
    error(404, "notFound", &format!("The resource '{what}' was not found"))
}

/// The answer, or the refusal that ends the request.
type Outcome = Result<Reply, Reply>;

/// Answers one request to the Compute Engine side.
pub(crate) fn route(world: &Arc<World>, call: &Call) -> Reply {
    match routed(world, call) {
        Ok(reply) | Err(reply) => reply,
    }
}

fn routed(world: &Arc<World>, call: &Call) -> Outcome {
    authorize(world, call)?;
    schema::check_query(call)?;
    let parts = call.parts();
    let ["compute", "v1", "projects", project, rest @ ..] = parts.as_slice() else {
        return Err(error(404, "notFound", "Not Found"));
    };
    if *project != world.options.project {
        return Err(not_found(&format!("projects/{project}")));
    }
    match rest {
        ["zones", zone, ..] if !catalogue::is_zone(zone) => Err(invalid("zone", zone, "Unknown zone.")),
        ["zones", zone, "instances", rest @ ..] => instances(world, call, zone, rest),
        ["zones", zone, "disks", rest @ ..] => disks::route(world, call, zone, rest),
        ["zones", zone, "operations", rest @ ..] => operations::route(world, call, zone, rest),
        ["aggregated", "instances"] => instances::aggregated(world, call),
        ["aggregated", "disks"] => disks::aggregated(world, call),
        _ => catalogue::route(world, call, rest),
    }
}

pub(crate) fn authorize(world: &World, call: &Call) -> Result<(), Reply> {
    let known = |token: &str| {
        token == world.options.compute_token || world.tokens.accepts(token) || token::is_self_signed(world, token)
    };
    if call.bearer.as_deref().is_some_and(known) {
        return Ok(());
    }
    let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
    let body = json!({"error": {"code": 401, "message": message, "status": "UNAUTHENTICATED",
        "errors": [{"message": "Invalid Credentials", "domain": "global", "reason": "authError", "location": "Authorization", "locationType": "header"}]}});
    Err(Reply::json(401, body).with_header(
        "WWW-Authenticate",
        "Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"",
    ))
}

fn instances(world: &Arc<World>, call: &Call, zone: &str, rest: &[&str]) -> Outcome {
    match (call.method.as_str(), rest) {
        ("POST", []) => operations::once(world, call, zone, || insert::insert(world, call, zone)),
        ("GET", []) => instances::list(world, call, zone),
        (method, [name, rest @ ..]) => {
            let place = instances::find(world, zone, name)?;
            match (method, rest) {
                ("GET", []) => instances::get(world, &place),
                ("DELETE", []) => operations::once(world, call, zone, || lifecycle::delete(world, &place)),
                ("GET", ["getGuestAttributes"]) => guest::attributes(world, call, &place),
                ("GET", ["serialPort"]) => guest::serial(world, call, &place),
                ("POST", [verb]) => operations::once(world, call, zone, || verb_on(world, call, &place, verb)),
                _ => Err(error(404, "notFound", "Not Found")),
            }
        }
        _ => Err(error(404, "notFound", "Not Found")),
    }
}

fn verb_on(world: &Arc<World>, call: &Call, place: &Place, verb: &str) -> Outcome {
    match verb {
        "start" => lifecycle::start(world, place),
        "stop" => lifecycle::stop(world, place),
        "reset" => lifecycle::reset(world, place),
        "simulateMaintenanceEvent" => lifecycle::preempt(world, place),
        "setLabels" => update::labels(world, call, place),
        "setMetadata" => update::metadata(world, call, place),
        "setScheduling" => update::scheduling(world, call, place),
        "setMachineType" => update::machine_type(world, call, place),
        "setDiskAutoDelete" => update::disk_auto_delete(world, call, place),
        "attachDisk" => update::attach_disk(world, call, place),
        "detachDisk" => update::detach_disk(world, call, place),
        _ => Err(error(404, "notFound", "Not Found")),
    }
}

fn body(call: &Call) -> Result<Value, Reply> {
    call.json()
        .map_err(|why| error(400, "parseError", &format!("Invalid JSON payload received. {why}")))
}

/// The address of a resource as it appears in answers.
pub(crate) fn link(world: &World, rest: &str) -> String {
    format!(
        "https://www.googleapis.com/compute/v1/projects/{}/{rest}",
        world.options.project
    )
}

/// A time as Compute Engine writes it.
pub(crate) fn timestamp(at: f64) -> String {
    let at = time::OffsetDateTime::UNIX_EPOCH + time::Duration::seconds_f64(at);
    let form =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+00:00");
    at.format(&form).unwrap_or_default()
}
