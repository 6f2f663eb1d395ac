//! Vast: its clock, the key, the credit, the webhook.

use std::time::{Duration, SystemTime};

use super::Finding;
use crate::adapters::vast::{VastGpus, VastSettings};
use crate::config::Config;
use crate::ports::{Gpus, ProviderError};
use crate::report;

/// Signatures are refused beyond 300 s; half of it leaves room for the caller's own clock.
const CLOCK_OFF_AT_MOST: Duration = Duration::from_secs(150);

/// Below this the account may end within a day of one GPU; at zero Vast stops every GPU at once.
const CREDIT_AT_LEAST_MICRO_USD: i64 = 5_000_000;

/// Any answer of Vast tells its time.
pub(super) async fn clock(config: &Config) -> Finding {
    let asked = async {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        client.get(&config.vast.url).send().await
    };
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(error) => {
            let why = report::chain(&error.without_url());
            return Finding::broken("network", format!("{} cannot be reached ({why})", config.vast.url));
        }
    };
    let date = answer.headers().get(reqwest::header::DATE);
    let Some(theirs) = date.and_then(|date| httpdate(date.to_str().ok()?)) else {
        return Finding::note(
            "clock",
            "Vast did not say what time it is; this clock was not compared".to_owned(),
        );
    };
    let off = theirs
        .duration_since(SystemTime::now())
        .unwrap_or_else(|earlier| earlier.duration());
    if off <= CLOCK_OFF_AT_MOST {
        Finding::fine("clock", format!("within {} s of Vast's", off.as_secs() + 1))
    } else {
        Finding::broken(
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

pub(super) async fn account(config: &Config, test_webhook: bool) -> Vec<Finding> {
    let settings = VastSettings {
        base_url: config.vast.url.clone(),
        pace: f64::from(config.vast.pace_percent) / 100.0,
        ..VastSettings::new(config.vast.api_key.clone())
    };
    let vast = match VastGpus::new(settings) {
        Ok(vast) => vast,
        Err(error) => return vec![Finding::broken("vast", report::chain(&error))],
    };
    let account = match vast.account().await {
        Ok(account) => account,
        Err(error) => return vec![refused(&error)],
    };
    let mut findings = vec![match vast.all().await {
        Ok(gpus) => Finding::fine("vast", format!("the key is accepted and lists {} GPUs", gpus.len())),
        Err(error) => refused(&error),
    }];
    findings.extend(account.credit_micro_usd.and_then(credit));
    findings.push(webhook(&vast, test_webhook).await);
    findings
}

fn refused(error: &ProviderError) -> Finding {
    let advice = if matches!(error, ProviderError::Denied { .. }) {
        "make a key with the scopes instance_read, instance_write, user_read and misc at https://cloud.vast.ai/manage-keys/"
    } else {
        "try again; if it goes on, look at Vast's status page"
    };
    Finding::broken("vast", format!("{}; {advice}", report::chain(error)))
}

fn credit(micro_usd: i64) -> Option<Finding> {
    if micro_usd >= CREDIT_AT_LEAST_MICRO_USD {
        return None;
    }
    let cents = micro_usd / 10_000;
    let sign = if cents < 0 { "-" } else { "" };
    Some(Finding::note(
        "credit",
        format!(
            "{sign}{}.{:02} dollars are left at Vast; at zero it stops every GPU. Top up at https://cloud.vast.ai/billing/",
            cents.abs() / 100,
            cents.abs() % 100
        ),
    ))
}

async fn webhook(vast: &VastGpus, test: bool) -> Finding {
    let webhooks = match vast.webhooks().await {
        Ok(webhooks) => webhooks,
        Err(error) => {
            return Finding::note(
                "webhook",
                format!("Vast did not list webhooks ({})", report::chain(&error)),
            );
        }
    };
    let Some(ours) = webhooks.iter().find(|one| one.url.ends_with("/webhooks/vast")) else {
        return Finding::note(
            "webhook",
            "Vast does not notify us, so an outbid is noticed by the next beat only. Make a webhook with: warmspare webhook install --url https://… --secret-file FILE",
        );
    };
    if !test {
        return Finding::fine(
            "webhook",
            "Vast notifies us; have it proven with: warmspare doctor --test-webhook",
        );
    }
    match vast.test_webhook(ours.id).await {
        Ok(()) => Finding::fine(
            "webhook",
            format!("Vast's signed test arrived at {} and was taken", ours.url),
        ),
        Err(error) => Finding::broken(
            "webhook",
            format!(
                "Vast's signed test did not arrive at {url} ({why}). Is it reachable from the internet, and does it have this webhook's secret? A new one: warmspare webhook rotate --url {url} --secret-file FILE",
                url = ours.url,
                why = report::chain(&error)
            ),
        ),
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
