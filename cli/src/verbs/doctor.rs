//! `warmspare doctor`: everything that `serve` needs of the world, asked for once.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;
use warmspare_platform::adapters::directory::DirectoryAssociations;
use warmspare_platform::adapters::google::{GoogleCredentials, TokenSource};
use warmspare_platform::adapters::price_file::PriceFile;
use warmspare_platform::adapters::vast::{VastGpus, VastSettings};
use warmspare_platform::assemble::{self, Surroundings};
use warmspare_platform::config::Config;
use warmspare_platform::ports::ProviderError;
use warmspare_platform::pulse::Pulses;
use warmspare_platform::report;

use crate::client::print_json;
use crate::settings;

/// Signatures are refused beyond 300 s; half of it leaves room for the caller's own clock.
const CLOCK_OFF_AT_MOST: Duration = Duration::from_secs(150);

/// Below this the account may end within a day of one GPU; at zero Vast stops every GPU at once.
const CREDIT_AT_LEAST_MICRO_USD: i64 = 5_000_000;

/// Check everything that `serve` needs, and say what to do about what is missing. Changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// A TOML file with settings; the environment wins over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// It works, but somebody should know.
    Note,
    Broken,
}

/// What a check found.
struct Finding {
    what: &'static str,
    verdict: Verdict,
    words: String,
}

impl Doctor {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = match settings::load(self.config.as_deref()) {
            Ok(config) => config,
            Err(error) => {
                eprintln!("warmspare: {error:#}");
                return Ok(ExitCode::from(2));
            }
        };
        let findings = examine(&config).await;
        if self.json {
            let rows: Vec<_> = findings.iter().map(Finding::as_json).collect();
            print_json(&json!({"schema": 1, "findings": rows}))?;
        } else {
            for finding in &findings {
                println!("{:<6} {:<12} {}", finding.verdict.word(), finding.what, finding.words);
            }
        }
        let broken = findings.iter().filter(|one| one.verdict == Verdict::Broken).count();
        if broken == 0 {
            eprintln!("everything that serve needs is there");
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("{broken} to put right; nothing was changed");
        Ok(ExitCode::FAILURE)
    }
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![store(config), clock(config).await];
    findings.extend(vast(config).await);
    match google(config).await {
        Err(finding) => findings.push(finding),
        Ok(tokens) => {
            findings.push(match &tokens {
                Some(_) => fine("google", "credentials give access tokens".to_owned()),
                None => fine(
                    "google",
                    "not needed: no gcp_project is set, new standbys are at Vast".to_owned(),
                ),
            });
            findings.push(compute(config, tokens).await);
        }
    }
    findings
}

fn store(config: &Config) -> Finding {
    let path = config.state_dir.join("associations");
    match DirectoryAssociations::open(&path) {
        Ok(_) => fine("store", format!("{} can be written", path.display())),
        Err(error) => broken(
            "store",
            format!("{} cannot be used ({error}); choose another state_dir", path.display()),
        ),
    }
}

/// Any answer of Vast tells its time.
async fn clock(config: &Config) -> Finding {
    let asked = async {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        client.get(&config.vast.url).send().await
    };
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(error) => {
            let why = report::chain(&error.without_url());
            return broken("network", format!("{} cannot be reached ({why})", config.vast.url));
        }
    };
    let date = answer.headers().get(reqwest::header::DATE);
    let Some(theirs) = date.and_then(|date| httpdate(date.to_str().ok()?)) else {
        return note(
            "clock",
            "Vast did not say what time it is; this clock was not compared".to_owned(),
        );
    };
    let off = theirs
        .duration_since(SystemTime::now())
        .unwrap_or_else(|earlier| earlier.duration());
    if off <= CLOCK_OFF_AT_MOST {
        fine("clock", format!("within {} s of Vast's", off.as_secs() + 1))
    } else {
        broken(
            "clock",
            format!(
                "{} s away from Vast's: signatures will be refused. Switch time synchronisation on: timedatectl set-ntp true",
                off.as_secs()
            ),
        )
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that servers send. Source: RFC 9110 §5.6.7.
fn httpdate(text: &str) -> Option<SystemTime> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let instant = time::PrimitiveDateTime::parse(text, &format).ok()?;
    Some(instant.assume_utc().into())
}

