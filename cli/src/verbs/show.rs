//! `warmspare show`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use warmspare_domain::ids::GpuId;
use warmspare_domain::policy::Policy;
use warmspare_domain::units::{Bytes, MicroUsd};
use warmspare_wire::agent::{InMotion, Progress, PutBackActivity, RescueActivity, RestoreActivity, Watcher};

use super::rules::{Rule, rules};
use super::words::{exit_code, lag, point, text};
use crate::client::{Api, print_json};

/// Show one GPU's association: phase, health, lag, history.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
}

impl Show {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let view: Value = self.api.get(&format!("/v1/associations/{}", self.gpu)).await?;
        if self.api.json {
            print_json(&view)?;
            return Ok(exit_code(&view));
        }
        println!("GPU              {} (epoch {})", text(&view, "gpu"), view["epoch"]);
        println!("phase            {}", text(&view, "phase"));
        println!("health           {}", text(&view, "health"));
        for reason in view["health_reasons"].as_array().into_iter().flatten() {
            println!("                 {}", reason.as_str().unwrap_or_default());
        }
        println!("standby          {} in {}", text(&view, "standby"), text(&view, "zone"));
        println!("would be lost    {}{}", would_be_lost(&view), live(&view));
        println!("recovery points  {}, newest: {}", view["recovery_points"], point(&view));
        if let Some(words) = disk(&view) {
            println!("disk             {words}");
        }
        if let Ok(progress) = serde_json::from_value::<Progress>(view["pass"].clone()) {
            println!("pass             {progress}");
        }
        print_failure(&view["last_failure"]);
        print_remarks(&view["last_pass"]);
        if let Ok(watcher) = serde_json::from_value::<Watcher>(view["watcher"].clone()) {
            println!("watcher          {watcher}");
        }
        if let Some(changes) = view["missed"]["changes"].as_u64().filter(|changes| *changes > 0) {
            println!(
                "missed           {changes} changes the watcher did not see, last at {}: full scans found them",
                text(&view["missed"], "last_at")
            );
        }
        match serde_json::from_value::<RestoreActivity>(view["restore"].clone()) {
            Ok(RestoreActivity::Running {
                step,
                progress,
                first_there_at,
                ..
            }) => {
                println!("restore          {step}, {progress}");
                if let Some(at) = first_there_at {
                    println!("                 what was to come first is there since {at}, not verified yet");
                }
            }
            Ok(RestoreActivity::Failed { message, .. }) => println!("restore          failed: {message}"),
            Ok(RestoreActivity::Verified { .. } | RestoreActivity::Never) | Err(_) => {}
        }
        if let Ok(job) = serde_json::from_value::<PutBackActivity>(view["put_back"].clone()) {
            println!("put back         {job}");
        }
        if let Some(words) = rescue(&view["rescue"]) {
            println!("rescue           {words}");
        }
        println!("traffic          {}", traffic(&view));
        print_cost(&view["cost"]);
        print_rules(&view);
        println!("agent heard      {}", text(&view, "heard_at"));
        let history = view["history"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !history.is_empty() {
            println!("history");
        }
        for step in history {
            println!(
                "  {}  {:>12} -> {:<12} {}",
                text(step, "at"),
                text(step, "from"),
                text(step, "to"),
                text(step, "reason")
            );
        }
        Ok(exit_code(&view))
    }
}

fn print_failure(failure: &Value) {
    if let Some(message) = failure["message"].as_str() {
        println!(
            "failing          {} in a row, last at {}",
            failure["in_a_row"],
            text(failure, "at")
        );
        println!("                 {message}");
    }
}

fn rescue(rescue: &Value) -> Option<String> {
    Some(match serde_json::from_value(rescue.clone()).ok()? {
        RescueActivity::Never => return None,
        RescueActivity::Running { progress, .. } => format!("from the lost GPU's disk: {progress}"),
        RescueActivity::Complete { changed_files, .. } => {
            format!("everything on the lost GPU's disk was fetched, {changed_files} files had changed")
        }
        RescueActivity::Failed { message, attempts, .. } => format!("failed, attempt {attempts}: {message}"),
        RescueActivity::Refused { message, .. } => format!("refused: {message}"),
    })
}

