//! What can be asked of one GPU beyond the port: its row, its state, its label, its bid, its disk through the host.

use reqwest::Method;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;
use warmspare_domain::observed::SshHost;
use warmspare_domain::units::MicroUsd;

use super::VastGpus;
use super::calls::Call;
use super::listing::garbled;
use super::pace::Endpoint;
use super::refusal::Kind;
use super::wire::{as_number, as_port};
use crate::ports::{GpuRow, ProviderError};

/// Where the host's rsync daemon serves an instance's disk, running or not: `rsync -e 'ssh -p PORT' vastai_kaalia@ADDRESS::MODULE/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsyncModule {
    /// The host agent's SSH.
    pub ssh: SshHost,
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
            ..Call::new(Endpoint::Show, Method::GET, instance_path(gpu), None)
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
        self.order_of(gpu, &Call::new(Endpoint::Bid, Method::PUT, path, Some(&body)))
            .await
    }

    /// Asks where a GPU's disk is served by its host, also while the GPU is paused. The caller's key must be registered.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`]; [`ProviderError::OutcomeUnknown`] when the answer names no address.
    pub async fn rsync_module_address(&self, gpu: GpuId) -> Result<RsyncModule, ProviderError> {
        let module = format!("C.{}", gpu.contract());
        let body = json!({"client_id": "me", "src_id": module, "dst_id": null, "src_path": "/", "dst_path": "/"});
        let call = Call::new(
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
            module,
        })
    }

    pub(super) async fn change(&self, gpu: GpuId, body: &Value) -> Result<(), ProviderError> {
        self.order_of(
            gpu,
            &Call::new(Endpoint::Change, Method::PUT, instance_path(gpu), Some(body)),
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

pub(super) fn instance_path(gpu: GpuId) -> String {
    format!("api/v0/instances/{}", gpu.contract())
}
