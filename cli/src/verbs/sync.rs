//! `warmspare sync`

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;

use super::words::{exit_code, text};
use crate::client::{Api, print_json};

/// Switch copying on or off, or accept the GPU as it is after a halt.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    #[command(flatten)]
    api: Api,
    /// What to do.
    #[arg(value_enum)]
    what: What,
    /// The Vast.ai contract number.
    gpu: GpuId,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Go on copying; also takes back a reported failure.
    Start,
    /// Copy no more until `start`.
    Stop,
    /// After a halt: the GPU is right as it is now, copy it. Older recovery points stay.
    AcceptSource,
}

impl Sync {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let path = match self.what {
            What::Start => "sync/start",
            What::Stop => "sync/stop",
            What::AcceptSource => "accept-source",
        };
        let view: Value = self
            .api
            .post(&format!("/v1/associations/{}/{path}", self.gpu), &json!({}))
            .await?;
        if self.api.json {
            print_json(&view)?;
        } else {
            println!("copying is {}; phase {}", text(&view, "copying"), text(&view, "phase"));
        }
        Ok(exit_code(&view))
    }
}
