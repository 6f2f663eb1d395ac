//! `warmspare plan`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use warmspare_domain::ids::GpuId;

use super::words::text;
use crate::client::{Api, print_json};

/// Say what the next beat would do for one GPU, and do nothing.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
}

impl Plan {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let plan: Value = self.api.get(&format!("/v1/associations/{}/plan", self.gpu)).await?;
        if self.api.json {
            print_json(&plan)?;
            return Ok(ExitCode::SUCCESS);
        }
        let effects: Vec<_> = plan["effects"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let effects = if effects.is_empty() {
            "nothing".to_owned()
        } else {
            effects.join(", then ")
        };
        println!("the next beat would do: {effects}");
        println!("phase after it:         {}", text(&plan, "phase_after"));
        println!("because                 {}", text(&plan, "reason"));
        Ok(ExitCode::SUCCESS)
    }
}
