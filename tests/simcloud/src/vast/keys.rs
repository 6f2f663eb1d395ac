//! SSH keys of the account and of single instances (`vast-api.md` §7).

use std::sync::Arc;

use serde_json::{Value, json};

use super::instance::InstanceKey;
use super::{error, lifecycle, no_such_instance, not_found};
use crate::http::{Call, Reply};
use crate::world::World;

/// A key of the account: new instances get it.
#[derive(Debug, Clone)]
pub(crate) struct AccountKey {
    pub(crate) id: u64,
    pub(crate) text: String,
    created_at: String,
}

impl AccountKey {
    /// The key under the name it has here: `public_key` when it is made, `key` in the list (`openapi.yaml`, 2026-08).
    fn row(&self, name: &str) -> Value {
        json!({"id": self.id, "user_id": 9, name: self.text, "created_at": self.created_at, "deleted_at": null})
    }
}

/// Now, as Vast writes times of keys: `2026-11-23T20:52:19Z`.
fn written_now() -> String {
    let form = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time::OffsetDateTime::now_utc().format(&form).unwrap_or_default()
}

fn read_key(call: &Call) -> Result<String, Reply> {
    let body = call.json().unwrap_or(Value::Null);
    let text = body["ssh_key"].as_str().unwrap_or_default().trim().to_owned();
    if text.is_empty() {
        return Err(error(400, "no_ssh_key", "No ssh key provided"));
    }
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let known = kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-");
    if known && words.next().is_some() && !text.contains('\n') {
        Ok(text)
    } else {
        Err(error(
            400,
            "invalid_args",
            "ssh_key must be a public key in OpenSSH format",
        ))
    }
}

/// `/api/v0/ssh/…`
pub(super) fn account(world: &Arc<World>, call: &Call, rest: &[&str]) -> Reply {
    let id = rest.first().and_then(|id| id.parse::<u64>().ok());
    match (call.method.as_str(), id) {
        ("GET", None) => Reply::ok(world.state().vast.keys.iter().map(|key| key.row("key")).collect()),
        ("POST", None) => match read_key(call) {
            Ok(text) => add(world, text),
            Err(refusal) => refusal,
        },
        ("PUT", Some(id)) => match read_key(call) {
            Ok(text) => replace(world, id, text),
            Err(refusal) => refusal,
        },
        ("DELETE", Some(id)) => {
            let mut state = world.state();
            let before = state.vast.keys.len();
            state.vast.keys.retain(|key| key.id != id);
            let found = state.vast.keys.len() < before;
            if found {
                super::success()
            } else {
                error(400, "no_ssh_key", "No ssh key provided")
            }
        }
        _ => not_found(call),
    }
}

fn add(world: &Arc<World>, text: String) -> Reply {
    let mut state = world.state();
    if state.vast.keys.iter().any(|key| key.text == text) {
        return error(400, "duplicate", "SSH key already exists.");
    }
    let key = AccountKey {
        id: state.vast.fresh_id(),
        text,
        created_at: written_now(),
    };
    let row = key.row("public_key");
    state.vast.keys.push(key);
    Reply::ok(json!({"success": true, "key": row}))
}

fn replace(world: &Arc<World>, id: u64, text: String) -> Reply {
    match world.state().vast.keys.iter_mut().find(|key| key.id == id) {
        Some(key) => {
            key.text = text;
            Reply::ok(json!({"success": true, "key": key.row("public_key")}))
        }
        None => error(400, "no_ssh_key", "No ssh key provided"),
    }
}

/// `/api/v0/instances/{id}/ssh/…`
pub(super) fn of_instance(world: &Arc<World>, call: &Call, id: u64, rest: &[&str]) -> Reply {
    match (call.method.as_str(), rest) {
        ("GET", []) => match lifecycle::alter(world, id, |instance| instance.keys.clone()) {
            Some(keys) => Reply::ok(json!({"success": true, "ssh_keys": list(&keys)})),
            None => no_such_instance(id),
        },
        ("POST", []) => match read_key(call) {
            Ok(text) => attach(world, id, text),
            Err(refusal) => refusal,
        },
        ("DELETE", [key, ..]) => detach(world, id, key),
        _ => not_found(call),
    }
}

/// The list as the real service sends it: an array inside a JSON string.
fn list(keys: &[InstanceKey]) -> String {
    let rows: Vec<Value> = keys
        .iter()
        .map(|key| json!({"id": key.id, "user_id": 9, "public_key": key.text}))
        .collect();
    Value::Array(rows).to_string()
}

fn attach(world: &Arc<World>, id: u64, text: String) -> Reply {
    let key_id = world.state().vast.fresh_id();
    let attached = lifecycle::alter(world, id, |instance| {
        if instance.keys.iter().any(|key| key.text == text) {
            return false;
        }
        instance.keys.push(InstanceKey {
            id: key_id,
            text: text.clone(),
            works: false,
        });
        true
    });
    match attached {
        None => no_such_instance(id),
        Some(false) => Reply::ok(json!({"success": false, "msg": "SSH key already associated with instance."})),
        Some(true) => {
            world.after(world.options.timing.key_propagation, move |world| {
                propagate(world, id, key_id)
            });
            let key = json!({"id": key_id, "user_id": 9, "public_key": text}).to_string();
            Reply::ok(json!({"success": true, "msg": "SSH key added to instance.", "key": key}))
        }
    }
}

fn propagate(world: &Arc<World>, id: u64, key_id: u64) {
    lifecycle::alter(world, id, |instance| {
        instance
            .keys
            .iter_mut()
            .filter(|key| key.id == key_id)
            .for_each(|key| key.works = true);
    });
    rewrite(world, id);
}

fn detach(world: &Arc<World>, id: u64, key: &str) -> Reply {
    let Ok(key_id) = key.parse::<u64>() else {
        return error(400, "invalid_args", "key id must be an integer");
    };
    let found = lifecycle::alter(world, id, |instance| {
        let before = instance.keys.len();
        instance.keys.retain(|key| key.id != key_id);
        instance.keys.len() < before
    });
    match found {
        None => no_such_instance(id),
        Some(false) => error(404, "no_such_ssh_key", "SSH key not found on instance."),
        Some(true) => {
            rewrite(world, id);
            Reply::ok(json!({"success": true, "msg": "SSH key removed from instance."}))
        }
    }
}

fn rewrite(world: &Arc<World>, id: u64) {
    if let Err(failure) = lifecycle::write_keys(world, id) {
        tracing::error!(gpu.id = id, error = %failure, "the GPU's authorized keys could not be written");
    }
}
