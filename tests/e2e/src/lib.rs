//! What the end-to-end stories share.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Value, json};
use simcloud::DataDisks;
use tokio::process::Command;
pub use warmspare_stage::{Setting, Stage, WORKSPACE, word};

pub mod tree;

/// No wait of a story is longer, however slow the machine; a wait that ends early costs nothing.
const PATIENCE: Duration = Duration::from_secs(180);

/// The `warmspare` program beside the tests.
///
/// # Panics
/// When it was not built: `make test` builds it, `cargo test` alone does not.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let target = test
        .parent()
        .and_then(std::path::Path::parent)
        .expect("tests live in target/<profile>/deps");
    let program = target.join("warmspare");
    assert!(
        program.is_file() && target.join("warmspare-agent").is_file(),
        "build the programs first: make build"
    );
    program
}

/// Runs the program against the stage's `serve`, as its owner.
///
/// # Errors
/// When it cannot be started.
pub async fn warmspare(stage: &Stage, words: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program());
    command
        .args(words)
        .env("WARMSPARE_URL", stage.serve_url())
        .env("WARMSPARE_TOKEN", stage.token())
        .stdin(Stdio::null());
    Ok(command.output().await?)
}

/// A fast stage with the real program.
#[must_use]
pub fn fast() -> Setting {
    Setting::fast(program())
}

/// A fast stage whose standbys have data disks of btrfs, as real ones do; none, and a line that says why, where they cannot be had.
#[must_use]
pub fn fast_on_real_disks() -> Option<Setting> {
    match simcloud::check_btrfs_disks() {
        Ok(()) => Some(Setting {
            data_disks: DataDisks::Btrfs,
            ..fast()
        }),
        Err(refusal) => {
            eprintln!("SKIPPED: {refusal}");
            None
        }
    }
}

/// What a story does on its stage.
pub type Story<'s> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 's>>;

/// Plays one story and strikes its stage. A story also fails when `warmspare serve` logged an error it did not announce.
///
/// # Panics
/// When the story fails.
pub fn play(setting: Setting, story: impl for<'s> FnOnce(&'s mut Stage) -> Story<'s>) {
    play_with_errors(setting, &[], story);
}

/// As [`play`], for a story in which these errors are expected: each is a part of a log line.
///
/// # Panics
/// When the story fails.
pub fn play_with_errors(setting: Setting, expected: &[&str], story: impl for<'s> FnOnce(&'s mut Stage) -> Story<'s>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let mut stage = Stage::set(setting).await.expect("the stage is set");
        let outcome = story(&mut stage).await;
        let log = std::fs::read_to_string(stage.log_path()).unwrap_or_default();
        let surprises: Vec<_> = log
            .lines()
            .filter(|line| is_error(line) && !expected.iter().any(|part| line.contains(part)))
            .collect();
        let tail = stage.log_tail();
        let records = stage.api(Method::GET, "/v1/associations", None).await;
        let surprises = surprises.join("\n");
        stage.strike(outcome.is_err()).await;
        if let Err(error) = outcome {
            let records = records.map_or_else(|error| format!("{error:#}"), |(_, records)| format!("{records:#}"));
            panic!("{error:#}\nthe log of `warmspare serve` ends with:\n{tail}\nits associations:\n{records}");
        }
        assert!(surprises.is_empty(), "unexpected errors in the log:\n{surprises}");
    });
}

fn is_error(line: &str) -> bool {
    line.contains(" ERROR ") || line.contains("panicked at")
}

