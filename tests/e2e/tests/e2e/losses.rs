//! Ways to lose a GPU, and what is saved.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use warmspare_e2e::{
    Setting, await_phase, await_view, configure, fast, fast_on_real_disks, is_on, newest_point_directory, next_point,
    play, protected_gpu, running_gpu, standbys, until, word,
};

fn failing_over() -> Setting {
    fast()
        .with("failover", "automatic")
        .with("failover_max_price_per_hour", "2.00")
}

fn number(view: &serde_json::Value) -> anyhow::Result<u64> {
    Ok(word(&view["gpu"]).trim_start_matches("vast-").parse()?)
}

/// Writes numbered lines, each on disk before the next, until told to stop or until the machine's directory refuses.
fn write_without_pause(path: std::path::PathBuf, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the workspace can be written to");
        let mut line = 0_u64;
        while !stop.load(Ordering::SeqCst) {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("it is after 1970")
                .as_millis();
            if writeln!(file, "{now} {line}").and_then(|()| file.sync_data()).is_err() {
                break;
            }
            line += 1;
            std::thread::sleep(Duration::from_millis(3));
        }
    })
}

#[test]
fn an_outbid_loses_nothing_that_was_on_disk_before_the_notice() {
    an_outbid_loses_nothing(fast());
}

#[test]
fn an_outbid_loses_nothing_while_the_standby_copies_by_itself() {
    if let Some(setting) = fast_on_real_disks() {
        an_outbid_loses_nothing(setting);
    }
}

fn an_outbid_loses_nothing(setting: Setting) {
    play(setting, |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let log = stage.workspace(gpu)?.join("training.log");
            let stop = Arc::new(AtomicBool::new(false));
            let writer = write_without_pause(log.clone(), Arc::clone(&stop));
            next_point(stage, gpu).await?;
            stage.cloud.knobs().outbid(gpu, None).expect("the GPU exists");
            until("the GPU is stopped", async || Ok(!is_on(stage, gpu))).await?;
            stop.store(true, Ordering::SeqCst);
            writer.join().expect("the writer ends well");
            let view = await_phase(stage, gpu, &["holding"]).await?;
            assert_eq!(view["phase_detail"]["holding"]["cause"], "outbid");
            let notice = stage
                .cloud
                .notification_attempts()
                .into_iter()
                .find(|attempt| attempt.notif_type == "outbid")
                .expect("a notice was sent");
            let saved = std::fs::read_to_string(newest_point_directory(stage)?.join("training.log"))?;
            let written = std::fs::read_to_string(log)?;
            let before = written.lines().filter(|line| {
                line.split(' ')
                    .next()
                    .is_some_and(|ms| ms.parse::<f64>().is_ok_and(|ms| ms <= notice.at * 1000.0))
            });
            let lost: usize = before.filter(|line| !saved.contains(*line)).map(str::len).sum();
            assert_eq!(lost, 0, "bytes lost that were on disk before the notice");
            assert!(
                written.starts_with(&saved),
                "what was saved is a beginning of what was written"
            );
            Ok(())
        })
    });
}

#[test]
fn what_no_pass_fetched_is_rescued_from_the_paused_gpus_disk() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let workspace = stage.workspace(gpu)?;
            // No notice and no time: the container is killed in the moment after the write.
            std::fs::write(workspace.join("last words.txt"), "written after the last pass")?;
            stage.cloud.knobs().stop_silently(gpu).expect("the GPU exists");
            let view = await_view(stage, gpu, "the rescue", |view| {
                view["phase_detail"]["holding"]["rescue"] == "complete"
            })
            .await?;
            assert_eq!(view["phase"], "holding");
            let saved = newest_point_directory(stage)?;
            assert_eq!(
                std::fs::read_to_string(saved.join("last words.txt"))?,
                "written after the last pass"
            );
            assert!(saved.join("runs/29.txt").is_file());
            // The same GPU comes back, and goes on from there.
            stage.cloud.knobs().outbid_clears(gpu).expect("the GPU exists");
            await_phase(stage, gpu, &["protected"]).await?;
            std::fs::write(workspace.join("after.txt"), "back")?;
            next_point(stage, gpu).await?;
            assert!(newest_point_directory(stage)?.join("after.txt").is_file());
            Ok(())
        })
    });
}

#[test]
fn an_outbid_that_cuts_the_last_gasp_off_loses_nothing_across_the_failover() {
    play(failing_over(), |stage| {
        Box::pin(async {
            let old = protected_gpu(stage).await?;
            let workspace = stage.workspace(old)?;
            let stop = Arc::new(AtomicBool::new(false));
            let writer = write_without_pause(workspace.join("training.log"), Arc::clone(&stop));
            next_point(stage, old).await?;
            // Too much to be fetched between the notice and the kill.
            std::fs::write(workspace.join("checkpoint.bin"), vec![9_u8; 80_000_000])?;
            stop.store(true, Ordering::SeqCst);
            writer.join().expect("the writer ends well");
            stage.cloud.knobs().outbid(old, Some(0.0)).expect("the GPU exists");
            let view = await_view(stage, old, "the data on another GPU", |view| {
                view["phase"] == "protected" && view["epoch"] != 1
            })
            .await?;
            let new = stage.workspace(number(&view)?)?;
            for name in ["training.log", "checkpoint.bin", "runs/29.txt"] {
                assert_eq!(
                    std::fs::read(new.join(name))?,
                    std::fs::read(workspace.join(name))?,
                    "{name} on the new GPU"
                );
            }
            Ok(())
        })
    });
}

