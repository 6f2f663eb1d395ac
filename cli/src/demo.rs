//! `warmspare demo`: the whole story, for real, on this machine.
//!
//! The clouds are `simcloud`; everything else is what runs in production: `warmspare serve` as a process of its own, the Vast and Compute
//! Engine clients, the agent, sshd and rsync.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

mod ledger;
mod report;
mod story;
mod timeline;
pub mod workload;

use report::Report;
use timeline::Timeline;
use warmspare_stage::{Setting, Stage, timing};

/// Play the whole story on this machine.
#[derive(Debug, Args)]
pub struct Demo {
    /// Play it faster: ends within a minute.
    #[arg(long)]
    fast: bool,
    /// Print one report object on standard output, the story on standard error.
    #[arg(long)]
    json: bool,
    /// Protect a copy of this directory instead of made-up training data.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the demo's directory with all logs.
    #[arg(long)]
    keep: bool,
}

/// How fast the simulated clouds and our beats run.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Factor on the clouds' measured durations.
    time_scale: f64,
    /// Seconds between two beats.
    beat_s: u64,
    /// How long the GPU works under protection before it is outbid.
    calm: Duration,
}

impl Demo {
    /// Plays the story and reports.
    ///
    /// # Errors
    /// When the machine lacks a program, or the stage cannot be set. A check that does not hold is no error but exit code 1.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        check_programs()?;
        if let Some(directory) = &self.data
            && !directory.is_dir()
        {
            bail!(
                "{} is not a directory; name the directory whose copy is to be protected",
                directory.display()
            );
        }
        let pace = if self.fast {
            Pace {
                time_scale: 0.04,
                beat_s: 1,
                calm: Duration::from_secs(6),
            }
        } else {
            Pace {
                time_scale: 0.1,
                beat_s: 2,
                calm: Duration::from_secs(15),
            }
        };
        let timeline = Timeline::new(self.json);
        let began = Instant::now();
        let mut stage = Stage::set(setting(pace)?)
            .await
            .context("the demo's stage could not be set")?;
        let told = story::tell(&mut stage, &timeline, self.data.as_deref(), pace).await;
        timeline.clear();
        let logs = stage.log_path().display().to_string();
        let outcome = match told {
            Ok(facts) => Ok(Report::new(facts, began.elapsed())),
            Err(error) => Err(error.context(format!(
                "the story broke off; the log of `warmspare serve` ends with:\n{}",
                stage.log_tail()
            ))),
        };
        stage.strike(self.keep || outcome.is_err()).await;
        let report = outcome?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", report.table());
        }
        if self.keep {
            eprintln!("kept: {logs}");
        }
        Ok(if report.all_hold() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(1)
        })
    }
}

fn setting(pace: Pace) -> anyhow::Result<Setting> {
    let setting = Setting {
        time_scale: pace.time_scale,
        beat_s: pace.beat_s,
        timing: timing(pace.time_scale),
        ..Setting::fast(std::env::current_exe()?)
    };
    let settings = [
        ("failover", "automatic"),
        ("failover_max_price_per_hour", "1.00"),
        ("superseded_gpu", "destroy"),
    ];
    Ok(settings
        .into_iter()
        .fold(setting, |setting, (name, value)| setting.with(name, value)))
}

fn check_programs() -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // sshd is a system program and often not on a user's PATH.
    places.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let needed = [
        ("rsync", "rsync"),
        ("ssh", "openssh-client"),
        ("ssh-keygen", "openssh-client"),
        ("sshd", "openssh-server"),
        ("openssl", "openssl"),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(program, _)| !places.iter().any(|place| place.join(program).is_file()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    bail!(
        "missing: {}. Install with: apt-get install {}",
        programs.join(", "),
        packages.join(" ")
    )
}
