//! Requests against the published schema: unknown fields, wrong types and unknown enum values are refused as the real one does.
//!
//! `request_schema.json` holds the reachable request types of discovery revision 20261106 (`reference/google/compute.v1.trimmed.json`).

use std::sync::LazyLock;

use serde_json::Value;

use super::error;
use crate::http::{Call, Reply};

static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("request_schema.json")).expect("the embedded schema is JSON"));

/// Query parameters of the methods that are served, besides those of every method.
const PARAMETERS: [&str; 19] = [
    "requestId",
    "filter",
    "maxResults",
    "orderBy",
    "pageToken",
    "includeAllScopes",
    "returnPartialSuccess",
    "serviceProjectNumber",
    "sourceInstanceTemplate",
    "sourceMachineImage",
    "sourceImage",
    "noGracefulShutdown",
    "discardLocalSsd",
    "queryPath",
    "variableKey",
    "port",
    "start",
    "autoDelete",
    "deviceName",
];
const RARE: [&str; 3] = ["forceAttach", "guestFlush", "withExtendedNotifications"];

/// Refuses unknown query parameters and a `requestId` that is no UUID.
pub(super) fn check_query(call: &Call) -> Result<(), Reply> {
    for (name, value) in &call.query {
        // `$alt` and friends are system parameters that Google's own clients send.
        let common = name.starts_with('$')
            || SCHEMA["common"]
                .as_array()
                .is_some_and(|known| known.iter().any(|one| one == name));
        if !common && !PARAMETERS.contains(&name.as_str()) && !RARE.contains(&name.as_str()) {
            let message = format!(
                "Invalid JSON payload received. Unknown name \"{name}\": Cannot bind query parameter. Field '{name}' could not be found in request message."
            );
            return Err(error(400, "badRequest", &message));
        }
        let zero = |id: uuid::Uuid| id.is_nil();
        if name == "requestId" && uuid::Uuid::parse_str(value).map_or(true, zero) {
            return Err(super::invalid(
                "requestId",
                value,
                "The request ID must be a valid non-zero UUID.",
            ));
        }
    }
    Ok(())
}

/// Refuses a body that does not fit the named request type.
pub(super) fn check_body(kind: &str, body: &Value) -> Result<(), Reply> {
    if !body.is_object() {
        return Err(error(400, "required", "Required field 'resource' not specified"));
    }
    check(&Value::from(kind), body, "resource").map_err(|message| error(400, "invalid", &message))
}

fn check(kind: &Value, value: &Value, at: &str) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    match kind {
        Value::Array(item) => {
            let items = value
                .as_array()
                .ok_or_else(|| format!("Invalid value at '{at}': list expected."))?;
            items
                .iter()
                .enumerate()
                .try_for_each(|(index, one)| check(&item[0], one, &format!("{at}[{index}]")))
        }
        Value::Object(map) => {
            let entries = value
                .as_object()
                .ok_or_else(|| format!("Invalid value at '{at}': map expected."))?;
            entries
                .iter()
                .try_for_each(|(name, one)| check(&map["*"], one, &format!("{at}.{name}")))
        }
        Value::String(kind) => check_named(kind, value, at),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn check_named(kind: &str, value: &Value, at: &str) -> Result<(), String> {
    let wrong = |expected: &str| Err(format!("Invalid value at '{at}' ({expected}), {value}"));
    match kind {
        // Output-only fields are ignored when sent.
        "any" | "output" => Ok(()),
        "string" if value.is_string() => Ok(()),
        "boolean" if value.is_boolean() => Ok(()),
        "number" if value.is_number() => Ok(()),
        "integer" if value.is_i64() || value.is_u64() => Ok(()),
        "int64"
            if value.is_i64() || value.is_u64() || value.as_str().is_some_and(|text| text.parse::<i128>().is_ok()) =>
        {
            Ok(())
        }
        "string" | "boolean" | "number" | "integer" | "int64" => wrong(&format!("TYPE_{}", kind.to_uppercase())),
        _ => match kind.strip_prefix("enum:") {
            Some(values)
                if value
                    .as_str()
                    .is_some_and(|text| values.split('|').any(|one| one == text)) =>
            {
                Ok(())
            }
            Some(_) => wrong("TYPE_ENUM"),
            None => check_message(kind, value, at),
        },
    }
}

fn check_message(kind: &str, value: &Value, at: &str) -> Result<(), String> {
    let fields = value
        .as_object()
        .ok_or_else(|| format!("Invalid value at '{at}' ({kind}), {value}"))?;
    for (name, one) in fields {
        let known = SCHEMA["schemas"][kind].get(name).ok_or_else(|| {
            format!("Invalid JSON payload received. Unknown name \"{name}\" at '{at}': Cannot find field.")
        })?;
        check(known, one, &format!("{at}.{name}"))?;
    }
    Ok(())
}
