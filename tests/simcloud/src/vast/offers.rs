//! The market: offers, and the search over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{error, filters};
use crate::http::{Call, Reply};
use crate::world::{World, now};

/// One machine slice that may be rented.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) id: u64,
    pub(crate) machine_id: u64,
    pub(crate) host_id: u64,
    pub(crate) gpu_name: String,
    pub(crate) num_gpus: u32,
    pub(crate) gpu_ram: u32,
    /// On demand, dollars per hour.
    pub(crate) price: f64,
    pub(crate) min_bid: f64,
    /// Dollars per GB and month.
    pub(crate) storage_cost: f64,
    pub(crate) geolocation: Option<String>,
    pub(crate) reliability: f64,
    pub(crate) disk_space: f64,
    pub(crate) cpu_ram: u32,
    pub(crate) inet: f64,
    pub(crate) verification: &'static str,
    pub(crate) hosting_type: u8,
    pub(crate) direct_ports: u32,
    pub(crate) static_ip: bool,
    pub(crate) resource_type: &'static str,
    pub(crate) rented: bool,
}

impl Offer {
    /// The two-letter country code: the only thing that `geolocation` filters match.
    pub(crate) fn country(&self) -> Option<String> {
        let text = self.geolocation.as_deref()?.rsplit(',').next()?.trim().to_uppercase();
        (!text.is_empty()).then_some(text)
    }

    fn row(&self, kind: &str, storage: f64) -> Value {
        let mut row = self.money(kind == "bid", storage);
        if let (Value::Object(row), Value::Object(machine)) = (&mut row, self.machine()) {
            row.extend(machine);
        }
        row
    }

    fn money(&self, bid: bool, storage: f64) -> Value {
        let base = if bid { self.min_bid } else { self.price };
        let storage_total = self.storage_cost * storage / 720.0;
        let total = base + storage_total;
        json!({
            "id": self.id, "ask_contract_id": self.id, "bundle_id": self.machine_id, "machine_id": self.machine_id,
            "host_id": self.host_id, "dph_base": base, "dph_total": total, "discounted_dph_total": total, "min_bid": self.min_bid,
            "storage_cost": self.storage_cost, "storage_total_cost": storage_total, "inet_up_cost": 0.003, "inet_down_cost": 0.003,
            "internet_up_cost_per_tb": 3.07, "internet_down_cost_per_tb": 3.07, "duration": 864_000.0, "end_date": now() + 864_000.0,
            "start_date": now() - 864_000.0, "score": 100.0 / self.price.max(0.001), "dlperf_per_dphtotal": 200.0,
            "flops_per_dphtotal": 200.0, "rentable": !self.rented, "rented": self.rented, "is_bid": bid, "time_remaining": "",
            "search": {"totalHour": total},
        })
    }

    fn machine(&self) -> Value {
        let Value::Object(mut gpu) = json!({
            "num_gpus": self.num_gpus, "gpu_name": self.gpu_name, "gpu_ram": self.gpu_ram, "gpu_total_ram": self.gpu_ram * self.num_gpus,
            "gpu_arch": "nvidia", "gpu_frac": 1.0, "compute_cap": 890, "cuda_max_good": 12.8, "driver_version": "560.35.03",
            "driver_vers": 560_035_003, "gpu_max_power": 450.0, "gpu_max_temp": 90.0, "dlperf": 80.0, "total_flops": 82.0, "pcie_bw": 24.0, "pci_gen": 4.0, "gpu_mem_bw": 900.0, "gpu_lanes": 16,
            "gpu_display_active": false, "bw_nvlink": 0.0,
        }) else {
            return Value::Null;
        };
        if let Value::Object(host) = self.host() {
            gpu.extend(host);
        }
        Value::Object(gpu)
    }

