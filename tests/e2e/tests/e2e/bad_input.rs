//! Bad input gets a message that names the thing and the way out, and nothing is half-done.

use std::process::{Output, Stdio};

use reqwest::Method;
use serde_json::{Value, json};
use simcloud::{Fault, FaultAction};
use tokio::process::Command;
use warmspare_e2e::{Stage, fast, play, play_with_errors, program, protected_gpu, running_gpu, standbys, until, word};

async fn warmspare(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
        .envs(environment.iter().copied())
        .output()
        .await
        .expect("the program runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn every_configuration_problem_is_reported_at_once() {
    let environment = [
        ("WARMSPARE_GCP_ZONE", "the-moon"),
        ("WARMSPARE_GCP_DISK_SIZE", "-1"),
        ("WARMSPARE_GCP_CREDENTIALS", "/nonexistent/key.json"),
        ("WARMSPARE_GCP_SPTO", "true"),
    ];
    let output = warmspare(&["serve"], &environment).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in [
        "gcp_zone",
        "WARMSPARE_GCP_ZONE",
        "the-moon",
        "gcp_disk_size",
        "/nonexistent/key.json",
        "vast_api_key",
        "gcp_project",
        "did you mean gcp_spot?",
    ] {
        assert!(said.contains(part), "{part} is not mentioned in: {said}");
    }
}

#[tokio::test]
async fn output_that_nobody_reads_or_no_disk_takes_is_no_panic() {
    let settings = async |stdout: Stdio| {
        let mut command = Command::new(program());
        command.arg("settings").stdout(stdout).stderr(Stdio::piped());
        command.spawn().expect("the program runs").wait_with_output().await
    };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = settings(writer.into()).await.expect("the program ends");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(141), ""));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let output = settings(full.expect("a full device").into()).await;
    let output = output.expect("the program ends");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.starts_with("warmspare: cannot write to standard output: No space left") && said.lines().count() == 1,
        "{said}"
    );
}

#[tokio::test]
async fn a_settings_file_that_is_none_is_named() {
    let output = warmspare(&["serve", "--config", "/nonexistent/warmspare.toml"], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("/nonexistent/warmspare.toml"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn verbs_say_who_does_not_answer_and_what_is_no_gpu() {
    let environment = [("WARMSPARE_URL", "http://127.0.0.1:1"), ("WARMSPARE_TOKEN", "x")];
    let output = warmspare(&["list"], &environment).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("http://127.0.0.1:1") && stderr(&output).contains("WARMSPARE_URL"),
        "{}",
        stderr(&output)
    );
    let output = warmspare(&["show", "$(reboot)"], &environment).await;
    assert_eq!(output.status.code(), Some(2), "usage");
    assert!(stderr(&output).contains("contract number"), "{}", stderr(&output));
    let output = warmspare(&["list"], &[("WARMSPARE_URL", "http://127.0.0.1:1")]).await;
    assert!(stderr(&output).contains("WARMSPARE_TOKEN"), "{}", stderr(&output));
}

#[test]
fn a_key_file_that_is_none_is_named_and_never_quoted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"private_key\": \"TOP-SECRET\"}").unwrap();
    let path = file.path().display().to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(async {
        match Stage::set(fast().with("gcp_credentials", &path)).await {
            Ok(stage) => {
                stage.strike(false).await;
                panic!("it started with a broken key file");
            }
            Err(error) => format!("{error:#}"),
        }
    });
    assert!(error.contains(&path), "{error}");
    assert!(!error.contains("TOP-SECRET"), "{error}");
}

#[test]
fn a_wrong_vast_key_is_said_and_nothing_is_made() {
    play(fast().with("vast_api_key", "wrong"), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            let refusal = warmspare_e2e::created(stage, gpu)
                .await
                .expect_err("nothing can be made")
                .to_string();
            assert!(
                refusal.contains("access was refused") && refusal.contains("503"),
                "{refusal}"
            );
            assert!(standbys(stage).is_empty() && stage.view(gpu).await.is_err());
            Ok(())
        })
    });
}

