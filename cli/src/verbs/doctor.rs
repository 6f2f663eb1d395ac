//! `warmspare doctor`: everything that a deployment needs of the world, asked for once.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use warmspare_platform::doctor::{Examine, Examiner, Report, Verdict};

use crate::client::{Api, base_url, print_json};
use crate::settings;

/// Check everything that a deployment needs, and say what to do about what is missing. Changes nothing but a probe object in the bucket.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Examine from this machine, with these settings; the environment wins over the file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Have the deployment at this address examine itself with its own rights.
    #[arg(long, env = "WARMSPARE_URL", hide_env_values = true, value_parser = base_url)]
    url: Option<String>,
    /// Have Vast send its signed test to the webhook, too.
    #[arg(long)]
    test_webhook: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let report = match (&self.config, &self.url) {
            (None, Some(url)) => {
                let path = format!("/v1/doctor?test_webhook={}", self.test_webhook);
                Api::at(url.clone()).get(&path).await?
            }
            (Some(_) | None, Some(_) | None) => match self.examine_here(self.config.as_deref()).await {
                Ok(report) => report,
                Err(error) => {
                    eprintln!("warmspare: {error:#}");
                    return Ok(ExitCode::from(2));
                }
            },
        };
        self.tell(&report)
    }

    async fn examine_here(&self, file: Option<&Path>) -> anyhow::Result<Report> {
        let config = settings::load(file)?;
        let examiner = Examiner::local(&config);
        Ok(Report::of(examiner.examine(self.test_webhook).await))
    }

    fn tell(&self, report: &Report) -> anyhow::Result<ExitCode> {
        if self.json {
            print_json(report)?;
        } else {
            for finding in &report.findings {
                println!("{:<6} {:<12} {}", word(finding.verdict), finding.check, finding.words);
            }
        }
        let broken = report
            .findings
            .iter()
            .filter(|one| one.verdict == Verdict::Broken)
            .count();
        if broken == 0 {
            eprintln!("everything that is needed is there");
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("{broken} to put right");
        Ok(ExitCode::FAILURE)
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Note => "note",
        Verdict::Broken => "BROKEN",
    }
}
