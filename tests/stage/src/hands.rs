//! What a user and their tools do: at Vast, at the hooks, at the API.

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use warmspare_domain::units::Timestamp;
use warmspare_platform::handlers::seal::{self, SealHeaders};

use super::Stage;

impl Stage {
    /// The user rents an interruptible GPU at Vast.
    ///
    /// # Errors
    /// When Vast does not rent one.
    pub async fn rent_gpu(&self) -> anyhow::Result<u64> {
        let wish = json!({
            "type": "bid", "num_gpus": {"eq": 1}, "gpu_name": {"eq": "RTX 4090"}, "order": [["dph_total", "asc"]],
            "limit": 5, "allocated_storage": 40
        });
        let offers = self.vast(Method::POST, "/api/v0/bundles/", Some(wish)).await?;
        let offer = offers["offers"].get(0).context("Vast has no offer")?;
        let price = offer["min_bid"].as_f64().unwrap_or(0.2) * 1.2;
        let order = json!({
            "client_id": "me", "image": "vastai/base-image:@vastai-automatic-tag", "disk": 40, "price": price,
            "runtype": "ssh_direc ssh_proxy", "label": "my-training"
        });
        let answer = self
            .vast(Method::PUT, &format!("/api/v0/asks/{}/", offer["id"]), Some(order))
            .await?;
        answer["new_contract"]
            .as_u64()
            .with_context(|| format!("Vast did not rent: {answer}"))
    }

    /// Vast's own word on a GPU: its `actual_status`, or `gone`.
    ///
    /// # Errors
    /// When Vast does not answer.
    pub async fn vast_status(&self, gpu: u64) -> anyhow::Result<String> {
        let row = self
            .vast(Method::GET, &format!("/api/v0/instances/{gpu}/?owner=me"), None)
            .await?;
        Ok(row["instances"]["actual_status"].as_str().unwrap_or("gone").to_owned())
    }

    /// The user destroys a GPU at Vast.
    ///
    /// # Errors
    /// When Vast does not answer.
    pub async fn destroy_gpu(&self, gpu: u64) -> anyhow::Result<()> {
        self.vast(Method::DELETE, &format!("/api/v0/instances/{gpu}/"), Some(json!({})))
            .await
            .map(drop)
    }

    /// A call of the user at Vast.
    ///
    /// # Errors
    /// When the answer is no JSON.
    pub async fn vast(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.cloud.vast_url());
        let mut request = self
            .http
            .request(method, url)
            .bearer_auth(&self.cloud.options().vast_api_key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let text = request.send().await?.text().await?;
        serde_json::from_str(&text).with_context(|| format!("Vast answered {path} with {text}"))
    }

    /// Has Vast notify `warmspare serve`; answers the secret that Vast shows only once.
    pub(crate) async fn register_webhook(&self) -> anyhow::Result<String> {
        let events = [
            "outbid",
            "instance_offline",
            "instance_stopped",
            "instance_deleted",
            "low_credit",
        ];
        let wish = json!({"name": "warmspare", "webhook_url": format!("{}/webhooks/vast", self.serve_url()), "event_types": events});
        let answer = self.vast(Method::POST, "/api/v0/webhooks/", Some(wish)).await?;
        let secret = answer["webhook"]["webhook_secret"].as_str();
        secret
            .map(ToOwned::to_owned)
            .with_context(|| format!("Vast registered no webhook: {answer}"))
    }

    /// The user's tool sends a signed hook; the event id is fresh unless the body has one.
    ///
    /// # Errors
    /// When the hook is refused.
    pub async fn hook(&self, name: &str, mut body: Value) -> anyhow::Result<Value> {
        body["schema"] = json!(1);
        if body["event_id"].is_null() {
            body["event_id"] = json!(hex::encode(rand::random::<[u8; 16]>()));
        }
        let bytes = serde_json::to_vec(&body)?;
        let (timestamp, signature) = seal::sign(&self.hook_secret(), &bytes, now()?);
        let (status, answer) = self
            .post_signed(&format!("/hooks/{name}"), seal::HOOK, &timestamp, &signature, bytes)
            .await?;
        if !status.is_success() {
            bail!("the hook {name} was refused: {status} {answer}");
        }
        Ok(answer)
    }

    /// Posts bytes with whatever signature is given.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn post_signed(
        &self,
        path: &str,
        names: SealHeaders,
        timestamp: &str,
        signature: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let request = self.http.post(format!("{}{path}", self.serve_url()));
        let answer = request
            .header(names.timestamp, timestamp)
            .header(names.signature, signature)
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        Ok((
            status,
            serde_json::from_str(&answer.text().await?).unwrap_or(Value::Null),
        ))
    }

    /// The secret that signs the hooks.
    #[must_use]
    pub fn hook_secret(&self) -> SecretString {
        self.hook_secret.clone().into()
    }

    /// The secret that Vast signs its notifications with.
    #[must_use]
    pub fn webhook_secret(&self) -> SecretString {
        self.webhook_secret.clone().into()
    }

    /// What the API says of a GPU.
    ///
    /// # Errors
    /// When it does not know it.
    pub async fn view(&self, gpu: u64) -> anyhow::Result<Value> {
        let (status, answer) = self.api(Method::GET, &format!("/v1/associations/{gpu}"), None).await?;
        if !status.is_success() {
            bail!("the API answered {status}: {answer}");
        }
        Ok(answer)
    }

    /// A call of the API with the stage's token.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn api(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.serve_url()))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        Ok((
            status,
            serde_json::from_str(&answer.text().await?).unwrap_or(Value::Null),
        ))
    }
}

/// This machine's time.
fn now() -> anyhow::Result<Timestamp> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(Timestamp::from_millis(i64::try_from(since.as_millis())?))
}
