//! The account: who calls, what is left to spend.

use std::sync::Arc;

use serde_json::{Value, json};

use super::not_found;
use crate::http::{Call, Reply};
use crate::webhooks;
use crate::world::World;

/// The number of the one account there is.
pub(crate) const USER: u64 = 9;

/// `/api/v0/users/…`
pub(super) fn users(world: &Arc<World>, call: &Call, rest: &[&str]) -> Reply {
    match (call.method.as_str(), rest) {
        ("GET", ["current"]) => {
            let credit = world.state().vast.credit;
            Reply::ok(json!({
                "id": USER, "email": "sim@example.com", "username": "sim", "fullname": "Sim", "credit": credit, "balance": 0.0,
                "balance_threshold": 0.0, "balance_threshold_enabled": false, "ssh_key": null, "host_agreement_accepted": false,
                "can_pay": credit > 0.0, "has_billing": true, "api_key": "hidden", "billing_creditonly": 1,
            }))
        }
        ("GET", ["spend-rate"]) => {
            let rate: f64 = world
                .state()
                .vast
                .instances
                .values()
                .map(super::instance::Instance::billed_hourly)
                .sum();
            Reply::ok(json!({"success": true, "spend_rate": rate}))
        }
        ("GET", ["cloud_integrations"]) => Reply::ok(json!([])),
        (_, [_, "notification-prefs"]) => webhooks::preferences(world),
        _ => not_found(call),
    }
}

/// `GET /api/v0/gpu_names/unique/`, open to everybody.
pub(super) fn gpu_names(world: &Arc<World>) -> Reply {
    let state = world.state();
    let mut names: Vec<&str> = state
        .vast
        .offers
        .values()
        .map(|offer| offer.gpu_name.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    Reply::ok(json!({"gpu_names": names.into_iter().map(Value::from).collect::<Vec<_>>()}))
}
