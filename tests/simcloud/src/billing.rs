//! The price list: SKUs of Compute Engine, page by page, as the Cloud Billing Catalog serves them. Facts: `reference/google/pricing.md` (2026-11).
//!
//! Prices are those of October 2026 where known and invented elsewhere, so that they differ from any list of July. Among the rows are those that a
//! careless reader takes for the right ones.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::compute::{authorize, error};
use crate::http::{Call, Reply};
use crate::world::World;

/// Compute Engine's id in the catalogue.
const SERVICE: &str = "6F81-5844-456A";

/// The real one gives at most 5000 rows a page; this list is far shorter, so its pages are, too.
const PAGE: usize = 40;

/// Billionths of a dollar: a place as Google words it, its regions, a vCPU and a GB an hour on demand, the same as Spot (0 where none is sold), a GB a
/// month of standard, balanced and SSD disk.
type Row = (
    &'static str,
    &'static [&'static str],
    (i64, i64),
    (i64, i64),
    (i64, i64, i64),
);

const PRICES: &[Row] = &[
    (
        "Americas",
        &["us-central1", "us-east1", "us-west1"],
        (21_811_590, 2_923_530),
        (13_400_000, 1_800_000),
        (40_000_000, 100_000_000, 170_000_000),
    ),
    (
        "Las Vegas",
        &["us-west4"],
        (24_570_000, 3_292_000),
        (3_100_000, 410_000),
        (44_000_000, 110_000_000, 187_000_000),
    ),
    (
        "Dallas",
        &["us-south1"],
        (25_740_000, 3_450_000),
        (8_500_000, 1_140_000),
        (47_200_000, 120_000_000, 200_600_000),
    ),
    (
        "Los Angeles",
        &["us-west2"],
        (26_200_000, 3_511_000),
        (8_200_000, 1_100_000),
        (48_000_000, 120_000_000, 204_000_000),
    ),
    // No Spot row: what is not for sale must not be taken for the price on demand.
    (
        "Salt Lake City",
        &["us-west3"],
        (26_200_000, 3_511_000),
        (0, 0),
        (48_000_000, 120_000_000, 204_000_000),
    ),
    (
        "Virginia",
        &["us-east4"],
        (24_570_000, 3_292_000),
        (13_600_000, 1_820_000),
        (44_000_000, 110_000_000, 187_000_000),
    ),
    (
        "Montreal",
        &["northamerica-northeast1"],
        (24_010_000, 3_218_000),
        (7_300_000, 980_000),
        (44_000_000, 110_000_000, 187_000_000),
    ),
    (
        "Toronto",
        &["northamerica-northeast2"],
        (24_010_000, 3_218_000),
        (4_700_000, 630_000),
        (44_000_000, 110_000_000, 187_000_000),
    ),
    (
        "Sao Paulo",
        &["southamerica-east1"],
        (34_620_000, 4_640_000),
        (7_610_000, 1_019_000),
        (60_000_000, 150_000_000, 255_000_000),
    ),
    (
        "Belgium",
        &["europe-west1"],
        (23_990_000, 3_216_000),
        (11_700_000, 1_570_000),
        (40_000_000, 100_000_000, 170_000_000),
    ),
    (
        "Netherlands",
        &["europe-west4"],
        (24_010_000, 3_218_000),
        (11_500_000, 1_540_000),
        (44_000_000, 110_000_000, 187_000_000),
    ),
    (
        "Stockholm",
        &["europe-north2"],
        (22_900_000, 3_070_000),
        (5_700_000, 760_000),
        (40_000_000, 100_000_000, 170_000_000),
    ),
    (
        "Taiwan",
        &["asia-east1"],
        (25_260_000, 3_385_000),
        (11_910_000, 1_597_000),
        (40_000_000, 100_000_000, 170_000_000),
    ),
    (
        "Tokyo",
        &["asia-northeast1"],
        (28_030_000, 3_739_000),
        (17_000_000, 2_270_000),
        (52_000_000, 130_000_000, 221_000_000),
    ),
    (
        "Osaka",
        &["asia-northeast2"],
        (28_030_000, 3_739_000),
        (7_400_000, 990_000),
        (52_000_000, 130_000_000, 221_000_000),
    ),
    (
        "Seoul",
        &["asia-northeast3"],
        (28_030_000, 3_739_000),
        (10_100_000, 1_350_000),
        (52_000_000, 130_000_000, 221_000_000),
    ),
];

