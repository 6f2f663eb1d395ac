//! What Compute Engine's machines and disks cost: as Google's catalogue said last, and below that a table that is built in.
//!
//! Prices of Spot machines move within weeks, so every price knows where it comes from, and nothing is shown without saying so. What neither source
//! has is unknown: a price is never guessed, and the price on demand never stands in for a Spot price.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use warmspare_domain::policy::{MachineSpec, Provisioning};
use warmspare_domain::units::{MicroUsd, Timestamp};

mod list;
mod table;

pub use list::PriceList;
pub use table::{DATE, SOURCE};

/// Google's month has 730 hours. `reference/google/pricing.md`.
pub const HOURS_PER_MONTH: u64 = 730;

/// A boot disk of Debian with rsync.
pub const BOOT_DISK_GB: u64 = 10;

/// Spot prices change at most once a day, and by weeks noticeably: `reference/google/pricing.md`. What is older than three days missed its refreshes.
const OLD_AFTER: Duration = Duration::from_secs(3 * 24 * 3600);

/// An external IPv4 address an hour, in billionths of a dollar: of a Spot and of a standard machine. Same source.
const ADDRESS: (u64, u64) = (2_500_000, 5_000_000);

/// Money finer than a millionth of a dollar: prices of a GB an hour need it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(pub u64);

impl NanoUsd {
    /// Rounded to millionths.
    #[must_use]
    pub fn micro(self) -> MicroUsd {
        MicroUsd((self.0 + 500) / 1000)
    }

    /// So many of it.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

/// What a region has a price for: a vCPU or a GB of memory an hour, a GB of disk a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are Google's")]
pub enum Item {
    StandardCpu,
    StandardMemory,
    SpotCpu,
    SpotMemory,
    PdStandard,
    PdBalanced,
    PdSsd,
}

/// The prices of a region, as far as they are known.
pub type Rates = BTreeMap<Item, NanoUsd>;

/// The version of [`LivePrices`] as it is stored.
const SCHEMA: u32 = 1;

/// What Google's catalogue said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePrices {
    schema: u32,
    /// When it was read.
    pub read_at: Timestamp,
    /// By region.
    pub regions: BTreeMap<String, Rates>,
}

impl LivePrices {
    /// What was read at an instant.
    #[must_use]
    pub fn new(read_at: Timestamp, regions: BTreeMap<String, Rates>) -> Self {
        Self {
            schema: SCHEMA,
            read_at,
            regions,
        }
    }

    /// As it is stored.
    ///
    /// # Errors
    /// Never for what [`LivePrices::new`] made.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// What was stored; `None` when another version of the program wrote it, or nobody: then the catalogue is read again.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let stored: Self = serde_json::from_slice(bytes).ok()?;
        (stored.schema == SCHEMA).then_some(stored)
    }
}

/// Where a price comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Google's catalogue, read by us.
    Catalogue,
    /// The dated table that is built in, where the catalogue's word is missing.
    Table,
    /// A list price that is built in because it is not read: it changes rarely.
    ListPrice,
}

/// A price and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// How much.
    pub amount: NanoUsd,
    /// Says who.
    pub origin: Origin,
}

/// A part of what a standby costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What for.
    pub what: String,
    /// How much a month.
    pub month: Price,
}

/// Why there is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPrice {
    /// Neither source has it for this region.
    #[error("no price of {what} is known for the region `{region}`")]
    Region {
        /// Where.
        region: String,
        /// Of what.
        what: String,
    },
    /// The machine type is not one whose size is known.
    #[error(
        "no price is known for the machine type `{0}`; known are e2-micro, e2-small, e2-medium, e2-standard-N and e2-highmem-N"
    )]
    MachineType(String),
    /// The disk type is not one whose price is read.
    #[error("no price is known for the disk type `{0}`; known are pd-standard, pd-balanced and pd-ssd")]
    DiskType(String),
}

/// The prices known at an instant.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    live: Option<Arc<LivePrices>>,
    age: Duration,
}

