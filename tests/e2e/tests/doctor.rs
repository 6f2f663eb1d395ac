//! `warmspare doctor` finds what is missing and says what to do about it.

use std::process::Stdio;

use serde_json::Value;
use simcloud::{Fault, FaultAction};
use tokio::process::Command;
use warmspare_e2e::{Stage, fast, play, program};

async fn doctor(stage: &Stage, changed: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let mut command = Command::new(program());
    stage.set_environment(&mut command);
    let output = command
        .args(["doctor", "--json"])
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
            for check in ["store", "clock", "vast", "webhook", "google", "compute"] {
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
