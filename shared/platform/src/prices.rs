//! What Compute Engine's machines and disks cost. Prices of Spot machines move within weeks, so everything here is dated and says its source.

use warmspare_domain::policy::Provisioning;
use warmspare_domain::units::MicroUsd;

mod table;

pub use table::{DATE, SOURCE};

/// Google's month has 730 hours. `reference/google/pricing.md`.
pub const HOURS_PER_MONTH: u64 = 730;

/// An external IPv4 address an hour, in billionths of a dollar: of a Spot and of a standard machine. Same source.
const ADDRESS: (u64, u64) = (2_500_000, 5_000_000);

/// Money finer than a millionth of a dollar: prices of a GB an hour need it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
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

/// The prices of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegionPrices {
    region: &'static str,
    standard: (u64, u64),
    spot: (u64, u64),
    pd_standard: u64,
    pd_balanced: u64,
}

/// Why there is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPrice {
    /// The table has no such region.
    #[error("no prices are known for the region `{0}`")]
    Region(String),
    /// The machine type is not one whose size is known.
    #[error(
        "no price is known for the machine type `{0}`; known are e2-micro, e2-small, e2-medium, e2-standard-N and e2-highmem-N"
    )]
    MachineType(String),
    /// The disk type is not one of the table.
    #[error("no price is known for the disk type `{0}`; known are pd-standard and pd-balanced")]
    DiskType(String),
}

/// The prices of a region.
///
/// # Errors
/// When it is not in the table: a price is never guessed.
pub(crate) fn of_region(region: &str) -> Result<&'static RegionPrices, NoPrice> {
    table::TABLE
        .iter()
        .find(|row| row.region == region)
        .ok_or_else(|| NoPrice::Region(region.to_owned()))
}

impl RegionPrices {
    /// A machine an hour, without disk and address.
    pub(crate) fn machine(&self, machine_type: &str, provisioning: Provisioning) -> Result<NanoUsd, NoPrice> {
        let (quarter_cpus, memory_gb) =
            size(machine_type).ok_or_else(|| NoPrice::MachineType(machine_type.to_owned()))?;
        let (cpu, memory) = match provisioning {
            Provisioning::Spot => self.spot,
            Provisioning::Standard => self.standard,
        };
        Ok(NanoUsd(cpu * quarter_cpus / 4 + memory * memory_gb))
    }

    /// A GB of disk a month.
    pub(crate) fn disk(&self, disk_type: &str) -> Result<NanoUsd, NoPrice> {
        match disk_type {
            "pd-standard" => Ok(NanoUsd(self.pd_standard)),
            "pd-balanced" => Ok(NanoUsd(self.pd_balanced)),
            other => Err(NoPrice::DiskType(other.to_owned())),
        }
    }

    /// A GiB to the internet, premium tier, the first TiB of a month. `reference/google/pricing.md`; Australia and South America are dearer.
    pub(crate) fn egress(&self) -> NanoUsd {
        let dear = self.region.starts_with("southamerica-") || self.region.starts_with("australia-");
        NanoUsd(if dear { 190_000_000 } else { 120_000_000 })
    }
}

/// An external address an hour.
pub(crate) fn address(provisioning: Provisioning) -> NanoUsd {
    NanoUsd(match provisioning {
        Provisioning::Spot => ADDRESS.0,
        Provisioning::Standard => ADDRESS.1,
    })
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
mod tests {
    use super::*;

    #[test]
    fn machines_cost_what_the_reference_says() {
        for (region, machine_type, provisioning, dollars) in [
            ("us-central1", "e2-medium", Provisioning::Spot, 0.0201),
            ("us-central1", "e2-micro", Provisioning::Spot, 0.0050),
            ("us-central1", "e2-standard-2", Provisioning::Spot, 0.0402),
            ("us-central1", "e2-medium", Provisioning::Standard, 0.0335),
            ("us-west4", "e2-medium", Provisioning::Spot, 0.0045),
        ] {
            let price = of_region(region)
                .unwrap()
                .machine(machine_type, provisioning)
                .unwrap()
                .micro()
                .dollars();
            assert!(
                (price - dollars).abs() < 0.000_06,
                "{machine_type} in {region}: {price}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_never_guessed() {
        assert!(of_region("mars-north1").is_err());
        assert!(
            of_region("us-central1")
                .unwrap()
                .machine("n2-standard-2", Provisioning::Spot)
                .is_err()
        );
        assert!(of_region("us-central1").unwrap().disk("hyperdisk").is_err());
    }

    #[test]
    fn every_region_with_zones_has_prices() {
        for region in crate::placement::regions() {
            assert!(of_region(region.name).is_ok(), "{}", region.name);
        }
    }
}
