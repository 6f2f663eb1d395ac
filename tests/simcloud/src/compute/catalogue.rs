//! What exists without being created: zones, regions, machine types, the project.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Outcome, error, filter, link, not_found};
use crate::http::{Call, Reply};
use crate::world::World;

/// Real zones, one line a region. europe-west1-a and us-east1-a do not exist (Compute Engine documentation, read 2026-11).
const ZONES: [&str; 80] = [
    "africa-south1-a",
    "africa-south1-b",
    "africa-south1-c",
    "asia-east1-a",
    "asia-east1-b",
    "asia-east1-c",
    "asia-east2-a",
    "asia-east2-b",
    "asia-east2-c",
    "asia-northeast1-a",
    "asia-northeast1-b",
    "asia-northeast1-c",
    "asia-northeast3-a",
    "asia-northeast3-b",
    "asia-northeast3-c",
    "asia-south1-a",
    "asia-south1-b",
    "asia-south1-c",
    "asia-southeast1-a",
    "asia-southeast1-b",
    "asia-southeast1-c",
    "asia-southeast2-a",
    "asia-southeast2-b",
    "asia-southeast2-c",
    "australia-southeast1-a",
    "australia-southeast1-b",
    "australia-southeast1-c",
    "europe-central2-a",
    "europe-central2-b",
    "europe-central2-c",
    "europe-north1-a",
    "europe-north1-b",
    "europe-north1-c",
    "europe-southwest1-a",
    "europe-southwest1-b",
    "europe-southwest1-c",
    "europe-west1-b",
    "europe-west1-c",
    "europe-west1-d",
    "europe-west2-a",
    "europe-west2-b",
    "europe-west2-c",
    "europe-west3-a",
    "europe-west3-b",
    "europe-west3-c",
    "europe-west4-a",
    "europe-west4-b",
    "europe-west4-c",
    "europe-west6-a",
    "europe-west6-b",
    "europe-west6-c",
    "europe-west8-a",
    "europe-west8-b",
    "europe-west8-c",
    "europe-west9-a",
    "europe-west9-b",
    "europe-west9-c",
    "me-central1-a",
    "me-west1-a",
    "northamerica-northeast1-a",
    "northamerica-northeast1-b",
    "northamerica-northeast1-c",
    "northamerica-northeast2-a",
    "southamerica-east1-a",
    "southamerica-west1-a",
    "us-central1-a",
    "us-central1-b",
    "us-central1-c",
    "us-central1-f",
    "us-east1-b",
    "us-east1-c",
    "us-east1-d",
    "us-east4-a",
    "us-east5-a",
    "us-south1-a",
    "us-west1-a",
    "us-west1-b",
    "us-west2-a",
    "us-west3-a",
    "us-west4-a",
];
/// Further zones of regions that the list above shortens.
const MORE_ZONES: [&str; 31] = [
    "asia-northeast2-a",
    "asia-northeast2-b",
    "asia-northeast2-c",
    "asia-south2-a",
    "asia-south2-b",
    "asia-south2-c",
    "australia-southeast2-a",
    "australia-southeast2-b",
    "australia-southeast2-c",
    "europe-north2-a",
    "europe-north2-b",
    "europe-west10-a",
    "europe-west10-b",
    "europe-west10-c",
    "europe-west12-a",
    "me-central1-b",
    "me-central2-a",
    "northamerica-northeast2-b",
    "northamerica-south1-a",
    "southamerica-east1-b",
    "southamerica-west1-b",
    "us-east4-b",
    "us-east4-c",
    "us-east5-b",
    "us-east5-c",
    "us-south1-b",
    "us-west1-c",
    "us-west2-b",
    "us-west2-c",
    "us-west3-b",
    "us-west4-b",
];
/// Machine types with virtual CPUs, MB of memory, and dollars per hour on demand in us-central1 (public price list, rounded).
const MACHINE_TYPES: [(&str, u32, u32, f64); 12] = [
    ("e2-micro", 2, 1_024, 0.0084),
    ("e2-small", 2, 2_048, 0.0168),
    ("e2-medium", 2, 4_096, 0.0335),
    ("e2-standard-2", 2, 8_192, 0.0670),
    ("e2-standard-4", 4, 16_384, 0.1340),
    ("e2-standard-8", 8, 32_768, 0.2681),
    ("e2-highmem-2", 2, 16_384, 0.0904),
    ("e2-highcpu-2", 2, 2_048, 0.0495),
    ("n1-standard-1", 1, 3_840, 0.0475),
    ("n2-standard-2", 2, 8_192, 0.0971),
    ("n2d-standard-2", 2, 8_192, 0.0845),
    ("t2d-standard-1", 1, 4_096, 0.0422),
];
pub(super) const DISK_TYPES: [&str; 4] = ["pd-standard", "pd-balanced", "pd-ssd", "pd-extreme"];

