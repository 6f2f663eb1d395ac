//! The Google Cloud project: its APIs, our rights one by one, the region and what is left of its quota.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Finding;
use super::google::{Api, Kind, Refusal, project};
use crate::adapters::google::TokenSource;
use crate::config::Config;
use crate::placement::ZoneWish;
use warmspare_domain::disk_speed;
use warmspare_domain::policy::Provisioning;

/// Has every one of [`PERMISSIONS`].
const ROLE: &str = "roles/compute.instanceAdmin.v1";

/// What the calls of `adapters/compute` take; the same list makes the role in `infra/google-setup.sh`.
pub(super) const PERMISSIONS: [&str; 22] = [
    "compute.disks.create",
    "compute.disks.delete",
    "compute.disks.get",
    "compute.disks.list",
    "compute.disks.resize",
    "compute.disks.setLabels",
    "compute.disks.update",
    "compute.disks.use",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.getGuestAttributes",
    "compute.instances.list",
    "compute.instances.setDiskAutoDelete",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setScheduling",
    "compute.instances.setTags",
    "compute.instances.start",
    "compute.instances.stop",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
];

/// Reads that copying works without: the end of an operation, and what these checks look at.
pub(super) const READS: [&str; 3] = [
    "compute.machineTypes.get",
    "compute.regions.get",
    "compute.zoneOperations.get",
];

/// The boot disk, which is not a setting.
const BOOT_GB: f64 = 10.0;

fn compute_api(config: &Config, tokens: &Arc<dyn TokenSource>) -> Result<Api, Refusal> {
    Api::new("compute.googleapis.com", &config.gcp.url, tokens)
}

