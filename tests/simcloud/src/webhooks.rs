//! Vast's notifications: who wants them (`vast-api.md` §11a).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::delivery::{Attempt, Parcel, send};
use crate::http::{Call, Reply};
use crate::notices::Notice;
use crate::vast::error;
use crate::world::{World, now};

/// What a client may subscribe to (live catalogue of 2026-08-27).
const TYPES: [&str; 24] = [
    "instance_created",
    "instance_started",
    "instance_stopped",
    "instance_resumed",
    "instance_deleted",
    "outbid",
    "machine_maintenance",
    "instance_offline",
    "upcoming_downtime",
    "instance_online",
    "error_msgs",
    "low_disk_space",
    "storage_full",
    "idle_gpu",
    "low_credit",
    "payment_receipt",
    "credit_received",
    "near_end_date",
    "new_end_date",
    "billing_failed",
    "email_verification",
    "password_reset",
    "email_change",
    "team_invitation",
];

/// How notifications of one kind, or all, go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Each arrives once.
    Once,
    /// Each arrives twice, with the same event id.
    Twice,
    /// None arrives.
    Lost,
}

/// What is registered and what was sent.
#[derive(Debug)]
pub(crate) struct Webhooks {
    pub(crate) list: BTreeMap<u64, Webhook>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) inbox: Vec<Value>,
    pub(crate) delivery: Delivery,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            list: BTreeMap::new(),
            attempts: Vec::new(),
            inbox: Vec::new(),
            delivery: Delivery::Once,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    id: u64,
    name: String,
    pub(crate) url: String,
    events: Vec<String>,
    created_at: f64,
    updated_at: f64,
    pub(crate) secret: String,
}

impl Webhook {
    fn row(&self) -> Value {
        json!({"id": self.id, "user_id": 9, "name": self.name, "webhook_url": self.url, "event_types": self.events,
            "created_at": self.created_at, "updated_at": self.updated_at})
    }

    pub(crate) fn wants(&self, kind: &str) -> bool {
        self.events
            .iter()
            .any(|event| event.strip_prefix("client:").unwrap_or(event) == kind)
    }

    fn preferences(&self) -> Vec<String> {
        self.events
            .iter()
            .map(|event| {
                if event.contains(':') {
                    event.clone()
                } else {
                    format!("client:{event}")
                }
            })
            .collect()
    }
}

/// `/api/v0/webhooks/…`
pub(crate) fn route(world: &Arc<World>, call: &Call, rest: &[&str]) -> Reply {
    let id = rest.first().and_then(|id| id.parse::<u64>().ok());
    match (call.method.as_str(), id, rest.get(1).copied()) {
        ("GET", None, None) => {
            let rows: Vec<Value> = world.state().vast.webhooks.list.values().map(Webhook::row).collect();
            Reply::ok(json!({"success": true, "webhooks": rows}))
        }
        ("POST", None, None) => create(world, call),
        ("PUT", Some(id), None) => update(world, call, id),
        ("DELETE", Some(id), None) => match world.state().vast.webhooks.list.remove(&id) {
            Some(_) => Reply::ok(json!({"success": true})),
            None => no_webhook(),
        },
        ("POST", Some(id), Some("rotate-secret")) => rotate(world, id),
        ("POST", Some(id), Some("test")) => test(world, id),
        _ => error(404, "not_found", "Not found"),
    }
}

fn no_webhook() -> Reply {
    error(404, "not_found", "Webhook not found")
}

fn checked(body: &Value, others: &[Webhook]) -> Result<(), Reply> {
    let bad = |msg: String| Err(error(400, "invalid_args", msg));
    if let Some(name) = body["name"]
        .as_str()
        .filter(|name| name.is_empty() || name.chars().count() > 120)
    {
        return bad(format!("Invalid webhook name of {} characters", name.chars().count()));
    }
    if let Some(url) = body["webhook_url"].as_str() {
        let loopback = ["http://127.", "http://localhost", "http://[::1]"]
            .iter()
            .any(|start| url.starts_with(start));
        if !(url.starts_with("https://") || loopback) || url.len() > 2048 {
            return bad("Webhook URL must be https and at most 2048 characters".to_owned());
        }
        if others.iter().any(|hook| hook.url == url) {
            return bad("A webhook with this URL already exists".to_owned());
        }
    }
    if !body["event_types"].is_null() {
        let Some(events) = body["event_types"].as_array().filter(|events| !events.is_empty()) else {
            return bad("event_types must be a list of notification types".to_owned());
        };
        let known =
            |event: &str| event.starts_with("host:") || TYPES.contains(&event.strip_prefix("client:").unwrap_or(event));
        if let Some(unknown) = events.iter().find(|event| !event.as_str().is_some_and(known)) {
            return bad(format!("Unknown notification type: {unknown}"));
        }
    }
    Ok(())
}

