use std::sync::Arc;

use secrecy::SecretString;
use simcloud::{Options, Simcloud};

use super::local::{Linking, linking};
use super::{BucketPlace, Examine, Examiner, Finding, Verdict, bucket, project};
use crate::adapters::google::StaticToken;
use crate::config::Config;

/// The words of a bash array in `infra/google-setup.sh`.
fn array(name: &str) -> Vec<&'static str> {
    let script = include_str!("../../../../infra/google-setup.sh");
    let start = format!("\n{name}=(");
    let (_, rest) = script.split_once(&start).expect("the script has this list");
    let mut words: Vec<&str> = Vec::new();
    for line in rest.lines() {
        let line = line.trim();
        if !line.starts_with('#') {
            words.extend(line.trim_end_matches(')').split_whitespace());
        }
        if line.ends_with(')') && !line.starts_with('#') {
            break;
        }
    }
    words.sort_unstable();
    words
}

#[test]
fn doctor_asks_for_exactly_the_rights_that_the_set_up_gives() {
    let mut asked: Vec<&str> = project::PERMISSIONS.iter().chain(&project::READS).copied().collect();
    asked.sort_unstable();
    assert_eq!(asked, array("compute_permissions"));
    let asked: Vec<&str> = bucket::PERMISSIONS.iter().map(|(right, _)| *right).collect();
    assert_eq!(asked, array("storage_permissions"));
}

#[test]
fn a_program_is_told_from_a_script_and_its_linking_is_seen() {
    assert_eq!(linking(b"#!/bin/sh\n"), None);
    let mut elf = vec![0; 120];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[16] = 3;
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    assert_eq!(linking(&elf), Some(Linking::Static));
    elf[64] = 3;
    assert_eq!(linking(&elf), Some(Linking::Dynamic));
    elf[18] = 183;
    assert_eq!(linking(&elf), None, "another processor");
    assert_eq!(linking(&elf[..20]), None, "cut off");
}

async fn examined(cloud: &Simcloud, bucket: &str) -> Vec<Finding> {
    let options = cloud.options();
    let settings = [
        ("vast_url", cloud.vast_url()),
        ("vast_api_key", options.vast_api_key.clone()),
        ("vast_pace_percent", "0".to_owned()),
        ("gcp_url", cloud.base_url()),
        ("gcp_billing_url", cloud.billing_url()),
        ("gcp_resource_manager_url", cloud.base_url()),
        ("gcp_project", options.project.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let config = Config::from_settings(&settings.into()).expect("right settings");
    let tokens = Arc::new(StaticToken::new(SecretString::from(options.compute_token.as_str())));
    let place = BucketPlace {
        url: cloud.base_url(),
        name: bucket.to_owned(),
    };
    Examiner::functions(&config, tokens, place).examine(false).await
}

fn all<'a>(findings: &'a [Finding], check: &str, verdict: Verdict) -> Vec<&'a str> {
    let fitting = findings
        .iter()
        .filter(|one| one.check == check && one.verdict == verdict);
    fitting.map(|one| one.words.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_examined_as_often_as_wanted_and_what_it_lacks_is_named() {
    let cloud = Simcloud::start(Options::default()).await.expect("a cloud");
    let bucket = cloud.options().bucket.clone();
    for _ in 0..2 {
        let findings = examined(&cloud, &bucket).await;
        assert_eq!(all(&findings, "store", Verdict::Ok).len(), 1, "{findings:#?}");
        assert_eq!(all(&findings, "bucket", Verdict::Ok).len(), 1, "{findings:#?}");
        assert_eq!(cloud.objects(), 1, "only the probe");
    }
    cloud.knobs().deny("storage.objects.delete");
    let findings = examined(&cloud, &bucket).await;
    let lacking = all(&findings, "bucket", Verdict::Broken);
    assert!(
        matches!(lacking.as_slice(), [one] if one.contains("storage.objects.delete") && one.contains("roles/storage.objectUser")),
        "{findings:#?}"
    );
    let findings = examined(&cloud, "nobodys").await;
    assert!(all(&findings, "store", Verdict::Broken)[0].contains("does not exist"));
    cloud.shutdown().await;
}

/// Questions for permissions are not in the trimmed document, and the content of a plain upload is no resource.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_schemas_have_what_is_asked_of_google() {
    let cloud = Simcloud::start(Options::default()).await.expect("a cloud");
    let bucket = cloud.options().bucket.clone();
    examined(&cloud, &bucket).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("requests.jsonl");
    for (document, write) in [
        (
            "storage.v1.trimmed.json",
            Simcloud::write_storage_requests as fn(&Simcloud, &std::path::Path) -> _,
        ),
        ("compute.v1.trimmed.json", Simcloud::write_compute_requests),
        ("cloudbilling.v1.trimmed.json", Simcloud::write_billing_requests),
    ] {
        write(&cloud, &file).expect("written");
        let lines = std::fs::read_to_string(&file).expect("readable");
        let known: Vec<&str> = lines
            .lines()
            .filter(|line| !line.contains("testPermissions") && !line.contains("testIamPermissions"))
            .filter(|line| !line.contains("\"media\""))
            .collect();
        std::fs::write(&file, known.join("\n") + "\n").expect("written");
        crate::adapters::published_schema::check(document, &file);
    }
    cloud.shutdown().await;
}