fn path<'a>(config: &'a Config, rest: &[&'a str]) -> Vec<&'a str> {
    [&["compute", "v1", "projects", project(config)], rest].concat()
}

/// Whether Compute Engine answers at all.
pub(super) async fn compute(config: &Config, tokens: &Arc<dyn TokenSource>) -> Finding {
    let api = match compute_api(config, tokens) {
        Ok(api) => api,
        Err(refusal) => return Finding::broken("compute", format!("{refusal}; look at gcp_url")),
    };
    let project = project(config);
    match api
        .get(&path(config, &["aggregated", "instances"]), &[("maxResults", "1")])
        .await
    {
        Ok(_) => Finding::fine("compute", format!("project {project} answers")),
        Err(refusal) => Finding::broken("compute", api.advice(&refusal, Some(ROLE), project)),
    }
}

/// Each right that is missing, by name.
pub(super) async fn permissions(config: &Config, tokens: &Arc<dyn TokenSource>) -> Vec<Finding> {
    let project = project(config);
    let service = "cloudresourcemanager.googleapis.com";
    let api = match Api::new(service, &config.gcp.resource_manager_url, tokens) {
        Ok(api) => api,
        Err(refusal) => return vec![Finding::note("permissions", refusal.to_string())],
    };
    let asked: Vec<&str> = PERMISSIONS.iter().chain(&READS).copied().collect();
    let question = format!("{project}:testIamPermissions");
    let answer = api
        .post(&["v1", "projects", &question], &[], &json!({"permissions": asked}))
        .await;
    match answer {
        Err(refusal) => vec![Finding::note(
            "permissions",
            format!("not compared one by one: {}", api.advice(&refusal, None, project)),
        )],
        Ok(answer) => missing(&answer, &asked, project),
    }
}

fn missing(answer: &Value, asked: &[&str], project: &str) -> Vec<Finding> {
    let held: Vec<&str> = answer["permissions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let lacking: Vec<Finding> = asked
        .iter()
        .filter(|one| !held.contains(one))
        .map(|one| {
            let words = format!(
                "{one} is missing; {ROLE} has it: gcloud projects add-iam-policy-binding {project} --member=serviceAccount:ACCOUNT --role={ROLE} (or run infra/google-setup.sh again)"
            );
            if READS.contains(one) {
                Finding::note("permissions", words)
            } else {
                Finding::broken("permissions", words)
            }
        })
        .collect();
    if lacking.is_empty() {
        return vec![Finding::fine("permissions", format!("all {} are there", asked.len()))];
    }
    lacking
}

/// Whether the price list answers. Without it prices of the day of the release are used.
pub(super) async fn prices(config: &Config, tokens: &Arc<dyn TokenSource>) -> Finding {
    let api = match Api::new("cloudbilling.googleapis.com", &config.gcp.billing_url, tokens) {
        Ok(api) => api,
        Err(refusal) => return Finding::note("prices", refusal.to_string()),
    };
    // Compute Engine's id in the catalogue.
    let list = ["v1", "services", "6F81-5844-456A", "skus"];
    match api.get(&list, &[("pageSize", "1"), ("fields", "nextPageToken")]).await {
        Ok(_) => Finding::fine("prices", "Google's price list answers"),
        Err(refusal) => Finding::note(
            "prices",
            format!(
                "built-in prices are used: {}",
                api.advice(&refusal, None, project(config))
            ),
        ),
    }
}

/// Whether region, zone and machine type exist, and whether one more standby fits into the quota.
pub(super) async fn region(config: &Config, tokens: &Arc<dyn TokenSource>) -> Vec<Finding> {
    let Ok(api) = compute_api(config, tokens) else {
        return Vec::new();
    };
    let (setting, region, zone) = match &config.zone {
        ZoneWish::Fixed(zone) => ("gcp_zone", zone.region(), Some(zone.as_str())),
        ZoneWish::Near { default_region, .. } => ("gcp_default_region", default_region.as_str(), None),
    };
    let row = match api.get(&path(config, &["regions", region]), &[]).await {
        Ok(row) => row,
        Err(refusal) if refusal.kind == Kind::NotFound => {
            return vec![Finding::broken(
                "region",
                format!(
                    "{setting} leads to region {region}, which does not exist; gcloud compute regions list shows those that do"
                ),
            )];
        }
        Err(refusal) => {
            let advice = api.advice(&refusal, Some(ROLE), project(config));
            return vec![Finding::note("region", format!("quota not compared: {advice}"))];
        }
    };
    let zones: Vec<&str> = row["zones"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|link| link.as_str()?.rsplit('/').next())
        .collect();
    if let Some(zone) = zone.filter(|zone| !zones.contains(zone)) {
        return vec![Finding::broken(
            "region",
            format!("gcp_zone {zone} does not exist; {region} has {}", zones.join(", ")),
        )];
    }
    let mut findings = vec![Finding::fine("region", format!("{region} exists"))];
    let Some(zone) = zone.or_else(|| zones.first().copied()) else {
        return findings;
    };
    let machine = &config.policy.machine.machine_type;
    match api.get(&path(config, &["zones", zone, "machineTypes", machine]), &[]).await {
        Ok(found) => findings.extend(quota(config, region, &row, found["guestCpus"].as_f64().unwrap_or(2.0))),
        Err(refusal) if refusal.kind == Kind::NotFound => findings.push(Finding::broken(
            "region",
            format!("{zone} has no machine type {machine}: gcloud compute machine-types list --zones={zone}; then set gcp_machine_type"),
        )),
        Err(refusal) => findings.push(Finding::note(
            "quota",
            format!("not compared: {}", api.advice(&refusal, Some(ROLE), project(config))),
        )),
    }
    findings
}

/// What one more standby needs against what is left.
fn quota(config: &Config, region: &str, row: &Value, cpus: f64) -> Vec<Finding> {
    let entry = |metric: &str| {
        let quotas = row["quotas"].as_array()?;
        let found = quotas.iter().find(|one| one["metric"] == metric)?;
        Some((found["limit"].as_f64()?, found["usage"].as_f64()?))
    };
    // A limit of 0 for preemptible CPUs means that Spot machines count among the others. Source: Compute Engine, allocation quotas, 2026-11.
    let spot = config.policy.machine.provisioning == Provisioning::Spot
        && entry("PREEMPTIBLE_CPUS").is_some_and(|(limit, _)| limit > 0.0);
    let cpu_metric = if spot { "PREEMPTIBLE_CPUS" } else { "CPUS" };
    let disk_metric = if config.policy.machine.disk_type == disk_speed::CHEAP {
        "DISKS_TOTAL_GB"
    } else {
        "SSD_TOTAL_GB"
    };
    let disk = f64::from(config.policy.machine.disk_gb) + BOOT_GB;
    let needs = [(cpu_metric, cpus), (disk_metric, disk), ("IN_USE_ADDRESSES", 1.0)];
    let short: Vec<Finding> = needs
        .iter()
        .filter_map(|(metric, need)| {
            let (limit, usage) = entry(metric)?;
            let left = limit - usage;
            (left < *need).then(|| {
                Finding::broken(
                    "quota",
                    format!(
                        "{region} has {left} of {limit} {metric} left, and one more standby takes {need}; ask for more at https://console.cloud.google.com/iam-admin/quotas?project={}, or use another region",
                        project(config)
                    ),
                )
            })
        })
        .collect();
    if short.is_empty() {
        return vec![Finding::fine("quota", format!("one more standby fits into {region}"))];
    }
    short
}
