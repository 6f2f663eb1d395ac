//! What driving a fleet of GPUs through calm days costs on AWS and in the bucket, by the operations of a minute.
//!
//! List prices of `reference/aws/aws.md` and `reference/google/storage.md` (2026-11, us regions, arm64, free tiers not subtracted). Not in it: calls of
//! the API, hooks, logs, and days on which much happens. `tests/costs.rs` holds the counts against the real planner and store.

use warmspare_domain::units::MicroUsd;

/// Minutes of a month of 30 days.
pub const MINUTES_A_MONTH: f64 = 30.0 * 24.0 * 60.0;

/// Messages in one call to the queue.
pub const BATCH: u32 = 10;

/// Names in one page of a listing.
pub const PAGE: u32 = 1000;

/// GPUs in a shard before another shard is worth it.
const GPUS_A_SHARD: u32 = 100;

/// Dollars for one of each.
mod price {
    pub(super) const SCHEDULED: f64 = 1.00e-6;
    pub(super) const QUEUE_REQUEST: f64 = 0.40e-6;
    pub(super) const INVOCATION: f64 = 0.20e-6;
    /// A GB for a second; the functions have a quarter of one.
    pub(super) const GB_SECOND: f64 = 0.000_013_333_4;
    pub(super) const CLASS_A: f64 = 5.0e-6;
    pub(super) const CLASS_B: f64 = 0.4e-6;
}

/// What some minutes needed, in counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations {
    /// How many minutes.
    pub minutes: u32,
    /// Messages queued: one a shard and slot.
    pub messages: u32,
    /// Calls that queued them.
    pub sends: u32,
    /// Pages of listings of the bucket.
    pub pages: u32,
    /// Associations read.
    pub reads: u32,
    /// GPUs in a message.
    pub gpus_a_shard: u32,
}

impl Operations {
    /// A calm minute: nothing changed, so nothing is read.
    #[must_use]
    pub fn of_a_calm_minute(gpus: u32, shards: u32) -> Self {
        let messages = 2 * shards;
        Self {
            minutes: 1,
            messages,
            sends: messages.div_ceil(BATCH),
            pages: gpus.div_ceil(PAGE),
            reads: 0,
            gpus_a_shard: gpus.div_ceil(shards),
        }
    }

    /// What a month of such minutes costs, in dollars.
    #[must_use]
    pub fn dollars_a_month(&self) -> f64 {
        // 1.5 to 4 s for a shard of 50 (`aws.md` §3), so 50 ms for each GPU more.
        let slot_s = 1.5 + 0.05 * f64::from(self.gpus_a_shard);
        let run = |seconds: f64| price::INVOCATION + seconds * 0.25 * price::GB_SECOND;
        let messages = f64::from(self.messages);
        let all = f64::from(self.minutes) * (price::SCHEDULED + run(1.0))
            // Each message is queued with others, received and deleted.
            + (f64::from(self.sends) + 2.0 * messages) * price::QUEUE_REQUEST
            // A slot reads and writes one heartbeat.
            + messages * (run(slot_s) + price::CLASS_A + price::CLASS_B)
            + f64::from(self.pages) * price::CLASS_A
            + f64::from(self.reads) * price::CLASS_B;
        all * MINUTES_A_MONTH / f64::from(self.minutes)
    }
}

/// What one GPU's share of the control plane costs a month when so many share it.
#[must_use]
pub fn per_gpu_month(gpus: u32) -> MicroUsd {
    let gpus = gpus.max(1);
    let month = Operations::of_a_calm_minute(gpus, gpus.div_ceil(GPUS_A_SHARD)).dollars_a_month();
    MicroUsd::from_dollars(month / f64::from(gpus)).unwrap_or_default()
}
