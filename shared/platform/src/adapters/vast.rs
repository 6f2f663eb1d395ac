//! Vast.ai over its REST API. Facts: `reference/vast/vast-api.md`, read 2026-10.
//!
//! Plain HTTP: Vast publishes no Rust client. Its answers are read leniently, its limits kept on our side, and a read that may be
//! incomplete is an error, never an absence.

mod account;
mod calls;
mod instance;
mod keys;
mod listing;
mod market;
mod pace;
mod refusal;
mod rent;
mod standby;
mod status;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize as _;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;
use warmspare_domain::observed::{GpuSeen, PauseCause};
use warmspare_domain::units::Timestamp;
use warmspare_domain::warrant::ReleaseWarrant;

pub use account::{Account, Webhook, WebhookWithSecret};
pub use instance::RsyncModule;
pub use keys::AttachedKey;
pub use market::{Offer, OfferQuery, Terms};
pub use standby::{VastStandbySettings, VastStandbys};

use crate::adapters::http::Http;
use crate::ports::{Destroyed, DiskModule, GpuRow, Gpus, ProviderError, RentWish, StandbyLabel};
use calls::{Call, Calls};
use instance::instance_path;
use listing::{PAGE, garbled};
use pace::{Endpoint, Pace};
use refusal::Kind;
use wire::Instance;

/// How to reach Vast.
#[derive(Debug, Clone)]
pub struct VastSettings {
    /// Where its API is; `https`, or `http` on this machine.
    pub base_url: String,
    /// The API key. It travels in the `Authorization` header only. Scopes: `instance_read`, `instance_write`, `user_read`, `misc`.
    pub api_key: SecretString,
    /// Which of a GPU's two SSH addresses to use when it has both.
    pub ssh: SshPreference,
    /// Commands that a rented GPU runs at every start, at most 4048 characters.
    pub onstart: Option<String>,
    /// The login of the hosts' daemons that serve the disks of paused GPUs.
    pub disk_user: String,
    /// 1 keeps Vast's minimum intervals between calls, 0 keeps none (tests); in between they shrink.
    pub pace: f64,
    /// The longest that one call may take.
    pub call_limit: Duration,
}

impl VastSettings {
    /// Vast itself.
    pub const BASE_URL: &str = "https://console.vast.ai/";
    /// 30 s: creating an instance answers late, and a limit that cuts it off leaves its outcome unknown.
    pub const CALL_LIMIT: Duration = Duration::from_secs(30);
    /// On every host the same. Source: Vast's command line 1.9.1, `copy`, read 2026-10 (`vast-api.md` §9).
    pub const DISK_USER: &str = "vastai_kaalia";
    /// Images that are not Vast's own need not have rsync, without which nothing is copied (`vast-api.md` §8).
    pub const ONSTART: &str = "command -v rsync >/dev/null || (apt-get update && apt-get install -y rsync)";

    /// Vast itself, with the usual settings.
    #[must_use]
    pub fn new(api_key: SecretString) -> Self {
        Self {
            base_url: Self::BASE_URL.to_owned(),
            api_key,
            ssh: SshPreference::Direct,
            onstart: Some(Self::ONSTART.to_owned()),
            disk_user: Self::DISK_USER.to_owned(),
            pace: 1.0,
            call_limit: Self::CALL_LIMIT,
        }
    }
}

/// Which of a GPU's two SSH addresses to use when it has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshPreference {
    /// The host's own address: faster. Vast's proxy is the fallback.
    Direct,
    /// Vast's proxy: an address that does not change. The host's own address is the fallback.
    Proxy,
}

/// The GPUs of one Vast account.
#[derive(Debug)]
pub struct VastGpus {
    calls: Calls,
    settings: VastSettings,
}

impl VastGpus {
    /// Makes the client; calls nobody.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] when the base address would send the key unencrypted.
    pub fn new(settings: VastSettings) -> Result<Self, ProviderError> {
        let http = Http::new("Vast", &settings.base_url, settings.call_limit)?;
        let calls = Calls::new(http, settings.api_key.clone(), Pace::new(settings.pace));
        Ok(Self { calls, settings })
    }