impl Prices {
    /// With what the catalogue said last, if it was ever read.
    #[must_use]
    pub fn new(live: Option<Arc<LivePrices>>, now: Timestamp) -> Self {
        let age = live.as_ref().map_or(Duration::ZERO, |live| now.since(live.read_at));
        Self { live, age }
    }

    /// A machine an hour, without disk and address. Processor and memory come from one source.
    ///
    /// # Errors
    /// When it is not known.
    pub fn machine(&self, region: &str, machine_type: &str, sold: Provisioning) -> Result<Price, NoPrice> {
        let (quarter_cpus, memory_gb) =
            size(machine_type).ok_or_else(|| NoPrice::MachineType(machine_type.to_owned()))?;
        let (cpu, memory, word) = match sold {
            Provisioning::Spot => (Item::SpotCpu, Item::SpotMemory, "Spot machines"),
            Provisioning::Standard => (Item::StandardCpu, Item::StandardMemory, "machines on demand"),
        };
        let from = |origin| {
            let (cpu, memory) = (self.rate(region, cpu, origin)?, self.rate(region, memory, origin)?);
            let cpus = cpu.times(quarter_cpus).0 / 4;
            let amount = NanoUsd(cpus.saturating_add(memory.times(memory_gb).0));
            Some(Price { amount, origin })
        };
        from(Origin::Catalogue)
            .or_else(|| from(Origin::Table))
            .ok_or_else(|| unknown(region, word))
    }

    /// A GB of disk a month.
    ///
    /// # Errors
    /// When it is not known.
    pub fn disk(&self, region: &str, disk_type: &str) -> Result<Price, NoPrice> {
        let item = match disk_type {
            "pd-standard" => Item::PdStandard,
            "pd-balanced" => Item::PdBalanced,
            "pd-ssd" => Item::PdSsd,
            other => return Err(NoPrice::DiskType(other.to_owned())),
        };
        let from = |origin| {
            let amount = self.rate(region, item, origin)?;
            Some(Price { amount, origin })
        };
        from(Origin::Catalogue)
            .or_else(|| from(Origin::Table))
            .ok_or_else(|| unknown(region, disk_type))
    }

    /// What a standby costs a month, part by part: machine, address, data disk, boot disk.
    ///
    /// # Errors
    /// When one of the prices is not known.
    pub fn standby(&self, region: &str, machine: &MachineSpec) -> Result<Vec<Part>, NoPrice> {
        let sold = machine.provisioning;
        let word = match sold {
            Provisioning::Spot => "Spot",
            Provisioning::Standard => "standard",
        };
        let part = |what: String, price: Price, count: u64| Part {
            what,
            month: Price {
                amount: price.amount.times(count),
                ..price
            },
        };
        Ok(vec![
            part(
                format!("{} {word} machine", machine.machine_type),
                self.machine(region, &machine.machine_type, sold)?,
                HOURS_PER_MONTH,
            ),
            part("external IPv4 address".to_owned(), address(sold), HOURS_PER_MONTH),
            part(
                format!("{} GB {} data disk", machine.disk_gb, machine.disk_type),
                self.disk(region, &machine.disk_type)?,
                u64::from(machine.disk_gb),
            ),
            part(
                format!("{BOOT_DISK_GB} GB pd-standard boot disk"),
                self.disk(region, "pd-standard")?,
                BOOT_DISK_GB,
            ),
        ])
    }

    /// The same as one sum.
    ///
    /// # Errors
    /// When one of the prices is not known.
    pub fn standby_month(&self, region: &str, machine: &MachineSpec) -> Result<MicroUsd, NoPrice> {
        let parts = self.standby(region, machine)?;
        Ok(NanoUsd(
            parts
                .iter()
                .map(|part| part.month.amount.0)
                .fold(0, u64::saturating_add),
        )
        .micro())
    }

    /// When prices of this origin were true: an instant or a day.
    #[must_use]
    pub fn date(&self, origin: Origin) -> String {
        match (origin, &self.live) {
            (Origin::Catalogue, Some(live)) => live.read_at.to_string(),
            (Origin::Catalogue, None) | (Origin::Table | Origin::ListPrice, _) => DATE.to_owned(),
        }
    }