    fn host(&self) -> Value {
        json!({
            "cpu_cores": 64, "cpu_cores_effective": 16.0, "cpu_ram": self.cpu_ram, "cpu_name": "AMD EPYC", "cpu_arch": "amd64",
            "cpu_ghz": 3.2, "has_avx": 1, "disk_space": self.disk_space, "disk_bw": 2000.0, "disk_name": "nvme", "inet_up": self.inet,
            "inet_down": self.inet, "reliability": self.reliability, "reliability2": self.reliability, "geolocation": self.geolocation,
            "direct_port_count": self.direct_ports, "static_ip": self.static_ip, "verification": self.verification,
            "hosting_type": self.hosting_type, "vms_enabled": false, "resource_type": self.resource_type, "external": false,
            "cluster_id": null, "webpage": null, "hostname": null, "logo": "", "os_version": "22.04", "mobo_name": "ROMED8-2T",
        })
    }
}

/// GPU, its memory in MB, dollars per hour on demand, place, reliability, hosting type.
type Kind = (&'static str, u32, f64, Option<&'static str>, f64, u8);

const KINDS: [Kind; 8] = [
    ("RTX 4090", 24_564, 0.40, Some("Texas, US"), 0.995, 0),
    ("RTX 4090", 24_564, 0.42, Some("Quebec, CA"), 0.991, 1),
    ("RTX 3090", 24_576, 0.20, Some("South Korea, KR"), 0.982, 0),
    ("A100 SXM4", 81_920, 1.10, Some("Sweden, SE"), 0.998, 1),
    ("H100 SXM", 81_559, 2.30, Some("Iowa, US"), 0.999, 1),
    ("RTX 4090", 24_564, 0.38, Some(", US"), 0.985, 0),
    (
        "RTX 5090",
        32_607,
        0.60,
        Some("Yutakachō, Shinagawa District, Tokyo, JP"),
        0.993,
        0,
    ),
    ("RTX A6000", 49_140, 0.50, None, 0.971, 0),
];

/// What the market offers at the start: some machines in several places, each several times, and a storage row.
pub(super) fn market() -> BTreeMap<u64, Offer> {
    let mut market = BTreeMap::new();
    for slice in 0..16_u64 {
        for (at, (gpu_name, gpu_ram, price, place, reliability, hosting_type)) in (0_u64..).zip(KINDS) {
            let offer = Offer {
                id: 9_000 + slice * 10 + at,
                machine_id: 33_000 + slice * 10 + at,
                host_id: 120_800 + at,
                gpu_name: gpu_name.to_owned(),
                num_gpus: 1,
                gpu_ram,
                // Later slices cost more, so that an order by price is total.
                price: price * (1.0 + 0.001 * f64::from(u32::try_from(slice).unwrap_or(0))),
                min_bid: price * 0.5,
                storage_cost: 0.15,
                geolocation: place.map(str::to_owned),
                reliability,
                disk_space: 500.0,
                cpu_ram: 128_000,
                inet: 500.0,
                verification: "verified",
                hosting_type,
                direct_ports: 50,
                static_ip: hosting_type == 1,
                resource_type: "gpu",
                rented: false,
            };
            market.insert(offer.id, offer);
        }
    }
    if let Some(first) = market.values().next().cloned() {
        // What a search for num_gpus=0 really finds: storage, not CPU machines (vast-api.md §4).
        let storage = Offer {
            id: 8_999,
            num_gpus: 0,
            gpu_name: String::new(),
            gpu_ram: 0,
            cpu_ram: 0,
            resource_type: "disk",
            ..first
        };
        market.insert(storage.id, storage);
    }
    market
}

/// A machine without a GPU, which the market usually has none of (vast-api.md §4); its number is the offer's.
pub(crate) fn cpu_offer() -> Offer {
    Offer {
        id: 8_990,
        machine_id: 32_990,
        host_id: 120_790,
        gpu_name: String::new(),
        num_gpus: 0,
        gpu_ram: 0,
        price: 0.03,
        min_bid: 0.03,
        storage_cost: 0.10,
        geolocation: Some("Texas, US".to_owned()),
        reliability: 0.99,
        disk_space: 500.0,
        cpu_ram: 32_000,
        inet: 500.0,
        verification: "verified",
        hosting_type: 1,
        direct_ports: 50,
        static_ip: true,
        resource_type: "cpu",
        rented: false,
    }
}

