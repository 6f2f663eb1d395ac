//! `warmspare doctor` finds what is missing and says what to do about it.

use std::process::Stdio;

use serde_json::Value;
use simcloud::{Fault, FaultAction};
use tokio::process::Command;
use warmspare_e2e::{Stage, fast, play, program};

async fn doctor(stage: &Stage, changed: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    examined(stage, &["doctor", "--json"], changed).await
}

async fn examined(stage: &Stage, arguments: &[&str], changed: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let mut command = Command::new(program());
    stage.set_environment(&mut command);
    let output = command
        .args(arguments)
        .envs(changed.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the program runs");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (
        output.status.code(),
        report["findings"].as_array().cloned().unwrap_or_default(),
    )
}

fn words<'a>(findings: &'a [Value], check: &str, verdict: &str) -> &'a str {
    let found = findings
        .iter()
        .find(|one| one["check"] == check && one["verdict"] == verdict);
    found.unwrap_or_else(|| panic!("{check} is not {verdict}: {findings:#?}"))["words"]
        .as_str()
        .unwrap_or_default()
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    play(fast(), |stage| {
        Box::pin(async {
            let (code, findings) = doctor(stage, &[]).await;
            assert_eq!(code, Some(0), "{findings:#?}");
            for check in [
                "store",
                "operator_key",
                "clock",
                "vast",
                "webhook",
                "google",
                "compute",
                "permissions",
                "region",
                "quota",
                "prices",
            ] {
                words(&findings, check, "ok");
            }

            let (code, findings) = doctor(stage, &[("WARMSPARE_VAST_API_KEY", "a key that nobody has")]).await;
            assert_eq!(code, Some(1));
            assert!(words(&findings, "vast", "broken").contains("instance_read"));
            words(&findings, "compute", "ok");

            let refusal = serde_json::json!({"error": {"code": 403, "message": "Required 'compute.instances.list' permission",
                "errors": [{"reason": "forbidden", "message": "Required 'compute.instances.list' permission", "domain": "global"}]}});
            let denied = Fault::once(
                "GET",
                "/compute/v1/*",
                FaultAction::Body {
                    code: 403,
                    body: refusal,
                },
            );
            stage.cloud.inject(denied.times(50));
            let (code, findings) = doctor(stage, &[]).await;
            stage.cloud.clear_faults();
            assert_eq!(code, Some(1));
            let said = words(&findings, "compute", "broken");
            assert!(
                said.contains("compute.instances.list") && said.contains("roles/compute.instanceAdmin.v1"),
                "{said}"
            );

            stage.cloud.knobs().set_credit(1.5);
            let (code, findings) = doctor(stage, &[]).await;
            assert_eq!(code, Some(0), "a note is not a failure");
            assert!(words(&findings, "credit", "note").contains("1.50 dollars"));

            let missing = stage.directory().join("no-such-key.json").display().to_string();
            let (code, _) = doctor(stage, &[("WARMSPARE_GCP_CREDENTIALS", &missing)]).await;
            assert_eq!(code, Some(2), "settings come first");
            let (code, findings) = doctor(stage, &[("WARMSPARE_STATE_DIR", "/proc/nowhere")]).await;
            assert_eq!(code, Some(1));
            assert!(words(&findings, "store", "broken").contains("state_dir"));
            Ok(())
        })
    });
}

#[test]
fn each_missing_right_an_api_that_is_off_and_a_region_that_is_none_are_named() {
    play(fast(), |stage| {
        Box::pin(async {
            stage.cloud.knobs().deny("compute.disks.create");
            let (code, findings) = doctor(stage, &[]).await;
            assert_eq!(code, Some(1), "{findings:#?}");
            let said = words(&findings, "permissions", "broken");
            assert!(
                said.contains("compute.disks.create") && said.contains("--role=roles/compute.instanceAdmin.v1"),
                "{said}"
            );

            let message = "Compute Engine API has not been used in project 1 before or it is disabled.";
            let off = serde_json::json!({"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED",
                "errors": [{"reason": "accessNotConfigured", "message": message, "domain": "usageLimits"}]}});
            let fault = FaultAction::Body { code: 403, body: off };
            stage.cloud.inject(Fault::once("GET", "/compute/v1/*", fault).times(50));
            let (code, findings) = doctor(stage, &[]).await;
            stage.cloud.clear_faults();
            assert_eq!(code, Some(1));
            let said = words(&findings, "compute", "broken");
            assert!(said.contains("gcloud services enable compute.googleapis.com"), "{said}");

            let row = serde_json::json!({"zones": ["https://x/zones/us-central1-a"],
                "quotas": [{"metric": "PREEMPTIBLE_CPUS", "limit": 0.0, "usage": 0.0}, {"metric": "CPUS", "limit": 8.0, "usage": 7.0}]});
            let full = FaultAction::Body { code: 200, body: row };
            stage
                .cloud
                .inject(Fault::once("GET", "/compute/v1/projects/*/regions/us-central1", full));
            let (_, findings) = doctor(stage, &[("WARMSPARE_GCP_ZONE", "us-central1-a")]).await;
            let said = words(&findings, "quota", "broken");
            assert!(
                said.contains("1 of 8 CPUS left"),
                "Spot counts among the others: {said}"
            );

            let (code, findings) = doctor(stage, &[("WARMSPARE_GCP_MACHINE_TYPE", "e2-enormous")]).await;
            assert_eq!(code, Some(1));
            assert!(words(&findings, "region", "broken").contains("gcp_machine_type"));
            Ok(())
        })
    });
}

#[test]
fn a_deployment_examines_itself_for_those_who_may_operate() {
    play(fast(), |stage| {
        Box::pin(async {
            stage.cloud.knobs().deny("compute.instances.create");
            let (status, report) = stage.api(reqwest::Method::GET, "/v1/doctor", None).await?;
            assert_eq!(status.as_u16(), 200, "{report}");
            let findings = report["findings"].as_array().cloned().unwrap_or_default();
            words(&findings, "vast", "ok");
            assert!(words(&findings, "permissions", "broken").contains("compute.instances.create"));
            let refused = reqwest::Client::new()
                .get(format!("{}/v1/doctor", stage.serve_url()))
                .send()
                .await?;
            assert_eq!(refused.status().as_u16(), 401);
            Ok(())
        })
    });
}
