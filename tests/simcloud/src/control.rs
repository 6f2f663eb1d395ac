//! The control API under `/sim/`: what the Rust methods do, for curl.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::QuotaRefusal;
use crate::faults::Fault;
use crate::http::{Call, Reply};
use crate::inventory;
use crate::knobs::{Knobs, NoSuchMachine};
use crate::options::RateLimits;
use crate::vast::Birth;
use crate::webhooks::Delivery;
use crate::world::World;

/// Answers one control request.
pub(crate) fn route(world: &Arc<World>, call: &Call) -> Reply {
    let parts = call.parts();
    let body = match call.json() {
        Ok(body) => body,
        Err(why) => return refused(400, format!("the body is not JSON: {why}")),
    };
    let knobs = Knobs(world);
    match (call.method.as_str(), &parts[1..]) {
        ("GET", ["state"]) => Reply::ok(inventory::state(world)),
        ("GET", ["requests"]) => Reply::ok(json!(world.journal.all())),
        ("GET", ["faults"]) => Reply::ok(json!(world.faults.waiting())),
        ("POST", ["faults"]) => with(body, |fault: Fault| world.faults.add(fault)),
        ("DELETE", ["faults"]) => {
            world.faults.clear();
            done()
        }
        ("POST", ["settings"]) => with(body, |settings: Settings| settings.apply(&knobs)),
        ("POST", ["gpus", id, verb]) => match id.parse() {
            Ok(id) => gpu(&knobs, id, verb, &body),
            Err(_) => refused(400, format!("`{id}` is not a contract number")),
        },
        ("POST", ["standbys", name, "preempt"]) => outcome(knobs.preempt(name)),
        ("POST", ["zones", zone, "capacity-out"]) => {
            knobs.capacity_out(zone);
            done()
        }
        ("POST", ["zones", zone, "capacity-back"]) => {
            knobs.capacity_back(zone);
            done()
        }
        ("POST", ["service-account"]) => match body["path"].as_str() {
            None => refused(400, "give {\"path\": \"/where/to/write/it.json\"}".to_owned()),
            Some(path) => match crate::token::write_service_account(world, path.as_ref()) {
                Ok(()) => done(),
                Err(failure) => refused(500, failure.to_string()),
            },
        },
        _ => refused(404, format!("no control verb {} {}", call.method, call.path)),
    }
}

fn gpu(knobs: &Knobs<'_>, id: u64, verb: &str, body: &Value) -> Reply {
    match verb {
        "outbid" => outcome(knobs.outbid(id, body["kill_after_seconds"].as_f64())),
        "outbid-clears" => outcome(knobs.outbid_clears(id)),
        "stop-silently" => outcome(knobs.stop_silently(id)),
        "host-offline" => outcome(knobs.host_offline(id)),
        "host-online" => outcome(knobs.host_online(id)),
        "status-unknown" => outcome(knobs.status_unknown(id)),
        "hide-row" => outcome(knobs.set_hidden(id, true)),
        "show-row" => outcome(knobs.set_hidden(id, false)),
        "remove" => outcome(knobs.remove(id)),
        "recycle" => outcome(knobs.recycle(id)),
        "expire" => outcome(knobs.expire(id)),
        "refuse-starts" => outcome(knobs.set_start_refused(id, true)),
        "allow-starts" => outcome(knobs.set_start_refused(id, false)),
        "exec" => {
            let words: Vec<String> = serde_json::from_value(body["command"].clone()).unwrap_or_default();
            match words.split_first() {
                None => refused(400, "give {\"command\": [\"program\", \"argument\"]}".to_owned()),
                Some((program, arguments)) => match knobs.exec_detached(id, program, arguments) {
                    Ok(pid) => Reply::ok(json!({"ok": true, "pid": pid})),
                    Err(failure) => refused(409, failure.to_string()),
                },
            }
        }
        _ => refused(404, format!("no verb `{verb}` for GPUs")),
    }
}

/// Settings of the whole sim; what is left out stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    rate_limits: Option<RateLimits>,
    delivery: Option<Delivery>,
    credit: Option<f64>,
    offers: Option<bool>,
    next_birth: Option<Birth>,
    quota: Option<Quota>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Quota {
    Enough,
    InOperation,
    Immediate,
}

impl Settings {
    fn apply(self, knobs: &Knobs<'_>) {
        if let Some(form) = self.rate_limits {
            knobs.set_rate_limits(form);
        }
        if let Some(delivery) = self.delivery {
            knobs.set_delivery(delivery);
        }
        if let Some(credit) = self.credit {
            knobs.set_credit(credit);
        }
        if let Some(offers) = self.offers {
            knobs.set_offers(offers);
        }
        if let Some(birth) = self.next_birth {
            knobs.next_birth(birth);
        }
        match self.quota {
            None => {}
            Some(Quota::Enough) => knobs.set_quota(None),
            Some(Quota::InOperation) => knobs.set_quota(Some(QuotaRefusal::InOperation)),
            Some(Quota::Immediate) => knobs.set_quota(Some(QuotaRefusal::Immediate)),
        }
    }
}

fn with<T: serde::de::DeserializeOwned>(body: Value, act: impl FnOnce(T)) -> Reply {
    match serde_json::from_value(body) {
        Ok(value) => {
            act(value);
            done()
        }
        Err(why) => refused(400, why.to_string()),
    }
}

fn done() -> Reply {
    Reply::ok(json!({"ok": true}))
}

fn outcome(result: Result<(), NoSuchMachine>) -> Reply {
    match result {
        Ok(()) => done(),
        Err(missing) => refused(404, missing.to_string()),
    }
}

fn refused(status: u16, why: String) -> Reply {
    Reply::json(status, json!({"ok": false, "error": why}))
}
