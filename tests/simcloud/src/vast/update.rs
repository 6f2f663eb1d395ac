//! Changing what is rented: state, label, bid, destruction.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{error, lifecycle, no_such_instance, success};
use crate::http::{Call, Reply};
use crate::world::World;

/// `PUT /api/v0/instances/{id}/`: `state`, `label`, or both.
pub(super) fn change(world: &Arc<World>, call: &Call, id: u64) -> Reply {
    let Ok(body) = call.json() else {
        return error(400, "invalid_args", "Invalid json body");
    };
    if lifecycle::alter(world, id, |_| ()).is_none() {
        return no_such_instance(id);
    }
    if let Some(label) = body.get("label") {
        let label = label.as_str().map(str::to_owned);
        if label.as_ref().is_some_and(|label| label.chars().count() > 1024) {
            return error(400, "invalid_args", "label_too_long");
        }
        lifecycle::alter(world, id, |instance| instance.label = label);
    }
    match body.get("state").map(Value::as_str) {
        None if body.get("label").is_some() => success(),
        None => error(400, "invalid_args", "state or label is required"),
        Some(state) => set_state(world, id, state),
    }
}

fn set_state(world: &Arc<World>, id: u64, state: Option<&str>) -> Reply {
    match state {
        Some("running") => lifecycle::start(world, id),
        Some("stopped") => lifecycle::stop(world, id),
        Some(_) | None => error(400, "invalid_args", "Invalid target state"),
    }
}

/// `PUT /api/v0/instances/`
pub(super) fn bulk_state(world: &Arc<World>, call: &Call) -> Reply {
    let body = call.json().unwrap_or(Value::Null);
    let Some(ids) = ids(&body["ids"]) else {
        return error(400, "invalid_args", "ids must hold 1 to 64 instances");
    };
    let state = body["state"].as_str();
    let failed: Vec<u64> = ids
        .into_iter()
        .filter(|id| set_state(world, *id, state).status != 200)
        .collect();
    Reply::ok(json!({"success": failed.is_empty(), "failed": failed}))
}

/// `DELETE /api/v0/instances/{id}/`
pub(super) fn destroy(world: &Arc<World>, id: u64) -> Reply {
    match lifecycle::remove(world, id) {
        Some(()) => success(),
        None => no_such_instance(id),
    }
}

/// `DELETE /api/v0/instances/`
pub(super) fn bulk_destroy(world: &Arc<World>, call: &Call) -> Reply {
    let body = call.json().unwrap_or(Value::Null);
    let Some(ids) = ids(&body["instance_ids"]) else {
        return error(400, "invalid_args", "instance_ids must hold 1 to 64 instances");
    };
    let gone: Vec<u64> = ids
        .into_iter()
        .filter(|id| lifecycle::remove(world, *id).is_some())
        .collect();
    if gone.is_empty() {
        return error(404, "instances_not_found", "None of the instances were found.");
    }
    Reply::ok(json!({"success": true, "destroyed": gone}))
}

fn ids(list: &Value) -> Option<Vec<u64>> {
    let ids: Vec<u64> = list.as_array()?.iter().filter_map(Value::as_u64).collect();
    (1..=64).contains(&ids.len()).then_some(ids)
}

/// `PUT /api/v0/instances/bid_price/{id}/`
pub(super) fn bid(world: &Arc<World>, call: &Call, id: u64) -> Reply {
    let Ok(body) = call.json() else {
        return error(400, "invalid_args", "Invalid json body");
    };
    let Some((is_bid, floor)) = lifecycle::alter(world, id, |instance| (instance.bid.is_some(), instance.floor)) else {
        return no_such_instance(id);
    };
    if !is_bid {
        return error(400, "invalid_args", "Can't change price of on-demand contract.");
    }
    // Without a price the server picks one a little above the floor, which may lower the bid (vast-api.md §6).
    let price = if body["price"].is_null() {
        Some(floor * 1.18)
    } else {
        body["price"].as_f64()
    };
    // Narrower than the 0.001 to 128 of a rental (`openapi.yaml`, 2026-08).
    let price = price.filter(|price| (0.001..=32.0).contains(price));
    let Some(price) = price else {
        return error(400, "invalid_args", "Please set a bid price >= 0.001.");
    };
    let (taken, wanted) = lifecycle::alter(world, id, |instance| {
        instance.bid = Some(price);
        (instance.taken, instance.intended == "running")
    })
    .unwrap_or_default();
    match price >= floor {
        true if taken => lifecycle::win_back(world, id),
        false if wanted => lifecycle::underbid(world, id),
        true | false => {}
    }
    success()
}
