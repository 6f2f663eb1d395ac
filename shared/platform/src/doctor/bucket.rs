//! The bucket of the functions: rights, rules, and one conditional write.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Finding;
use super::examiner::BucketPlace;
use super::google::{Api, Kind, Refusal, project};
use crate::adapters::google::TokenSource;
use crate::config::Config;

/// Has the rights to objects.
const OBJECT_ROLE: &str = "roles/storage.objectUser";
/// Has the right to read the bucket's own settings.
const BUCKET_ROLE: &str = "roles/storage.legacyBucketReader";

/// What the store takes, and the role that has it. Replacing an object takes `delete`. Source: Cloud Storage docs, IAM permissions, 2026-11.
pub(super) const PERMISSIONS: [(&str, &str); 6] = [
    ("storage.buckets.get", BUCKET_ROLE),
    ("storage.objects.create", OBJECT_ROLE),
    ("storage.objects.delete", OBJECT_ROLE),
    ("storage.objects.get", OBJECT_ROLE),
    ("storage.objects.list", OBJECT_ROLE),
    ("storage.objects.update", OBJECT_ROLE),
];

/// The one object that the probe writes, again and again.
const PROBE: &str = "doctor/probe";

/// What the bucket should do with tombstones.
const LIFECYCLE: &str = include_str!("../../../../infra/bucket-lifecycle.json");

pub(super) async fn examine(config: &Config, place: &BucketPlace, tokens: &Arc<dyn TokenSource>) -> Vec<Finding> {
    let api = match Api::new("storage.googleapis.com", &place.url, tokens) {
        Ok(api) => api,
        Err(refusal) => return vec![Finding::broken("bucket", refusal.to_string())],
    };
    let (rights, rules, probe) = tokio::join!(
        permissions(&api, place, config),
        rules(&api, place, config),
        probe(&api, place)
    );
    let listed = api
        .get(
            &["storage", "v1", "b", &place.name, "o"],
            &[("prefix", "associations/"), ("maxResults", "1")],
        )
        .await;
    let mut findings = rights;
    findings.extend(rules);
    let name = &place.name;
    match (listed, probe) {
        (Ok(_), Ok(())) => findings.push(Finding::fine(
            "store",
            format!("bucket {name} lists, and takes a write only if nobody else wrote"),
        )),
        (Err(refusal), _) | (Ok(_), Err(refusal)) => {
            findings.push(Finding::broken("store", advice(&api, &refusal, name, config)))
        }
    }
    findings
}

fn advice(api: &Api, refusal: &Refusal, bucket: &str, config: &Config) -> String {
    if refusal.kind == Kind::NotFound {
        return format!("bucket {bucket} does not exist; infra/google-setup.sh --bucket {bucket} makes it ({refusal})");
    }
    api.advice(refusal, Some(OBJECT_ROLE), project(config))
}

async fn permissions(api: &Api, place: &BucketPlace, config: &Config) -> Vec<Finding> {
    let asked: Vec<(&str, &str)> = PERMISSIONS.iter().map(|(right, _)| ("permissions", *right)).collect();
    let name = &place.name;
    let answer = api
        .get(&["storage", "v1", "b", name, "iam", "testPermissions"], &asked)
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(refusal) => return vec![Finding::note("bucket", advice(api, &refusal, name, config))],
    };
    let held = |right: &str| {
        answer["permissions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == right))
    };
    PERMISSIONS
        .iter()
        .filter(|(right, _)| !held(right))
        .map(|(right, role)| {
            let words = format!(
                "{right} is missing on {name}; {role} has it: gcloud storage buckets add-iam-policy-binding gs://{name} --member=serviceAccount:ACCOUNT --role={role}"
            );
            if *right == "storage.buckets.get" {
                Finding::note("bucket", words)
            } else {
                Finding::broken("bucket", words)
            }
        })
        .collect()
}

async fn rules(api: &Api, place: &BucketPlace, config: &Config) -> Vec<Finding> {
    let name = &place.name;
    let row = match api
        .get(
            &["storage", "v1", "b", name],
            &[("fields", "softDeletePolicy,lifecycle")],
        )
        .await
    {
        Ok(row) => row,
        Err(refusal) => return vec![Finding::note("bucket", advice(api, &refusal, name, config))],
    };
    let mut findings = Vec::new();
    let wanted: Value = serde_json::from_str(LIFECYCLE).unwrap_or_default();
    if row["lifecycle"]["rule"] != wanted["rule"] {
        findings.push(Finding::note(
            "bucket",
            format!("{name} never forgets tombstones: gcloud storage buckets update gs://{name} --lifecycle-file=infra/bucket-lifecycle.json"),
        ));
    }
    let kept = &row["softDeletePolicy"]["retentionDurationSeconds"];
    if !matches!(kept.as_str(), None | Some("0")) {
        findings.push(Finding::note(
            "bucket",
            format!("{name} bills every overwritten version for days: gcloud storage buckets update gs://{name} --soft-delete-duration=0"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::fine(
            "bucket",
            format!("{name} forgets tombstones, and nothing else"),
        ));
    }
    findings
}

/// Writes over the generation that is there, then over one that is not, which must be refused: all safety of the store hangs on it.
async fn probe(api: &Api, place: &BucketPlace) -> Result<(), Refusal> {
    let name = place.name.as_str();
    let found = match api.get(&["storage", "v1", "b", name, "o", PROBE], &[]).await {
        Ok(object) => object["generation"].as_str().unwrap_or("0").to_owned(),
        Err(refusal) if refusal.kind == Kind::NotFound => "0".to_owned(),
        Err(refusal) => return Err(refusal),
    };
    match write(api, name, &found).await {
        // Somebody else examines at this moment.
        Err(refusal) if refusal.kind == Kind::Stale => return Ok(()),
        other => other?,
    }
    match write(api, name, &found).await {
        Err(refusal) if refusal.kind == Kind::Stale => Ok(()),
        Err(refusal) => Err(refusal),
        Ok(()) => Err(Refusal::breach("it took a write over a generation that is gone")),
    }
}

async fn write(api: &Api, bucket: &str, generation: &str) -> Result<(), Refusal> {
    api.post(
        &["upload", "storage", "v1", "b", bucket, "o"],
        &[
            ("uploadType", "media"),
            ("name", PROBE),
            ("ifGenerationMatch", generation),
        ],
        &json!({"written_by": "warmspare doctor"}),
    )
    .await
    .map(drop)
}