/// Waits until something holds.
///
/// # Errors
/// When it does not within the stories' patience.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut last_error = None;
    while began.elapsed() < PATIENCE {
        match holds().await {
            Ok(true) => return Ok(()),
            Ok(false) => last_error = None,
            Err(error) => last_error = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match last_error {
        Some(error) => Err(error.context(format!("waited in vain for: {what}"))),
        None => bail!("waited {} s in vain for: {what}", PATIENCE.as_secs()),
    }
}

/// Rents a GPU and waits until it runs.
///
/// # Errors
/// When it does not come up.
pub async fn running_gpu(stage: &Stage) -> anyhow::Result<u64> {
    let gpu = stage.rent_gpu().await?;
    until("the GPU runs", async || {
        Ok(stage.vast_status(gpu).await? == "running" && is_on(stage, gpu))
    })
    .await?;
    std::fs::create_dir_all(stage.workspace(gpu)?)?;
    Ok(gpu)
}

/// Whether a GPU's machine is on.
#[must_use]
pub fn is_on(stage: &Stage, gpu: u64) -> bool {
    stage
        .cloud
        .machines_left()
        .iter()
        .any(|machine| machine.name == gpu.to_string() && machine.is_on && machine.ssh.is_some())
}

/// Rents a GPU with some files on it, sends `gpu-created`, and waits until it is protected.
///
/// # Errors
/// When it does not get there.
pub async fn protected_gpu(stage: &Stage) -> anyhow::Result<u64> {
    let gpu = running_gpu(stage).await?;
    let workspace = stage.workspace(gpu)?;
    std::fs::create_dir_all(workspace.join("runs"))?;
    for number in 0..30 {
        std::fs::write(
            workspace.join(format!("runs/{number}.txt")),
            format!("result {number}\n"),
        )?;
    }
    std::fs::write(workspace.join("model.pt"), vec![7_u8; 300_000])?;
    created(stage, gpu).await?;
    await_phase(stage, gpu, &["protected"]).await?;
    Ok(gpu)
}

/// Sends `gpu-created`.
///
/// # Errors
/// When it is refused.
pub async fn created(stage: &Stage, gpu: u64) -> anyhow::Result<Value> {
    stage.hook("gpu-created", json!({"gpu_id": gpu.to_string()})).await
}

/// Sends `gpu-destroyed`.
///
/// # Errors
/// When it is refused.
pub async fn destroyed(stage: &Stage, gpu: u64, reason: &str) -> anyhow::Result<Value> {
    stage
        .hook("gpu-destroyed", json!({"gpu_id": gpu.to_string(), "reason": reason}))
        .await
}

/// Sends `gpu-failed`.
///
/// # Errors
/// When it is refused.
pub async fn failed(stage: &Stage, gpu: u64) -> anyhow::Result<Value> {
    stage
        .hook("gpu-failed", json!({"gpu_id": gpu.to_string(), "reason": "xid 79"}))
        .await
}

/// Waits for one of these phases and answers the view.
///
/// # Errors
/// When none is reached.
pub async fn await_phase(stage: &Stage, gpu: u64, phases: &[&str]) -> anyhow::Result<Value> {
    await_view(stage, gpu, &format!("phase {phases:?}"), |view| {
        phases.contains(&word(&view["phase"]))
    })
    .await
}

/// Waits until the API shows something and answers the view.
///
/// # Errors
/// When it never does; the message has the last view.
pub async fn await_view(stage: &Stage, gpu: u64, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let outcome = until(what, async || {
        last = stage.view(gpu).await?;
        Ok(holds(&last))
    })
    .await;
    outcome.with_context(|| format!("the API last showed {last:#}"))?;
    Ok(last)
}

/// Waits until the standby holds a recovery point taken after this call, and answers it.
///
/// # Errors
/// When none is taken.
pub async fn next_point(stage: &Stage, gpu: u64) -> anyhow::Result<Value> {
    // The instant is the standby's; it runs on this machine's clock here.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let now = warmspare_stage::timestamp(now);
    let view = await_view(stage, gpu, "the next complete pass", |view| {
        word(&view["latest_recovery_point"]["confirmed_at"]) >= now.as_str() && view["lag_ms"].is_u64()
    })
    .await?;
    Ok(view["latest_recovery_point"].clone())
}

/// Changes the rules of one GPU.
///
/// # Errors
/// When they are refused.
pub async fn configure(stage: &Stage, gpu: u64, change: Value) -> anyhow::Result<()> {
    let path = format!("/v1/associations/{gpu}");
    let (status, answer) = stage.api(Method::PATCH, &path, Some(change)).await?;
    anyhow::ensure!(status.is_success(), "{answer}");
    Ok(())
}

/// Waits until no standby machine and no disk is left.
///
/// # Errors
/// When something stays.
pub async fn no_standby_left(stage: &Stage) -> anyhow::Result<()> {
    let outcome = until("no standby and no disk is left", async || {
        Ok(standbys(stage).is_empty() && stage.cloud.disks_left().is_empty())
    })
    .await;
    outcome.with_context(|| format!("left: {:?} {:?}", standbys(stage), stage.cloud.disks_left()))
}

/// The names of the standby machines that exist.
#[must_use]
pub fn standbys(stage: &Stage) -> Vec<String> {
    stage
        .cloud
        .machines_left()
        .into_iter()
        .filter(|machine| machine.zone.is_some())
        .map(|machine| machine.name)
        .collect()
}

/// The directory of the newest recovery point on the one standby.
///
/// # Errors
/// When there is none.
pub fn newest_point_directory(stage: &Stage) -> anyhow::Result<PathBuf> {
    let disk = stage
        .cloud
        .disks_left()
        .into_iter()
        .find(|disk| !disk.is_boot)
        .context("no data disk")?;
    let points = disk.directory.join("recovery-points");
    let mut names: Vec<_> = std::fs::read_dir(&points)?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.path())
        .collect();
    names.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("20"))
    });
    names.sort();
    names
        .pop()
        .with_context(|| format!("no recovery point in {}", points.display()))
}
