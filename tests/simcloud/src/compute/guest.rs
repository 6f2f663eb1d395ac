//! What the guest publishes: attributes and the serial console.

use std::sync::Arc;

use serde_json::{Value, json};

use super::instances::missing;
use super::{Outcome, Place, error, invalid, link};
use crate::http::{Call, Reply};
use crate::world::World;

/// `GET …/getGuestAttributes`
pub(super) fn attributes(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let state = world.state();
    let vm = state
        .compute
        .instances
        .get(place)
        .ok_or_else(|| missing(world, &place.0, &place.1))?;
    if vm
        .metadata_value("enable-guest-attributes")
        .is_none_or(|value| !value.eq_ignore_ascii_case("true"))
    {
        return Err(error(403, "forbidden", "Guest attributes endpoint access is disabled."));
    }
    let path = format!("zones/{}/instances/{}/guestAttributes", place.0, place.1);
    let mut body = json!({"kind": "compute#guestAttributes", "selfLink": format!("{}/", link(world, &path))});
    match (call.query("variableKey"), call.query("queryPath")) {
        (Some(key), _) => {
            let (namespace, name) = key.split_once('/').unwrap_or((key, ""));
            let value = vm.guest.get(&(namespace.to_owned(), name.to_owned()));
            let value = value.ok_or_else(|| unwritten(key))?;
            body["variableKey"] = json!(key);
            body["variableValue"] = json!(value);
        }
        (None, query) => {
            let query = query.unwrap_or_default();
            let (namespace, name) = query.split_once('/').unwrap_or((query, ""));
            let fits = |(space, key): &(String, String)| {
                (namespace.is_empty() || space == namespace) && (name.is_empty() || key == name)
            };
            let items: Vec<Value> = vm
                .guest
                .iter()
                .filter(|(key, _)| fits(key))
                .map(|((space, key), value)| json!({"namespace": space, "key": key, "value": value}))
                .collect();
            if items.is_empty() {
                return Err(unwritten(query));
            }
            body["queryPath"] = json!(query);
            body["queryValue"] = json!({"items": items});
        }
    }
    Ok(Reply::ok(body))
}

fn unwritten(path: &str) -> Reply {
    error(
        404,
        "notFound",
        &format!("The resource '{path}' of type 'Guest Attribute' was not found."),
    )
}

/// `GET …/serialPort`
pub(super) fn serial(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let port = call.query("port").unwrap_or("1");
    if !matches!(port, "1" | "2" | "3" | "4") {
        return Err(invalid("port", port, "The port must be in 1..4."));
    }
    let state = world.state();
    let vm = state
        .compute
        .instances
        .get(place)
        .ok_or_else(|| missing(world, &place.0, &place.1))?;
    let text = if port == "1" { vm.serial.as_str() } else { "" };
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    let start = call
        .query("start")
        .map_or(Ok(0), str::parse::<i64>)
        .map_err(|_| invalid("start", "", "An integer is required."))?;
    let start = if start < 0 {
        (length + start).max(0)
    } else {
        start.min(length)
    };
    let contents = usize::try_from(start)
        .ok()
        .and_then(|start| text.get(start..))
        .unwrap_or_default();
    Ok(Reply::ok(
        json!({"kind": "compute#serialPortOutput", "contents": contents, "start": start.to_string(), "next": length.to_string(),
        "selfLink": link(world, &format!("zones/{}/instances/{}/serialPort", place.0, place.1))}),
    ))
}