pub(crate) fn route(world: &Arc<World>, call: &Call) -> Reply {
    if let Err(refusal) = authorize(world, call) {
        return refusal;
    }
    match (call.method.as_str(), call.parts().as_slice()) {
        ("GET", ["v1", "services", SERVICE, "skus"]) => page(call),
        ("GET", ["v1", "services", other, "skus"]) => error(
            404,
            "notFound",
            &format!("Service with id {other} not found or not accessible."),
        ),
        _ => error(404, "notFound", "Not Found"),
    }
}

fn page(call: &Call) -> Reply {
    let bad = |what: &str| {
        error(
            400,
            "badRequest",
            &format!("Request contains an invalid argument: {what}."),
        )
    };
    if call.query("currencyCode").is_some_and(|code| code != "USD") {
        return bad("currencyCode (simcloud has prices in USD only)");
    }
    let Ok(asked) = call.query("pageSize").unwrap_or("5000").parse::<usize>() else {
        return bad("page_size");
    };
    if asked > 5000 {
        return bad("page_size must be at most 5000");
    }
    let start = match call.query("pageToken").unwrap_or_default() {
        "" => 0,
        token => match token.strip_prefix("AIza-").and_then(|at| at.parse().ok()) {
            Some(start) => start,
            None => return bad("page_token"),
        },
    };
    let rows = rows();
    let size = if asked == 0 { PAGE } else { asked.min(PAGE) };
    let end = (start + size).min(rows.len());
    let next = if end < rows.len() {
        format!("AIza-{end}")
    } else {
        String::new()
    };
    let skus = rows.get(start..end).unwrap_or_default();
    Reply::ok(json!({"skus": skus, "nextPageToken": next}))
}

/// Everything, in an order that mixes what belongs together.
fn rows() -> Vec<Value> {
    let mut rows = traps();
    for (place, regions, standard, spot, disk) in PRICES {
        for (kind, unit, group, on_demand, spot) in [
            ("Core", "h", "CPU", standard.0, spot.0),
            ("Ram", "GiBy.h", "RAM", standard.1, spot.1),
        ] {
            let words = format!("E2 Instance {kind} running in {place}");
            rows.push(sku(
                &words,
                ("Compute", group, "OnDemand"),
                regions,
                unit,
                &[(0.0, on_demand)],
            ));
            if spot > 0 {
                let words = format!("Spot Preemptible {words}");
                rows.push(sku(
                    &words,
                    ("Compute", group, "Preemptible"),
                    regions,
                    unit,
                    &[(0.0, spot)],
                ));
            }
            // Neighbours whose names have ours in them.
            for (words, usage, price) in [
                (
                    format!("E2 Custom Instance {kind} running in {place}"),
                    "OnDemand",
                    on_demand * 21 / 20,
                ),
                (
                    format!("Spot Preemptible E2 Custom Instance {kind} running in {place}"),
                    "Preemptible",
                    1000,
                ),
                (
                    format!("E2 Instance {kind} Sole Tenancy running in {place}"),
                    "OnDemand",
                    on_demand / 10,
                ),
                (
                    format!("N2 Instance {kind} running in {place}"),
                    "OnDemand",
                    on_demand * 3 / 2,
                ),
                (
                    format!("Commitment v1: E2 {kind} in {place} for 1 Year"),
                    "Commit1Yr",
                    on_demand * 2 / 3,
                ),
            ] {
                rows.push(sku(&words, ("Compute", group, usage), regions, unit, &[(0.0, price)]));
            }
        }
        rows.extend(disks(place, regions, *disk));
    }
    rows
}

fn disks(place: &str, regions: &[&str], (standard, balanced, ssd): (i64, i64, i64)) -> Vec<Value> {
    let month = |words: String, group, tiers: &[(f64, i64)]| {
        sku(&words, ("Storage", group, "OnDemand"), regions, "GiBy.mo", tiers)
    };
    // Where there is a free tier its rows have two rates, and the first is 0.
    let tiers = if regions.contains(&"us-central1") {
        vec![(0.0, 0), (30.0, standard)]
    } else {
        vec![(0.0, standard)]
    };
    vec![
        month(format!("Storage PD Capacity in {place}"), "PDStandard", &tiers),
        month(format!("Balanced PD Capacity in {place}"), "SSD", &[(0.0, balanced)]),
        month(format!("SSD backed PD Capacity in {place}"), "SSD", &[(0.0, ssd)]),
        month(
            format!("Regional Storage PD Capacity in {place}"),
            "PDStandard",
            &[(0.0, standard * 2)],
        ),
        month(
            format!("Regional Balanced PD Capacity in {place}"),
            "SSD",
            &[(0.0, balanced * 2)],
        ),
        month(
            format!("Storage PD Snapshot in {place}"),
            "StorageImage",
            &[(0.0, 50_000_000)],
        ),
    ]
}

