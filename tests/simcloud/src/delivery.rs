//! Signed delivery of notifications, with the retries of the real one (`vast-api.md` §11a).

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde_json::json;
use sha2::Sha256;

use crate::notices::Notice;
use crate::webhooks::{Delivery, Webhook};
use crate::world::{World, now};

/// How long a receiver may take (`vast-api.md` §11a).
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);
/// Attempts in all; the real number is not published.
const ATTEMPTS: u32 = 5;

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

/// One event as it travels: the body is signed byte for byte.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    event_id: String,
    kind: &'static str,
    body: String,
    url: String,
    secret: String,
}

impl Parcel {
    pub(crate) fn new(webhook: &Webhook, notice: &Notice, event_id: &str) -> Self {
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

pub(crate) async fn send(world: &World, parcel: &Parcel, attempt: u32) -> Option<u16> {
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
