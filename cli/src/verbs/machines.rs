//! `warmspare machines`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use warmspare_domain::units::MicroUsd;

use super::words::text;
use crate::client::{Api, print_json};

/// List GPUs and standbys as their providers see them, beside our records.
#[derive(Debug, Args)]
pub(crate) struct Machines {
    #[command(flatten)]
    api: Api,
}

impl Machines {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let machines: Value = self.api.get("/v1/machines").await?;
        if self.api.json {
            print_json(&machines)?;
            return Ok(ExitCode::SUCCESS);
        }
        match machines["gpus"].as_array().map(Vec::as_slice) {
            None => eprintln!("Vast did not answer; its GPUs are unknown, not gone."),
            Some([]) => eprintln!("No GPU is rented at Vast."),
            Some(gpus) => {
                for gpu in gpus {
                    let price = MicroUsd(gpu["micro_usd_per_hour"].as_u64().unwrap_or_default());
                    let record = gpu["record_says"].as_str().unwrap_or("no standby");
                    println!(
                        "{:<16} {:<14} {:<22} {:>9}/h  Vast says {}; our record says {record}",
                        text(gpu, "gpu"),
                        text(gpu, "model"),
                        // Where Vast knows the country only.
                        text(gpu, "geolocation").trim_start_matches(", "),
                        price.to_string(),
                        text(gpu, "vast_says")
                    );
                }
            }
        }
        match machines["standbys"].as_array().map(Vec::as_slice) {
            None => eprintln!("The provider of the standbys did not answer; they are unknown, not gone."),
            Some([]) => eprintln!("There is no standby."),
            Some(rows) => {
                for row in rows {
                    println!(
                        "{:<36} {:<8} {:<16} for {}",
                        text(row, "name"),
                        text(row, "kind"),
                        text(row, "zone"),
                        text(row, "association")
                    );
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
