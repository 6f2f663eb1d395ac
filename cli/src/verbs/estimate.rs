//! `warmspare estimate`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use warmspare_domain::ids::GpuId;

use super::words::text;
use crate::client::{Api, print_json};

/// Say what protecting a GPU costs.
#[derive(Debug, Args)]
pub(crate) struct Estimate {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
    /// How many GB change a day.
    #[arg(long, value_name = "GB", default_value_t = 10)]
    gb_per_day: u32,
    /// How many GB a restore would move.
    #[arg(long, value_name = "GB", default_value_t = 10)]
    data_gb: u32,
    /// How many files its source path will have: many small ones want a faster disk.
    #[arg(long, value_name = "NUMBER")]
    expected_files: Option<u64>,
}

impl Estimate {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut query = format!(
            "gpu={}&gb_per_day={}&data_gb={}",
            self.gpu, self.gb_per_day, self.data_gb
        );
        if let Some(files) = self.expected_files {
            query.push_str(&format!("&expected_files={files}"));
        }
        let estimate: Value = self.api.get(&format!("/v1/estimate?{query}")).await?;
        if self.api.json {
            print_json(&estimate)?;
            return Ok(ExitCode::SUCCESS);
        }
        print!("{}", text(&estimate, "table"));
        Ok(ExitCode::SUCCESS)
    }
}
