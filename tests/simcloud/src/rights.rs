//! Who may do what: Resource Manager's and Cloud Storage's answers to a question for permissions.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::compute::{authorize, error};
use crate::http::{Call, Reply};
use crate::world::World;

/// `POST /v1/projects/{project}:testIamPermissions`.
pub(crate) fn of_project(world: &Arc<World>, call: &Call, question: &str) -> Reply {
    if let Err(refusal) = authorize(world, call) {
        return refusal;
    }
    if call.method != "POST" || question != format!("{}:testIamPermissions", world.options.project) {
        return error(404, "notFound", "Requested entity was not found.");
    }
    let body = call.json().unwrap_or(Value::Null);
    let Some(asked) = body["permissions"].as_array() else {
        return error(400, "badRequest", "Request contains an invalid argument.");
    };
    answer(world, asked.iter().filter_map(Value::as_str))
}

/// Those of the asked ones that the account has; Google leaves an empty list out.
pub(crate) fn answer<'a>(world: &World, asked: impl Iterator<Item = &'a str>) -> Reply {
    let denied = world.state().denied.clone();
    let held: Vec<&str> = asked.filter(|one| !denied.contains(*one)).collect();
    Reply::ok(if held.is_empty() {
        json!({})
    } else {
        json!({"permissions": held})
    })
}
