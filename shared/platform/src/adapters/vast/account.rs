//! What belongs to the account or to one instance beyond the port: keys, webhooks, credit, state, bids, the rsync module.

use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;
use warmspare_domain::observed::SshHost;
use warmspare_domain::units::MicroUsd;

use super::VastGpus;
use super::calls::Call;
use super::listing::garbled;
use super::pace::Endpoint;
use super::refusal::{Kind, Refusal};
use super::wire::{as_id, as_number, as_port};
use crate::ports::{GpuRow, ProviderError};

/// The account behind the API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Its number; webhook notifications carry it. 0 when Vast does not say.
    pub user_id: u64,
    /// Prepaid money left, in millionths of a dollar; may be negative. `None` when Vast does not say.
    pub credit_micro_usd: Option<i64>,
}

/// A key that may log in to one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedKey {
    /// Its number at Vast.
    pub id: u64,
    /// The public key as it was attached.
    pub public_key: String,
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

/// Where the host's rsync daemon serves an instance's disk, running or not: `rsync -e 'ssh -p PORT' vastai_kaalia@ADDRESS::MODULE/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsyncModule {
    /// The host agent's SSH.
    pub ssh: SshHost,
    /// The user to log in as.
    pub user: &'static str,
    /// The daemon's module, e.g. `C.48927380`.
    pub module: String,
}

