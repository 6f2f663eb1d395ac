//! `warmspare restore`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{ArgGroup, Args};
use serde_json::{Value, json};
use warmspare_domain::association::PointChoice;
use warmspare_domain::ids::GpuId;
use warmspare_wire::agent::PutBackActivity;

use super::words::{price, text};
use crate::client::{Api, print_json};

/// How often a path that is put back is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// So many looks may fail in a row.
const LOOKS_IN_VAIN: usize = 5;

/// Restore the data onto another GPU, or put one path back onto the GPU that runs.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where_to").required(true)))]
pub(crate) struct Restore {
    #[command(flatten)]
    api: Api,
    /// The GPU whose data it is.
    gpu: GpuId,
    /// Onto this GPU of yours (it may be the same one).
    #[arg(long, value_name = "GPU2", group = "where_to")]
    onto: Option<GpuId>,
    /// Rent one like the lost one, for at most this many dollars an hour.
    #[arg(long, value_name = "DOLLARS_PER_HOUR", value_parser = price, allow_negative_numbers = true, group = "where_to")]
    rent: Option<f64>,
    /// Put only this file or directory back, onto the GPU that runs, and wait for it. What is there and differs stays.
    #[arg(long, group = "where_to")]
    path: Option<String>,
    /// With --path: put the recovery point's in the place of what is there and differs, which is moved below
    /// .warmspare/replaced/ on the GPU.
    #[arg(long, requires = "path", conflicts_with_all = ["onto", "rent"])]
    replace: bool,
    /// This recovery point instead of the newest (with --path: the newest that has it): its id, or the name of a
    /// checkpoint.
    #[arg(long)]
    point: Option<PointChoice>,
}

impl Restore {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let point = self.point.as_ref().map(ToString::to_string);
        if let Some(path) = &self.path {
            return self.put_back(path, point).await;
        }
        let rent = self.rent.map(|dollars| json!({"max_dollars_per_hour": dollars}));
        let wish = json!({"onto": self.onto, "rent": rent, "point": point});
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

    /// The job goes on while the standby is too busy to say how.
    async fn look(&self, place: &str) -> anyhow::Result<PutBackActivity> {
        for _ in 0..LOOKS_IN_VAIN {
            match self.api.get(place).await {
                Ok(job) => return Ok(job),
                Err(error) => eprintln!("{error:#}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.api.get(place).await
    }

    async fn put_back(&self, path: &str, point: Option<String>) -> anyhow::Result<ExitCode> {
        let place = format!("/v1/associations/{}/put-back", self.gpu);
        let wish = json!({"path": path, "point": point, "replace": self.replace});
        let mut job: PutBackActivity = self.api.post(&place, &wish).await?;
        let ours = job.path().cloned();
        while let PutBackActivity::Running { .. } = job {
            eprintln!("{job}");
            tokio::time::sleep(LOOK_AGAIN).await;
            job = self.look(&place).await?;
            if job.path() != ours.as_ref() {
                bail!("{path} gave way to another path that somebody wants back; ask for it again: {job}");
            }
        }
        if self.api.json {
            print_json(&job)?;
        } else {
            println!("{job}");
        }
        Ok(match job {
            PutBackActivity::Verified { kept: 0, put: 0, .. } if self.point.is_none() => {
                eprintln!(
                    "if something is, name an older recovery point with --point: `warmspare points {}` lists them",
                    self.gpu
                );
                ExitCode::SUCCESS
            }
            PutBackActivity::Verified { kept: 0, .. } => ExitCode::SUCCESS,
            PutBackActivity::Verified { .. } => {
                eprintln!(
                    "{}",
                    if self.replace {
                        "something writes there: ask again when it rests"
                    } else {
                        "--replace puts the recovery point's in their place, and keeps them aside"
                    }
                );
                ExitCode::FAILURE
            }
            PutBackActivity::Failed { .. } | PutBackActivity::Running { .. } | PutBackActivity::Never => {
                ExitCode::FAILURE
            }
        })
    }
}
