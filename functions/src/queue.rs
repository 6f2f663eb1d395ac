//! The queue of ticks.

use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use tracing::warn;
use warmspare_domain::ids::AssociationId;
use warmspare_platform::handlers::Nudge;
use warmspare_platform::slots::{Delayed, MESSAGE_SCHEMA, Message, Tick};

use crate::schedule::BeatSchedule;

/// The most messages that one call takes, and the most bytes together. Source: `reference/aws/aws.md` §2, 2026-11.
const BATCH: usize = 10;
const BATCH_BYTES: usize = 900 << 10;

/// The queue of ticks.
#[derive(Debug, Clone)]
pub struct TickQueue {
    client: Client,
    url: String,
}

impl TickQueue {
    /// The queue at this address.
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }

    /// Queues messages, each held back for its delay.
    ///
    /// # Errors
    /// When the queue did not take all of them. Repeating it is safe: a slot that comes twice is a normal beat.
    pub async fn send(&self, messages: &[Delayed]) -> anyhow::Result<()> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for one in messages {
            let body = serde_json::to_string(&one.message)?;
            if batch.len() == BATCH || (bytes + body.len() > BATCH_BYTES && !batch.is_empty()) {
                self.send_batch(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += body.len();
            let entry = SendMessageBatchRequestEntry::builder()
                .id(batch.len().to_string())
                .delay_seconds(i32::try_from(one.delay.as_secs()).unwrap_or(0))
                .message_body(body)
                .build()?;
            batch.push(entry);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.send_batch(batch).await
    }

    async fn send_batch(&self, batch: Vec<SendMessageBatchRequestEntry>) -> anyhow::Result<()> {
        let request = self.client.send_message_batch().queue_url(&self.url);
        let sent = request.set_entries(Some(batch)).send().await;
        let sent = sent.with_context(|| format!("the tick queue {} did not answer", self.url))?;
        if let Some(refused) = sent.failed().first() {
            bail!(
                "the tick queue refused {} messages: {}",
                sent.failed().len(),
                refused.message().unwrap_or(refused.code())
            );
        }
        Ok(())
    }
}

/// Asks for a beat through the queue, and sees to it that the schedule runs.
pub struct QueueNudge {
    queue: TickQueue,
    schedule: Option<Arc<BeatSchedule>>,
}

impl QueueNudge {
    /// Through this queue, with this schedule when the function may change it.
    #[must_use]
    pub fn new(queue: TickQueue, schedule: Option<Arc<BeatSchedule>>) -> Self {
        Self { queue, schedule }
    }
}

#[async_trait]
impl Nudge for QueueNudge {
    async fn nudge(&self, association: AssociationId) {
        let look = Delayed {
            message: Message {
                schema: MESSAGE_SCHEMA,
                tick: Tick::Look { association },
            },
            delay: std::time::Duration::ZERO,
        };
        if let Err(error) = self.queue.send(&[look]).await {
            warn!(gpu.id = %association, error = format!("{error:#}"), "nobody could be asked to look now; the next slot does");
        }
        // The first association of all finds the schedule off.
        if let Some(schedule) = &self.schedule
            && let Err(error) = schedule.run().await
        {
            warn!(gpu.id = %association, error = format!("{error:#}"), "the beat's schedule could not be seen to; the sweep sees to it");
        }
    }
}

/// Asks nobody: the next slot comes anyway. For functions that take in no events.
pub struct NextSlot;

#[async_trait]
impl Nudge for NextSlot {
    async fn nudge(&self, _: AssociationId) {}
}
