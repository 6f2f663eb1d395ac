//! A training script names a checkpoint on the GPU; its owner gets exactly that one back by its name, much later.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::json;
use tokio::process::Command;
use warmspare_e2e::{Stage, await_view, fast, next_point, play, protected_gpu, until, warmspare};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_checkpoint_comes_back_by_its_name_after_it_was_overwritten() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let workspace = stage.workspace(gpu)?;
            // The standby put it there.
            let program = workspace.join(".warmspare/agent");
            until("the program is on the GPU", async || Ok(program.exists())).await?;
            fs::write(workspace.join("model.pt"), "epoch 1")?;
            let script = Command::new(&program)
                .args(["checkpoint", "epoch-1", "model.pt", "--wait=30"])
                .current_dir(&workspace)
                .output()
                .await?;
            assert!(script.status.success(), "{}", said(&script));
            fs::write(workspace.join("model.pt"), "epoch 2")?;
            next_point(stage, gpu).await?;

            let number = gpu.to_string();
            let listed = warmspare(stage, &["points", &number]).await?;
            assert!(said(&listed).contains("epoch-1"), "{}", said(&listed));
            let place = tempfile::tempdir()?;
            let target = place.path().join("mine");
            let words = ["download", &number, path(&target), "--point", "epoch-1"];
            let pulled = warmspare(stage, &words).await?;
            assert!(pulled.status.success(), "{}", said(&pulled));
            assert_eq!(fs::read_to_string(target.join("model.pt"))?, "epoch 1");

            let words = ["download", &number, path(&target), "--point", "epoch-99"];
            let absent = warmspare(stage, &words).await?;
            assert!(
                !absent.status.success()
                    && said(&absent).contains("checkpoint epoch-99")
                    && said(&absent).contains("`warmspare points GPU`"),
                "{}",
                said(&absent)
            );
            compare_by_name(stage, &number).await
        })
    });
}

async fn compare_by_name(stage: &Stage, gpu: &str) -> anyhow::Result<()> {
    let ends = ["points", gpu, "--compare", "epoch-1", "latest"];
    let compared = warmspare(stage, &ends).await?;
    assert!(
        compared.status.success() && said(&compared).contains("model.pt"),
        "{}",
        said(&compared)
    );
    for ends in [["nope", "latest"], ["epoch-1", "20200101T000000.000Z"]] {
        let absent = warmspare(stage, &["points", gpu, "--compare", ends[0], ends[1]]).await?;
        let lists = format!("`warmspare points vast-{gpu}` lists them");
        assert!(
            absent.status.code() == Some(1) && said(&absent).contains(&lists),
            "{}",
            said(&absent)
        );
    }
    Ok(())
}

#[test]
fn what_the_command_before_a_pass_writes_is_copied_and_its_failure_is_shown() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let number = gpu.to_string();
            let command = "cp database dump";
            let done = warmspare(stage, &["configure", &number, "--before-pass", command]).await?;
            assert!(done.status.success(), "{}", said(&done));
            let view = await_view(stage, gpu, "the command failed", |view| {
                view["last_pass"]["command_failed"].is_string()
            })
            .await?;
            assert_eq!(view["policy"]["before_pass"], json!(command));
            let shown = warmspare(stage, &["show", &number]).await?;
            assert!(
                said(&shown).contains("before_pass      failed, the pass went on: exit code 1"),
                "{}",
                said(&shown)
            );
            fs::write(stage.workspace(gpu)?.join("database"), "rows")?;
            await_view(stage, gpu, "the command ran", |view| {
                view["last_pass"].is_object() && view["last_pass"]["command_failed"].is_null()
            })
            .await?;
            next_point(stage, gpu).await?;
            let copy = warmspare_e2e::newest_point_directory(stage)?.join("dump");
            assert_eq!(fs::read_to_string(copy)?, "rows");
            Ok(())
        })
    });
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary directories are text")
}
