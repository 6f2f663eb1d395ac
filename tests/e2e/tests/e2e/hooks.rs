//! Hooks and webhooks: twice, out of order, forged, stale, tampered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use warmspare_domain::units::Timestamp;
use warmspare_e2e::{
    Stage, await_phase, created, destroyed, failed, fast, newest_point_directory, no_standby_left, play, protected_gpu,
    running_gpu, standbys, until, word,
};
use warmspare_platform::handlers::seal::{self, HOOK, VAST};

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    Timestamp::from_millis(i64::try_from(since.as_millis()).expect("it is before the year 292 million"))
}

async fn beats_pass(stage: &Stage) -> anyhow::Result<()> {
    let beats = || {
        std::fs::read_to_string(stage.log_path())
            .unwrap_or_default()
            .matches("beat done")
            .count()
    };
    let before = beats();
    until("three beats pass", async || Ok(beats() >= before + 3)).await
}

#[test]
fn every_hook_sent_twice_changes_nothing_more() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            assert_eq!(created(stage, gpu).await?["result"], "already_so");
            let event = json!({"gpu_id": gpu.to_string(), "reason": "xid 79", "event_id": "one-and-the-same"});
            assert_eq!(stage.hook("gpu-failed", event.clone()).await?["result"], "accepted");
            assert_eq!(stage.hook("gpu-failed", event).await?["result"], "duplicate");
            assert_eq!(failed(stage, gpu).await?["result"], "already_so");
            assert_eq!(standbys(stage).len(), 1);
            assert_eq!(destroyed(stage, gpu, "user_request").await?["result"], "accepted");
            assert_eq!(destroyed(stage, gpu, "user_request").await?["result"], "already_so");
            Ok(())
        })
    });
}

#[test]
fn destroyed_before_created_leaves_nothing_behind() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            assert_eq!(word(&destroyed(stage, gpu, "user_request").await?["phase"]), "released");
            assert_eq!(word(&created(stage, gpu).await?["phase"]), "released");
            beats_pass(stage).await?;
            assert!(standbys(stage).is_empty() && stage.cloud.disks_left().is_empty());
            Ok(())
        })
    });
}

#[test]
fn mark_failed_after_a_users_destroy_revives_nothing() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            destroyed(stage, gpu, "user_request").await?;
            failed(stage, gpu).await?;
            await_phase(stage, gpu, &["released"]).await?;
            failed(stage, gpu).await?;
            created(stage, gpu).await?;
            beats_pass(stage).await?;
            assert_eq!(stage.view(gpu).await?["phase"], "released");
            assert!(standbys(stage).is_empty() && stage.cloud.disks_left().is_empty());
            Ok(())
        })
    });
}

#[test]
fn what_was_released_by_mistake_is_protected_again_when_a_person_asks() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let first = stage.view(gpu).await?["standby"].clone();
            destroyed(stage, gpu, "user_request").await?;
            await_phase(stage, gpu, &["released"]).await?;
            created(stage, gpu).await?;
            beats_pass(stage).await?;
            assert_eq!(
                stage.view(gpu).await?["phase"],
                "released",
                "a late hook revives nothing"
            );
            let wish = json!({"gpu": format!("vast-{gpu}")});
            let (status, answer) = stage.api(Method::POST, "/v1/associations", Some(wish)).await?;
            assert!(status.is_success() && answer["result"] == "accepted", "{answer}");
            let view = await_phase(stage, gpu, &["protected"]).await?;
            assert_ne!(view["standby"], first);
            assert!(newest_point_directory(stage)?.join("runs/29.txt").is_file());
            Ok(())
        })
    });
}

#[test]
fn a_gpu_that_took_over_anothers_data_is_its_own_tombstone_no_longer() {
    play(fast(), |stage| {
        Box::pin(async {
            let (first, second) = (protected_gpu(stage).await?, running_gpu(stage).await?);
            created(stage, second).await?;
            destroyed(stage, second, "user_request").await?;
            await_phase(stage, second, &["released"]).await?;
            failed(stage, first).await?;
            let path = format!("/v1/associations/{first}/restore");
            let onto = json!({"onto": second.to_string()});
            let (status, answer) = stage.api(Method::POST, &path, Some(onto)).await?;
            assert!(status.is_success(), "{answer}");
            let view = await_phase(stage, first, &["protected"]).await?;
            assert_eq!(view["gpu"], format!("vast-{second}"));

            // Under its own number it was released; what is meant by it now is the data that moved there.
            assert_eq!(stage.view(second).await?["association"], format!("vast-{first}"));
            let again = stage.api(
                Method::POST,
                "/v1/associations",
                Some(json!({"gpu": second.to_string()})),
            );
            assert_eq!(again.await?.1["result"], "already_so");
            assert_eq!(standbys(stage).len(), 1);
            destroyed(stage, second, "user_request").await?;
            no_standby_left(stage).await
        })
    });
}

