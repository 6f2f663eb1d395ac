//! Vast's minimum intervals between calls, kept on our side so that its refusals stay rare.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// A group of calls that shares one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Endpoint {
    /// `GET v1/instances`
    List,
    /// `GET v0/instances/{id}`
    Show,
    /// `PUT v0/instances/{id}`
    Change,
    /// `DELETE v0/instances/{id}`
    Destroy,
    /// `PUT instances/bid_price/{id}`
    Bid,
    /// `…/instances/{id}/ssh`
    Keys,
    /// `POST bundles`
    Search,
    /// `PUT asks/{id}`
    Rent,
    /// `PUT instances/request_logs/{id}`
    Logs,
    /// `PUT commands/rsync`
    Copy,
    /// `…/webhooks`
    Webhooks,
    /// `GET users/current`
    Account,
}

impl Endpoint {
    /// The least time between two calls. Source: Vast's OpenAPI, `reference/vast/vast-api.md` §2, read 2026-10.
    fn interval(self) -> Duration {
        Duration::from_millis(match self {
            Self::List | Self::Change => 1000,
            // Not in the table: as careful as with a list.
            Self::Account => 1000,
            Self::Logs | Self::Show | Self::Keys | Self::Search | Self::Webhooks => 2000,
            Self::Destroy => 3000,
            Self::Copy => 3500,
            Self::Rent => 4500,
            Self::Bid => 5500,
        })
    }
}

/// Lets calls through one by one, no sooner than their limits allow. It knows this process only.
#[derive(Debug)]
pub(super) struct Pace {
    scale: f64,
    next: Mutex<BTreeMap<Endpoint, Instant>>,
}

impl Pace {
    /// 1 is Vast's own pace, 0 no pace at all.
    pub(super) fn new(scale: f64) -> Self {
        Self {
            scale: if scale.is_finite() { scale.clamp(0.0, 1.0) } else { 1.0 },
            next: Mutex::new(BTreeMap::new()),
        }
    }

    /// Waits for this call's turn.
    pub(super) async fn turn(&self, endpoint: Endpoint) {
        tokio::time::sleep_until(self.reserve(endpoint)).await;
    }

    /// Counts the interval from the answer on: Vast counts from the request's arrival, which lies between its turn and its answer.
    pub(super) fn answered(&self, endpoint: Endpoint) {
        let free = Instant::now() + endpoint.interval().mul_f64(self.scale);
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let later = next.get(&endpoint).map_or(free, |known| (*known).max(free));
        next.insert(endpoint, later);
    }

    /// Waits as long as Vast said, in our own scale of time.
    pub(super) async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration.mul_f64(self.scale)).await;
    }

    fn reserve(&self, endpoint: Endpoint) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let turn = next.get(&endpoint).map_or(now, |free| (*free).max(now));
        next.insert(endpoint, turn + endpoint.interval().mul_f64(self.scale));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_kind_keep_their_distance_and_kinds_do_not_hinder_each_other() {
        let pace = Pace::new(1.0);
        let first = pace.reserve(Endpoint::Rent);
        assert!(pace.reserve(Endpoint::Rent) - first >= Duration::from_millis(4500));
        assert!(pace.reserve(Endpoint::List) - first < Duration::from_millis(500));
        pace.answered(Endpoint::Show);
        assert!(pace.reserve(Endpoint::Show) - first >= Duration::from_millis(2000));
        let unpaced = Pace::new(0.0);
        let first = unpaced.reserve(Endpoint::Bid);
        assert!(unpaced.reserve(Endpoint::Bid) - first < Duration::from_millis(500));
    }
}
