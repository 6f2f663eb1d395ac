//! The story: rent, protect, work, be outbid, restore, destroy.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use warmspare_domain::units::Bytes;
use warmspare_stage::{Stage, WORKSPACE, word};

use super::Pace;
use super::ledger;
use super::report::Facts;
use super::timeline::{Timeline, Tone};

/// No step of the story takes longer, however slow the machine.
const STEP_LIMIT: Duration = Duration::from_secs(240);

/// How often the story looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Plays the story and answers what it brought to light.
pub(super) async fn tell(
    stage: &mut Stage,
    timeline: &Timeline,
    data: Option<&Path>,
    pace: Pace,
) -> anyhow::Result<Facts> {
    let mut facts = Facts::default();
    let gpu = rent_and_work(stage, timeline, data).await?;
    protect(stage, timeline, gpu, &mut facts).await?;
    work_on(stage, timeline, gpu, pace, &mut facts).await?;
    let notice_ms = lose(stage, timeline, gpu, &mut facts).await?;
    let new_gpu = fail_over(stage, timeline, gpu, notice_ms, &mut facts).await?;
    go_on(stage, timeline, new_gpu, gpu, &mut facts).await?;
    destroy(stage, timeline, new_gpu, &mut facts).await?;
    Ok(facts)
}

pub(super) async fn rent_and_work(stage: &Stage, timeline: &Timeline, data: Option<&Path>) -> anyhow::Result<u64> {
    let gpu = rent(stage, timeline).await?;
    let workspace = stage.workspace(gpu)?;
    if let Some(data) = data {
        let copied = tokio::process::Command::new("cp")
            .arg("-a")
            .arg("--")
            .arg(data)
            .arg(workspace.join("data"))
            .status()
            .await?;
        if !copied.success() {
            bail!("{} could not be copied onto the GPU", data.display());
        }
    }
    start_training(stage, gpu, if data.is_some() { 0 } else { 2000 })?;
    let what = data.map_or_else(
        || "2,000 files and checkpoints of 2 MiB".to_owned(),
        |data| format!("a copy of {}", data.display()),
    );
    timeline.tell(
        Tone::Plain,
        &format!("training starts on it: {what}, a log line synced to disk every 20 ms"),
    );
    Ok(gpu)
}

/// Rents a GPU and waits until it runs.
pub(super) async fn rent(stage: &Stage, timeline: &Timeline) -> anyhow::Result<u64> {
    let gpu = stage.rent_gpu().await?;
    timeline.tell(Tone::Plain, &format!("you rent an interruptible GPU at Vast: {gpu}"));
    until(timeline, "the GPU boots", async || {
        Ok(stage.vast_status(gpu).await? == "running" && stage.workspace(gpu).is_ok_and(|path| path.is_dir()))
    })
    .await?;
    Ok(gpu)
}

pub(super) fn start_training(stage: &Stage, gpu: u64, files: u32) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let arguments = ["workload", WORKSPACE, "--initial-files", &files.to_string()].map(ToOwned::to_owned);
    let started = stage
        .cloud
        .knobs()
        .exec_detached(gpu, &program.display().to_string(), &arguments);
    started
        .map(drop)
        .map_err(|error| anyhow::anyhow!("the workload did not start: {error}"))
}

async fn protect(stage: &mut Stage, timeline: &Timeline, gpu: u64, facts: &mut Facts) -> anyhow::Result<()> {
    let answer = stage.hook("gpu-created", json!({"gpu_id": gpu.to_string()})).await?;
    let again = stage.hook("gpu-created", json!({"gpu_id": gpu.to_string()})).await?;
    facts.check(
        "the hook sent twice makes one standby",
        again["result"] == "already_so",
        format!("second answer: {}", word(&again["result"])),
    );
    timeline.tell(
        Tone::Plain,
        &format!(
            "your tool sends the signed hook gpu-created: {}; a standby is ordered",
            word(&answer["result"])
        ),
    );
    await_phase(stage, timeline, gpu, "seeding").await?;
    let view = stage.view(gpu).await?;
    timeline.tell(
        Tone::Plain,
        &format!(
            "standby {} is up in {}; the first pass starts",
            word(&view["standby"]),
            word(&view["zone"])
        ),
    );
    await_phase(stage, timeline, gpu, "protected").await?;
    let view = stage.view(gpu).await?;
    timeline.tell(Tone::Good, &format!("protected: {} saved", saved(&view)));
    Ok(())
}

