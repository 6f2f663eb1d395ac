//! `warmspare points`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use warmspare_domain::association::PointChoice;
use warmspare_domain::ids::GpuId;
use warmspare_domain::units::Bytes;
use warmspare_wire::agent::Comparison;

use super::words::text;
use crate::client::{Api, print_json};

/// List what can be restored.
#[derive(Debug, Args)]
pub(crate) struct Points {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
    /// Say what changed from one recovery point to another instead: each an id, the name of a checkpoint, or `latest`.
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"])]
    compare: Option<Vec<PointChoice>>,
    /// How many changes to list.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    at_most: u64,
}

impl Points {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        if let Some([from, to]) = self.compare.as_deref() {
            return self.compare(from, to).await;
        }
        let points: Vec<Value> = self
            .api
            .get(&format!("/v1/associations/{}/recovery-points", self.gpu))
            .await?;
        if self.api.json {
            print_json(&points)?;
        } else if points.is_empty() {
            eprintln!(
                "There is no recovery point yet; `warmspare show {}` says how far the first pass is.",
                self.gpu
            );
        } else {
            for point in &points {
                let bytes = Bytes(point["bytes"].as_u64().unwrap_or_default());
                let names = point["checkpoints"].as_array().into_iter().flatten();
                let names: String = names
                    .filter_map(Value::as_str)
                    .map(|name| format!("  {name}"))
                    .collect();
                println!(
                    "{}  {:>9} files  {:>10}  epoch {}{names}",
                    text(point, "id"),
                    point["files"],
                    bytes.to_string(),
                    point["epoch"]
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn compare(&self, from: &PointChoice, to: &PointChoice) -> anyhow::Result<ExitCode> {
        let path = format!(
            "/v1/associations/{}/recovery-points/compare?from={from}&to={to}&at_most={}",
            self.gpu, self.at_most
        );
        let comparison: Comparison = self.api.get(&path).await?;
        if self.api.json {
            print_json(&comparison)?;
        } else {
            print!("{comparison}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
