//! The Vast.ai side: its routes, its answers, its instances. Facts: `reference/vast/vast-api.md` (2026-10).

mod account;
mod copy;
mod create;
mod filters;
pub(crate) mod instance;
mod keys;
pub(crate) mod lifecycle;
mod limits;
mod listing;
pub(crate) mod offers;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use crate::http::{Call, Reply};
use crate::options::RateLimits;
use crate::webhooks::Webhooks;
use crate::world::World;
use instance::Instance;
use offers::Offer;

/// The state of the Vast side.
#[derive(Debug)]
pub(crate) struct Vast {
    pub(crate) instances: BTreeMap<u64, Instance>,
    pub(crate) offers: BTreeMap<u64, Offer>,
    pub(crate) offers_hidden: bool,
    pub(crate) keys: Vec<keys::AccountKey>,
    pub(crate) webhooks: Webhooks,
    pub(crate) credit: f64,
    pub(crate) rate_limits: RateLimits,
    pub(crate) next_births: Vec<create::Birth>,
    pub(crate) host_agent: Option<copy::HostAgent>,
    pub(crate) logs: BTreeMap<String, String>,
    calls: limits::LastCalls,
    next_id: u64,
}

pub use create::Birth;
pub(crate) use offers::cpu_offer;

impl Vast {
    pub(crate) fn new(credit: f64, rate_limits: RateLimits) -> Self {
        Self {
            instances: BTreeMap::new(),
            offers: offers::market(),
            offers_hidden: false,
            keys: Vec::new(),
            webhooks: Webhooks::default(),
            credit,
            rate_limits,
            next_births: Vec::new(),
            host_agent: None,
            logs: BTreeMap::new(),
            calls: limits::LastCalls::default(),
            next_id: 48_900_000 + u64::from(rand::random::<u16>()),
        }
    }

    /// A number that nothing here has had before.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// An error in Vast's usual shape.
pub(crate) fn error(status: u16, slug: &str, msg: impl Into<String>) -> Reply {
    Reply::json(status, json!({"success": false, "error": slug, "msg": msg.into()}))
}

fn no_such_instance(id: u64) -> Reply {
    error(404, "no_such_instance", format!("Instance {id} not found."))
}

fn success() -> Reply {
    Reply::ok(json!({"success": true}))
}

/// Answers one request to the Vast side.
pub(crate) fn route(world: &Arc<World>, call: &Call) -> Reply {
    let parts = call.parts();
    let public = matches!(
        parts.as_slice(),
        ["api", "v0", "gpu_names", "unique"] | ["api", "v0", "bundles"] | ["logs", _]
    );
    if !public && call.bearer.as_deref() != Some(world.options.vast_api_key.as_str()) {
        return error(401, "auth_error", "Invalid user key");
    }
    if let Some(refusal) = limits::check(world, call) {
        return refusal;
    }
    match parts.as_slice() {
        ["api", "v1", "instances"] => listing::page(world, call),
        ["api", "v0", "instances", rest @ ..] => instances(world, call, rest),
        ["api", "v0", "asks", rest @ ..] => match (call.method.as_str(), rest) {
            ("POST", ["bulk"]) => create::bulk(world, call),
            ("PUT", [offer]) => create::one(world, call, offer),
            _ => not_found(call),
        },
        ["api", "v0", "bundles" | "search"] | ["api", "v0", "search", "asks"] => offers::search(world, call),
        ["api", "v0", "ssh", rest @ ..] => keys::account(world, call, rest),
        ["api", "v0", "commands", command] => copy::command(world, call, command),
        ["api", "v0", "webhooks", rest @ ..] => crate::webhooks::route(world, call, rest),
        ["api", "v0", "notification-types"] => crate::webhooks::types(),
        ["api", "v0", "notifications", "inbox"] => crate::webhooks::inbox(world),
        ["api", "v0", "users", rest @ ..] => account::users(world, call, rest),
        ["api", "v0", "gpu_names", "unique"] => account::gpu_names(world),
        ["logs", token] => copy::log_text(world, token),
        _ => not_found(call),
    }
}

fn instances(world: &Arc<World>, call: &Call, rest: &[&str]) -> Reply {
    let with_id = |id: &str, answer: &dyn Fn(u64) -> Reply| match id.parse::<u64>() {
        Ok(id) => answer(id),
        Err(_) => error(400, "invalid_args", "instance id must be an integer"),
    };
    match (call.method.as_str(), rest) {
        ("GET", []) => listing::legacy(world),
        ("GET", ["filters"]) => listing::filters(world),
        ("PUT", []) => update::bulk_state(world, call),
        ("DELETE", []) => update::bulk_destroy(world, call),
        ("PUT", ["bid_price", id]) => with_id(id, &|id| update::bid(world, call, id)),
        ("PUT", ["reboot", id]) => with_id(id, &|id| lifecycle::reboot(world, id)),
        ("PUT", ["recycle", id]) => with_id(id, &|id| lifecycle::recycle(world, id)),
        ("PUT", ["request_logs", id]) => with_id(id, &|id| copy::request_logs(world, call, id)),
        ("PUT", ["command", id]) => with_id(id, &|id| copy::execute(world, call, id)),
        (_, [id, "ssh", rest @ ..]) => with_id(id, &|id| keys::of_instance(world, call, id, rest)),
        ("GET", [id]) => with_id(id, &|id| listing::show(world, id)),
        ("PUT", [id]) => with_id(id, &|id| update::change(world, call, id)),
        ("DELETE", [id]) => with_id(id, &|id| update::destroy(world, id)),
        _ => not_found(call),
    }
}

fn not_found(call: &Call) -> Reply {
    Reply::json(
        404,
        json!({"detail": format!("Not found: {} {}", call.method, call.path)}),
    )
}