async fn refused(
    stage: &Stage,
    method: Method,
    path: &str,
    body: Value,
    status: u16,
    mentions: &str,
) -> anyhow::Result<()> {
    let (got, answer) = stage.api(method, path, Some(body.clone())).await?;
    let message = word(&answer["error"]["message"]);
    assert_eq!(got.as_u16(), status, "{path} {body}: {answer}");
    assert!(message.contains(mentions), "{path} {body}: {message}");
    Ok(())
}

#[test]
fn the_api_says_what_is_wrong_with_a_request_and_changes_nothing() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let before = stage.view(gpu).await?["policy"].clone();
            let path = format!("/v1/associations/{gpu}");
            for (change, mentions) in [
                (json!({"source_path": "/workspace/../etc"}), "climb"),
                (json!({"source_path": "/"}), "do not copy / or /root"),
                (json!({"source_path": "-rf"}), "source_path"),
                (json!({"max_deleted_percent": 0}), "1 to 100"),
                (json!({"retention_s": 0}), "at least 1 second"),
                (json!({"failover": "automatic"}), "failover_max_dollars_per_hour"),
                (
                    json!({"failover_max_dollars_per_hour": 0.5}),
                    "without automatic failover",
                ),
                (json!({"retention": 5}), "unknown field"),
                (json!([]), "cannot be used"),
            ] {
                refused(stage, Method::PATCH, &path, change, 400, mentions).await?;
            }
            refused(
                stage,
                Method::POST,
                &format!("{path}/restore"),
                json!({}),
                400,
                "say where to",
            )
            .await?;
            refused(
                stage,
                Method::POST,
                &format!("{path}/restore"),
                json!({"rent": {"max_dollars_per_hour": 0.4}}),
                409,
                "not possible in this phase",
            )
            .await?;
            refused(
                stage,
                Method::POST,
                &format!("{path}/restore"),
                json!({"rent": {"max_dollars_per_hour": -1}}),
                400,
                "above 0",
            )
            .await?;
            refused(
                stage,
                Method::POST,
                &format!("{path}/release"),
                json!({"confirm": "7"}),
                400,
                "confirm",
            )
            .await?;
            refused(
                stage,
                Method::POST,
                &format!("{path}/download"),
                json!({"public_key": "command=\"reboot\" ssh-ed25519 AAAA"}),
                409,
                "key",
            )
            .await?;
            refused(
                stage,
                Method::POST,
                "/v1/associations",
                json!({"gpu": "99999999"}),
                404,
                "lists no GPU",
            )
            .await?;
            for (wish, status, says) in [
                (json!({"onto": "vast-99999999"}), 404, "lists no GPU"),
                (
                    json!({"rent": {"max_dollars_per_hour": 0.4}, "point": "no-such-name"}),
                    409,
                    "warmspare points",
                ),
            ] {
                refused(stage, Method::POST, &format!("{path}/restore"), wish, status, says).await?;
            }
            refused(
                stage,
                Method::PATCH,
                "/v1/associations/1;reboot",
                json!({}),
                400,
                "not valid",
            )
            .await?;
            assert_eq!(stage.view(gpu).await?["policy"], before);
            Ok(())
        })
    });
}

#[test]
fn a_label_with_shell_characters_does_no_harm() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            let trap = stage.directory().join("trap");
            let label =
                json!({"label": format!("$(touch {0}) `touch {0}`; touch {0} | touch {0} & '\"", trap.display())});
            stage
                .vast(Method::PUT, &format!("/api/v0/instances/{gpu}/"), Some(label))
                .await?;
            std::fs::write(stage.workspace(gpu)?.join(format!("$(touch {0})", "trap")), "x")?;
            warmspare_e2e::created(stage, gpu).await?;
            warmspare_e2e::await_phase(stage, gpu, &["protected"]).await?;
            assert!(!trap.exists(), "a label was executed");
            Ok(())
        })
    });
}

