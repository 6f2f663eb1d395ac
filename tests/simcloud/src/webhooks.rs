//! Vast's notifications: who wants them, what they say, and their signed delivery (`vast-api.md` §11a).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::http::{Call, Reply};
use crate::vast::error;
use crate::vast::instance::Instance;
use crate::world::{World, now};

/// How long a receiver may take (`vast-api.md` §11a).
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);
/// Attempts in all; the real number is not published.
const ATTEMPTS: u32 = 5;
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

/// One delivery attempt that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Attempt {
    /// The event's id.
    pub event_id: String,
    /// The notification's type.
    pub notif_type: String,
    /// Counts from 1.
    pub attempt: u32,
    /// The receiver's HTTP status; `None` when it gave no answer.
    pub status: Option<u16>,
    /// Unix time of sending in seconds.
    pub at: f64,
}

/// What is registered and what was sent.
#[derive(Debug)]
pub(crate) struct Webhooks {
    list: BTreeMap<u64, Webhook>,
    pub(crate) attempts: Vec<Attempt>,
    inbox: Vec<Value>,
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
struct Webhook {
    id: u64,
    name: String,
    url: String,
    events: Vec<String>,
    created_at: f64,
    updated_at: f64,
    secret: String,
}

impl Webhook {
    fn row(&self) -> Value {
        json!({"id": self.id, "user_id": 9, "name": self.name, "webhook_url": self.url, "event_types": self.events,
            "created_at": self.created_at, "updated_at": self.updated_at})
    }

    fn wants(&self, kind: &str) -> bool {
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

/// One notification, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    kind: &'static str,
    subject: String,
    message: String,
    about: Value,
}

impl Notice {
    fn new(kind: &'static str, subject: String, message: String, about: Value) -> Self {
        Self {
            kind,
            subject,
            message,
            about,
        }
    }

    pub(crate) fn created(id: u64) -> Self {
        let message = format!("Your instance {id} has been created. View it at: https://console.vast.ai/instances/");
        Self::new(
            "instance_created",
            format!("Your Vast.ai Instance #{id} Has Been Created"),
            message,
            json!({"instance_id": id}),
        )
    }

    pub(crate) fn started(instance: &Instance) -> Self {
        let (id, machine) = (instance.id, instance.offer.machine_id);
        let message = format!(
            "Your instance {id} running {} on machine {machine} has started. You are being charged ${:.3}/hr. View it at: https://console.vast.ai/instances/",
            instance.image,
            instance.hourly()
        );
        Self::about(
            "instance_started",
            instance,
            format!("Your Vast.ai Instance #{id} Is Now Running"),
            message,
        )
    }

    pub(crate) fn outbid(instance: &Instance) -> Self {
        let (id, machine) = (instance.id, instance.offer.machine_id);
        let bid = instance.bid.unwrap_or(instance.offer.price);
        let message = format!(
            "Your interruptible instance {id} on machine {machine} has been outbid and will be stopped. Your bid was ${bid:.2}/hr and the current minimum bid is ${:.2}/hr. Update your bid at https://cloud.vast.ai/instances/ to keep it running.",
            instance.floor
        );
        let about = json!({"instance_id": id, "machine_id": machine, "your_bid": bid, "new_min_bid": instance.floor});
        Self::new(
            "outbid",
            format!("Your Interruptible Instance #{id} Has Been Outbid"),
            message,
            about,
        )
    }

    pub(crate) fn deleted(instance: &Instance) -> Self {
        let id = instance.id;
        let message = format!(
            "Your instance {id} on machine {} has been deleted.",
            instance.offer.machine_id
        );
        Self::about(
            "instance_deleted",
            instance,
            format!("Your Vast.ai Instance #{id} Has Been Deleted"),
            message,
        )
    }

    pub(crate) fn offline(instance: &Instance) -> Self {
        let id = instance.id;
        let message = format!(
            "Your instance {id} on machine {} is offline. You are not charged while it is.",
            instance.offer.machine_id
        );
        Self::about(
            "instance_offline",
            instance,
            format!("Your Vast.ai Instance #{id} Is Offline"),
            message,
        )
    }

    pub(crate) fn online(instance: &Instance) -> Self {
        let id = instance.id;
        let message = format!(
            "Your instance {id} on machine {} is back online.",
            instance.offer.machine_id
        );
        Self::about(
            "instance_online",
            instance,
            format!("Your Vast.ai Instance #{id} Is Back Online"),
            message,
        )
    }