async fn work_on(stage: &Stage, timeline: &Timeline, gpu: u64, pace: Pace, facts: &mut Facts) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut passes = 0;
    let mut last = String::new();
    while began.elapsed() < pace.calm {
        let view = stage.view(gpu).await?;
        facts.lag_max = facts.lag_max.max(lag(&view));
        let point = word(&view["latest_recovery_point"]["id"]).to_owned();
        if point != last {
            passes += 1;
            last = point;
        }
        timeline.now(live_line(&view));
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let view = stage.view(gpu).await?;
    timeline.tell(
        Tone::Good,
        &format!(
            "{passes} passes later: {} saved, never more than {:.1} s behind",
            saved(&view),
            facts.lag_max.as_secs_f64()
        ),
    );
    facts.check(
        "passes go on beat after beat",
        passes >= 2,
        format!("{passes} recovery points seen"),
    );
    // Two beats and what a pass may take on a busy machine; the real beat is 30 s and its objective 90 s.
    let objective = Duration::from_secs(3 * pace.beat_s + 5);
    facts.check(
        "the lag stays small",
        facts.lag_max < objective,
        format!(
            "largest {:.1} s at a beat of {} s",
            facts.lag_max.as_secs_f64(),
            pace.beat_s
        ),
    );
    Ok(())
}

/// Answers when Vast's notice was sent, in milliseconds since 1970.
async fn lose(stage: &Stage, timeline: &Timeline, gpu: u64, facts: &mut Facts) -> anyhow::Result<u64> {
    stage
        .cloud
        .knobs()
        .outbid(gpu, None)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    timeline.tell(Tone::Trouble, "somebody bids more for your GPU");
    let mut notice = None;
    until(timeline, "Vast sends its notice", async || {
        notice = stage
            .cloud
            .notification_attempts()
            .into_iter()
            .find(|attempt| attempt.notif_type == "outbid");
        Ok(notice.is_some())
    })
    .await?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "milliseconds since 1970"
    )]
    let notice_ms = notice.map_or(0.0, |attempt| attempt.at * 1000.0) as u64;
    timeline.tell(
        Tone::Plain,
        "Vast's signed notice arrives; the last-gasp pass pulls what changed while the GPU still runs",
    );
    let is_off = || {
        !stage
            .cloud
            .machines_left()
            .iter()
            .any(|machine| machine.name == gpu.to_string() && machine.is_on)
    };
    until(timeline, "the GPU runs on for a moment", async || Ok(is_off())).await?;
    let stopped = Instant::now();
    timeline.tell(Tone::Trouble, "the GPU is stopped");
    await_any_phase(stage, timeline, gpu, &["holding", "restoring", "protected"], |view| {
        view["phase"] != "protected" || view["epoch"] != 1
    })
    .await?;
    facts.detect = stopped.elapsed();
    timeline.tell(
        Tone::Good,
        &format!(
            "the loss is known after {:.1} s; the standby holds the data",
            facts.detect.as_secs_f64()
        ),
    );
    Ok(notice_ms)
}

async fn fail_over(
    stage: &Stage,
    timeline: &Timeline,
    gpu: u64,
    notice_ms: u64,
    facts: &mut Facts,
) -> anyhow::Result<u64> {
    let began = Instant::now();
    await_any_phase(stage, timeline, gpu, &["restoring", "protected"], |view| {
        view["phase"] != "protected" || view["epoch"] != 1
    })
    .await?;
    timeline.tell(
        Tone::Plain,
        "a GPU of the same model is rented by itself, within your price cap",
    );
    await_any_phase(stage, timeline, gpu, &["protected"], |view| view["epoch"] != 1).await?;
    facts.restore = began.elapsed();
    let view = stage.view(gpu).await?;
    let new_gpu: u64 = word(&view["gpu"])
        .trim_start_matches("vast-")
        .parse()
        .context("the new GPU's number")?;
    let history = view["history"].to_string();
    facts.restore_verified = history.contains("verified on the new GPU");
    let difference = ledger::compare(&stage.workspace(gpu)?, &stage.workspace(new_gpu)?, notice_ms)?;
    (facts.files, facts.bytes) = (difference.files, difference.bytes);
    facts.bytes_lost_after_notice = difference.lost_before_notice;
    facts.bytes_written_after_last_pass = difference.lost_after_notice;
    let (files, bytes) = (facts.files, Bytes(facts.bytes));
    timeline.tell(
        Tone::Good,
        &format!(
            "GPU {new_gpu} has everything: {files} files, {bytes}, verified by checksum ({:.1} s)",
            facts.restore.as_secs_f64()
        ),
    );
    facts.check(
        "nothing saved before the notice is lost",
        difference.lost_before_notice == 0,
        format!("{} lost", Bytes(difference.lost_before_notice)),
    );
    facts.check(
        "every checkpoint is what the training wrote",
        difference.wrong_checkpoints.is_empty(),
        list(&difference.wrong_checkpoints),
    );
    facts.check(
        "the restore was verified by checksum",
        facts.restore_verified,
        "as the association's history says",
    );
    facts.check(
        "the loss was found within a minute",
        facts.detect < Duration::from_secs(60),
        format!("after {:.1} s", facts.detect.as_secs_f64()),
    );
    Ok(new_gpu)
}

