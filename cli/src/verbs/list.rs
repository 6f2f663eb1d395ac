//! `warmspare list`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::words::{lag, point, text};
use crate::client::{Api, print_json};

/// List what is protected.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    api: Api,
    /// Released ones, too.
    #[arg(long)]
    all: bool,
}

impl List {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let views: Vec<Value> = self.api.get(&format!("/v1/associations?all={}", self.all)).await?;
        if self.api.json {
            print_json(&views)?;
        } else if views.is_empty() {
            eprintln!("No GPU is protected. `warmspare protect GPU` makes a standby for one.");
        } else {
            println!(
                "{:<16} {:<13} {:<9} {:>9}  {:<26} STANDBY",
                "GPU", "PHASE", "HEALTH", "LAG", "NEWEST RECOVERY POINT"
            );
            for view in &views {
                let (gpu, phase, health) = (text(view, "gpu"), text(view, "phase"), text(view, "health"));
                println!(
                    "{gpu:<16} {phase:<13} {health:<9} {:>9}  {:<26} {}",
                    lag(view),
                    point(view),
                    text(view, "standby")
                );
            }
        }
        let halted = views.iter().any(|view| text(view, "phase") == "halted");
        Ok(if halted {
            ExitCode::from(crate::HALTED)
        } else {
            ExitCode::SUCCESS
        })
    }
}