    pub(crate) fn low_credit() -> Self {
        let message = "Your account has run out of credit. All your instances have been stopped.".to_owned();
        Self::new(
            "low_credit",
            "Your Vast.ai Credit Is Low".to_owned(),
            message,
            json!({}),
        )
    }

    fn test() -> Self {
        let message = "This is a test event triggered from the Vast.ai webhook console.".to_owned();
        Self::new("webhook_test", "Vast.ai webhook test".to_owned(), message, json!({}))
    }

    fn about(kind: &'static str, instance: &Instance, subject: String, message: String) -> Self {
        Self::new(
            kind,
            subject,
            message,
            json!({"instance_id": instance.id, "machine_id": instance.offer.machine_id}),
        )
    }
}

/// One event as it travels: the body is signed byte for byte.
#[derive(Debug, Clone)]
struct Parcel {
    event_id: String,
    kind: &'static str,
    body: String,
    url: String,
    secret: String,
}

impl Parcel {
    fn new(webhook: &Webhook, notice: &Notice, event_id: &str) -> Self {
        let body = json!({"event_id": event_id, "user_id": 9, "notif_type": notice.kind, "subject": notice.subject,
            "message": notice.message, "timestamp": now()});
        Self {
            event_id: event_id.to_owned(),
            kind: notice.kind,
            body: body.to_string(),
            url: webhook.url.clone(),
            secret: webhook.secret.clone(),
        }
    }
}

/// Sends a notice to everybody who subscribed, without waiting for anybody.
pub(crate) fn notify(world: &Arc<World>, notice: Notice) {
    let event_id = uuid::Uuid::new_v4().simple().to_string();
    let (parcels, delivery) = {
        let mut state = world.state();
        let hooks = &mut state.vast.webhooks;
        hooks.inbox.push(json!({"event_id": event_id, "notif_type": notice.kind, "created_at": now(), "associated_id": notice.about}));
        let wanted = hooks.list.values().filter(|hook| hook.wants(notice.kind));
        (
            wanted
                .map(|hook| Parcel::new(hook, &notice, &event_id))
                .collect::<Vec<_>>(),
            hooks.delivery,
        )
    };
    let copies = match delivery {
        Delivery::Once => 1,
        Delivery::Twice => 2,
        Delivery::Lost => 0,
    };
    for parcel in parcels {
        for _ in 0..copies {
            world.runtime.spawn(deliver(Arc::clone(world), parcel.clone()));
        }
    }
}

async fn deliver(world: Arc<World>, parcel: Parcel) {
    let mut pause = world
        .scale
        .of(world.options.timing.webhook_retry)
        .max(Duration::from_millis(20));
    for attempt in 1..=ATTEMPTS {
        let status = send(&world, &parcel, attempt).await;
        // Only these are tried again; any other answer is final (vast-api.md §11a).
        if !matches!(status, None | Some(408 | 429 | 500..=599)) {
            return;
        }
        tokio::select! {
            () = world.ended() => return,
            () = tokio::time::sleep(pause) => pause *= 2,
        }
    }
}

async fn send(world: &World, parcel: &Parcel, attempt: u32) -> Option<u16> {
    let timestamp = format!("{:.0}", now().floor());
    let at = now();
    let request = world
        .client
        .post(&parcel.url)
        .timeout(DELIVERY_LIMIT)
        .header("Content-Type", "application/json")
        .header("X-Vast-Event-Id", &parcel.event_id)
        .header("X-Vast-Delivery-Attempt", attempt.to_string())
        .header(
            "X-Vast-Signature-256",
            signature(&parcel.secret, &timestamp, parcel.body.as_bytes()),
        )
        .header("X-Vast-Timestamp", timestamp)
        .body(parcel.body.clone());
    let status = request.send().await.ok().map(|answer| answer.status().as_u16());
    let made = Attempt {
        event_id: parcel.event_id.clone(),
        notif_type: parcel.kind.to_owned(),
        attempt,
        status,
        at,
    };
    world.state().vast.webhooks.attempts.push(made);
    status
}

/// The value of `X-Vast-Signature-256`: HMAC-SHA256 over the timestamp, a dot and the raw body.
#[must_use]
pub fn signature(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
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
