//! A source that comes back empty, foreign, or with most files gone halts; every recovery point stays and restores.

use serde_json::json;
use warmspare_e2e::{
    Stage, await_phase, await_view, fast, newest_point_directory, next_point, play, protected_gpu, word,
};

/// What the halt must name, after something happened to the GPU's tree.
async fn halts(stage: &Stage, gpu: u64, reasons: &[&str]) -> anyhow::Result<()> {
    let before = newest_point_directory(stage)?;
    let view = await_phase(stage, gpu, &["halted"]).await?;
    let reason = word(&view["phase_detail"]["halted"]["reason"]);
    assert!(reasons.contains(&reason), "halted for {reason}");
    assert!(before.join("runs/11.txt").is_file(), "recovery points stay");
    Ok(())
}

/// Restores the newest good recovery point onto the same GPU, and copying goes on.
async fn restores(stage: &Stage, gpu: u64) -> anyhow::Result<()> {
    let (status, answer) = stage
        .api(
            reqwest::Method::POST,
            &format!("/v1/associations/{gpu}/restore"),
            Some(json!({"onto": gpu.to_string()})),
        )
        .await?;
    assert!(status.is_success(), "{answer}");
    await_view(stage, gpu, "restored under a new epoch", |view| {
        view["phase"] == "protected" && view["epoch"] != 1
    })
    .await?;
    assert_eq!(
        std::fs::read_to_string(stage.workspace(gpu)?.join("runs/11.txt"))?,
        "result 11\n"
    );
    next_point(stage, gpu).await.map(drop)
}

#[test]
fn an_emptied_source_halts_and_restores() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let workspace = stage.workspace(gpu)?;
            std::fs::remove_dir_all(workspace.join("runs"))?;
            std::fs::remove_file(workspace.join("model.pt"))?;
            halts(stage, gpu, &["source_emptied", "mass_deletion"]).await?;
            restores(stage, gpu).await
        })
    });
}

#[test]
fn a_vanished_source_halts() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            std::fs::remove_dir_all(stage.workspace(gpu)?)?;
            halts(stage, gpu, &["source_emptied", "marker_missing", "root_changed_type"]).await
        })
    });
}

#[test]
fn a_source_with_most_files_gone_halts_until_somebody_accepts_it() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            for number in 2..30 {
                std::fs::remove_file(stage.workspace(gpu)?.join(format!("runs/{number}.txt")))?;
            }
            halts(stage, gpu, &["mass_deletion"]).await?;
            let (status, answer) = stage
                .api(
                    reqwest::Method::POST,
                    &format!("/v1/associations/{gpu}/accept-source"),
                    None,
                )
                .await?;
            assert!(status.is_success(), "{answer}");
            await_phase(stage, gpu, &["protected"]).await?;
            next_point(stage, gpu).await?;
            assert!(
                !newest_point_directory(stage)?.join("runs/11.txt").exists(),
                "what was accepted is copied"
            );
            Ok(())
        })
    });
}

#[test]
fn a_foreign_source_halts() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let marker = stage.workspace(gpu)?.join(".warmspare/marker.json");
            let text = std::fs::read_to_string(&marker)?;
            std::fs::write(&marker, text.replace(&gpu.to_string(), "99999999"))?;
            halts(stage, gpu, &["marker_foreign"]).await
        })
    });
}

#[test]
fn a_recycled_container_halts_and_takes_its_data_back() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.cloud.knobs().recycle(gpu).expect("the GPU exists");
            halts(stage, gpu, &["host_key_changed", "marker_missing", "source_emptied"]).await?;
            restores(stage, gpu).await
        })
    });
}