impl VastGpus {
    /// Shows one GPU; `None` when Vast does not know it. One read does not prove that it is gone.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn show(&self, gpu: GpuId) -> Result<Option<GpuRow>, ProviderError> {
        let query = [("owner", "me".to_owned())];
        let call = Call {
            query: &query,
            ..call(Endpoint::Show, Method::GET, instance_path(gpu), None)
        };
        let answer = match self.calls.read(&call).await {
            Err(refusal) if refusal.kind == Kind::Gone => return Ok(None),
            other => other.map_err(|refusal| refusal.into_error(&gpu.to_string()))?,
        };
        match answer.get("instances") {
            Some(Value::Null) => Ok(None),
            Some(row @ Value::Object(_)) => self.row_of(row).await.map(Some),
            Some(_) | None => Err(garbled("the answer about one instance has an unknown form")),
        }
    }

    /// Starts a paused GPU.
    ///
    /// # Errors
    /// [`ProviderError::CapacityExhausted`] when the GPU is let to somebody else (Vast queues the start, so it may still come up);
    /// [`ProviderError::OutOfCredit`].
    pub async fn start(&self, gpu: GpuId) -> Result<(), ProviderError> {
        self.change(gpu, &json!({"state": "running"})).await
    }

    /// Stops a GPU; its disk stays and is billed.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`].
    pub async fn stop(&self, gpu: GpuId) -> Result<(), ProviderError> {
        self.change(gpu, &json!({"state": "stopped"})).await
    }

    /// Sets a GPU's label.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] when it is too long.
    pub async fn set_label(&self, gpu: GpuId, label: &str) -> Result<(), ProviderError> {
        self.change(gpu, &json!({"label": label})).await
    }

    /// Changes the bid of an interruptible GPU, for the whole instance and hour.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] for a GPU that is rented on demand.
    pub async fn change_bid(&self, gpu: GpuId, bid: MicroUsd) -> Result<(), ProviderError> {
        let body = json!({"client_id": "me", "price": bid.dollars()});
        let path = format!("api/v0/instances/bid_price/{}", gpu.contract());
        self.order_of(gpu, &call(Endpoint::Bid, Method::PUT, path, Some(&body)))
            .await
    }

    /// Asks where a GPU's disk is served by its host, also while the GPU is paused. The caller's key must be registered.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`]; [`ProviderError::OutcomeUnknown`] when the answer names no address.
    pub async fn rsync_module_address(&self, gpu: GpuId) -> Result<RsyncModule, ProviderError> {
        let module = format!("C.{}", gpu.contract());
        let body = json!({"client_id": "me", "src_id": module, "dst_id": null, "src_path": "/", "dst_path": "/"});
        let call = call(
            Endpoint::Copy,
            Method::PUT,
            "api/v0/commands/rsync".to_owned(),
            Some(&body),
        );
        let answer = self.calls.write(&call).await;
        let answer = answer.map_err(|refusal| refusal.into_error(&gpu.to_string()))?;
        let address = answer["src_addr"]
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty());
        let port = as_number(&answer["src_port"]).and_then(as_port);
        let (Some(address), Some(port)) = (address, port) else {
            return Err(garbled("the answer about the rsync module names no address"));
        };
        Ok(RsyncModule {
            ssh: SshHost {
                address: address.to_owned(),
                port,
            },
            user: "vastai_kaalia",
            module,
        })
    }

    /// Lists the keys that may log in to a GPU.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn attached_keys(&self, gpu: GpuId) -> Result<Vec<AttachedKey>, ProviderError> {
        let answer = self
            .calls
            .read(&call(Endpoint::Keys, Method::GET, keys_path(gpu), None))
            .await;
        let answer = answer.map_err(|refusal| refusal.into_error(&gpu.to_string()))?;
        // An array, encoded as text within the JSON (`vast-api.md` §7); an array itself is read too.
        let keys: Option<Vec<Value>> = match &answer["ssh_keys"] {
            Value::String(text) => serde_json::from_str(text).ok(),
            Value::Array(keys) => Some(keys.clone()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        };
        let keys = keys.ok_or_else(|| garbled("the list of an instance's keys has an unknown form"))?;
        Ok(keys.iter().filter_map(attached_key).collect())
    }

    /// Takes a key off a GPU. A key that is not there is fine.
    ///
    /// # Errors
    /// Those of any write.
    pub async fn detach_key(&self, gpu: GpuId, key_id: u64) -> Result<(), ProviderError> {
        let path = format!("{}/{key_id}", keys_path(gpu));
        match self
            .calls
            .write(&call(Endpoint::Keys, Method::DELETE, path, None))
            .await
        {
            Err(refusal) if refusal.kind != Kind::Gone => Err(refusal.into_error(&gpu.to_string())),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(super) async fn attach(&self, gpu: GpuId, public_key: &str) -> Result<(), ProviderError> {
        let body = json!({"ssh_key": public_key});
        match self
            .calls
            .write(&call(Endpoint::Keys, Method::POST, keys_path(gpu), Some(&body)))
            .await
        {
            Err(refusal) if refusal.kind != Kind::AlreadyThere => Err(refusal.into_error(&gpu.to_string())),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Reads the account.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] when the key lacks the scope `user_read`.
    pub async fn account(&self) -> Result<Account, ProviderError> {
        let answer = self
            .calls
            .read(&call(
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
        let call = call(
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
            .read(&call(
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
        let call = call(
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
        let call = call(
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
        let call = call(
            Endpoint::Webhooks,
            Method::POST,
            format!("api/v0/webhooks/{id}/rotate-secret"),
            None,
        );
        with_secret(self.calls.write(&call).await)
    }

    async fn change(&self, gpu: GpuId, body: &Value) -> Result<(), ProviderError> {
        self.order_of(
            gpu,
            &call(Endpoint::Change, Method::PUT, instance_path(gpu), Some(body)),
        )
        .await
    }

    async fn order_of(&self, gpu: GpuId, call: &Call<'_>) -> Result<(), ProviderError> {
        self.calls
            .write(call)
            .await
            .map(drop)
            .map_err(|refusal| refusal.into_error(&gpu.to_string()))
    }
}

pub(super) fn call(endpoint: Endpoint, method: Method, path: String, body: Option<&Value>) -> Call<'_> {
    Call {
        endpoint,
        method,
        path,
        query: &[],
        body,
    }
}

pub(super) fn instance_path(gpu: GpuId) -> String {
    format!("api/v0/instances/{}", gpu.contract())
}

fn keys_path(gpu: GpuId) -> String {
    format!("{}/ssh", instance_path(gpu))
}

fn attached_key(row: &Value) -> Option<AttachedKey> {
    let text = row.get("public_key").or_else(|| row.get("ssh_key"))?.as_str()?;
    Some(AttachedKey {
        id: as_id(&row["id"])?,
        public_key: text.to_owned(),
    })
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
