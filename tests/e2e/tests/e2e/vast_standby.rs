//! Standbys at Vast: a GPU's data is kept, restored and let go without any machine at Google.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};
use simcloud::Left;
use warmspare_e2e::{
    Setting, Stage, await_phase, await_view, created, destroyed, fast, is_on, play, play_with_errors, protected_gpu,
    running_gpu, until, warmspare, word,
};

fn at_vast() -> Setting {
    fast()
        .with("standby_provider", "vastai")
        .with("vast_standby_max_price_per_hour", "0.25")
        // No project: a deployment of this kind needs none.
        .with("gcp_project", "")
        .with("gcp_credentials", "")
}

/// Every instance at Vast but these.
fn others(stage: &Stage, gpus: &[u64]) -> Vec<Left> {
    let left = stage.cloud.machines_left().into_iter();
    left.filter(|machine| !gpus.iter().any(|gpu| machine.name == gpu.to_string()))
        .collect()
}

fn the_standby(stage: &Stage, gpus: &[u64]) -> anyhow::Result<Left> {
    let mut left = others(stage, gpus);
    let standby = left.pop().context("there is no standby")?;
    anyhow::ensure!(left.is_empty(), "there is more than one standby: {left:?}");
    anyhow::ensure!(standby.provider == "vast", "the standby is not at Vast: {standby:?}");
    Ok(standby)
}

fn newest_point(standby: &Left) -> anyhow::Result<PathBuf> {
    let points = std::fs::read_dir(standby.home.join("data/recovery-points"))?;
    let mut points: Vec<PathBuf> = points.filter_map(Result::ok).map(|entry| entry.path()).collect();
    points.retain(|path| path.is_dir());
    points.sort();
    points.pop().context("there is no recovery point")
}

async fn nothing_left(stage: &Stage, gpus: &[u64]) -> anyhow::Result<()> {
    until("nothing but the user's GPUs is left", async || {
        Ok(others(stage, gpus).is_empty() && stage.cloud.disks_left().is_empty())
    })
    .await
}

async fn estimate(stage: &Stage, gpu: u64) -> anyhow::Result<Value> {
    let output = warmspare(stage, &["estimate", &gpu.to_string(), "--json"]).await?;
    let words = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| words.into_owned())
}

#[test]
fn a_standby_at_vast_keeps_restores_and_lets_go_as_one_at_google_does() {
    play(at_vast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let standby = the_standby(stage, &[gpu])?;
            let saved = std::fs::read_to_string(newest_point(&standby)?.join("runs/7.txt"))?;
            assert_eq!(saved, "result 7\n");
            let (_, machines) = stage.api(reqwest::Method::GET, "/v1/machines", None).await?;
            let (gpus, standbys) = (&machines["gpus"], &machines["standbys"]);
            assert_eq!(
                gpus.as_array().map(Vec::len),
                Some(1),
                "the standby passes for a GPU: {gpus}"
            );
            let detail = word(&standbys[0]["detail"]);
            assert!(detail.contains("RTX 3090 as a CPU box"), "not said aloud: {standbys}");
            let refused = created(stage, standby.name.parse()?).await;
            let refusal = format!("{:#}", refused.err().context("a standby got a standby")?);
            assert!(refusal.contains("a standby of warmspare itself"), "{refusal}");

            stage.cloud.knobs().outbid(gpu, None).expect("the GPU exists");
            until("the GPU is stopped", async || Ok(!is_on(stage, gpu))).await?;
            await_phase(stage, gpu, &["holding"]).await?;
            let target = running_gpu(stage).await?;
            let path = format!("/v1/associations/{gpu}/restore");
            let onto_itself = json!({"onto": standby.name});
            let (status, refusal) = stage.api(reqwest::Method::POST, &path, Some(onto_itself)).await?;
            assert_eq!(status, 409, "{refusal}");
            let wish = json!({"onto": target.to_string()});
            stage.api(reqwest::Method::POST, &path, Some(wish)).await?;
            await_view(stage, gpu, "the data on the new GPU", |view| {
                word(&view["gpu"]) == format!("vast-{target}")
            })
            .await?;
            let restored = std::fs::read_to_string(stage.workspace(target)?.join("runs/7.txt"))?;
            assert_eq!(restored, "result 7\n");

            destroyed(stage, target, "user_request").await?;
            nothing_left(stage, &[gpu, target]).await
        })
    });
}

#[test]
fn a_lost_record_is_rebuilt_from_a_standby_at_vast_too() {
    play_with_errors(at_vast(), &["no association owns it"], |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.kill_serve().await;
            std::fs::remove_dir_all(stage.state_dir().join("associations"))?;
            stage.start_serve().await?;
            let (_, answer) = stage.api(reqwest::Method::POST, "/v1/rebuild", Some(json!({}))).await?;
            assert_eq!(answer["associations"][0]["result"], "rebuilt", "{answer:#}");
            await_phase(stage, gpu, &["protected"]).await?;
            let standby = the_standby(stage, &[gpu])?;
            assert!(newest_point(&standby)?.join("runs/7.txt").is_file());
            destroyed(stage, gpu, "user_request").await?;
            nothing_left(stage, &[gpu]).await
        })
    });
}

#[test]
fn a_real_cpu_offer_is_taken_before_any_gpu_and_storage_never_is() {
    play(at_vast(), |stage| {
        Box::pin(async {
            stage.cloud.knobs().set_cpu_offer(true);
            let gpu = running_gpu(stage).await?;
            let offered = estimate(stage, gpu).await?;
            assert!(word(&offered["table"]).contains("a CPU machine at Vast"), "{offered:#}");
            assert_eq!(others(stage, &[gpu]).len(), 0, "an estimate rented something");
            created(stage, gpu).await?;
            await_phase(stage, gpu, &["protected"]).await?;
            let paid = estimate(stage, gpu).await?;
            assert!(word(&paid["table"]).contains("CPU only in"), "{paid:#}");
            assert_eq!(paid["monthly"], offered["monthly"]);
            let (_, machines) = stage.api(reqwest::Method::GET, "/v1/machines", None).await?;
            let detail = word(&machines["standbys"][0]["detail"]);
            assert!(detail.contains("CPU only"), "{machines}");
            destroyed(stage, gpu, "user_request").await?;
            nothing_left(stage, &[gpu]).await
        })
    });
}
