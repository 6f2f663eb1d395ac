//! `warmspare configure`

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, value_parser};
use serde_json::{Map, Value};
use warmspare_domain::ids::GpuId;
use warmspare_domain::policy::Policy;

use super::rules::changes;
use super::words::{price, text};
use crate::client::{Api, print_json};

/// Change the rules of one GPU. Only what is named changes.
#[derive(Debug, Args)]
pub(crate) struct Configure {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
    /// The directory on the GPU that is copied.
    #[arg(long, value_name = "PATH")]
    source_path: Option<String>,
    /// rsync pattern that is not copied; may be given more than once, and replaces the list; `none` empties it.
    #[arg(long = "exclude", value_name = "PATTERN")]
    excludes: Option<Vec<String>>,
    /// rsync pattern that is copied although an exclude fits it, too; may be given more than once, and replaces the
    /// list; `none` empties it.
    #[arg(long = "include", value_name = "PATTERN")]
    includes: Option<Vec<String>>,
    /// Path below the directory, written with or without it, that travels before all others, in a first pass and in a
    /// restore; may be given more than once, and replaces the list; `none` empties it.
    #[arg(long, value_name = "PATH")]
    first: Option<Vec<String>>,
    /// Shell command that runs on the GPU, in the directory that is copied, before each pass; an empty one for none.
    #[arg(long, value_name = "COMMAND")]
    before_pass: Option<String>,
    /// The largest lag promised, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u32).range(1..))]
    lag_objective_s: Option<u32>,
    /// A pass that would remove more than this share of the files halts; 100 lets none halt.
    #[arg(long, value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100))]
    max_deleted_percent: Option<u8>,
    /// The most that copying may take of the GPU's network, in KiB a second; 0 sets no limit.
    #[arg(long, value_name = "KIB")]
    bandwidth_kib_per_s: Option<u32>,
    /// What the standby's data disk may grow to when it fills, in GB; 0 lets it never grow.
    #[arg(long, value_name = "GB")]
    max_disk_gb: Option<u32>,
    /// How long the data of a lost GPU is kept, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u32).range(1..))]
    retention_s: Option<u32>,
    /// How long the machine of a lost GPU's standby stays up, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u32).range(1..))]
    stop_standby_after_s: Option<u32>,
    /// What becomes of the standby when the GPU was deleted at Vast and no tool said why.
    #[arg(long, value_name = "WHAT", value_parser = ["hold", "release"])]
    when_deleted_at_vast: Option<String>,
    /// Whether a lost GPU is replaced by itself; needs the price below.
    #[arg(long, value_name = "HOW", value_parser = ["manual", "automatic"])]
    failover: Option<String>,
    /// What a replacement may cost an hour, in dollars.
    #[arg(long, value_name = "DOLLARS", value_parser = price, allow_negative_numbers = true)]
    failover_max_dollars_per_hour: Option<f64>,
    /// What becomes of the old GPU at Vast once its data runs, verified, on another.
    #[arg(long, value_name = "WHAT", value_parser = ["keep", "destroy"])]
    superseded_gpu: Option<String>,
}

impl Configure {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut change = Map::new();
        let mut set = |name: &str, value: Option<Value>| value.map(|value| change.insert(name.to_owned(), value));
        set("source_path", self.source_path.map(Value::from));
        set("excludes", self.excludes.map(patterns).transpose()?);
        set("includes", self.includes.map(patterns).transpose()?);
        set("first", self.first.map(patterns).transpose()?);
        set("before_pass", self.before_pass.map(Value::from));
        set("lag_objective_s", self.lag_objective_s.map(Value::from));
        set("max_deleted_percent", self.max_deleted_percent.map(Value::from));
        set("bandwidth_kib_per_s", self.bandwidth_kib_per_s.map(Value::from));
        set("max_disk_gb", self.max_disk_gb.map(Value::from));
        set("retention_s", self.retention_s.map(Value::from));
        set("stop_standby_after_s", self.stop_standby_after_s.map(Value::from));
        set("when_deleted_at_vast", self.when_deleted_at_vast.map(Value::from));
        set("failover", self.failover.map(Value::from));
        set(
            "failover_max_dollars_per_hour",
            self.failover_max_dollars_per_hour.map(Value::from),
        );
        set("superseded_gpu", self.superseded_gpu.map(Value::from));
        if change.is_empty() {
            eprintln!(
                "warmspare: name the rule to change, as in --exclude '*.tmp'; `warmspare show {}` has those that hold",
                self.gpu
            );
            return Ok(ExitCode::from(2));
        }
        let path = format!("/v1/associations/{}", self.gpu);
        let before: Value = self.api.get(&path).await?;
        let view: Value = self.api.patch(&path, &change).await?;
        if self.api.json {
            print_json(&view)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (before, after) = (policy(&before)?, policy(&view)?);
        let (changed, follows) = changes(&before, &after);
        if changed.is_empty() {
            println!("nothing changed: this holds for GPU {} already", text(&view, "gpu"));
        } else {
            println!("changed for GPU {}:", text(&view, "gpu"));
        }
        for line in changed {
            println!("  {line}");
        }
        for line in follows {
            println!("{line}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn policy(view: &Value) -> anyhow::Result<Policy> {
    serde_json::from_value(view["policy"].clone()).context("this API knows other rules; add --json to see them")
}

/// As in the settings, `none` stands for an empty list.
fn patterns(given: Vec<String>) -> anyhow::Result<Value> {
    let is_none = |pattern: &String| pattern == "none";
    if given.iter().all(is_none) {
        return Ok(Value::Array(vec![]));
    }
    if given.iter().any(is_none) {
        bail!("`none` means no pattern, so it stands alone; a file of that name is `/none` or `*/none`");
    }
    if given.iter().any(String::is_empty) {
        bail!("a pattern is empty; use `none` for an empty list");
    }
    Ok(given.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::patterns;

    #[test]
    fn none_empties_a_list_of_patterns_and_stands_alone() {
        let given = |words: &[&str]| patterns(words.iter().map(ToString::to_string).collect());
        assert_eq!(given(&["none"]).unwrap(), json!([]));
        assert_eq!(given(&["*.tmp", "/none"]).unwrap(), json!(["*.tmp", "/none"]));
        assert!(
            given(&["none", "*.tmp"])
                .unwrap_err()
                .to_string()
                .contains("stands alone")
        );
        assert!(given(&[""]).unwrap_err().to_string().contains("use `none`"));
    }
}
