//! What becomes of one standby: seen, started, stopped, relabelled, destroyed.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::GpuId;
use warmspare_domain::observed::{Endpoint, GpuSeen, StandbySeen};
use warmspare_domain::policy::StandbyProvider;

use super::super::SshPreference;
use super::super::calls::Call;
use super::super::instance::instance_path;
use super::super::listing::garbled;
use super::super::pace;
use super::super::status;
use super::super::wire::Instance;
use super::{PoisonError, Rows, StandbyLabel, VastStandbys, disk_label, onstart};
use crate::ports::{Destroyed, ProviderError};

/// How often a log that Vast uploads is asked for; Vast's own command asks 30 times in 9 s (`vast-api.md` §9), a beat has less patience.
const LOG_TRIES: u32 = 10;
/// The pause between two of them.
const LOG_PAUSE: Duration = Duration::from_millis(300);

impl VastStandbys {
    pub(super) async fn seen(&self, row: &Instance) -> Result<StandbySeen, ProviderError> {
        let is_meant_to_stop = row.intended_status.as_deref() == Some("stopped");
        match status::seen(row, SshPreference::Direct, super::super::now()) {
            GpuSeen::Running(_) if is_meant_to_stop => Ok(StandbySeen::Stopping),
            GpuSeen::Running(_) => self.running(row).await,
            // A dark host is not a stopped one: nobody can start it, and its disk cannot be reached before it is back.
            GpuSeen::Starting | GpuSeen::Dark => Ok(StandbySeen::Booting),
            GpuSeen::Paused(_) => Ok(StandbySeen::Stopped),
        }
    }

    /// Up, once it has a port of its own and has told its host key.
    async fn running(&self, row: &Instance) -> Result<StandbySeen, ProviderError> {
        let (Some(host), Some(id)) = (status::direct(row), row.id) else {
            return Ok(StandbySeen::Booting);
        };
        let Some(host_key) = self.host_key(id).await? else {
            return Ok(StandbySeen::Booting);
        };
        Ok(StandbySeen::Running(Endpoint {
            instance: id,
            address: host.address,
            port: host.port,
            host_key,
            provider: StandbyProvider::Vastai,
        }))
    }

    /// The key that the container printed into its log, read through Vast's API over TLS: Vast has no better channel. `None` while there is none.
    async fn host_key(&self, id: u64) -> Result<Option<String>, ProviderError> {
        let known = self
            .host_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned();
        if known.is_some() {
            return Ok(known);
        }
        let body = json!({"tail": "1000", "filter": onstart::HOST_KEY});
        let path = format!("api/v0/instances/request_logs/{id}");
        let call = Call::new(pace::Endpoint::Logs, Method::PUT, path, Some(&body));
        let answer = self.vast.calls.read(&call).await;
        let answer = answer.map_err(|refusal| refusal.into_error("the standby's log"))?;
        let Some(link) = answer["result_url"].as_str() else {
            return Err(garbled("the answer about a log has no link"));
        };
        let Some(log) = self.log(link).await? else {
            return Ok(None);
        };
        let key = onstart::host_key(&log);
        if let Some(key) = &key {
            let mut known = self.host_keys.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(id, key.clone());
        }
        Ok(key)
    }

    async fn log(&self, link: &str) -> Result<Option<String>, ProviderError> {
        for _ in 0..LOG_TRIES {
            match self.vast.calls.linked(link).await {
                Ok(Some(text)) => return Ok(Some(text)),
                Ok(None) => self.vast.calls.pause(LOG_PAUSE).await,
                Err(lost) => return Err(garbled(&format!("the standby's log: {}", lost.0))),
            }
        }
        Ok(None)
    }

    pub(super) async fn only(&self, standby: &StandbyRef) -> Result<GpuId, ProviderError> {
        let rows = self.find(&self.label(standby)?).await?;
        let id = rows.machines.first().and_then(|row| row.id);
        id.map(GpuId::vast).ok_or_else(|| ProviderError::NotFound {
            what: format!("standby {} at Vast", standby.name),
        })
    }

    /// Makes a machine again of one of which only the disk is left.
    pub(super) async fn revive(&self, id: u64, label: &StandbyLabel) -> Result<(), ProviderError> {
        self.vast.set_label(GpuId::vast(id), &label.to_string()).await?;
        // It is a machine from here on, if a stopped one: whoever looks next starts it again.
        if let Err(error) = self.vast.start(GpuId::vast(id)).await {
            tracing::warn!(standby.name = %label, error = %error, "a standby's machine was made anew but did not start yet");
        }
        Ok(())
    }

    /// Stops machines and then says in their labels that only their disks are left; a crash in between leaves a stopped machine, which is
    /// deleted again.
    pub(super) async fn retire(&self, machines: &[Instance], label: &StandbyLabel) -> Result<Destroyed, ProviderError> {
        let disk = disk_label(label).to_string();
        let mut outcome = Destroyed::AlreadyGone;
        for gpu in machines.iter().filter_map(|row| row.id).map(GpuId::vast) {
            for order in [json!({"state": "stopped"}), json!({"label": disk})] {
                match self.vast.change(gpu, &order).await {
                    Ok(()) | Err(ProviderError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            outcome = Destroyed::Ordered;
        }
        Ok(outcome)
    }

    /// Destroys those of which only the disk is left; a machine is never destroyed here.
    pub(super) async fn destroy(&self, rows: &Rows) -> Result<Destroyed, ProviderError> {
        if let Some(machine) = rows.machines.first() {
            return Err(ProviderError::NotReady {
                detail: format!(
                    "{} is a machine still",
                    instance_path(GpuId::vast(machine.id.unwrap_or(0)))
                ),
            });
        }
        let mut outcome = Destroyed::AlreadyGone;
        for id in rows.disks.iter().filter_map(|row| row.id) {
            if self.vast.delete_instance(id).await? == Destroyed::Ordered {
                outcome = Destroyed::Ordered;
            }
            self.host_keys
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
        }
        Ok(outcome)
    }
}
