//! `warmspare points`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use warmspare_domain::ids::GpuId;
use warmspare_domain::units::Bytes;

use super::words::text;
use crate::client::{Api, print_json};

/// List what can be restored.
#[derive(Debug, Args)]
pub(crate) struct Points {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
}

impl Points {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let points: Vec<Value> = self
            .api
            .get(&format!("/v1/associations/{}/recovery-points", self.gpu))
            .await?;
        if self.api.json {
            print_json(&points)?;
        } else {
            for point in &points {
                let bytes = Bytes(point["bytes"].as_u64().unwrap_or_default());
                println!(
                    "{}  {:>9} files  {:>10}  epoch {}",
                    text(point, "id"),
                    point["files"],
                    bytes.to_string(),
                    point["epoch"]
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
