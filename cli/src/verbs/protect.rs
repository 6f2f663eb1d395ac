//! `warmspare protect`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;

use super::words::outcome;
use crate::client::{Api, print_json};

/// Make a standby for a GPU.
#[derive(Debug, Args)]
pub(crate) struct Protect {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
    /// How many files its source path will have: many small ones want a faster disk.
    #[arg(long, value_name = "NUMBER")]
    expected_files: Option<u64>,
}

impl Protect {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let answer: Value = self
            .api
            .post(
                "/v1/associations",
                &json!({"gpu": self.gpu, "expected_files": self.expected_files}),
            )
            .await?;
        if self.api.json {
            print_json(&answer)?;
        } else {
            // Where it goes, what else there was, and on which disk.
            println!("{}", outcome(&answer).replace("; ", "\n  "));
        }
        Ok(ExitCode::SUCCESS)
    }
}