    /// Where prices of this origin come from and how far they can be believed, for a person.
    #[must_use]
    pub fn words(&self, origin: Origin) -> String {
        match (origin, &self.live) {
            (Origin::Catalogue, Some(live)) if self.age > OLD_AFTER => format!(
                "OLD prices, {} days: read from Google's Cloud Billing Catalog at {}, and not to be had since",
                self.age.as_secs() / (24 * 3600),
                live.read_at
            ),
            (Origin::Catalogue, Some(live)) => format!(
                "prices read from Google's Cloud Billing Catalog at {}; Spot prices move",
                live.read_at
            ),
            (Origin::ListPrice, _) => format!("address and traffic out of Google: list prices of {DATE}, built in"),
            (Origin::Catalogue | Origin::Table, None) => format!(
                "OLD prices of {DATE}, built in ({SOURCE}): Google's Cloud Billing Catalog was not read yet; Spot prices move"
            ),
            (Origin::Table, Some(_)) => format!(
                "OLD prices of {DATE}, built in ({SOURCE}): Google's Cloud Billing Catalog has none that can be believed"
            ),
        }
    }

    fn rate(&self, region: &str, item: Item, origin: Origin) -> Option<NanoUsd> {
        match origin {
            Origin::Catalogue => self.live.as_ref()?.regions.get(region)?.get(&item).copied(),
            Origin::Table => table::price(region, item),
            Origin::ListPrice => None,
        }
    }
}

/// A GiB to the internet, premium tier, the first TiB of a month. `reference/google/pricing.md`, 2026-07-30; Australia and South America are dearer.
/// The catalogue prices it by pairs of places in words of its own, which cannot be told apart for sure: so it is not read.
pub(crate) fn egress(region: &str) -> NanoUsd {
    let dear = region.starts_with("southamerica-") || region.starts_with("australia-");
    NanoUsd(if dear { 190_000_000 } else { 120_000_000 })
}

/// An external address an hour.
fn address(sold: Provisioning) -> Price {
    let nanos = match sold {
        Provisioning::Spot => ADDRESS.0,
        Provisioning::Standard => ADDRESS.1,
    };
    Price {
        amount: NanoUsd(nanos),
        origin: Origin::ListPrice,
    }
}

fn unknown(region: &str, what: &str) -> NoPrice {
    NoPrice::Region {
        region: region.to_owned(),
        what: what.to_owned(),
    }
}

