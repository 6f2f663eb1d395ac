//! `warmspare rebuild`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::words::text;
use crate::client::{Api, NotNow, REBUILD, print_json};

/// How long standbys may take to come up: some minutes live, see `reference/google/compute.md`.
const UP_WITHIN: Duration = Duration::from_secs(600);

/// Between two questions; each may itself take most of half a minute.
const PAUSE: Duration = Duration::from_secs(3);

/// Make lost records anew from the standbys. Deletes nothing, and touches no record that exists.
#[derive(Debug, Args)]
pub(crate) struct Rebuild {
    #[command(flatten)]
    api: Api,
    /// Say what would be rebuilt; start nothing, write nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Rebuild {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let answer = self.ask_until_settled().await?;
        let lines = answer["associations"].as_array().cloned().unwrap_or_default();
        if self.api.json {
            print_json(&answer)?;
        } else if lines.is_empty() {
            eprintln!("No machine and no disk carries this deployment's label: there is nothing to rebuild from.");
        } else {
            print_table(&lines);
        }
        let unsettled = lines
            .iter()
            .any(|line| is(line, "cannot") || is_waiting(line, self.dry_run));
        Ok(if unsettled {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    /// A later answer calls a record that an earlier one rebuilt an existing one; what is told is what this command did.
    async fn ask_until_settled(&self) -> anyhow::Result<Value> {
        let began = Instant::now();
        let mut rebuilt: Vec<Value> = Vec::new();
        loop {
            let asked = self.api.post(REBUILD, &json!({"dry_run": self.dry_run})).await;
            let mut answer: Value = match asked {
                Err(error) if error.is::<NotNow>() && began.elapsed() < UP_WITHIN => {
                    eprintln!("{error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                asked => asked?,
            };
            let lines = answer["associations"].as_array_mut();
            let mut waiting = 0;
            for line in lines.into_iter().flatten() {
                match rebuilt.iter().find(|ours| ours["association"] == line["association"]) {
                    Some(ours) => line.clone_from(ours),
                    None if is(line, "rebuilt") => rebuilt.push(line.clone()),
                    None => waiting += usize::from(is_waiting(line, self.dry_run)),
                }
            }
            if waiting == 0 || began.elapsed() >= UP_WITHIN {
                return Ok(answer);
            }
            eprintln!("{waiting} standbys are being brought up to be asked what they hold");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn is(line: &Value, result: &str) -> bool {
    text(line, "result") == result
}

/// A dry run starts nothing, so there is nothing to wait for.
fn is_waiting(line: &Value, dry_run: bool) -> bool {
    !dry_run && is(line, "waiting")
}

fn print_table(lines: &[Value]) {
    println!(
        "{:<16} {:<9} {:<16} {:>5} {:<13} DETAIL",
        "ASSOCIATION", "RESULT", "GPU", "EPOCH", "PHASE"
    );
    for line in lines {
        let epoch = line["epoch"]
            .as_u64()
            .map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
        println!(
            "{:<16} {:<9} {:<16} {epoch:>5} {:<13} {}",
            text(line, "association"),
            text(line, "result"),
            text(line, "gpu"),
            text(line, "phase"),
            text(line, "detail")
        );
    }
}
