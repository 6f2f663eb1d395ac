//! Vast's minimum intervals between calls, per endpoint and method (`vast-api.md` §2, read 2026-10).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::http::{Call, Reply};
use crate::options::RateLimits;
use crate::world::World;

pub(super) type LastCalls = BTreeMap<&'static str, Instant>;

/// Refuses a call that comes too soon after the last one of its kind.
pub(super) fn check(world: &Arc<World>, call: &Call) -> Option<Reply> {
    let (endpoint, seconds) = interval(&call.method, &call.parts())?;
    let needed = world.scale.of(seconds);
    let mut state = world.state();
    let form = state.vast.rate_limits;
    if form == RateLimits::Off {
        return None;
    }
    let now = Instant::now();
    let waited = state.vast.calls.get(endpoint).map(|last| now.duration_since(*last));
    if waited.is_none_or(|waited| waited >= needed) {
        state.vast.calls.insert(endpoint, now);
        return None;
    }
    let left = needed.saturating_sub(waited.unwrap_or_default());
    Some(refusal(form, seconds, left.as_secs_f64()))
}

fn refusal(form: RateLimits, seconds: f64, left: f64) -> Reply {
    let sentence = format!("API requests too frequent: endpoint threshold={seconds}");
    match form {
        RateLimits::Off | RateLimits::WithoutRetryAfter => Reply::text(429, sentence),
        RateLimits::WithRetryAfter => {
            let body = json!({"error": "HTTPTooManyRequests", "msg": sentence, "retry_after": left, "limit": 1, "remaining": 0});
            Reply::json(429, body)
                .with_header("Retry-After", format!("{}", left.ceil().max(1.0)))
                .with_header("X-RateLimit-Limit", "1")
                .with_header("X-RateLimit-Remaining", "0")
        }
    }
}

fn interval(method: &str, parts: &[&str]) -> Option<(&'static str, f64)> {
    let found = match (method, parts) {
        ("GET", ["api", "v1", "instances"]) => ("GET v1/instances", 1.0),
        ("GET", ["api", "v0", "instances"]) => ("GET v0/instances", 20.0),
        ("PUT", ["api", "v0", "instances"]) => ("PUT v0/instances bulk", 4.0),
        ("PUT", ["api", "v0", "instances", "bid_price", _]) => ("PUT bid_price", 5.5),
        ("PUT", ["api", "v0", "instances", "reboot", _]) => ("PUT reboot", 1.0),
        ("PUT", ["api", "v0", "instances", "recycle", _]) => ("PUT recycle", 1.0),
        ("PUT", ["api", "v0", "instances", "command", _]) => ("PUT command", 1.5),
        ("GET", ["api", "v0", "instances", _, "ssh", ..]) => ("GET instances/ssh", 2.0),
        ("POST", ["api", "v0", "instances", _, "ssh", ..]) => ("POST instances/ssh", 2.0),
        ("DELETE", ["api", "v0", "instances", _, "ssh", ..]) => ("DELETE instances/ssh", 2.0),
        ("GET", ["api", "v0", "instances", _]) => ("GET v0/instances/id", 2.0),
        ("PUT", ["api", "v0", "instances", _]) => ("PUT v0/instances/id", 1.0),
        ("DELETE", ["api", "v0", "instances", ..]) => ("DELETE instances", 3.0),
        ("PUT" | "POST", ["api", "v0", "asks", _]) => ("asks", 4.5),
        ("PUT" | "POST" | "DELETE", ["api", "v0", "commands", _]) => ("commands", 3.5),
        ("POST", ["api", "v0", "bundles"]) => ("POST bundles", 2.0),
        ("GET", ["api", "v0", "bundles"]) => ("GET bundles", 0.8),
        ("GET", ["api", "v0", "ssh", ..]) => ("GET ssh", 1.0),
        ("POST" | "PUT" | "DELETE", ["api", "v0", "ssh", ..]) => ("write ssh", 1.0),
        ("GET", ["api", "v0", "webhooks", ..]) => ("GET webhooks", 2.0),
        ("POST" | "PUT" | "DELETE", ["api", "v0", "webhooks", ..]) => ("write webhooks", 2.0),
        ("GET", ["api", "v0", "users", "spend-rate"]) => ("GET spend-rate", 2.0),
        _ => return None,
    };
    Some(found)
}
