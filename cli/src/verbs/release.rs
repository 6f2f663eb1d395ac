//! `warmspare release`

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;

use super::words::{outcome, point};
use crate::client::{Api, print_json};

/// Let the standby go: its disk and every recovery point are deleted.
#[derive(Debug, Args)]
pub(crate) struct Release {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Release {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let path = format!("/v1/associations/{}", self.gpu);
        if !self.yes {
            let view: Value = self.api.get(&path).await?;
            if !std::io::stdin().is_terminal() {
                eprintln!(
                    "warmspare: release deletes {} recovery points of GPU {}; add --yes to do it",
                    view["recovery_points"], self.gpu
                );
                return Ok(ExitCode::from(2));
            }
            eprintln!(
                "This deletes the standby of GPU {} and its {} recovery points (newest: {}).",
                self.gpu,
                view["recovery_points"],
                point(&view)
            );
            eprint!("Type the GPU's number to go on: ");
            std::io::stderr().flush()?;
            let mut typed = String::new();
            std::io::stdin().read_line(&mut typed)?;
            if typed.trim().parse() != Ok(self.gpu) {
                eprintln!("Nothing was done.");
                return Ok(ExitCode::from(1));
            }
        }
        let answer: Value = self
            .api
            .post(&format!("{path}/release"), &json!({"confirm": self.gpu}))
            .await?;
        if self.api.json {
            print_json(&answer)?;
        } else {
            println!("{}", outcome(&answer));
        }
        Ok(ExitCode::SUCCESS)
    }
}
