//! Vast's own signed notifications. They make us look sooner; Vast's listing stays the truth.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use tracing::{info, warn};
use warmspare_domain::event::Event;
use warmspare_domain::ids::GpuId;

use super::{App, Failure, log_refusal, seal};

/// A notification as Vast posts it. There is no field for the instance: its number is in the words.
/// Source: `reference/vast/vast-api.md` §11a and `live-interruptions.json`.
#[derive(Debug, Clone, Deserialize)]
struct Notification {
    event_id: String,
    notif_type: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    message: String,
}

/// `POST /webhooks/vast`.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/webhooks/vast", post(vast_webhook))
        .with_state(app)
}

async fn vast_webhook(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    match take_in(&app, &headers, &body).await {
        // Vast counts anything but 2xx as undelivered and may give up: what we do not need is fine, too.
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(failure) => {
            log_refusal("vast", &failure);
            failure.into_response()
        }
    }
}

async fn take_in(app: &App, headers: &HeaderMap, body: &Bytes) -> Result<(), Failure> {
    let now = app.reconciler.world().clock.now();
    seal::check(headers, seal::VAST, body, app.callers.webhook_secret.as_ref(), now)?;
    let notification: Notification = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body is not a Vast notification: {error}")))?;
    if app.seen_events.contains(&notification.event_id, now) {
        return Ok(());
    }
    tell(app, &notification).await?;
    app.seen_events.insert(&notification.event_id, now);
    Ok(())
}

/// What we ask Vast to tell us: every notification that means something to us. Names from Vast's catalogue of 2026-08-27,
/// `reference/vast/vast-api.md` §11a.
pub const EVENTS: &[&str] = &[
    "outbid",
    "instance_stopped",
    "instance_started",
    "instance_resumed",
    "instance_deleted",
    "instance_offline",
    "instance_online",
    "machine_maintenance",
    "upcoming_downtime",
    "near_end_date",
    "new_end_date",
    "error_msgs",
    "low_credit",
    "billing_failed",
];

/// What a notification means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The GPU will be stopped in a moment.
    Outbid,
    /// Something about the GPU changed: look.
    Look,
    /// Something about the account: every GPU may be next.
    Account,
    /// Nothing to us.
    Nothing,
}

fn meaning(notif_type: &str) -> Meaning {
    match notif_type {
        "outbid" => Meaning::Outbid,
        "instance_stopped"
        | "instance_started"
        | "instance_resumed"
        | "instance_deleted"
        | "instance_offline"
        | "instance_online"
        | "machine_maintenance"
        | "upcoming_downtime"
        | "near_end_date"
        | "new_end_date"
        | "error_msgs" => Meaning::Look,
        "low_credit" | "billing_failed" => Meaning::Account,
        _ => Meaning::Nothing,
    }
}

async fn tell(app: &App, notification: &Notification) -> Result<(), Failure> {
    let meaning = meaning(&notification.notif_type);
    info!(
        event = notification.notif_type.escape_debug().to_string(),
        "Vast notified us"
    );
    match meaning {
        Meaning::Nothing => return Ok(()),
        Meaning::Account => {
            warn!("Vast says that the account runs out of credit; at zero it stops every GPU. Top up");
            for association in app.reconciler.live().await? {
                app.apply(association.id, &Event::LookRequested).await?;
            }
            return Ok(());
        }
        Meaning::Outbid | Meaning::Look => {}
    }
    let Some(gpu) = named_gpu(&notification.subject, &notification.message) else {
        return Ok(());
    };
    let Some(known) = app.find(gpu).await? else {
        return Ok(());
    };
    let event = if meaning == Meaning::Outbid {
        Event::OutbidAnnounced { gpu }
    } else {
        Event::LookRequested
    };
    let applied = app.apply(known.id, &event).await?;
    // Even when the words changed nothing, they are a hint to look now.
    if !applied.changed {
        app.nudge.nudge(known.id).await;
    }
    Ok(())
}

/// The GPU that a notification is about: `#<number>` in the subject, else `instance <number>` in the message.
fn named_gpu(subject: &str, message: &str) -> Option<GpuId> {
    number_after(subject, "#").or_else(|| number_after(message, "instance "))
}

fn number_after(text: &str, mark: &str) -> Option<GpuId> {
    text.match_indices(mark).find_map(|(at, _)| {
        let rest = &text[at + mark.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_we_ask_for_means_something() {
        for event in EVENTS {
            assert_ne!(meaning(event), Meaning::Nothing, "{event}");
        }
        assert_eq!(meaning("payment_receipt"), Meaning::Nothing);
    }

    #[test]
    fn the_gpu_is_found_in_the_words_that_vast_really_sent() {
        // Texts from reference/vast/live-interruptions.json.
        let outbid = "Your Interruptible Instance #48926820 Has Been Outbid";
        assert_eq!(named_gpu(outbid, ""), Some(GpuId::vast(48_926_820)));
        let message = "Your interruptible instance 48927380 on machine 46110 has been outbid and will be stopped.";
        assert_eq!(named_gpu("no number", message), Some(GpuId::vast(48_927_380)));
        assert_eq!(named_gpu("Vast.ai webhook test", "This is a test event"), None);
        assert_eq!(named_gpu("# 5", "instance of 7"), None);
    }
}
