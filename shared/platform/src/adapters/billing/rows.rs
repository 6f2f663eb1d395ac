//! From the catalogue's rows to prices. A row is taken only when every part of it is what we know; whatever differs is left out, and a price that is
//! left out is unknown.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::ports::ProviderError;
use crate::prices::{Item, NanoUsd, Rates};

/// A standby uses 100 GB or 730 hours a month: the rate that holds for this amount is ours. Rows of free tiers begin with a rate of 0.
const OUR_AMOUNT: f64 = 100.0;

/// A row of the catalogue.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sku {
    #[serde(default)]
    description: String,
    #[serde(default)]
    category: Category,
    #[serde(default)]
    service_regions: Vec<String>,
    #[serde(default)]
    pricing_info: Vec<PricingInfo>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Category {
    resource_family: String,
    usage_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PricingInfo {
    #[serde(default)]
    effective_time: String,
    pricing_expression: Option<PricingExpression>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct PricingExpression {
    usage_unit: String,
    tiered_rates: Vec<TierRate>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TierRate {
    #[serde(default)]
    start_usage_amount: f64,
    unit_price: Option<Money>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Money {
    currency_code: String,
    units: String,
    nanos: i64,
}

/// What rows of ours look like: how the description begins, family, usage and unit.
const OURS: [(&str, &str, &str, &str, Item); 7] = [
    ("E2 Instance Core", "Compute", "OnDemand", "h", Item::StandardCpu),
    ("E2 Instance Ram", "Compute", "OnDemand", "GiBy.h", Item::StandardMemory),
    (
        "Spot Preemptible E2 Instance Core",
        "Compute",
        "Preemptible",
        "h",
        Item::SpotCpu,
    ),
    (
        "Spot Preemptible E2 Instance Ram",
        "Compute",
        "Preemptible",
        "GiBy.h",
        Item::SpotMemory,
    ),
    (
        "Storage PD Capacity",
        "Storage",
        "OnDemand",
        "GiBy.mo",
        Item::PdStandard,
    ),
    (
        "Balanced PD Capacity",
        "Storage",
        "OnDemand",
        "GiBy.mo",
        Item::PdBalanced,
    ),
    ("SSD backed PD Capacity", "Storage", "OnDemand", "GiBy.mo", Item::PdSsd),
];

/// What was found so far; `None` for a price of which two rows say different things.
#[derive(Debug, Default)]
pub(super) struct Collected(BTreeMap<String, BTreeMap<Item, Option<NanoUsd>>>);

impl Collected {
    pub(super) fn add(&mut self, sku: &Sku) {
        let Some((item, unit)) = item(sku) else { return };
        let price = price(sku, unit);
        for region in &sku.service_regions {
            self.0
                .entry(region.clone())
                .or_default()
                .entry(item)
                .and_modify(|known| *known = known.filter(|known| Some(*known) == price))
                .or_insert(price);
        }
    }

    /// What can be believed: a Spot price above the price on demand is nonsense, and so is a list without any price.
    pub(super) fn believed(self) -> Result<BTreeMap<String, Rates>, ProviderError> {
        let mut regions = BTreeMap::new();
        for (region, found) in self.0 {
            let mut rates: Rates = found
                .into_iter()
                .filter_map(|(item, price)| Some((item, price?)))
                .collect();
            for (spot, standard) in [
                (Item::SpotCpu, Item::StandardCpu),
                (Item::SpotMemory, Item::StandardMemory),
            ] {
                let dearer = rates.get(&standard).is_some_and(|limit| rates.get(&spot) > Some(limit));
                if dearer {
                    tracing::warn!(
                        region,
                        "Google lists Spot machines above the price on demand; that is not believed"
                    );
                    rates.remove(&Item::SpotCpu);
                    rates.remove(&Item::SpotMemory);
                }
            }
            if !rates.is_empty() {
                regions.insert(region, rates);
            }
        }
        if regions.is_empty() {
            return Err(ProviderError::Invalid {
                detail: "the catalogue has no row that looks like a price of E2 machines or disks".to_owned(),
            });
        }
        Ok(regions)
    }
}

fn item(sku: &Sku) -> Option<(Item, &'static str)> {
    let ours = OURS.iter().find(|(start, family, usage, ..)| {
        let rest = sku.description.strip_prefix(start);
        // What follows may only be the place: `E2 Instance Core Sole Tenancy` begins like ours, too.
        let only_a_place =
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" running in ") || rest.starts_with(" in "));
        only_a_place && sku.category.resource_family == *family && sku.category.usage_type == *usage
    });
    ours.map(|(.., unit, item)| (*item, *unit))
}

/// The price in force, in billionths of a dollar; `None` when it is not positive, not in dollars, or in another unit.
fn price(sku: &Sku, unit: &str) -> Option<NanoUsd> {
    // Times in one format and zone sort as text.
    let latest = sku.pricing_info.iter().max_by_key(|info| &info.effective_time)?;
    let expression = latest.pricing_expression.as_ref()?;
    if expression.usage_unit != unit {
        return None;
    }
    let reached = |rate: &&TierRate| rate.start_usage_amount <= OUR_AMOUNT;
    let ours = expression.tiered_rates.iter().filter(reached);
    let money = ours
        .max_by(|a, b| a.start_usage_amount.total_cmp(&b.start_usage_amount))?
        .unit_price
        .as_ref()?;
    let units: i64 = match money.units.as_str() {
        "" => 0,
        text => text.parse().ok()?,
    };
    let nanos = units.checked_mul(1_000_000_000)?.checked_add(money.nanos)?;
    let positive = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0)?;
    (money.currency_code == "USD").then_some(NanoUsd(positive))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(description: &str, usage: &str, unit: &str, rates: Value) -> Value {
        let family = if unit == "GiBy.mo" { "Storage" } else { "Compute" };
        json!({"description": description, "category": {"resourceFamily": family, "usageType": usage}, "serviceRegions": ["us-west4", "us-west1"],
            "pricingInfo": [{"effectiveTime": "2026-11-23T00:00:00Z", "pricingExpression": {"usageUnit": unit, "tieredRates": rates}}]})
    }

    fn flat(nanos: i64) -> Value {
        json!([{"startUsageAmount": 0, "unitPrice": {"currencyCode": "USD", "units": "0", "nanos": nanos}}])
    }

    fn read(rows: &[Value]) -> Result<BTreeMap<String, Rates>, ProviderError> {
        let mut collected = Collected::default();
        for row in rows {
            collected.add(&serde_json::from_value(row.clone()).unwrap());
        }
        collected.believed()
    }

    fn only(item: Item, nanos: u64) -> Rates {
        Rates::from([(item, NanoUsd(nanos))])
    }

    #[test]
    fn a_row_counts_for_each_of_its_regions() {
        let prices = read(&[row(
            "E2 Instance Core running in Las Vegas",
            "OnDemand",
            "h",
            flat(24_570_000),
        )])
        .unwrap();
        let expected = only(Item::StandardCpu, 24_570_000);
        assert_eq!(
            prices,
            BTreeMap::from([
                ("us-west1".to_owned(), expected.clone()),
                ("us-west4".to_owned(), expected)
            ])
        );
    }

    #[test]
    fn rows_that_only_resemble_ours_are_left_out() {
        let wrong = [
            row("E2 Custom Instance Core running in Dallas", "OnDemand", "h", flat(1)),
            row(
                "E2 Instance Core Sole Tenancy running in Dallas",
                "OnDemand",
                "h",
                flat(1),
            ),
            row(
                "Spot Preemptible E2 Custom Instance Core running in Dallas",
                "Preemptible",
                "h",
                flat(1),
            ),
            row("N2 Instance Core running in Dallas", "OnDemand", "h", flat(1)),
            row("E2 Instance Core running in Dallas", "Commit1Yr", "h", flat(1)),
            row("E2 Instance Core running in Dallas", "Preemptible", "h", flat(1)),
            row("E2 Instance Core running in Dallas", "OnDemand", "GiBy.h", flat(1)),
            row("Regional Storage PD Capacity in Dallas", "OnDemand", "GiBy.mo", flat(1)),
            row("Storage PD Capacity in Dallas", "OnDemand", "GiBy.d", flat(1)),
            row("E2 Instance Core running in Dallas", "OnDemand", "h", json!([])),
        ];
        for row in wrong {
            assert!(read(std::slice::from_ref(&row)).is_err(), "{row}");
        }
    }

    #[test]
    fn nonsense_is_no_price() {
        let dollars = |units: &str, nanos: i64, currency: &str| json!([{"startUsageAmount": 0, "unitPrice": {"currencyCode": currency, "units": units, "nanos": nanos}}]);
        for rates in [
            flat(0),
            flat(-5),
            dollars("0", 5, "EUR"),
            dollars("-1", 5, "USD"),
            dollars("much", 5, "USD"),
        ] {
            let rows = [row("Storage PD Capacity", "OnDemand", "GiBy.mo", rates.clone())];
            assert!(read(&rows).is_err(), "{rates}");
        }
        let whole = read(&[row(
            "Storage PD Capacity",
            "OnDemand",
            "GiBy.mo",
            dollars("1", 5, "USD"),
        )])
        .unwrap();
        assert_eq!(whole["us-west4"], only(Item::PdStandard, 1_000_000_005));
    }

    #[test]
    fn a_spot_price_above_the_price_on_demand_is_unknown() {
        let rows = [
            row("E2 Instance Core running in Paris", "OnDemand", "h", flat(25)),
            row(
                "Spot Preemptible E2 Instance Core running in Paris",
                "Preemptible",
                "h",
                flat(99),
            ),
            row(
                "Spot Preemptible E2 Instance Ram running in Paris",
                "Preemptible",
                "GiBy.h",
                flat(1),
            ),
        ];
        assert_eq!(read(&rows).unwrap()["us-west4"], only(Item::StandardCpu, 25));
    }

    #[test]
    fn the_rate_for_our_amount_counts_not_the_free_one_and_not_the_bulk_one() {
        let usd = |nanos: i64| json!({"currencyCode": "USD", "units": "0", "nanos": nanos});
        let rates = json!([{"startUsageAmount": 0, "unitPrice": usd(0)}, {"startUsageAmount": 30, "unitPrice": usd(40_000_000)},
            {"startUsageAmount": 5000, "unitPrice": usd(30_000_000)}]);
        let prices = read(&[row("Storage PD Capacity", "OnDemand", "GiBy.mo", rates)]).unwrap();
        assert_eq!(prices["us-west4"], only(Item::PdStandard, 40_000_000));
    }

    #[test]
    fn two_rows_that_contradict_each_other_are_believed_neither() {
        let disk = |nanos| row("Balanced PD Capacity in Dallas", "OnDemand", "GiBy.mo", flat(nanos));
        let cpu = row("E2 Instance Core running in Dallas", "OnDemand", "h", flat(9));
        let prices = read(&[disk(100), cpu.clone(), disk(120), disk(100)]).unwrap();
        assert_eq!(prices["us-west4"], only(Item::StandardCpu, 9));
        let prices = read(&[disk(100), cpu, disk(100)]).unwrap();
        assert_eq!(prices["us-west4"].len(), 2);
    }

    #[test]
    fn of_several_prices_the_latest_is_in_force() {
        let mut two = row("Balanced PD Capacity", "OnDemand", "GiBy.mo", flat(100));
        let earlier = json!({"effectiveTime": "2026-01-01T00:00:00Z", "pricingExpression": {"usageUnit": "GiBy.mo", "tieredRates": flat(90)}});
        two["pricingInfo"].as_array_mut().unwrap().push(earlier);
        assert_eq!(read(&[two]).unwrap()["us-west4"], only(Item::PdBalanced, 100));
    }
}
