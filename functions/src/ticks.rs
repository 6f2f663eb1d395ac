//! The beat on Lambda: the planner's minute, a tick's work, the sweep.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use lambda_runtime::LambdaEvent;
use serde_json::{Value, json};
use tracing::{info, warn};
use warmspare_domain::association::PhaseName;
use warmspare_domain::ids::AssociationId;
use warmspare_platform::ports::Version;
use warmspare_platform::reconcile::{BeatReport, Reconciler};
use warmspare_platform::report;
use warmspare_platform::slots::{MESSAGE_SCHEMA, Message, Tick, next_minute};

use crate::schedule::BeatSchedule;
use crate::telemetry;
use crate::warm::Ready;

/// The work of one invocation. Its type is erased here, because the runtime's own layers would otherwise nest it beyond the compiler's limit.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Queues the two slots of the next minute for every shard; puts the schedule to rest when there is nothing to drive.
///
/// # Errors
/// When the store or the queue do not answer: the next minute plans again, and costs two beats until then.
pub fn plan(ready: &Ready) -> Work<'_, anyhow::Result<Value>> {
    Box::pin(plan_minute(ready))
}

async fn plan_minute(ready: &Ready) -> anyhow::Result<Value> {
    let live = live(ready).await?;
    if live.is_empty() {
        schedule(ready)?.rest().await?;
        // One that was created in this very moment must not find the schedule off for good.
        let late = self::live(ready).await?;
        if !late.is_empty() {
            schedule(ready)?.run().await?;
        }
        info!("nothing to drive; the schedule rests");
        return Ok(json!({"associations": 0, "messages": 0}));
    }
    let messages = next_minute(ready.app.reconciler.world().clock.now(), ready.shards, &live);
    let queue = ready
        .queue
        .as_ref()
        .context("WARMSPARE_TICK_QUEUE_URL is missing; the template sets it")?;
    queue.send(&messages).await?;
    info!(
        associations = live.len(),
        messages = messages.len(),
        "the next minute is planned"
    );
    Ok(json!({"associations": live.len(), "messages": messages.len()}))
}

fn schedule(ready: &Ready) -> anyhow::Result<&BeatSchedule> {
    let schedule = ready.schedule.as_deref();
    schedule.context("WARMSPARE_BEAT_SCHEDULE_GROUP is missing; the template sets it")
}

async fn live(ready: &Ready) -> anyhow::Result<BTreeMap<AssociationId, Version>> {
    let all = ready
        .recalled
        .all()
        .await
        .context("the association store did not answer")?;
    Ok(all
        .into_iter()
        .filter(|read| read.association.phase.name() != PhaseName::Released)
        .map(|read| (read.association.id, read.version))
        .collect())
}

/// Does what the messages say, one after the other, and the associations of a slot at once. A message whose work could not be done is answered as
/// failed and comes again. Begins nothing that might be cut off when this invocation ends at its deadline.
pub fn work(ready: &Ready, event: LambdaEvent<SqsEvent>) -> Work<'_, SqsBatchResponse> {
    Box::pin(each(ready, event))
}

async fn each(ready: &Ready, event: LambdaEvent<SqsEvent>) -> SqsBatchResponse {
    let left = event.context.deadline().duration_since(SystemTime::now());
    let reconciler = ready.app.reconciler.for_at_most(left.unwrap_or_default());
    let mut response = SqsBatchResponse::default();
    for message in event.payload.records {
        if let Err(failed) = one(ready, &reconciler, &message).await {
            warn!(error = format!("{failed:#}"), "a tick failed");
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = message.message_id.unwrap_or_default();
            response.batch_item_failures.push(failure);
        }
    }
    response
}

async fn one(ready: &Ready, reconciler: &Reconciler, message: &SqsMessage) -> anyhow::Result<()> {
    anyhow::ensure!(!reconciler.is_closing(), "no time was left to begin it; it comes again");
    let body = message.body.as_deref().unwrap_or_default();
    let message: Message = serde_json::from_str(body).context("a message in the tick queue is not ours")?;
    if message.schema > MESSAGE_SCHEMA {
        anyhow::bail!(
            "a newer version queued this (schema {}); it is left for that version",
            message.schema
        );
    }
    let now = reconciler.world().clock.now();
    if message.tick.is_stale(now) {
        info!("a slot came late and is dropped");
        return Ok(());
    }
    match message.tick {
        Tick::Look { association } => {
            let looked = reconciler.beat(association).await;
            looked.map_err(|error| anyhow::anyhow!("{association}: {}", report::chain(&error)))
        }
        Tick::Slot {
            shard, associations, ..
        } => {
            let ids: BTreeSet<_> = associations.keys().copied().collect();
            ready
                .recalled
                .listed(associations.into_iter().map(|(id, version)| (id, Version(version))));
            let beat = reconciler.beat_all(ids.iter().copied().collect()).await;
            tell(ready, shard, &ids, beat).await;
            anyhow::ensure!(
                beat.failed == 0 || beat.failed < beat.associations,
                "nothing of shard {shard} could be driven"
            );
            Ok(())
        }
    }
}

/// One heartbeat object, one metric and one log line for the whole shard.
async fn tell(ready: &Ready, shard: u32, ids: &BTreeSet<AssociationId>, beat: BeatReport) {
    let world = ready.app.reconciler.world();
    let heard = world.pulses.all();
    let pulses = match ready.heartbeats.write(shard, ids, heard.clone()).await {
        Ok(pulses) => pulses,
        Err(error) => {
            warn!(
                error = report::chain(&error),
                "a heartbeat could not be written; the next one will be"
            );
            heard
        }
    };
    let now = world.clock.now();
    let lags = pulses
        .iter()
        .filter(|(id, _)| ids.contains(id) && ready.recalled.is_protected(**id))
        .filter_map(|(_, pulse)| pulse.heartbeat().last_pass_started_at)
        .map(|start| now.since(start));
    let largest = lags.max().unwrap_or(Duration::ZERO);
    telemetry::report_lag(ready.app.reconciler.deployment(), largest);
    info!(
        shard,
        associations = beat.associations,
        failed = beat.failed,
        lag_ms = u64::try_from(largest.as_millis()).unwrap_or(u64::MAX),
        "beat done"
    );
}

/// Holds the providers' listings against the store, and makes sure that a beat runs when there is something to drive.
///
/// # Errors
/// When the store does not answer: the next sweep tries again.
pub fn sweep(ready: &Ready) -> Work<'_, anyhow::Result<Value>> {
    Box::pin(sweep_all(ready))
}

async fn sweep_all(ready: &Ready) -> anyhow::Result<Value> {
    if !live(ready).await?.is_empty() {
        schedule(ready)?.run().await?;
    }
    let swept = ready.app.reconciler.sweep().await;
    let swept = swept.map_err(|error| anyhow::anyhow!("{}", report::chain(&error)))?;
    Ok(json!({"orphans": swept.orphans.len()}))
}