fn would_be_lost(view: &Value) -> String {
    match text(view, "phase") {
        "provisioning" | "seeding" => "everything: nothing is saved yet".to_owned(),
        _ => lag(view),
    }
}

/// Between two reports the copy goes on by itself, and nobody hears of it until the next.
fn live(view: &Value) -> &'static str {
    match view["live_until"].as_str() {
        Some(_) if view["lag_ms"].as_u64() > Some(6000) => {
            " as last reported; the standby copies every few seconds meanwhile"
        }
        Some(_) | None => "",
    }
}

/// How full the data disk is, and what it may grow to.
fn disk(view: &Value) -> Option<String> {
    let size = |name: &str| view[name].as_u64().map(Bytes);
    let (free, total) = (size("disk_free")?, size("disk_total")?);
    let grows = match view["policy"]["max_disk_gb"].as_u64() {
        None | Some(0) => String::new(),
        Some(most) => format!(", may grow to {most} GB"),
    };
    Some(format!("{free} free of {total}{grows}"))
}

/// What the last pass could not do as wished.
fn print_remarks(last_pass: &Value) {
    let kept: Vec<&str> = (last_pass["kept_back"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    if let Some(first) = kept.first() {
        println!(
            "kept back        {} files cannot be read, and keep their last good version: {}",
            kept.len(),
            first
        );
    }
    let moving: Vec<InMotion> = serde_json::from_value(last_pass["in_motion"].clone()).unwrap_or_default();
    for torn in moving.iter().take(5) {
        println!("in motion        {torn}");
    }
    if moving.len() > 5 {
        println!("                 and {} files more", moving.len() - 5);
    }
    if let Some(reason) = last_pass["command_failed"].as_str() {
        println!("before_pass      failed, the pass went on: {}", reason.escape_debug());
    }
}

/// What the standby costs; traffic has a line of its own.
fn print_cost(cost: &Value) {
    let Some(sum) = cost["micro_usd_per_month"].as_u64() else {
        return;
    };
    let dollars = |micros: u64| format!("${:.2}", MicroUsd(micros).dollars());
    let parts = cost["monthly"].as_array().into_iter().flatten();
    let parts = parts.map(|part| {
        let micros = part["micro_usd"].as_u64().unwrap_or_default();
        format!("{} {}", text(part, "what"), dollars(micros))
    });
    println!(
        "cost             about {} a month while the standby runs, traffic aside, at prices of {}",
        dollars(sum),
        text(cost, "prices_of")
    );
    for line in wrapped(parts) {
        println!("                 {line}");
    }
}

/// What somebody chose, a line each; the rest in as few as possible.
fn print_rules(view: &Value) {
    let Ok(policy) = serde_json::from_value::<Policy>(view["policy"].clone()) else {
        return;
    };
    let (usual, chosen): (Vec<_>, Vec<_>) = rules(&policy).into_iter().partition(|rule| rule.is_usual);
    let mut title = "rules";
    for Rule { name, words, .. } in chosen {
        println!("{title:<16} {name} {words}");
        title = "";
    }
    let usual = usual.iter().map(|Rule { name, words, .. }| format!("{name} {words}"));
    let mut title = "as usual";
    for line in wrapped(usual) {
        println!("{title:<16} {line}");
        title = "";
    }
}

/// Lines of a legible width.
fn wrapped(items: impl Iterator<Item = String>) -> Vec<String> {
    const WIDTH: usize = 90;
    items.fold(Vec::new(), |mut lines, item| {
        match lines.last_mut() {
            Some(line) if line.len() + item.len() < WIDTH => line.push_str(&format!("; {item}")),
            Some(_) | None => lines.push(item),
        }
        lines
    })
}

fn traffic(view: &Value) -> String {
    let Some(last_30_days) = view["traffic"]["last_30_days"].as_u64() else {
        return "not known yet".to_owned();
    };
    let today = Bytes(view["traffic"]["today"].as_u64().unwrap_or_default());
    let cost = view["traffic"]["cost_30_days"].as_f64().unwrap_or_default() / 1e6;
    format!(
        "{today} today, {} in 30 days (about ${cost:.2} at the host's price)",
        Bytes(last_30_days)
    )
}
