//! What protecting one GPU costs, line by line, and how far each line can be believed.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;
use warmspare_domain::disk_speed;
use warmspare_domain::ids::GpuId;
use warmspare_domain::policy::MachineSpec;
use warmspare_domain::units::{MicroUsd, Timestamp};

use crate::ports::MarketPrice;
use crate::prices::{self, NoPrice, Origin, Prices};

/// What to estimate.
#[derive(Debug, Clone)]
pub struct EstimateInput {
    /// Whose standby.
    pub gpu: GpuId,
    /// The region of the standby.
    pub region: String,
    /// Where the standby is or would be, and why.
    pub placement: String,
    /// The standby.
    pub machine: MachineSpec,
    /// Why this type of disk.
    pub disk_reason: String,
    /// What is known of prices.
    pub prices: Prices,
    /// What the standby's host asks, where no prices are published, and when it was asked.
    pub market: Option<(MarketPrice, Timestamp)>,
    /// What the GPU's host asks for a GB of outgoing traffic.
    pub upload_price_per_gb: MicroUsd,
    /// How many GB change a day.
    pub gb_per_day: u32,
    /// How many GB a restore moves.
    pub data_gb: u32,
    /// The control plane's share for this GPU: what it is, and what it costs a month.
    pub control_plane: (String, MicroUsd),
}

/// What it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Whose standby.
    pub gpu: GpuId,
    /// The region of the standby.
    pub region: String,
    /// Where the standby is or would be, and why.
    pub placement: String,
    /// Why this type of disk.
    pub disk_reason: String,
    /// What is paid every month.
    pub monthly: Vec<Line>,
    /// Their sum.
    pub micro_usd_per_month: MicroUsd,
    /// What a restore costs, once.
    pub micro_usd_per_restore: MicroUsd,
    /// When the machine's price was true: a day or an instant.
    pub prices_of: String,
    /// Where each kind of price comes from, and how old it is.
    pub sources: Vec<String>,
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
    /// Who says so, of what is paid to Google.
    pub origin: Option<Origin>,
}

/// Estimates what protecting a GPU costs.
///
/// # Errors
/// When a price is not known.
pub fn estimate(input: &EstimateInput) -> Result<Estimate, NoPrice> {
    let synced_gb = u64::from(input.gb_per_day) * 30;
    let mut monthly = match &input.market {
        Some((price, _)) => at_market(input, price, synced_gb),
        None => published(input)?,
    };
    monthly.push(line(
        format!("{synced_gb} GB pulled, at the GPU host's price"),
        MicroUsd(input.upload_price_per_gb.0.saturating_mul(synced_gb)),
    ));
    monthly.push(line(input.control_plane.0.clone(), input.control_plane.1));
    let data_gb = u64::from(input.data_gb);
    let restore = match &input.market {
        Some((price, _)) => times(price.upload_per_gb, data_gb),
        None => prices::egress(&input.region).times(data_gb).micro(),
    };
    let (prices_of, sources) = origins(input, &monthly);
    let mut estimate = Estimate {
        gpu: input.gpu,
        region: input.region.clone(),
        placement: input.placement.clone(),
        disk_reason: input.disk_reason.clone(),
        micro_usd_per_month: MicroUsd(monthly.iter().map(|line| line.micro_usd.0).sum()),
        micro_usd_per_restore: restore,
        prices_of,
        sources,
        monthly,
        table: String::new(),
    };
    estimate.table = words(input, &estimate);
    Ok(estimate)
}

/// A standby at published prices.
fn published(input: &EstimateInput) -> Result<Vec<Line>, NoPrice> {
    let parts = input.prices.standby(&input.region, &input.machine)?;
    let line = |part: prices::Part| Line {
        what: part.what,
        micro_usd: part.month.amount.micro(),
        origin: Some(part.month.origin),
    };
    Ok(parts.into_iter().map(line).collect())
}

/// A standby at its host's own price.
fn at_market(input: &EstimateInput, price: &MarketPrice, synced_gb: u64) -> Vec<Line> {
    vec![
        line(
            format!("standby with {} GB of disk, on demand", input.machine.disk_gb),
            MicroUsd(price.per_hour.0.saturating_mul(prices::HOURS_PER_MONTH)),
        ),
        line(
            format!("{synced_gb} GB taken in, at {}", whose(price.download_per_gb)),
            times(price.download_per_gb, synced_gb),
        ),
    ]
}