#[test]
fn a_failover_does_not_wait_for_a_disk_whose_host_is_dark() {
    play(failing_over(), |stage| {
        Box::pin(async {
            let old = protected_gpu(stage).await?;
            next_point(stage, old).await?;
            stage.cloud.knobs().host_offline(old).expect("the GPU exists");
            let view = await_view(stage, old, "the data on another GPU", |view| {
                view["phase"] == "protected" && view["epoch"] != 1
            })
            .await?;
            let new = stage.workspace(number(&view)?)?;
            assert!(new.join("runs/29.txt").is_file());
            let asked = stage
                .cloud
                .requests()
                .iter()
                .any(|request| request.path.contains("/commands/rsync"));
            assert!(!asked, "a dark host's disk was asked for");
            Ok(())
        })
    });
}

#[test]
fn a_disk_that_cannot_be_read_holds_up_no_failover() {
    use simcloud::{Fault, FaultAction};
    play(failing_over(), |stage| {
        Box::pin(async {
            let old = protected_gpu(stage).await?;
            let fault = Fault::once("PUT", "/api/v0/commands/rsync", FaultAction::Status { code: 500 });
            stage.cloud.inject(fault.times(100));
            stage.cloud.knobs().outbid(old, Some(0.0)).expect("the GPU exists");
            let view = await_view(stage, old, "the data on another GPU", |view| {
                view["phase"] == "protected" && view["epoch"] != 1
            })
            .await?;
            let new = stage.workspace(number(&view)?)?;
            assert!(new.join("runs/29.txt").is_file());
            Ok(())
        })
    });
}

#[test]
fn a_paused_gpu_that_comes_back_by_itself_is_protected_again() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.cloud.knobs().outbid(gpu, None).expect("the GPU exists");
            await_phase(stage, gpu, &["holding"]).await?;
            stage.cloud.knobs().outbid_clears(gpu).expect("the GPU exists");
            let view = await_phase(stage, gpu, &["protected"]).await?;
            assert_eq!(view["epoch"], 1, "the same GPU keeps its epoch");
            std::fs::write(stage.workspace(gpu)?.join("after.txt"), "back")?;
            next_point(stage, gpu).await?;
            assert!(newest_point_directory(stage)?.join("after.txt").is_file());
            Ok(())
        })
    });
}

#[test]
fn a_paused_gpu_that_comes_back_before_another_was_found_is_protected_again() {
    play(failing_over(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.cloud.knobs().set_offers(false);
            stage.cloud.knobs().outbid(gpu, None).expect("the GPU exists");
            await_view(stage, gpu, "a failover that finds nothing", |view| {
                view["phase"] == "restoring" && view["health_reasons"].to_string().contains("next attempt after")
            })
            .await?;
            stage.cloud.knobs().outbid_clears(gpu).expect("the GPU exists");
            await_phase(stage, gpu, &["protected"]).await?;
            std::fs::write(stage.workspace(gpu)?.join("after.txt"), "back")?;
            next_point(stage, gpu).await?;
            assert!(newest_point_directory(stage)?.join("after.txt").is_file());
            // What would fit now is not wanted any more.
            stage.cloud.knobs().set_offers(true);
            next_point(stage, gpu).await?;
            let view = stage.view(gpu).await?;
            assert_eq!((&view["phase"], &view["superseded"]), (&json!("protected"), &json!([])));
            Ok(())
        })
    });
}

#[test]
fn a_paused_gpu_that_comes_back_after_its_data_moved_never_writes_to_the_standby() {
    play(failing_over(), |stage| {
        Box::pin(async {
            let old = protected_gpu(stage).await?;
            stage.cloud.knobs().outbid(old, None).expect("the GPU exists");
            let view = await_view(stage, old, "the data on another GPU", |view| {
                view["phase"] == "protected" && view["epoch"] != 1
            })
            .await?;
            let new = number(&view)?;
            assert_ne!(new, old);
            stage.cloud.knobs().outbid_clears(old).expect("the GPU exists");
            until("the old GPU runs again", async || Ok(is_on(stage, old))).await?;
            std::fs::write(stage.workspace(old)?.join("from-the-past.txt"), "old")?;
            std::fs::write(stage.workspace(new)?.join("from-the-present.txt"), "new")?;
            next_point(stage, new).await?;
            next_point(stage, new).await?;
            let newest = newest_point_directory(stage)?;
            assert!(newest.join("from-the-present.txt").is_file());
            assert!(
                !newest.join("from-the-past.txt").exists(),
                "the superseded GPU was read"
            );
            let view = stage.view(new).await?;
            assert_eq!(view["superseded"], json!([format!("vast-{old}")]));
            assert!(
                view["health_reasons"].to_string().contains("superseded"),
                "its cost is told"
            );
            // A report about the old one is about the past.
            let answer = warmspare_e2e::destroyed(stage, old, "user_request").await?;
            assert!(word(&answer["reason"]).contains("moved on"), "{answer}");
            assert_eq!(stage.view(new).await?["phase"], "protected");
            Ok(())
        })
    });
}

