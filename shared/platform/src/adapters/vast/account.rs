//! The account behind the API key: its credit and its webhooks.

use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::VastGpus;
use super::calls::Call;
use super::listing::garbled;
use super::pace::Endpoint;
use super::refusal::Refusal;
use super::wire::{as_id, as_number};
use crate::ports::ProviderError;

/// The account behind the API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Its number; webhook notifications carry it. 0 when Vast does not say.
    pub user_id: u64,
    /// Prepaid money left, in millionths of a dollar; may be negative. `None` when Vast does not say.
    pub credit_micro_usd: Option<i64>,
}

/// A webhook without its secret, which Vast shows only once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its number at Vast.
    pub id: u64,
    /// Where it posts to.
    pub url: String,
    /// What it posts, e.g. `client:outbid`.
    pub event_types: Vec<String>,
}

/// A webhook that was just made, or whose secret was just replaced.
#[derive(Debug)]
pub struct WebhookWithSecret {
    /// The webhook.
    pub webhook: Webhook,
    /// The key of its signatures. Vast never shows it again.
    pub secret: SecretString,
}

impl VastGpus {
    /// Reads the account.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] when the key lacks the scope `user_read`.
    pub async fn account(&self) -> Result<Account, ProviderError> {
        let answer = self
            .calls
            .read(&Call::new(
                Endpoint::Account,
                Method::GET,
                "api/v0/users/current".to_owned(),
                None,
            ))
            .await;
        let answer = answer.map_err(|refusal| refusal.into_error("the account"))?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "credits stay far below 2^63 millionths, and the cast saturates"
        )]
        let micros = |dollars: f64| (dollars * 1e6).round() as i64;
        Ok(Account {
            user_id: as_id(&answer["id"]).unwrap_or(0),
            credit_micro_usd: as_number(&answer["credit"]).map(micros),
        })
    }

    /// Makes a webhook. An account can have four.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] for a fifth, for a URL that has one already, and for unknown events.
    pub async fn create_webhook(
        &self,
        name: &str,
        url: &str,
        events: &[&str],
    ) -> Result<WebhookWithSecret, ProviderError> {
        let body = json!({"name": name, "webhook_url": url, "event_types": events});
        let call = Call::new(
            Endpoint::Webhooks,
            Method::POST,
            "api/v0/webhooks".to_owned(),
            Some(&body),
        );
        with_secret(self.calls.write(&call).await)
    }

    /// Lists the account's webhooks.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, ProviderError> {
        let answer = self
            .calls
            .read(&Call::new(
                Endpoint::Webhooks,
                Method::GET,
                "api/v0/webhooks".to_owned(),
                None,
            ))
            .await;
        let answer = answer.map_err(|refusal| refusal.into_error("the webhooks"))?;
        let rows = answer["webhooks"].as_array();
        let rows = rows.ok_or_else(|| garbled("the list of webhooks has an unknown form"))?;
        Ok(rows.iter().filter_map(webhook).collect())
    }

    /// Deletes a webhook.
    ///
    /// # Errors
    /// Those of any write.
    pub async fn delete_webhook(&self, id: u64) -> Result<(), ProviderError> {
        let call = Call::new(
            Endpoint::Webhooks,
            Method::DELETE,
            format!("api/v0/webhooks/{id}"),
            None,
        );
        self.calls
            .write(&call)
            .await
            .map(drop)
            .map_err(|refusal| refusal.into_error(&format!("webhook {id}")))
    }

    /// Has Vast send its test notification.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] when the URL did not take it.
    pub async fn test_webhook(&self, id: u64) -> Result<(), ProviderError> {
        let call = Call::new(
            Endpoint::Webhooks,
            Method::POST,
            format!("api/v0/webhooks/{id}/test"),
            None,
        );
        self.calls
            .write(&call)
            .await
            .map(drop)
            .map_err(|refusal| refusal.into_error(&format!("webhook {id}")))
    }

    /// Replaces a webhook's secret.
    ///
    /// # Errors
    /// Those of any write.
    pub async fn rotate_webhook_secret(&self, id: u64) -> Result<WebhookWithSecret, ProviderError> {
        let call = Call::new(
            Endpoint::Webhooks,
            Method::POST,
            format!("api/v0/webhooks/{id}/rotate-secret"),
            None,
        );
        with_secret(self.calls.write(&call).await)
    }
}

fn webhook(row: &Value) -> Option<Webhook> {
    let events = row["event_types"].as_array().into_iter().flatten();
    Some(Webhook {
        id: as_id(&row["id"])?,
        url: row["webhook_url"].as_str().unwrap_or_default().to_owned(),
        event_types: events.filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

fn with_secret(answer: Result<Value, Refusal>) -> Result<WebhookWithSecret, ProviderError> {
    let answer = answer.map_err(|refusal| refusal.into_error("the webhook"))?;
    let row = &answer["webhook"];
    match (webhook(row), row["webhook_secret"].as_str()) {
        (Some(webhook), Some(secret)) => Ok(WebhookWithSecret {
            webhook,
            secret: SecretString::from(secret),
        }),
        (Some(_) | None, Some(_) | None) => Err(garbled("the answer about the webhook has no secret")),
    }
}