fn whose(price_per_gb: Option<MicroUsd>) -> &'static str {
    match price_per_gb {
        Some(_) => "the standby host's price",
        None => "a price that its host does not tell",
    }
}

fn times(price_per_gb: Option<MicroUsd>, gb: u64) -> MicroUsd {
    MicroUsd(price_per_gb.unwrap_or(MicroUsd(0)).0.saturating_mul(gb))
}

/// When the machine's price was true, and where prices come from.
fn origins(input: &EstimateInput, monthly: &[Line]) -> (String, Vec<String>) {
    if let Some((price, asked)) = &input.market {
        let source = format!(
            "prices of {} at Vast, asked at {asked}; what is offered changes by the minute, what is rented keeps its price",
            price.what
        );
        return (asked.to_string(), vec![source]);
    }
    let origins: BTreeSet<_> = monthly.iter().filter_map(|line| line.origin).collect();
    let machine = monthly.first().and_then(|line| line.origin).unwrap_or(Origin::Table);
    let sources = origins.into_iter().map(|origin| input.prices.words(origin)).collect();
    (input.prices.date(machine), sources)
}

fn line(what: String, micro_usd: MicroUsd) -> Line {
    Line {
        what,
        micro_usd,
        origin: None,
    }
}

fn words(input: &EstimateInput, estimate: &Estimate) -> String {
    let mut table = format!("standby of GPU {} {}\n", input.gpu, input.placement);
    let disk = match input.market {
        Some(_) => format!("{} GB of disk", input.machine.disk_gb),
        None => format!("{} disk", input.machine.disk_type),
    };
    let _ = writeln!(table, "{disk}: {}", input.disk_reason);
    let _ = writeln!(table, "a month:");
    for line in &estimate.monthly {
        // Only what should have been read, and was not, is marked.
        let mark = if line.origin == Some(Origin::Table) {
            format!("  (of {})", prices::DATE)
        } else {
            String::new()
        };
        let _ = writeln!(table, "  {:<48} {:>9.2} USD{mark}", line.what, line.micro_usd.dollars());
    }
    let total = estimate.micro_usd_per_month.dollars();
    let _ = writeln!(table, "  {:<48} {total:>9.2} USD", "together");
    if let Some(more) = faster_disk(input) {
        let _ = writeln!(
            table,
            "a {} disk, for many small files (gcp_disk_type): {:.2} USD more",
            disk_speed::FAST,
            more.dollars()
        );
    }
    let _ = writeln!(
        table,
        "a restore of {} GB, once: {:.2} USD of traffic {}",
        input.data_gb,
        estimate.micro_usd_per_restore.dollars(),
        match &input.market {
            Some((price, _)) => format!("at {}", whose(price.upload_per_gb)),
            None => "out of Google".to_owned(),
        }
    );
    for source in &estimate.sources {
        let _ = writeln!(table, "{source}");
    }
    table
}

