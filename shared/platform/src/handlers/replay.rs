//! Events that were taken in lately.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use warmspare_domain::units::Timestamp;

/// Longer than a signature is good for, so that a replay inside that window is recognised.
const REMEMBERED_FOR: Duration = Duration::from_secs(900);

/// More than this many senders make in [`REMEMBERED_FOR`]; beyond it the oldest are forgotten, and the rules make repeats harmless anyway.
const AT_MOST: usize = 10_000;

/// The ids of events that were taken in lately. A help, not a guard: events are idempotent, and another process remembers others.
#[derive(Debug, Default)]
pub struct SeenEvents(Mutex<BTreeMap<String, Timestamp>>);

impl SeenEvents {
    /// Whether this event was taken in lately.
    #[must_use]
    pub fn contains(&self, event_id: &str, now: Timestamp) -> bool {
        self.locked()
            .get(event_id)
            .is_some_and(|at| now.since(*at) < REMEMBERED_FOR)
    }

    /// Remembers an event that was taken in successfully; one that failed may come again.
    pub fn insert(&self, event_id: &str, now: Timestamp) {
        let mut events = self.locked();
        if events.len() >= AT_MOST {
            events.retain(|_, at| now.since(*at) < REMEMBERED_FOR);
        }
        if events.len() >= AT_MOST
            && let Some(oldest) = events.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone())
        {
            events.remove(&oldest);
        }
        events.insert(event_id.to_owned(), now);
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Timestamp>> {
        // A panic while inserting cannot leave a map half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
