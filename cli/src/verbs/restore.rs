//! `warmspare restore`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use warmspare_domain::association::PointChoice;
use warmspare_domain::ids::GpuId;

use super::words::text;
use crate::client::{Api, print_json};

/// Restore the data onto another GPU.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    api: Api,
    /// The GPU whose data it is.
    gpu: GpuId,
    /// Onto this GPU of yours (it may be the same one).
    #[arg(long, conflicts_with = "rent", required_unless_present = "rent")]
    onto: Option<GpuId>,
    /// Rent one like the lost one, for at most this many dollars an hour.
    #[arg(long, value_name = "DOLLARS_PER_HOUR")]
    rent: Option<f64>,
    /// This recovery point instead of the newest: its id, or the name of a checkpoint.
    #[arg(long)]
    point: Option<PointChoice>,
}

impl Restore {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let rent = self.rent.map(|dollars| json!({"max_dollars_per_hour": dollars}));
        let wish = json!({"onto": self.onto, "rent": rent, "point": self.point.map(|point| point.to_string())});
        let view: Value = self
            .api
            .post(&format!("/v1/associations/{}/restore", self.gpu), &wish)
            .await?;
        if self.api.json {
            print_json(&view)?;
        } else {
            println!(
                "{}: the restore goes on by itself; follow it with `warmspare show {}`",
                text(&view, "phase"),
                self.gpu
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