pub(super) fn zones() -> impl Iterator<Item = &'static str> {
    ZONES.into_iter().chain(MORE_ZONES)
}

pub(super) fn is_zone(zone: &str) -> bool {
    zones().any(|known| known == zone)
}

pub(super) fn region_of(zone: &str) -> &str {
    zone.rsplit_once('-').map_or(zone, |(region, _)| region)
}

pub(super) fn is_machine_type(name: &str) -> bool {
    MACHINE_TYPES.iter().any(|(known, ..)| *known == name)
}

/// Dollars per hour of a running VM; Spot at about a third.
pub(crate) fn hourly(machine_type: &str, spot: bool) -> f64 {
    let price = MACHINE_TYPES
        .iter()
        .find(|(known, ..)| *known == machine_type)
        .map_or(0.0, |(.., price)| *price);
    if spot { price * 0.35 } else { price }
}

/// Everything outside a zone's instances, disks and operations.
pub(super) fn route(world: &Arc<World>, call: &Call, rest: &[&str]) -> Outcome {
    if call.method != "GET" {
        return Err(error(404, "notFound", "Not Found"));
    }
    match rest {
        [] => Ok(Reply::ok(
            json!({"kind": "compute#project", "id": "1", "name": world.options.project, "defaultServiceAccount": "",
            "selfLink": format!("https://www.googleapis.com/compute/v1/projects/{}", world.options.project), "quotas": []}),
        )),
        ["zones"] => filter::zone_list(
            world,
            call,
            "zone",
            "zones",
            zones().map(|zone| zone_row(world, zone)).collect(),
        ),
        ["zones", zone] => Ok(Reply::ok(zone_row(world, zone))),
        ["zones", zone, "machineTypes"] => {
            let rows = MACHINE_TYPES
                .iter()
                .map(|(name, ..)| machine_type_row(world, zone, name))
                .collect();
            filter::zone_list(world, call, "machineType", &format!("zones/{zone}/machineTypes"), rows)
        }
        ["zones", zone, "machineTypes", name] if is_machine_type(name) => {
            Ok(Reply::ok(machine_type_row(world, zone, name)))
        }
        ["regions"] => {
            let mut names: Vec<&str> = zones().map(region_of).collect();
            names.sort_unstable();
            names.dedup();
            filter::zone_list(
                world,
                call,
                "region",
                "regions",
                names.into_iter().map(|name| region_row(world, name)).collect(),
            )
        }
        ["regions", name] if zones().any(|zone| region_of(zone) == *name) => Ok(Reply::ok(region_row(world, name))),
        _ => Err(not_found(&format!(
            "projects/{}/{}",
            world.options.project,
            rest.join("/")
        ))),
    }
}

fn zone_row(world: &World, zone: &str) -> Value {
    json!({"kind": "compute#zone", "id": "2000", "name": zone, "description": zone, "status": "UP",
        "region": link(world, &format!("regions/{}", region_of(zone))), "selfLink": link(world, &format!("zones/{zone}"))})
}

fn region_row(world: &World, region: &str) -> Value {
    let zones: Vec<String> = zones()
        .filter(|zone| region_of(zone) == region)
        .map(|zone| link(world, &format!("zones/{zone}")))
        .collect();
    let quota = |metric: &str, limit: f64| json!({"metric": metric, "limit": limit, "usage": 0.0});
    json!({"kind": "compute#region", "id": "1000", "name": region, "description": region, "status": "UP", "zones": zones,
        "quotas": [quota("CPUS", 24.0), quota("PREEMPTIBLE_CPUS", 24.0), quota("DISKS_TOTAL_GB", 4096.0), quota("IN_USE_ADDRESSES", 8.0)],
        "selfLink": link(world, &format!("regions/{region}"))})
}

fn machine_type_row(world: &World, zone: &str, name: &str) -> Value {
    let (_, cpus, memory, _) = MACHINE_TYPES
        .iter()
        .find(|(known, ..)| *known == name)
        .copied()
        .unwrap_or((name_of_none(), 0, 0, 0.0));
    json!({"kind": "compute#machineType", "id": "3000", "name": name, "guestCpus": cpus, "memoryMb": memory, "zone": zone,
        "isSharedCpu": name.starts_with("e2-m") || name.starts_with("e2-s"), "selfLink": link(world, &format!("zones/{zone}/machineTypes/{name}"))})
}

fn name_of_none() -> &'static str {
    ""
}
