//! The price list of a process: refreshed once a day by the sweep, kept where a restart or another function finds it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};
use warmspare_domain::units::Timestamp;

use super::{LivePrices, Prices};
use crate::ports::{Clock, PriceCatalogue, PriceShelf};
use crate::report;

/// The catalogue is at most 12 h behind and Spot prices change at most once a day: `reference/google/pricing.md`.
const REFRESH_EVERY: Duration = Duration::from_secs(24 * 3600);

/// After a refresh that failed. A missing right or a closed API stays so for a while.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// How long what was on the shelf is believed: another function may have refreshed it.
const SHELF_LASTS: Duration = Duration::from_secs(600);

/// A refresh reads some tens of megabytes; one that takes longer is given up, and the old prices stay.
const REFRESH_LIMIT: Duration = Duration::from_secs(120);

/// What is known of prices.
///
/// # Guarantees
/// Asking for prices reads at most one small object; only [`PriceList::refresh_if_due`] asks the provider. A refresh that fails changes nothing.
pub struct PriceList {
    catalogue: Option<Arc<dyn PriceCatalogue>>,
    shelf: Arc<dyn PriceShelf>,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    live: Option<Arc<LivePrices>>,
    looked_at: Option<Timestamp>,
    failed_at: Option<Timestamp>,
}

impl PriceList {
    /// Over these; asks nobody yet. Without a catalogue there is only what the shelf and the table have.
    #[must_use]
    pub fn new(catalogue: Option<Arc<dyn PriceCatalogue>>, shelf: Arc<dyn PriceShelf>, clock: Arc<dyn Clock>) -> Self {
        Self {
            catalogue,
            shelf,
            clock,
            kept: Mutex::default(),
        }
    }

    /// The prices known now. A shelf that does not answer leaves those known before, or the table that is built in.
    pub async fn current(&self) -> Prices {
        let now = self.clock.now();
        let looked_at = self.locked().looked_at;
        if looked_at.is_none_or(|at| now.since(at) > SHELF_LASTS) {
            let loaded = self.shelf.load().await;
            let mut kept = self.locked();
            kept.looked_at = Some(now);
            match loaded {
                Ok(Some(live)) => kept.take(live),
                Ok(None) => {}
                Err(error) => warn!(
                    error = report::chain(&*error),
                    "the kept prices could not be read; those known before are used"
                ),
            }
        }
        Prices::new(self.locked().live.clone(), now)
    }

    /// Reads the catalogue when what is known is a day old. Takes up to two minutes, so it belongs into a sweep, never into a beat.
    pub async fn refresh_if_due(&self) {
        let Some(catalogue) = &self.catalogue else { return };
        self.current().await;
        let now = self.clock.now();
        {
            let kept = self.locked();
            let fresh = kept
                .live
                .as_ref()
                .is_some_and(|live| now.since(live.read_at) < REFRESH_EVERY);
            if fresh || kept.failed_at.is_some_and(|at| now.since(at) < TRY_AGAIN_AFTER) {
                return;
            }
        }
        let why = match tokio::time::timeout(REFRESH_LIMIT, catalogue.read()).await {
            Ok(Ok(regions)) => return self.keep(LivePrices::new(now, regions)).await,
            Ok(Err(error)) => report::chain(&error),
            Err(_) => format!("it took longer than {} s", REFRESH_LIMIT.as_secs()),
        };
        warn!(
            error = why,
            "Google's price list could not be read; the prices known before stay, and the next attempt is in an hour"
        );
        self.locked().failed_at = Some(now);
    }

    async fn keep(&self, live: LivePrices) {
        info!(regions = live.regions.len(), "Google's price list was read");
        if let Err(error) = self.shelf.save(&live).await {
            warn!(
                error = report::chain(&*error),
                "the prices could not be kept; a restart reads them again"
            );
        }
        let mut kept = self.locked();
        kept.failed_at = None;
        kept.take(live);
    }