/// Quarters of a vCPU that are billed, and GB of memory. Shared-core types bill a part of the vCPUs that they show.
fn size(machine_type: &str) -> Option<(u64, u64)> {
    let many = |prefix: &str, memory_per_cpu: u64| {
        let cpus: u64 = machine_type.strip_prefix(prefix)?.parse().ok()?;
        matches!(cpus, 2 | 4 | 8 | 16).then_some((cpus * 4, cpus * memory_per_cpu))
    };
    match machine_type {
        "e2-micro" => Some((1, 1)),
        "e2-small" => Some((2, 2)),
        "e2-medium" => Some((4, 4)),
        _ => many("e2-standard-", 4).or_else(|| many("e2-highmem-", 8)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Live prices of these regions: a vCPU and a GB of memory as Spot, everything else of it missing.
    pub(crate) fn live_spot(read_at: Timestamp, spot: &[(&str, u64, u64)]) -> Arc<LivePrices> {
        let rates = |cpu, memory| Rates::from([(Item::SpotCpu, NanoUsd(cpu)), (Item::SpotMemory, NanoUsd(memory))]);
        let regions = spot
            .iter()
            .map(|(region, cpu, memory)| ((*region).to_owned(), rates(*cpu, *memory)))
            .collect();
        Arc::new(LivePrices::new(read_at, regions))
    }

    #[test]
    fn machines_cost_what_the_reference_says() {
        for (region, machine_type, provisioning, dollars) in [
            ("us-central1", "e2-medium", Provisioning::Spot, 0.0201),
            ("us-central1", "e2-micro", Provisioning::Spot, 0.0050),
            ("us-central1", "e2-standard-2", Provisioning::Spot, 0.0402),
            ("us-central1", "e2-medium", Provisioning::Standard, 0.0335),
            ("us-west4", "e2-medium", Provisioning::Spot, 0.0045),
        ] {
            let price = Prices::default().machine(region, machine_type, provisioning).unwrap();
            let price = price.amount.micro().dollars();
            assert!(
                (price - dollars).abs() < 0.000_06,
                "{machine_type} in {region}: {price}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_never_guessed() {
        let prices = Prices::default();
        assert!(prices.machine("mars-north1", "e2-medium", Provisioning::Spot).is_err());
        assert!(
            prices
                .machine("us-central1", "n2-standard-2", Provisioning::Spot)
                .is_err()
        );
        assert!(prices.disk("us-central1", "hyperdisk").is_err());
        assert!(prices.disk("us-central1", "pd-ssd").is_err(), "the table has none");
    }

    #[test]
    fn live_prices_win_and_what_they_lack_comes_from_the_table_and_says_so() {
        let now = Timestamp::from_millis(1_795_441_530_250);
        let prices = Prices::new(Some(live_spot(now, &[("us-west4", 4_000_000, 500_000)])), now);
        let spot = prices.machine("us-west4", "e2-medium", Provisioning::Spot).unwrap();
        assert_eq!((spot.amount, spot.origin), (NanoUsd(6_000_000), Origin::Catalogue));
        let standard = prices.machine("us-west4", "e2-medium", Provisioning::Standard).unwrap();
        assert_eq!(standard.origin, Origin::Table);
        assert_eq!(prices.disk("us-west4", "pd-standard").unwrap().origin, Origin::Table);
        assert!(prices.words(Origin::Catalogue).contains(&now.to_string()));
        assert!(prices.words(Origin::Table).contains(DATE));
    }

    #[test]
    fn a_lonely_live_half_of_a_machine_is_not_mixed_with_the_tables_other_half() {
        let now = Timestamp::from_millis(0);
        let half = Rates::from([(Item::SpotCpu, NanoUsd(1))]);
        let live = LivePrices::new(now, BTreeMap::from([("us-west4".to_owned(), half)]));
        let prices = Prices::new(Some(Arc::new(live)), now);
        let price = prices.machine("us-west4", "e2-medium", Provisioning::Spot).unwrap();
        assert_eq!(price.origin, Origin::Table);
    }

    #[test]
    fn prices_that_missed_their_refreshes_are_called_old() {
        let read = Timestamp::from_millis(0);
        let live = live_spot(read, &[("us-west4", 1, 1)]);
        let day = Duration::from_secs(24 * 3600);
        assert!(
            !Prices::new(Some(Arc::clone(&live)), read + day)
                .words(Origin::Catalogue)
                .contains("OLD")
        );
        let words = Prices::new(Some(live), read + day * 5).words(Origin::Catalogue);
        assert!(words.contains("OLD prices, 5 days"), "{words}");
    }

    #[test]
    fn every_region_with_zones_has_prices() {
        for region in crate::placement::regions() {
            let price = Prices::default().machine(region.name, "e2-medium", Provisioning::Spot);
            assert!(price.is_ok(), "{}", region.name);
        }
    }

    #[test]
    fn what_was_stored_is_read_back_and_what_is_foreign_is_not() {
        let live = live_spot(Timestamp::from_millis(7), &[("us-west4", 1, 2)]);
        let bytes = live.to_bytes().unwrap();
        assert_eq!(LivePrices::from_bytes(&bytes).as_ref(), Some(&*live));
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text,
            r#"{"schema":1,"read_at":"1970-01-01T00:00:00.007Z","regions":{"us-west4":{"spot_cpu":1,"spot_memory":2}}}"#
        );
        let newer = text.replace("\"schema\":1", "\"schema\":2");
        assert_eq!(LivePrices::from_bytes(newer.as_bytes()), None);
        assert_eq!(LivePrices::from_bytes(b"<html>"), None);
    }
}
