//! What only the functions need to know, from their environment. Nothing in it is secret.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use warmspare_platform::adapters::gcs;

/// How many associations one shard has before more shards are worth it.
const DEFAULT_SHARDS: u32 = 1;

/// The functions' own settings; `infra/template.yaml` sets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSettings {
    /// The path below which Parameter Store keeps the secrets, ending in `/`.
    pub parameters: String,
    /// The bucket of the associations.
    pub bucket: String,
    /// Cloud Storage's address.
    pub storage_url: String,
    /// How Google Cloud is entered.
    pub google: GoogleAccess,
    /// The queue of ticks, for functions that may send to it.
    pub tick_queue_url: Option<String>,
    /// How many shards a beat is spread over.
    pub shards: u32,
    /// The schedule that starts the planner, for functions that may change it.
    pub schedule: Option<ScheduleSettings>,
}

/// How Google Cloud is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoogleAccess {
    /// As the function's own role, without a key.
    Federated {
        /// The workload identity provider.
        audience: String,
        /// The account it stands for.
        service_account: String,
    },
    /// With the service account key in the parameter `gcp_key`.
    Key,
}

/// The one-minute schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// The group it lives in.
    pub group: String,
    /// The role that it runs the planner with.
    pub role_arn: String,
    /// The planner.
    pub planner_arn: String,
    /// Where events go that could not be delivered.
    pub dead_letters_arn: Option<String>,
}

impl FunctionSettings {
    /// Takes the functions' own settings out of all settings, by name in small letters.
    ///
    /// # Errors
    /// When one is missing or cannot be meant.
    pub fn take_from(settings: &mut BTreeMap<String, String>) -> anyhow::Result<Self> {
        let mut take = |name: &str| settings.remove(name).filter(|value| !value.is_empty());
        let parameters = required(&mut take, "parameters")?;
        if !parameters.starts_with('/') || !parameters.ends_with('/') {
            bail!("WARMSPARE_PARAMETERS is `{parameters}`: use a path such as /warmspare/main/");
        }
        let shards = match take("shards") {
            None => DEFAULT_SHARDS,
            Some(text) => text
                .parse()
                .ok()
                .filter(|shards| (1..=1000).contains(shards))
                .with_context(|| format!("WARMSPARE_SHARDS is `{text}`: use a number from 1 to 1000"))?,
        };
        let google = match (take("gcp_audience"), take("gcp_service_account")) {
            (Some(audience), Some(service_account)) => GoogleAccess::Federated {
                audience,
                service_account,
            },
            (None, None) => GoogleAccess::Key,
            _ => bail!(
                "WARMSPARE_GCP_AUDIENCE and WARMSPARE_GCP_SERVICE_ACCOUNT belong together: give both, or neither and the key as parameter gcp_key"
            ),
        };
        Ok(Self {
            parameters,
            bucket: required(&mut take, "bucket")?,
            storage_url: take("storage_url").unwrap_or_else(|| gcs::ENDPOINT.to_owned()),
            google,
            tick_queue_url: take("tick_queue_url"),
            shards,
            schedule: schedule(&mut take)?,
        })
    }
}

/// All of it or none: which functions may change the schedule the template says.
fn schedule(take: &mut impl FnMut(&str) -> Option<String>) -> anyhow::Result<Option<ScheduleSettings>> {
    let Some(group) = take("beat_schedule_group") else {
        return Ok(None);
    };
    Ok(Some(ScheduleSettings {
        group,
        role_arn: required(take, "beat_schedule_role_arn")?,
        planner_arn: required(take, "planner_arn")?,
        dead_letters_arn: take("beat_dead_letters_arn"),
    }))
}

fn required(take: &mut impl FnMut(&str) -> Option<String>, name: &str) -> anyhow::Result<String> {
    take(name).with_context(|| {
        format!(
            "WARMSPARE_{} is missing; the template infra/template.yaml sets it",
            name.to_uppercase()
        )
    })
}

/// Everything that the environment says as `WARMSPARE_<NAME>`, by name in small letters.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars()
        .filter_map(|(name, value)| Some((name.strip_prefix("WARMSPARE_")?.to_lowercase(), value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> BTreeMap<String, String> {
        [
            ("parameters", "/warmspare/main/"),
            ("bucket", "b"),
            ("tick_queue_url", "https://sqs/q"),
            ("beat_schedule_group", "main"),
            ("beat_schedule_role_arn", "arn:role"),
            ("planner_arn", "arn:planner"),
            ("gcp_project", "p"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn the_functions_own_settings_are_taken_and_the_others_left() {
        let mut settings = complete();
        let own = FunctionSettings::take_from(&mut settings).unwrap();
        assert_eq!((own.shards, own.google), (1, GoogleAccess::Key));
        assert_eq!(settings.into_keys().collect::<Vec<_>>(), ["gcp_project"]);
    }

    #[test]
    fn what_is_missing_or_cannot_be_meant_is_named() {
        for (name, value, words) in [
            ("bucket", "", "WARMSPARE_BUCKET is missing"),
            ("planner_arn", "", "WARMSPARE_PLANNER_ARN is missing"),
            ("parameters", "warmspare", "use a path"),
            ("shards", "0", "1 to 1000"),
            ("gcp_audience", "//iam", "belong together"),
        ] {
            let mut settings = complete();
            settings.insert(name.to_owned(), value.to_owned());
            let text = FunctionSettings::take_from(&mut settings).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
    }
}
