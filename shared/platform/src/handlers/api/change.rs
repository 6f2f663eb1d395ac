//! A change of the rules, as a person or tool sends it: only what is named changes, and what is unknown is refused.

use serde::Deserialize;
use warmspare_domain::ids::PathBelow;
use warmspare_domain::policy::{Failover, Policy, SupersededGpu, WhenDeletedAtVast};
use warmspare_domain::units::{MicroUsd, Seconds};

use crate::config::{check_command, check_path};

/// A change of the rules.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyChange {
    /// See [`Policy::source_path`].
    pub source_path: Option<String>,
    /// See [`Policy::excludes`].
    pub excludes: Option<Vec<String>>,
    /// See [`Policy::includes`].
    pub includes: Option<Vec<String>>,
    /// See [`Policy::first`].
    pub first: Option<Vec<String>>,
    /// See [`Policy::before_pass`].
    pub before_pass: Option<String>,
    /// See [`Policy::lag_objective`].
    pub lag_objective_s: Option<u32>,
    /// See [`Policy::max_deleted_percent`].
    pub max_deleted_percent: Option<u8>,
    /// See [`Policy::bandwidth_kib_per_s`].
    pub bandwidth_kib_per_s: Option<u32>,
    /// See [`Policy::max_disk_gb`].
    pub max_disk_gb: Option<u32>,
    /// See [`Policy::retention`].
    pub retention_s: Option<u32>,
    /// See [`Policy::stop_standby_after`].
    pub stop_standby_after_s: Option<u32>,
    /// See [`Policy::when_deleted_at_vast`].
    pub when_deleted_at_vast: Option<WhenDeletedAtVast>,
    /// See [`Policy::failover`].
    pub failover: Option<FailoverWord>,
    /// Needed with, and only with, automatic failover.
    pub failover_max_dollars_per_hour: Option<f64>,
    /// See [`Policy::superseded`].
    pub superseded_gpu: Option<SupersededGpu>,
}

/// [`Failover`] without its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words are those of `Failover`")]
pub enum FailoverWord {
    Manual,
    Automatic,
}

impl PolicyChange {
    /// The rules with the change.
    ///
    /// # Errors
    /// What cannot be used, and what to send instead.
    pub fn applied_to(&self, policy: &Policy) -> Result<Policy, String> {
        let mut next = policy.clone();
        if let Some(path) = &self.source_path {
            check_path(path).map_err(|fix| format!("source_path `{}` cannot be used: {fix}", path.escape_default()))?;
            next.source_path.clone_from(path);
        }
        for (patterns, setting) in [
            (&self.excludes, &mut next.excludes),
            (&self.includes, &mut next.includes),
        ] {
            let Some(patterns) = patterns else { continue };
            if let Some(bad) = patterns
                .iter()
                .find(|pattern| pattern.is_empty() || pattern.chars().any(char::is_control))
            {
                return Err(format!(
                    "the pattern `{}` is empty or has control characters",
                    bad.escape_default()
                ));
            }
            setting.clone_from(patterns);
        }
        if let Some(paths) = &self.first {
            let below = paths.iter().map(|path| PathBelow::read(path, &next.source_path));
            next.first = below
                .collect::<Result<_, _>>()
                .map_err(|error| format!("first: {error}"))?;
        }
        if let Some(command) = &self.before_pass {
            check_command(command).map_err(|fix| format!("before_pass cannot be used: {fix}"))?;
            next.before_pass.clone_from(command);
        }
        if let Some(percent) = self.max_deleted_percent {
            if !(1..=100).contains(&percent) {
                return Err("max_deleted_percent must be 1 to 100; 100 switches the guard off".to_owned());
            }
            next.max_deleted_percent = percent;
        }
        next.bandwidth_kib_per_s = self.bandwidth_kib_per_s.unwrap_or(next.bandwidth_kib_per_s);
        if let Some(gb) = self.max_disk_gb {
            if gb > 65_536 {
                return Err("max_disk_gb must be 0 to 65536; 0 lets the disk never grow".to_owned());
            }
            next.max_disk_gb = gb;
        }
        let seconds = [
            (self.lag_objective_s, &mut next.lag_objective),
            (self.retention_s, &mut next.retention),
            (self.stop_standby_after_s, &mut next.stop_standby_after),
        ];
        for (wish, setting) in seconds {
            match wish {
                Some(0) => return Err("a duration must be at least 1 second".to_owned()),
                Some(wish) => *setting = Seconds(wish),
                None => {}
            }
        }
        next.when_deleted_at_vast = self.when_deleted_at_vast.unwrap_or(next.when_deleted_at_vast);
        next.superseded = self.superseded_gpu.unwrap_or(next.superseded);
        next.failover = self.failover(next.failover)?;
        Ok(next)
    }

    fn failover(&self, now: Failover) -> Result<Failover, String> {
        let cap = match self.failover_max_dollars_per_hour {
            None => None,
            Some(dollars) => match MicroUsd::from_dollars(dollars).filter(|cap| cap.0 > 0) {
                None => return Err("failover_max_dollars_per_hour must be a price above 0".to_owned()),
                cap @ Some(_) => cap,
            },
        };
        match (self.failover, cap, now) {
            (None, None, now) => Ok(now),
            (Some(FailoverWord::Manual), None, _) => Ok(Failover::Manual),
            (Some(FailoverWord::Manual), Some(_), _) | (None, Some(_), Failover::Manual) => Err(
                "a price cap means nothing without automatic failover: send \"failover\": \"automatic\" with it"
                    .to_owned(),
            ),
            (Some(FailoverWord::Automatic), None, Failover::Manual) => Err(
                "automatic failover rents a GPU: say what it may cost an hour in failover_max_dollars_per_hour"
                    .to_owned(),
            ),
            (Some(FailoverWord::Automatic), None, automatic @ Failover::Automatic { .. }) => Ok(automatic),
            (Some(FailoverWord::Automatic) | None, Some(max_price_per_hour), _) => {
                Ok(Failover::Automatic { max_price_per_hour })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contract::fixture;

    #[test]
    fn what_travels_first_lies_in_the_directory_of_the_same_change() {
        let change = |first: &str| -> Result<Policy, String> {
            let change: PolicyChange =
                serde_json::from_value(json!({"source_path": "/data", "first": [first]})).unwrap();
            change.applied_to(&fixture(1).policy)
        };
        assert_eq!(change("/data/src").unwrap().first, ["src".parse().unwrap()]);
        let refused = change("/workspace/src").unwrap_err();
        assert!(
            refused.starts_with("first: ") && refused.contains("below source_path"),
            "{refused}"
        );
    }
}