fn events(body: &Value) -> Option<Vec<String>> {
    Some(
        body["event_types"]
            .as_array()?
            .iter()
            .filter_map(|event| event.as_str().map(str::to_owned))
            .collect(),
    )
}

fn create(world: &Arc<World>, call: &Call) -> Reply {
    let body = call.json().unwrap_or(Value::Null);
    let (Some(name), Some(url), Some(events)) = (body["name"].as_str(), body["webhook_url"].as_str(), events(&body))
    else {
        return error(400, "invalid_args", "name, webhook_url and event_types are required");
    };
    let mut state = world.state();
    let others: Vec<Webhook> = state.vast.webhooks.list.values().cloned().collect();
    if let Err(refusal) = checked(&body, &others) {
        return refusal;
    }
    if others.len() >= 4 {
        return error(400, "invalid_args", "Maximum of 4 webhooks per user");
    }
    let hook = Webhook {
        id: state.vast.fresh_id(),
        name: name.to_owned(),
        url: url.to_owned(),
        events,
        created_at: now(),
        updated_at: now(),
        secret: fresh_secret(),
    };
    let mut row = hook.row();
    row["webhook_secret"] = json!(hook.secret);
    let preferences = hook.preferences();
    state.vast.webhooks.list.insert(hook.id, hook);
    Reply::ok(json!({"success": true, "webhook": row, "enabled_notification_preferences": preferences}))
}

fn fresh_secret() -> String {
    format!("whsec_{}", hex::encode(rand::random::<[u8; 32]>()))
}

fn update(world: &Arc<World>, call: &Call, id: u64) -> Reply {
    let body = call.json().unwrap_or(Value::Null);
    let mut state = world.state();
    let others: Vec<Webhook> = state
        .vast
        .webhooks
        .list
        .values()
        .filter(|hook| hook.id != id)
        .cloned()
        .collect();
    if let Err(refusal) = checked(&body, &others) {
        return refusal;
    }
    let Some(hook) = state.vast.webhooks.list.get_mut(&id) else {
        return no_webhook();
    };
    if let Some(name) = body["name"].as_str() {
        hook.name = name.to_owned();
    }
    if let Some(url) = body["webhook_url"].as_str() {
        hook.url = url.to_owned();
    }
    if let Some(events) = events(&body) {
        hook.events = events;
    }
    hook.updated_at = now();
    Reply::ok(json!({"success": true, "webhook": hook.row(), "enabled_notification_preferences": hook.preferences()}))
}

fn rotate(world: &Arc<World>, id: u64) -> Reply {
    let mut state = world.state();
    let Some(hook) = state.vast.webhooks.list.get_mut(&id) else {
        return no_webhook();
    };
    hook.secret = fresh_secret();
    let mut row = hook.row();
    row["webhook_secret"] = json!(hook.secret);
    Reply::ok(json!({"success": true, "webhook": row}))
}

fn test(world: &Arc<World>, id: u64) -> Reply {
    let Some(hook) = world.state().vast.webhooks.list.get(&id).cloned() else {
        return no_webhook();
    };
    let parcel = Parcel::new(&hook, &Notice::test(), &uuid::Uuid::new_v4().simple().to_string());
    // Requests are answered on blocking threads, so waiting here holds nobody up.
    match world.runtime.block_on(send(world, &parcel, 1)) {
        Some(200..=299) => Reply::ok(json!({"success": true, "msg": "Test webhook delivered"})),
        Some(500..=599) => error(502, "bad_gateway", "Webhook delivery failed"),
        Some(_) | None => error(400, "invalid_args", "Webhook URL is not deliverable"),
    }
}

/// `GET /api/v0/notification-types/`
pub(crate) fn types() -> Reply {
    let rows: Vec<Value> = TYPES.iter().map(|slug| json!({"slug": slug, "key": format!("client:{slug}"), "context": "client", "name": slug.replace('_', " ")})).collect();
    Reply::ok(json!({"success": true, "notification_types": rows}))
}

/// `GET /api/v0/notifications/inbox/`: the last fifty.
pub(crate) fn inbox(world: &Arc<World>) -> Reply {
    let state = world.state();
    let inbox = &state.vast.webhooks.inbox;
    let last: Vec<&Value> = inbox.iter().rev().take(50).collect();
    Reply::ok(json!({"notifications": last, "last_seen_at": null, "unread_count": inbox.len()}))
}

/// `/api/v0/users/{id}/notification-prefs/`
pub(crate) fn preferences(world: &Arc<World>) -> Reply {
    let state = world.state();
    let enabled: Vec<String> = state
        .vast
        .webhooks
        .list
        .values()
        .flat_map(Webhook::preferences)
        .collect();
    Reply::ok(json!({"success": true, "notification_preferences": {"webhook": enabled}}))
}