/// What the faster disk would cost more a month, for those who have the cheap one.
fn faster_disk(input: &EstimateInput) -> Option<MicroUsd> {
    if input.market.is_some() || input.machine.disk_type != disk_speed::CHEAP {
        return None;
    }
    let price = |disk_type| input.prices.disk(&input.region, disk_type).ok();
    let (fast, cheap) = (price(disk_speed::FAST)?.amount.0, price(disk_speed::CHEAP)?.amount.0);
    let more = fast.checked_sub(cheap)?;
    Some(prices::NanoUsd(more).times(u64::from(input.machine.disk_gb)).micro())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::prices::tests::live_spot;

    fn input(region: &str) -> EstimateInput {
        let machine = crate::contract::fixture(7).policy.machine;
        EstimateInput {
            gpu: GpuId::vast(7),
            region: region.to_owned(),
            placement: format!("in {region}, because we say so"),
            machine,
            disk_reason: "the cheapest".to_owned(),
            prices: Prices::default(),
            market: None,
            upload_price_per_gb: MicroUsd(3000),
            gb_per_day: 10,
            data_gb: 100,
            control_plane: ("control plane (this process)".to_owned(), MicroUsd(0)),
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
    fn traffic_is_counted_at_both_ends_and_the_control_plane_as_told() {
        let mut input = input("us-central1");
        input.control_plane = ("control plane on AWS".to_owned(), MicroUsd(30_000));
        let estimate = estimate(&input).unwrap();
        assert_eq!(estimate.monthly[4].micro_usd, MicroUsd(900_000), "300 GB at $0.003");
        assert_eq!(estimate.monthly[5].micro_usd, MicroUsd(30_000));
        assert_eq!(
            estimate.micro_usd_per_restore,
            MicroUsd(12_000_000),
            "100 GB out of Google"
        );
        let sum: u64 = estimate.monthly.iter().map(|line| line.micro_usd.0).sum();
        assert_eq!(estimate.micro_usd_per_month, MicroUsd(sum));
    }

    #[test]
    fn old_prices_say_their_date_and_source_aloud() {
        let estimate = estimate(&input("us-central1")).unwrap();
        assert_eq!(estimate.prices_of, "2026-07-30");
        for part in [
            "in us-central1, because we say so",
            "OLD prices of 2026-07-30",
            "commit fd66b26f",
            "pd-balanced disk, for many small files (gcp_disk_type): 6.00 USD more",
        ] {
            assert!(estimate.table.contains(part), "{part}: {}", estimate.table);
        }
    }

    #[test]
    fn live_prices_say_when_they_were_read_and_mark_what_they_lack() {
        let read = Timestamp::from_millis(1_795_441_530_250);
        let mut input = input("us-west4");
        input.prices = Prices::new(Some(live_spot(read, &[("us-west4", 4_000_000, 500_000)])), read);
        let shown = estimate(&input).unwrap();
        assert_eq!(shown.prices_of, "2026-11-23T13:45:30.250Z");
        assert_eq!(shown.monthly[0].micro_usd, MicroUsd(4_380_000));
        assert!(
            shown
                .table
                .contains("read from Google's Cloud Billing Catalog at 2026-11-23T13:45:30.250Z")
        );
        let marked = shown.table.lines().find(|line| line.contains("data disk")).unwrap();
        assert!(marked.ends_with("(of 2026-07-30)"), "{marked}");
        let week = Duration::from_secs(7 * 24 * 3600);
        input.prices = Prices::new(Some(live_spot(read, &[("us-west4", 4_000_000, 500_000)])), read + week);
        assert!(estimate(&input).unwrap().table.contains("OLD prices, 7 days"));
    }

    #[test]
    fn a_standby_at_a_market_costs_what_its_host_asks() {
        let mut input = input("vast");
        let price = MarketPrice {
            what: "a machine with RTX 3060".to_owned(),
            per_hour: MicroUsd(50_000),
            download_per_gb: Some(MicroUsd(1000)),
            upload_per_gb: Some(MicroUsd(20_000)),
        };
        input.market = Some((price, Timestamp::from_millis(1_795_441_530_250)));
        let estimate = estimate(&input).unwrap();
        let lines: Vec<_> = estimate.monthly.iter().map(|line| line.micro_usd.0).collect();
        assert_eq!(lines, [36_500_000, 300_000, 900_000, 0], "730 hours, 300 GB in and out");
        assert_eq!(estimate.micro_usd_per_month, MicroUsd(37_700_000));
        assert_eq!(estimate.micro_usd_per_restore, MicroUsd(2_000_000));
        assert_eq!(estimate.prices_of, "2026-11-23T13:45:30.250Z");
        for part in [
            "100 GB of disk: ",
            "a machine with RTX 3060 at Vast",
            "traffic at the standby host's price",
        ] {
            assert!(estimate.table.contains(part), "{part}: {}", estimate.table);
        }
        assert!(!estimate.table.contains("Google"), "{}", estimate.table);
        if let Some((price, _)) = &mut input.market {
            price.upload_per_gb = None;
        }
        let unknown = super::estimate(&input).unwrap().table;
        assert!(unknown.contains("at a price that its host does not tell"), "{unknown}");
    }
}