#[test]
fn no_capacity_anywhere_waits_longer_each_time_and_says_so() {
    play_with_errors(fast().with("gcp_zone", "us-central1-a"), &[], |stage| {
        Box::pin(async {
            stage.cloud.knobs().capacity_out("us-central1-a");
            let gpu = running_gpu(stage).await?;
            warmspare_e2e::created(stage, gpu).await?;
            let view = warmspare_e2e::await_view(stage, gpu, "the problem in words", |view| {
                let reasons = view["health_reasons"].to_string();
                reasons.contains("no capacity") && reasons.contains("next attempt after")
            })
            .await?;
            assert_eq!(view["phase"], "provisioning");
            assert!(orders(stage) < 6, "{} orders: it hammers", orders(stage));
            stage.cloud.knobs().capacity_back("us-central1-a");
            until("it recovers by itself", async || {
                Ok(stage.view(gpu).await?["phase"] == "protected")
            })
            .await?;
            assert_eq!(standbys(stage).len(), 1);
            Ok(())
        })
    });
}

/// How often a standby was ordered.
fn orders(stage: &Stage) -> usize {
    let asked = |request: &&simcloud::Recorded| request.method == "POST" && request.path.ends_with("/instances");
    stage.cloud.requests().iter().filter(asked).count()
}

/// How many beats were done.
fn beats(stage: &Stage) -> usize {
    let log = std::fs::read_to_string(stage.log_path()).unwrap_or_default();
    log.matches("beat done").count()
}

/// Something at Google stands in the way until somebody puts it right: the phase says so and when the next attempt is, attempts become rarer, and
/// nobody has to restart anything.
fn stands_in_the_way(hinder: fn(&Stage), words: &'static str, put_right: fn(&Stage)) {
    play_with_errors(fast().with("gcp_zone", "us-central1-a"), &[], move |stage| {
        Box::pin(async move {
            hinder(stage);
            let gpu = running_gpu(stage).await?;
            warmspare_e2e::created(stage, gpu).await?;
            let view = warmspare_e2e::await_view(stage, gpu, words, |view| {
                let reasons = view["health_reasons"].to_string();
                reasons.contains(words) && reasons.contains("next attempt after")
            })
            .await?;
            assert_eq!(view["phase"], "provisioning");
            let before = orders(stage);
            let beaten = beats(stage);
            until("ten beats passed", async || Ok(beats(stage) >= beaten + 10)).await?;
            let more = orders(stage) - before;
            assert!(more < 4, "{more} orders in ten beats: it hammers");
            put_right(stage);
            until("it recovers by itself", async || {
                Ok(stage.view(gpu).await?["phase"] == "protected")
            })
            .await?;
            assert_eq!(standbys(stage).len(), 1);
            Ok(())
        })
    });
}

/// Google's form of a refusal.
fn google_refuses(stage: &Stage, path: &str, code: u16, reason: &str, message: &str) {
    let body = json!({"error": {"code": code, "message": message, "errors": [{"reason": reason, "message": message}]}});
    let action = FaultAction::Body { code, body };
    stage.cloud.inject(Fault::once("POST", path, action).times(1000));
}

#[test]
fn a_missing_permission_is_said_and_waited_out() {
    stands_in_the_way(
        |stage| {
            google_refuses(
                stage,
                "*/instances",
                403,
                "forbidden",
                "Required 'compute.instances.create' permission for 'projects/p'",
            )
        },
        "compute.instances.create",
        |stage| stage.cloud.clear_faults(),
    );
}

#[test]
fn a_used_up_quota_is_said_and_waited_out() {
    stands_in_the_way(
        |stage| stage.cloud.knobs().set_quota(Some(simcloud::QuotaRefusal::Immediate)),
        "quota",
        |stage| stage.cloud.knobs().set_quota(None),
    );
}

#[test]
fn an_expired_key_is_said_and_waited_out() {
    stands_in_the_way(
        |stage| google_refuses(stage, "*/instances", 401, "authError", "Invalid Credentials"),
        "access was refused",
        |stage| stage.cloud.clear_faults(),
    );
}
