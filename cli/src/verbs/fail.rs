//! `warmspare fail`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;

use super::words::outcome;
use crate::client::{Api, print_json};

/// Report a GPU as lost; the standby keeps the data.
#[derive(Debug, Args)]
pub(crate) struct Fail {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
}

impl Fail {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let answer: Value = self
            .api
            .post(&format!("/v1/associations/{}/fail", self.gpu), &json!({}))
            .await?;
        if self.api.json {
            print_json(&answer)?;
        } else {
            println!("{}", outcome(&answer));
        }
        Ok(ExitCode::SUCCESS)
    }
}