    fn locked(&self) -> MutexGuard<'_, Kept> {
        // A panic elsewhere cannot leave it half-written.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The later word counts: a slow reader of the shelf must not bring back what a refresh has just replaced.
    fn take(&mut self, live: LivePrices) {
        if self.live.as_ref().is_none_or(|known| known.read_at <= live.read_at) {
            self.live = Some(Arc::new(live));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::super::tests::live_spot;
    use super::super::{Origin, Rates};
    use super::*;
    use crate::ports::{ProviderError, ShelfError};

    #[derive(Default)]
    struct World {
        hours: AtomicI64,
        readings: AtomicU32,
        loads: AtomicU32,
        prices: Mutex<Option<u64>>,
        shelf: Mutex<Option<LivePrices>>,
    }

    impl Clock for World {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.hours.load(Ordering::SeqCst) * 3_600_000)
        }
    }

    #[async_trait]
    impl PriceCatalogue for World {
        async fn read(&self) -> Result<BTreeMap<String, Rates>, ProviderError> {
            self.readings.fetch_add(1, Ordering::SeqCst);
            match *self.prices.lock().unwrap() {
                Some(price) => Ok(live_spot(self.now(), &[("us-west4", price, price)]).regions.clone()),
                None => Err(ProviderError::Denied {
                    detail: "the API is closed".to_owned(),
                }),
            }
        }
    }

    #[async_trait]
    impl PriceShelf for World {
        async fn load(&self) -> Result<Option<LivePrices>, ShelfError> {
            self.loads.fetch_add(1, Ordering::SeqCst);
            Ok(self.shelf.lock().unwrap().clone())
        }
        async fn save(&self, prices: &LivePrices) -> Result<(), ShelfError> {
            *self.shelf.lock().unwrap() = Some(prices.clone());
            Ok(())
        }
    }

    fn list(world: &Arc<World>) -> PriceList {
        PriceList::new(Some(world.clone()), world.clone(), world.clone())
    }

    async fn spot(list: &PriceList) -> (u64, Origin) {
        let prices = list.current().await;
        let sold = warmspare_domain::policy::Provisioning::Spot;
        let price = prices.machine("us-west4", "e2-medium", sold).unwrap();
        (price.amount.0, price.origin)
    }

    #[tokio::test]
    async fn the_catalogue_is_read_once_a_day_and_a_restart_needs_not_ask_again() {
        let world = Arc::new(World::default());
        *world.prices.lock().unwrap() = Some(1000);
        let first = list(&world);
        assert_eq!(spot(&first).await.1, Origin::Table, "not asked by those who only look");
        first.refresh_if_due().await;
        first.refresh_if_due().await;
        assert_eq!(spot(&first).await, (5000, Origin::Catalogue));
        let restarted = list(&world);
        assert_eq!(spot(&restarted).await, (5000, Origin::Catalogue));
        restarted.refresh_if_due().await;
        assert_eq!(world.readings.load(Ordering::SeqCst), 1);
        world.hours.store(25, Ordering::SeqCst);
        *world.prices.lock().unwrap() = Some(2000);
        restarted.refresh_if_due().await;
        assert_eq!(spot(&restarted).await.0, 10_000);
        assert_eq!(spot(&first).await.0, 10_000, "the other one finds it on the shelf");
    }

    #[tokio::test]
    async fn a_failing_refresh_keeps_the_old_prices_and_does_not_hammer() {
        let world = Arc::new(World::default());
        *world.prices.lock().unwrap() = Some(1000);
        let list = list(&world);
        list.refresh_if_due().await;
        *world.prices.lock().unwrap() = None;
        world.hours.store(30, Ordering::SeqCst);
        for _ in 0..12 {
            list.refresh_if_due().await;
        }
        assert_eq!(world.readings.load(Ordering::SeqCst), 2, "one more attempt");
        assert_eq!(spot(&list).await, (5000, Origin::Catalogue));
        world.hours.store(32, Ordering::SeqCst);
        list.refresh_if_due().await;
        assert_eq!(world.readings.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn looking_reads_the_shelf_at_most_every_ten_minutes() {
        let world = Arc::new(World::default());
        let list = list(&world);
        for _ in 0..5 {
            spot(&list).await;
        }
        assert_eq!(world.loads.load(Ordering::SeqCst), 1);
    }
}