#[test]
fn destroyed_for_any_other_reason_keeps_the_data() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.destroy_gpu(gpu).await?;
            for reason in ["host_failure", "outbid", "", "USER_REQUEST", "user_request "] {
                destroyed(stage, gpu, reason).await?;
            }
            let view = await_phase(stage, gpu, &["holding"]).await?;
            assert_eq!(view["phase_detail"]["holding"]["cause"], "reported_destroyed");
            beats_pass(stage).await?;
            assert_eq!(standbys(stage).len(), 1);
            assert_eq!(stage.view(gpu).await?["phase"], "holding");
            Ok(())
        })
    });
}

#[test]
fn forged_stale_tampered_and_garbled_calls_are_refused_and_change_nothing() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let body = serde_json::to_vec(
                &json!({"schema": 1, "event_id": "x", "gpu_id": gpu.to_string(), "reason": "user_request"}),
            )?;
            let (good_time, good) = seal::sign(&stage.hook_secret(), &body, now());
            let forged = seal::sign(&SecretString::from("a guess"), &body, now()).1;
            let (stale_time, stale) = seal::sign(&stage.hook_secret(), &body, now() - Duration::from_secs(3600));
            let (early_time, early) = seal::sign(&stage.hook_secret(), &body, now() + Duration::from_secs(3600));
            let mut tampered = body.clone();
            tampered.push(b' ');
            let calls: [(&str, &str, &str, &[u8], u16); 7] = [
                ("forged", &good_time, &forged, &body, 401),
                ("stale", &stale_time, &stale, &body, 401),
                ("from the future", &early_time, &early, &body, 401),
                ("tampered", &good_time, &good, &tampered, 401),
                ("with another timestamp", "1", &good, &body, 401),
                ("without a signature", &good_time, "", &body, 401),
                (
                    "with a bare signature",
                    &good_time,
                    good.trim_start_matches("sha256="),
                    &body,
                    401,
                ),
            ];
            for (what, timestamp, signature, body, expected) in calls {
                let (status, answer) = stage
                    .post_signed("/hooks/gpu-destroyed", HOOK, timestamp, signature, body.to_vec())
                    .await?;
                assert_eq!(status.as_u16(), expected, "{what}: {answer}");
                assert!(answer["error"]["message"].is_string(), "{what} gets no explanation");
            }
            for garbled in [
                "",
                "null",
                "[]",
                "{",
                r#"{"schema":1,"event_id":"y","gpu_id":"1; rm -rf /"}"#,
                r#"{"schema":1,"event_id":"","gpu_id":"7","reason":"user_request"}"#,
            ] {
                let (timestamp, signature) = seal::sign(&stage.hook_secret(), garbled.as_bytes(), now());
                let (status, answer) = stage
                    .post_signed("/hooks/gpu-destroyed", HOOK, &timestamp, &signature, garbled.into())
                    .await?;
                assert_eq!(status.as_u16(), 400, "{garbled}: {answer}");
            }
            let outbid: Value = json!({"event_id": "z", "notif_type": "outbid", "subject": format!("Your Interruptible Instance #{gpu} Has Been Outbid")});
            let outbid = serde_json::to_vec(&outbid)?;
            let (timestamp, signature) = seal::sign(&stage.hook_secret(), &outbid, now());
            let (status, _) = stage
                .post_signed("/webhooks/vast", VAST, &timestamp, &signature, outbid)
                .await?;
            assert_eq!(status.as_u16(), 401, "the hooks' secret is not the webhook's");
            let view = stage.view(gpu).await?;
            assert_eq!(
                (word(&view["phase"]), view["history"].as_array().map(Vec::len)),
                ("protected", Some(2))
            );
            Ok(())
        })
    });
}

#[test]
fn the_api_wants_a_token_and_a_read_token_only_looks() {
    let reader = warmspare_platform::config::token_hash("only-for-looking");
    play(fast().with("api_tokens", &format!("read:{reader}")), |stage| {
        Box::pin(async {
            let http = reqwest::Client::new();
            let list = format!("{}/v1/associations", stage.serve_url());
            assert_eq!(http.get(&list).send().await?.status(), 401);
            assert_eq!(http.get(&list).bearer_auth("a guess").send().await?.status(), 401);
            assert_eq!(
                http.get(&list).bearer_auth("only-for-looking").send().await?.status(),
                200
            );
            let act = http
                .post(&list)
                .bearer_auth("only-for-looking")
                .json(&json!({"gpu": "7"}));
            assert_eq!(act.send().await?.status(), 403);
            Ok(())
        })
    });
}