async fn go_on(
    stage: &Stage,
    timeline: &Timeline,
    new_gpu: u64,
    old_gpu: u64,
    facts: &mut Facts,
) -> anyhow::Result<()> {
    start_training(stage, new_gpu, 0)?;
    let before = word(&stage.view(new_gpu).await?["latest_recovery_point"]["id"]).to_owned();
    until(timeline, "training goes on there, and so do the passes", async || {
        let view = stage.view(new_gpu).await?;
        timeline.now(live_line(&view));
        let point = &view["latest_recovery_point"];
        Ok(word(&point["id"]) != before && point["epoch"] == view["epoch"] && view["epoch"] != 1)
    })
    .await?;
    let view = stage.view(new_gpu).await?;
    timeline.tell(
        Tone::Good,
        &format!("training goes on there, protected again: {} saved", saved(&view)),
    );
    until(timeline, "the old GPU is destroyed", async || {
        Ok(stage.vast_status(old_gpu).await? == "gone")
    })
    .await?;
    timeline.tell(
        Tone::Plain,
        &format!("GPU {old_gpu}, outbid and superseded, is destroyed as your policy says"),
    );
    let from = &view["latest_recovery_point"]["epoch"];
    facts.check(
        "copying goes on from the new GPU only",
        from == &view["epoch"],
        format!("the newest recovery point is of epoch {from}"),
    );
    Ok(())
}

async fn destroy(stage: &mut Stage, timeline: &Timeline, gpu: u64, facts: &mut Facts) -> anyhow::Result<()> {
    stage.destroy_gpu(gpu).await?;
    stage
        .hook(
            "gpu-destroyed",
            json!({"gpu_id": gpu.to_string(), "reason": "user_request"}),
        )
        .await?;
    timeline.tell(
        Tone::Plain,
        "you are done: you destroy the GPU, and your tool sends gpu-destroyed",
    );
    await_phase(stage, timeline, gpu, "released").await?;
    until(timeline, "the last machine goes", async || {
        Ok(stage.cloud.machines_left().is_empty() && stage.cloud.disks_left().is_empty())
    })
    .await?;
    facts.machines_left = stage.cloud.machines_left().len();
    facts.disks_left = stage.cloud.disks_left().len();
    timeline.tell(Tone::Good, "the standby and its disk are gone: nothing bills any more");
    facts.check(
        "nothing is left that bills",
        facts.machines_left + facts.disks_left == 0,
        format!("{} machines, {} disks", facts.machines_left, facts.disks_left),
    );
    Ok(())
}

pub(super) async fn await_phase(stage: &Stage, timeline: &Timeline, gpu: u64, phase: &str) -> anyhow::Result<()> {
    let reached: &[&str] = match phase {
        "seeding" => &["seeding", "protected"],
        "protected" => &["protected"],
        other => &[other],
    };
    await_any_phase(stage, timeline, gpu, reached, |_| true).await
}

async fn await_any_phase(
    stage: &Stage,
    timeline: &Timeline,
    gpu: u64,
    phases: &[&str],
    fits: impl Fn(&Value) -> bool,
) -> anyhow::Result<()> {
    until(timeline, phases[0], async || {
        let view = stage.view(gpu).await?;
        timeline.now(live_line(&view));
        Ok(phases.contains(&word(&view["phase"])) && fits(&view))
    })
    .await
}

async fn until(
    timeline: &Timeline,
    what: &str,
    mut done: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !done().await? {
        if began.elapsed() > STEP_LIMIT {
            bail!("waited {} s in vain for: {what}", STEP_LIMIT.as_secs());
        }
        timeline.now(what.to_owned());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn live_line(view: &Value) -> String {
    let phase = word(&view["phase"]);
    let mut line = format!("{phase}, epoch {}", view["epoch"]);
    if view["lag_ms"].is_u64() {
        line.push_str(&format!(", would lose the last {:.1} s", lag(view).as_secs_f64()));
    }
    let restoring = &view["restore"]["running"];
    let progress = if restoring.is_object() {
        &restoring["progress"]
    } else {
        &view["pass"]
    };
    if let (Some(done), Some(total)) = (
        progress["bytes_done"].as_u64(),
        progress["bytes_total"].as_u64().filter(|total| *total > 0),
    ) {
        let rate = progress["bytes_per_second"].as_u64().unwrap_or(0);
        let left = total
            .saturating_sub(done)
            .checked_div(rate)
            .map_or_else(String::new, |seconds| format!(", {seconds} s left"));
        let step = restoring["step"].as_str().unwrap_or("pulling");
        line.push_str(&format!(
            ", {step} {} {} of {}{left}",
            bar(done, total),
            Bytes(done),
            Bytes(total)
        ));
    }
    line
}

fn bar(done: u64, total: u64) -> String {
    let filled = usize::try_from(done.min(total) * 20 / total.max(1)).unwrap_or(20);
    format!("[{}{}]", "=".repeat(filled), " ".repeat(20 - filled))
}

pub(super) fn saved(view: &Value) -> String {
    let point = &view["latest_recovery_point"];
    format!(
        "{} files, {}",
        point["files"],
        Bytes(point["bytes"].as_u64().unwrap_or(0))
    )
}

fn lag(view: &Value) -> Duration {
    Duration::from_millis(view["lag_ms"].as_u64().unwrap_or(0))
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "all of them".to_owned()
    } else {
        items.join(", ")
    }
}