/// Keys of a query that are not filters.
const CONTROLS: [&str; 9] = [
    "order",
    "type",
    "limit",
    "allocated_storage",
    "disable_bundling",
    "client_id",
    "select_cols",
    "q",
    "extra_filters",
];

/// Answers `bundles` in its three forms.
pub(super) fn search(world: &Arc<World>, call: &Call) -> Reply {
    let query = match (call.method.as_str(), call.query("q")) {
        ("GET", Some(text)) => serde_json::from_str(text).map_err(|error| error.to_string()),
        ("GET", None) => Ok(json!({})),
        _ => call.json(),
    };
    let Ok(query) = query else {
        return error(400, "bad_request", "Invalid json body");
    };
    let query = query.get("q").cloned().unwrap_or(query);
    let Value::Object(query) = query else {
        return error(400, "bad_request", "Invalid query: must be dict of conditions");
    };
    match found(world, &query) {
        Ok(offers) => Reply::ok(json!({"success": true, "offers": offers})),
        Err(sentence) => error(400, "bad_request", sentence),
    }
}

fn found(world: &Arc<World>, query: &Map<String, Value>) -> Result<Vec<Value>, String> {
    let kind = query.get("type").and_then(Value::as_str).unwrap_or("on-demand");
    let storage = query.get("allocated_storage").and_then(Value::as_f64).unwrap_or(5.0);
    let state = world.state();
    if state.vast.offers_hidden {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    // Without a word about the number of GPUs storage rows stay out.
    let storage_rows = query.contains_key("num_gpus");
    for offer in state
        .vast
        .offers
        .values()
        .filter(|offer| storage_rows || offer.resource_type == "gpu")
    {
        let row = offer.row(kind, storage);
        if fits(offer, &row, query)? {
            rows.push(row);
        }
    }
    order(&mut rows, query.get("order"));
    let limit = query
        .get("limit")
        .and_then(Value::as_u64)
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(64);
    rows.truncate(limit);
    Ok(rows)
}

fn fits(offer: &Offer, row: &Value, query: &Map<String, Value>) -> Result<bool, String> {
    if offer.rented && !query.contains_key("rented") {
        return Ok(false);
    }
    for (name, condition) in query.iter().filter(|(name, _)| !CONTROLS.contains(&name.as_str())) {
        let seen = match name.as_str() {
            "geolocation" => json!(offer.country()),
            "verified" => json!(offer.verification == "verified"),
            "datacenter" => json!(offer.hosting_type == 1),
            "ubuntu_version" => row["os_version"].clone(),
            // Clients filter by the version as a number, 560.35.03 as 560035003 (vast-api.md §4).
            "driver_version" => row["driver_vers"].clone(),
            column => row
                .get(column)
                .cloned()
                .ok_or_else(|| format!("q.{column}: Extra inputs are not permitted"))?,
        };
        if !filters::matches(name, &seen, condition)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn order(rows: &mut [Value], order: Option<&Value>) {
    let wanted: Vec<(String, bool)> = order
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry.get(0)?.as_str()?.to_owned(), entry.get(1)?.as_str()? == "desc")))
        .collect();
    rows.sort_by(|left, right| {
        let by = |(column, descending): &(String, bool)| {
            let ordering = filters::compare(&left[column.as_str()], &right[column.as_str()]);
            if *descending { ordering.reverse() } else { ordering }
        };
        wanted
            .iter()
            .map(by)
            .find(|ordering| ordering.is_ne())
            .unwrap_or(std::cmp::Ordering::Equal)
    });
}
