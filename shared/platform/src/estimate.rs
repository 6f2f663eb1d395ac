//! What protecting one GPU costs, line by line.

use std::fmt::Write;

use serde::Serialize;
use warmspare_domain::ids::GpuId;
use warmspare_domain::policy::{MachineSpec, Provisioning};
use warmspare_domain::units::MicroUsd;

use crate::prices::{self, HOURS_PER_MONTH, NanoUsd, NoPrice};

/// A boot disk of Debian with rsync.
const BOOT_DISK_GB: u64 = 10;

/// What to estimate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EstimateInput {
    /// Whose standby.
    pub gpu: GpuId,
    /// The region of the standby.
    pub region: String,
    /// The standby.
    pub machine: MachineSpec,
    /// What the GPU's host asks for a GB of outgoing traffic.
    pub upload_price_per_gb: MicroUsd,
    /// How many GB change a day.
    pub gb_per_day: u32,
    /// How many GB a restore moves.
    pub data_gb: u32,
}

/// What it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Whose standby.
    pub gpu: GpuId,
    /// The region of the standby.
    pub region: String,
    /// What is paid every month.
    pub monthly: Vec<Line>,
    /// Their sum.
    pub micro_usd_per_month: MicroUsd,
    /// What a restore costs, once.
    pub micro_usd_per_restore: MicroUsd,
    /// When the prices were true.
    pub prices_of: &'static str,
    /// Where they come from.
    pub source: &'static str,
    /// All of it, for a person.
    pub table: String,
}

/// A part of the costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What for.
    pub what: String,
    /// How much a month.
    pub micro_usd: MicroUsd,
}

/// Estimates what protecting a GPU costs.
///
/// # Errors
/// When a price is not known.
pub fn estimate(input: &EstimateInput) -> Result<Estimate, NoPrice> {
    let (machine, region) = (&input.machine, prices::of_region(&input.region)?);
    let spot = match machine.provisioning {
        Provisioning::Spot => "Spot",
        Provisioning::Standard => "standard",
    };
    let hourly = |price: NanoUsd| price.times(HOURS_PER_MONTH).micro();
    let disk = |gb: u64, price: NanoUsd| price.times(gb).micro();
    let synced_gb = u64::from(input.gb_per_day) * 30;
    let monthly = vec![
        line(
            format!("{} {spot} machine", machine.machine_type),
            hourly(region.machine(&machine.machine_type, machine.provisioning)?),
        ),
        line(
            "external IPv4 address".to_owned(),
            hourly(prices::address(machine.provisioning)),
        ),
        line(
            format!("{} GB {} data disk", machine.disk_gb, machine.disk_type),
            disk(u64::from(machine.disk_gb), region.disk(&machine.disk_type)?),
        ),
        line(
            format!("{BOOT_DISK_GB} GB pd-standard boot disk"),
            disk(BOOT_DISK_GB, region.disk("pd-standard")?),
        ),
        line(
            format!("{synced_gb} GB pulled, at the GPU host's price"),
            MicroUsd(input.upload_price_per_gb.0 * synced_gb),
        ),
        line("control plane (this process)".to_owned(), MicroUsd(0)),
    ];
    let total = MicroUsd(monthly.iter().map(|line| line.micro_usd.0).sum());
    let restore = region.egress().times(u64::from(input.data_gb)).micro();
    let table = words(input, &monthly, total, restore);
    Ok(Estimate {
        gpu: input.gpu,
        region: input.region.clone(),
        monthly,
        micro_usd_per_month: total,
        micro_usd_per_restore: restore,
        prices_of: prices::DATE,
        source: prices::SOURCE,
        table,
    })
}

fn line(what: String, micro_usd: MicroUsd) -> Line {
    Line { what, micro_usd }
}

fn words(input: &EstimateInput, lines: &[Line], total: MicroUsd, restore: MicroUsd) -> String {
    let mut table = format!("standby of GPU {} in {}, a month:\n", input.gpu, input.region);
    for line in lines {
        let _ = writeln!(table, "  {:<44} {:>9.2} USD", line.what, line.micro_usd.dollars());
    }
    let _ = writeln!(table, "  {:<44} {:>9.2} USD", "together", total.dollars());
    let _ = writeln!(
        table,
        "a restore of {} GB, once: {:.2} USD of traffic out of Google",
        input.data_gb,
        restore.dollars()
    );
    let _ = writeln!(
        table,
        "prices of {} ({}); Spot prices move",
        prices::DATE,
        prices::SOURCE
    );
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(region: &str) -> EstimateInput {
        let machine = crate::contract::fixture(7).policy.machine;
        EstimateInput {
            gpu: GpuId::vast(7),
            region: region.to_owned(),
            machine,
            upload_price_per_gb: MicroUsd(3000),
            gb_per_day: 10,
            data_gb: 100,
        }
    }

    #[test]
    fn a_standby_costs_what_the_reference_says() {
        // `reference/google/pricing.md`: 20.50 and 9.54 without the boot disk.
        for (region, dollars) in [("us-central1", 20.50), ("us-west4", 9.54)] {
            let estimate = estimate(&input(region)).unwrap();
            let without: u64 = estimate.monthly[..3].iter().map(|line| line.micro_usd.0).sum();
            assert!(
                (MicroUsd(without).dollars() - dollars).abs() < 0.03,
                "{region}: {}",
                MicroUsd(without)
            );
        }
    }

    #[test]
    fn traffic_is_counted_at_both_ends() {
        let estimate = estimate(&input("us-central1")).unwrap();
        assert_eq!(estimate.monthly[4].micro_usd, MicroUsd(900_000), "300 GB at $0.003");
        assert_eq!(
            estimate.micro_usd_per_restore,
            MicroUsd(12_000_000),
            "100 GB out of Google"
        );
        assert!(estimate.table.contains("2026-07-30"));
    }
}