    /// In our words, with the cause of each pause as far as the account's credit tells it.
    async fn rows_of(&self, instances: &[Instance]) -> Result<Vec<GpuRow>, ProviderError> {
        let now = now();
        let read = |instance| {
            status::row(instance, self.settings.ssh, now)
                .ok_or_else(|| garbled("the list of instances has a row without an id"))
        };
        let mut rows = instances.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let paused = GpuSeen::Paused(PauseCause::OutbidOrStopped);
        if rows.iter().any(|row| row.seen == paused) && self.is_out_of_credit().await {
            for row in rows.iter_mut().filter(|row| row.seen == paused) {
                row.seen = GpuSeen::Paused(PauseCause::OutOfCredit);
            }
        }
        Ok(rows)
    }

    async fn row_of(&self, row: &Value) -> Result<GpuRow, ProviderError> {
        let instance =
            Instance::deserialize(row).map_err(|_| garbled("the answer about one instance has an unknown form"))?;
        let mut rows = self.rows_of(&[instance]).await?;
        rows.pop()
            .ok_or_else(|| garbled("the answer about one instance has an unknown form"))
    }

    /// A key without the scope to read the account must not hide that a GPU is paused.
    async fn is_out_of_credit(&self) -> bool {
        match self.account().await {
            Ok(account) => account.credit_micro_usd.is_some_and(|credit| credit <= 0),
            Err(error) => {
                tracing::warn!(error = %error, "the account's credit cannot be read; a paused GPU counts as outbid or stopped");
                false
            }
        }
    }

    async fn delete_instance(&self, contract: u64) -> Result<Destroyed, ProviderError> {
        let gpu = GpuId::vast(contract);
        let body = json!({});
        match self
            .calls
            .write(&Call::new(
                Endpoint::Destroy,
                Method::DELETE,
                instance_path(gpu),
                Some(&body),
            ))
            .await
        {
            Ok(_) => Ok(Destroyed::Ordered),
            Err(refusal) if refusal.kind == Kind::Gone => Ok(Destroyed::AlreadyGone),
            Err(refusal) => Err(refusal.into_error(&gpu.to_string())),
        }
    }
}

#[async_trait]
impl Gpus for VastGpus {
    async fn look(&self, gpus: &[GpuId]) -> Result<BTreeMap<GpuId, GpuRow>, ProviderError> {
        let wanted: std::collections::BTreeSet<u64> = gpus.iter().map(|gpu| gpu.contract()).collect();
        let wanted: Vec<u64> = wanted.into_iter().collect();
        let mut instances = Vec::new();
        for ids in wanted.chunks(PAGE) {
            instances.extend(self.list(&json!({"id": {"in": ids}})).await?);
        }
        let rows = self.rows_of(&instances).await?;
        let asked = |row: &GpuRow| wanted.binary_search(&row.id.contract()).is_ok();
        Ok(rows.into_iter().filter(asked).map(|row| (row.id, row)).collect())
    }

    async fn all(&self) -> Result<Vec<GpuRow>, ProviderError> {
        let mut instances = self.list(&json!({})).await?;
        // Our own standbys are rented from the same account, and are nobody's GPUs.
        let is_standby = |label: &String| StandbyLabel::parse(label).is_some();
        instances.retain(|instance| !instance.label.as_ref().is_some_and(is_standby));
        self.rows_of(&instances).await
    }

    async fn attach_key(&self, gpu: GpuId, public_key: &str) -> Result<(), ProviderError> {
        self.attach(gpu, public_key).await
    }

    async fn disk_module(&self, gpu: GpuId) -> Result<DiskModule, ProviderError> {
        let module = self.rsync_module_address(gpu).await?;
        Ok(DiskModule {
            address: module.ssh.address,
            port: module.ssh.port,
            user: self.settings.disk_user.clone(),
            module: module.module,
        })
    }

    async fn rent(&self, wish: &RentWish) -> Result<GpuId, ProviderError> {
        self.rent_or_find(wish).await
    }

    async fn destroy(&self, gpu: GpuId, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        tracing::info!(gpu.id = %gpu, reason = %warrant.ground(), "destroying a GPU");
        self.delete_instance(gpu.contract()).await
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