async fn vast(config: &Config) -> Vec<Finding> {
    let settings = VastSettings {
        base_url: config.vast.url.clone(),
        ..VastSettings::new(config.vast.api_key.clone())
    };
    let vast = match VastGpus::new(settings) {
        Ok(vast) => vast,
        Err(error) => return vec![broken("vast", report::chain(&error))],
    };
    let account = match vast.account().await {
        Ok(account) => account,
        Err(error) => {
            let advice = if matches!(error, ProviderError::Denied { .. }) {
                "make a key with the scopes instance_read, instance_write, user_read and misc at cloud.vast.ai"
            } else {
                "try again; if it goes on, look at Vast's status page"
            };
            return vec![broken("vast", format!("{}; {advice}", report::chain(&error)))];
        }
    };
    let mut findings = vec![fine("vast", "the key is accepted".to_owned())];
    if let Some(credit) = account
        .credit_micro_usd
        .filter(|credit| *credit < CREDIT_AT_LEAST_MICRO_USD)
    {
        let cents = credit / 10_000;
        findings.push(note(
            "credit",
            format!(
                "{}.{:02} dollars are left at Vast; at zero it stops every GPU. Top up",
                cents / 100,
                cents.abs() % 100
            ),
        ));
    }
    findings.push(match vast.webhooks().await {
        Ok(webhooks) if webhooks.iter().any(|one| one.url.ends_with("/webhooks/vast")) => {
            fine("webhook", "Vast notifies us; have it proven with: warmspare webhook test".to_owned())
        }
        Ok(_) => note(
            "webhook",
            "Vast does not notify us, so an outbid is noticed by the next beat only. Make a webhook with: warmspare webhook install".to_owned(),
        ),
        Err(error) => note("webhook", format!("Vast did not list webhooks ({})", report::chain(&error))),
    });
    findings
}

async fn google(config: &Config) -> Result<Option<Arc<dyn TokenSource>>, Finding> {
    if config.gcp.project.is_none() {
        return Ok(None);
    }
    let found = match &config.gcp.credentials {
        Some(path) => GoogleCredentials::from_key_file(path),
        None => GoogleCredentials::find().await,
    };
    let tokens = found.map_err(|error| broken("google", report::chain(&error)))?;
    tokens.token().await.map_err(|error| {
        broken(
            "google",
            format!(
                "{}; is the key still valid, and its account enabled?",
                report::chain(&error)
            ),
        )
    })?;
    Ok(Some(Arc::new(tokens)))
}

async fn compute(config: &Config, tokens: Option<Arc<dyn TokenSource>>) -> Finding {
    let around = Surroundings {
        store: Arc::new(warmspare_platform::adapters::memory::MemoryAssociations::default()),
        tokens: tokens.clone(),
        pulses: Arc::new(Pulses::default()),
        price_shelf: Arc::new(PriceFile::new(config.state_dir.join("prices.json"))),
    };
    if let Err(error) = assemble::world(config, around) {
        return broken("machines", report::chain(&error));
    }
    let (Some(project), Some(tokens)) = (&config.gcp.project, tokens) else {
        return fine(
            "compute",
            "not needed: no gcp_project is set, new standbys are at Vast".to_owned(),
        );
    };
    let standbys = match assemble::google_standbys(config, project, tokens) {
        Ok(standbys) => standbys,
        Err(error) => return broken("machines", report::chain(&error)),
    };
    match standbys.all().await {
        Ok(all) => fine(
            "compute",
            format!("project {project} answers; {} machines and disks are ours", all.len()),
        ),
        Err(error) => {
            let advice = if matches!(error, ProviderError::Denied { .. }) {
                "switch the Compute Engine API on (gcloud services enable compute.googleapis.com) and give the account roles/compute.instanceAdmin.v1"
            } else if matches!(error, ProviderError::NotFound { .. }) {
                "is gcp_project the project's id, not its name?"
            } else {
                "try again in a minute"
            };
            broken("compute", format!("{}; {advice}", report::chain(&error)))
        }
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Broken => "BROKEN",
        }
    }
}

impl Finding {
    fn as_json(&self) -> serde_json::Value {
        json!({"check": self.what, "verdict": self.verdict.word().to_lowercase(), "words": self.words})
    }
}

fn fine(what: &'static str, words: String) -> Finding {
    Finding {
        what,
        verdict: Verdict::Fine,
        words,
    }
}

fn note(what: &'static str, words: String) -> Finding {
    Finding {
        what,
        verdict: Verdict::Note,
        words,
    }
}

fn broken(what: &'static str, words: String) -> Finding {
    Finding {
        what,
        verdict: Verdict::Broken,
        words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_date_is_understood() {
        let instant = httpdate("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(
            instant.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
            784_111_777
        );
        assert!(httpdate("yesterday").is_none());
    }
}