/// Rows that are none of ours, or that nobody should believe.
fn traps() -> Vec<Value> {
    let global = &["global"];
    let paris = &["europe-west9"];
    let mut other_currency = sku(
        "E2 Instance Core running in Madrid",
        ("Compute", "CPU", "OnDemand"),
        &["europe-southwest1"],
        "h",
        &[(0.0, 25_740_000)],
    );
    other_currency["pricingInfo"][0]["pricingExpression"]["tieredRates"][0]["unitPrice"]["currencyCode"] = json!("EUR");
    vec![
        sku(
            "Network Internet Egress from Americas to Americas",
            ("Network", "InterregionEgress", "OnDemand"),
            global,
            "GiBy",
            &[(0.0, 120_000_000), (1024.0, 110_000_000), (10240.0, 80_000_000)],
        ),
        sku(
            "External IP Charge on a Spot Preemptible VM",
            ("Network", "IpAddress", "Preemptible"),
            global,
            "h",
            &[(0.0, 2_500_000)],
        ),
        // Spot dearer than on demand.
        sku(
            "E2 Instance Core running in Paris",
            ("Compute", "CPU", "OnDemand"),
            paris,
            "h",
            &[(0.0, 25_300_000)],
        ),
        sku(
            "E2 Instance Ram running in Paris",
            ("Compute", "RAM", "OnDemand"),
            paris,
            "GiBy.h",
            &[(0.0, 3_391_000)],
        ),
        sku(
            "Spot Preemptible E2 Instance Core running in Paris",
            ("Compute", "CPU", "Preemptible"),
            paris,
            "h",
            &[(0.0, 99_000_000)],
        ),
        sku(
            "Spot Preemptible E2 Instance Ram running in Paris",
            ("Compute", "RAM", "Preemptible"),
            paris,
            "GiBy.h",
            &[(0.0, 1_700_000)],
        ),
        // For nothing, and for less than nothing.
        sku(
            "Storage PD Capacity in Paris",
            ("Storage", "PDStandard", "OnDemand"),
            paris,
            "GiBy.mo",
            &[(0.0, 0)],
        ),
        sku(
            "Balanced PD Capacity in Paris",
            ("Storage", "SSD", "OnDemand"),
            paris,
            "GiBy.mo",
            &[(0.0, -116_000_000)],
        ),
        other_currency,
    ]
}

/// A row as the real catalogue writes it: a family, a group and a usage; rates by the amount from which they hold.
fn sku(
    description: &str,
    (family, group, usage): (&str, &str, &str),
    regions: &[&str],
    unit: &str,
    tiers: &[(f64, i64)],
) -> Value {
    use sha2::Digest;
    let hash = hex::encode_upper(sha2::Sha256::digest(format!("{description}{regions:?}")));
    let id = format!("{}-{}-{}", &hash[..4], &hash[4..8], &hash[8..12]);
    let rates: Vec<Value> = tiers
        .iter()
        .map(|(from, nanos)| {
            let price = json!({"currencyCode": "USD", "units": (nanos / 1_000_000_000).to_string(), "nanos": nanos % 1_000_000_000});
            json!({"startUsageAmount": from, "unitPrice": price})
        })
        .collect();
    let geography = if regions.len() == 1 {
        json!({"type": "REGIONAL", "regions": regions})
    } else {
        json!({"type": "MULTI_REGIONAL", "regions": regions})
    };
    json!({
        "name": format!("services/{SERVICE}/skus/{id}"), "skuId": id, "description": description,
        "category": {"serviceDisplayName": "Compute Engine", "resourceFamily": family, "resourceGroup": group, "usageType": usage},
        "serviceRegions": regions, "serviceProviderName": "Google", "geoTaxonomy": geography,
        "pricingInfo": [{"summary": "", "currencyConversionRate": 1, "effectiveTime": "2026-11-23T00:00:00Z",
            "pricingExpression": {"usageUnit": unit, "displayQuantity": 1, "baseUnit": "s", "baseUnitConversionFactor": 3600, "tieredRates": rates}}]
    })
}