#[test]
fn an_empty_account_stops_every_gpu_and_rents_none() {
    play(failing_over(), |stage| {
        Box::pin(async {
            let (one, two) = (protected_gpu(stage).await?, protected_gpu(stage).await?);
            stage.cloud.knobs().set_credit(0.0);
            for gpu in [one, two] {
                let view = await_phase(stage, gpu, &["holding"]).await?;
                assert_eq!(view["phase_detail"]["holding"]["cause"], "out_of_credit");
            }
            let rents = stage
                .cloud
                .requests()
                .iter()
                .filter(|request| request.method == "PUT" && request.path.contains("/asks/"))
                .count();
            assert_eq!(rents, 2, "only the user's own two");
            Ok(())
        })
    });
}

#[test]
fn a_short_listing_is_no_proof_and_two_complete_ones_hold_the_data() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.cloud.knobs().remove(gpu).expect("the GPU exists");
            let view = await_phase(stage, gpu, &["holding"]).await?;
            assert_eq!(view["phase_detail"]["holding"]["cause"], "gone");
            assert_eq!(standbys(stage).len(), 1);
            newest_point_directory(stage).map(drop)
        })
    });
}

#[test]
fn errors_of_a_provider_are_never_a_loss() {
    use simcloud::{Fault, FaultAction};
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let fault = |action| Fault::once("GET", "/api/v1/instances", action).times(6);
            stage.cloud.inject(fault(FaultAction::Status { code: 500 }));
            stage.cloud.knobs().host_offline(gpu).expect("the GPU exists");
            stage.cloud.knobs().host_online(gpu).expect("the GPU exists");
            next_point(stage, gpu).await?;
            let view = stage.view(gpu).await?;
            assert_eq!(
                (word(&view["phase"]), view["history"].as_array().map(Vec::len)),
                ("protected", Some(2)),
                "{view:#}"
            );
            Ok(())
        })
    });
}

#[test]
fn a_key_that_is_in_needs_no_provider_to_go_on_copying() {
    use simcloud::{Fault, FaultAction};
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let refused =
                Fault::once("POST", "/api/v0/instances/*/ssh/", FaultAction::Status { code: 500 }).times(1000);
            stage.cloud.inject(refused);
            configure(stage, gpu, json!({"excludes": ["*.tmp"]})).await?;
            std::fs::write(stage.workspace(gpu)?.join("left-out.tmp"), "1")?;
            std::fs::write(stage.workspace(gpu)?.join("copied.txt"), "1")?;
            until("the wish is followed", async || {
                let newest = newest_point_directory(stage)?;
                Ok(newest.join("copied.txt").is_file() && !newest.join("left-out.tmp").exists())
            })
            .await?;
            let asked = stage.cloud.requests();
            let tried = asked
                .iter()
                .filter(|request| request.method == "POST" && request.path.ends_with("/ssh/"));
            assert!(tried.count() >= 2, "the fault was never met");
            Ok(())
        })
    });
}

#[test]
fn nothing_saved_yet_is_said_when_the_gpu_goes_early() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            warmspare_e2e::created(stage, gpu).await?;
            stage.cloud.knobs().stop_silently(gpu).expect("the GPU exists");
            let view = await_phase(stage, gpu, &["holding"]).await?;
            let reasons = view["health_reasons"].to_string();
            let saved_something = view["recovery_points"].as_u64().unwrap_or(0) > 0;
            assert!(
                saved_something || reasons.contains("what arrived of the first pass can be downloaded"),
                "{reasons}"
            );
            Ok(())
        })
    });
}

#[test]
fn a_host_that_goes_dark_is_a_loss_and_one_that_returns_heals_it() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.cloud.knobs().host_offline(gpu).expect("the GPU exists");
            let view = await_phase(stage, gpu, &["holding"]).await?;
            assert_eq!(view["phase_detail"]["holding"]["cause"], "host_dark");
            stage.cloud.knobs().host_online(gpu).expect("the GPU exists");
            await_phase(stage, gpu, &["protected"]).await?;
            std::fs::write(stage.workspace(gpu)?.join("after.txt"), "back")?;
            next_point(stage, gpu).await?;
            assert!(newest_point_directory(stage)?.join("after.txt").is_file());
            Ok(())
        })
    });
}
