//! What Vast's notifications say (`live-interruptions.json`, probe of 2026-08-27; the others worded after them).

use serde_json::{Value, json};

use crate::vast::instance::Instance;

/// One notification, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    pub(crate) kind: &'static str,
    pub(crate) subject: String,
    pub(crate) message: String,
    /// The ids that only the inbox shows.
    pub(crate) about: Value,
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

    pub(crate) fn test() -> Self {
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
