//! The specification's own tests, under its names.

use serde_json::json;
use warmspare_e2e::{
    await_phase, created, destroyed, failed, fast, newest_point_directory, next_point, no_standby_left, play,
    protected_gpu, running_gpu, standbys, until, word,
};

#[test]
fn manager_configuration() {
    play(fast().with("gcp_zone", "europe-west4-b"), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            created(stage, gpu).await?;
            await_phase(stage, gpu, &["protected"]).await?;
            let requests = stage.cloud.requests();
            let order = requests
                .iter()
                .find(|request| request.method == "POST" && request.path.ends_with("/instances"))
                .expect("a machine was ordered");
            let body = &order.body;
            assert!(order.path.contains("/zones/europe-west4-b/"), "{}", order.path);
            assert!(word(&body["machineType"]).ends_with("/e2-medium"));
            assert_eq!(body["scheduling"]["provisioningModel"], "SPOT");
            let data = body["disks"]
                .as_array()
                .expect("disks")
                .iter()
                .find(|disk| disk["boot"] == false)
                .expect("a data disk");
            assert_eq!(data["initializeParams"]["diskSizeGb"], "100");
            assert_eq!(data["autoDelete"], false, "the data must outlive its machine");
            let asked_for_token = requests.iter().any(|request| request.path.ends_with("/token"));
            assert!(asked_for_token, "the service account's key was used");
            Ok(())
        })
    });
}

#[test]
fn on_gpu_created_creates_cpu_standby() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            std::fs::write(stage.workspace(gpu)?.join("a.txt"), "content")?;
            let answer = created(stage, gpu).await?;
            assert_eq!(answer["result"], "accepted");
            await_phase(stage, gpu, &["protected"]).await?;
            assert_eq!(standbys(stage).len(), 1);
            let copy = newest_point_directory(stage)?.join("a.txt");
            assert_eq!(std::fs::read_to_string(copy)?, "content");
            Ok(())
        })
    });
}

#[test]
fn on_gpu_destroyed_deletes_cpu() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.destroy_gpu(gpu).await?;
            destroyed(stage, gpu, "user_request").await?;
            await_phase(stage, gpu, &["released"]).await?;
            no_standby_left(stage).await
        })
    });
}

#[test]
fn mark_gpu_failed_keeps_cpu() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            failed(stage, gpu).await?;
            let view = await_phase(stage, gpu, &["holding"]).await?;
            assert_eq!(view["phase_detail"]["holding"]["cause"], "reported_failed");
            assert!(view["phase_detail"]["holding"]["since"].is_string());
            // The GPU still runs, but a tool declared it lost: beats must not take that back.
            let before = stage.cloud.requests().len();
            until(
                "some beats pass",
                async || Ok(stage.cloud.requests().len() > before + 3),
            )
            .await?;
            assert_eq!(stage.view(gpu).await?["phase"], "holding");
            assert_eq!(standbys(stage).len(), 1);
            newest_point_directory(stage).map(drop)
        })
    });
}

#[test]
fn full_flow_user_destroy() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            std::fs::write(stage.workspace(gpu)?.join("late.txt"), "late")?;
            next_point(stage, gpu).await?;
            assert!(newest_point_directory(stage)?.join("late.txt").is_file());
            stage.destroy_gpu(gpu).await?;
            destroyed(stage, gpu, "user_request").await?;
            no_standby_left(stage).await?;
            until("the GPU is gone", async || Ok(stage.cloud.machines_left().is_empty())).await
        })
    });
}

#[test]
fn full_flow_gpu_failure() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.cloud.knobs().stop_silently(gpu).expect("the GPU exists");
            await_phase(stage, gpu, &["holding"]).await?;
            let wish = json!({"rent": {"max_dollars_per_hour": 2.0}});
            let (status, answer) = stage
                .api(
                    reqwest::Method::POST,
                    &format!("/v1/associations/{gpu}/restore"),
                    Some(wish),
                )
                .await?;
            assert!(status.is_success(), "{answer}");
            let view = await_phase(stage, gpu, &["protected"]).await?;
            let new_gpu: u64 = word(&view["gpu"]).trim_start_matches("vast-").parse()?;
            assert_ne!(new_gpu, gpu);
            assert_eq!(
                std::fs::read_to_string(stage.workspace(new_gpu)?.join("runs/7.txt"))?,
                "result 7\n"
            );
            assert_eq!(standbys(stage).len(), 1, "the same standby serves on");
            destroyed(stage, new_gpu, "user_request").await?;
            no_standby_left(stage).await
        })
    });
}

#[test]
fn auto_standby_switched_off_creates_nothing() {
    play(fast().with("auto_standby_enabled", "false"), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            assert_eq!(created(stage, gpu).await?["result"], "disabled");
            let before = stage.cloud.requests().len();
            until("sweeps pass", async || Ok(stage.cloud.requests().len() > before + 6)).await?;
            assert!(standbys(stage).is_empty() && stage.cloud.disks_left().is_empty());
            assert!(stage.view(gpu).await.is_err(), "no association either");
            Ok(())
        })
    });
}
