//! `warmspare demo`: the whole story, for real, on this machine.
//!
//! The clouds are `simcloud`; everything else is what runs in production: `warmspare serve` as a process of its own, the Vast and Compute
//! Engine clients, the agent, sshd and rsync.

use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use tokio::time::timeout;

mod ledger;
mod report;
mod stay;
mod story;
mod timeline;
pub mod workload;

use report::Report;
use timeline::Timeline;
use warmspare_stage::{Setting, Stage, timing};

use crate::stop::{SAME_SIGNAL_WITHIN, asked_to_stop};

/// Play the whole story on this machine.
#[derive(Debug, Args)]
pub struct Demo {
    /// Play it faster: ends within a minute.
    #[arg(long)]
    fast: bool,
    /// Instead of the story: set its stage, protect a GPU that is written to, and leave all of it to you until Ctrl-C. Every verb can
    /// be tried on it from a second terminal.
    #[arg(long, conflicts_with = "json")]
    stay: bool,
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
        // Before anything is set, so that nothing of it is left behind.
        let mut stop = pin!(asked_to_stop()?);
        let timeline = Timeline::new(self.json);
        let mut stage = match Stage::set(self.setting(pace)?).await {
            Ok(stage) => stage,
            Err(error) => {
                let error = error.context("the demo's stage could not be set");
                return self.say(stopped_or(error, stop).await?);
            }
        };
        let ended = tokio::select! {
            biased;
            exit_code = &mut stop => Ok(Ended::Stopped { exit_code }),
            played = self.play(&mut stage, &timeline, pace) => match played {
                Ok(report) => Ok(Ended::Told(report)),
                Err(error) => stopped_or(error, stop).await,
            },
        };
        timeline.clear();
        let logs = stage.log_path().display().to_string();
        let ended = ended.map_err(|error| {
            error.context(format!(
                "the demo broke off; the log of `warmspare serve` ends with:\n{}",
                stage.log_tail()
            ))
        });
        if let Ok(Ended::Stopped { .. }) = &ended {
            eprintln!("taking the stage down");
        }
        stage.strike(self.keep || ended.is_err()).await;
        let ended = ended?;
        let code = self.say(ended)?;
        if self.keep {
            eprintln!("kept: {logs}");
        }
        Ok(code)
    }

    async fn play(&self, stage: &mut Stage, timeline: &Timeline, pace: Pace) -> anyhow::Result<Report> {
        let began = Instant::now();
        let data = self.data.as_deref();
        if self.stay {
            match stay::stay(stage, timeline, data).await? {}
        }
        let facts = story::tell(stage, timeline, data, pace).await?;
        Ok(Report::new(facts, began.elapsed()))
    }

    fn say(&self, ended: Ended) -> anyhow::Result<ExitCode> {
        let report = match ended {
            Ended::Told(report) => report,
            Ended::Stopped { .. } if self.stay => {
                eprintln!("all machines and processes of it are gone");
                return Ok(ExitCode::SUCCESS);
            }
            Ended::Stopped { exit_code } => {
                eprintln!("warmspare: the demo was stopped; all machines and processes of it are gone");
                return Ok(ExitCode::from(exit_code));
            }
        };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", report.table());
        }
        Ok(if report.all_hold() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(1)
        })
    }

    fn setting(&self, pace: Pace) -> anyhow::Result<Setting> {
        let setting = Setting {
            time_scale: pace.time_scale,
            beat_s: pace.beat_s,
            timing: timing(pace.time_scale),
            ..Setting::fast(std::env::current_exe()?)
        };
        if self.stay {
            // Whoever tries it decides what becomes of a lost GPU.
            return Ok(setting);
        }
        let settings = [
            ("failover", "automatic"),
            ("failover_max_price_per_hour", "1.00"),
            ("superseded_gpu", "destroy"),
        ];
        Ok(settings
            .into_iter()
            .fold(setting, |setting, (name, value)| setting.with(name, value)))
    }
}

/// How a demo ended.
enum Ended {
    /// The story was told.
    Told(Report),
    /// Somebody stopped it.
    Stopped { exit_code: u8 },
}

/// Whether what failed did so because a program that we started heard of the signal before us.
async fn stopped_or(error: anyhow::Error, stop: Pin<&mut impl Future<Output = u8>>) -> anyhow::Result<Ended> {
    match timeout(SAME_SIGNAL_WITHIN, stop).await {
        Ok(exit_code) => Ok(Ended::Stopped { exit_code }),
        Err(_) => Err(error),
    }
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
