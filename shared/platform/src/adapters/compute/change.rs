//! Starting, stopping and deleting what is ours.

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::policy::Provisioning;

use super::ComputeEngine;
use super::calls::Progress;
use super::order::scheduling;
use super::owner::Owner;
use super::refusal::{Kind, Refusal};
use super::wire::Instance;
use crate::ports::{Destroyed, ProviderError};

impl ComputeEngine {
    /// Changes between Spot and standard; possible only while the machine is stopped.
    ///
    /// # Errors
    /// [`ProviderError::NotReady`] while it runs.
    pub async fn set_scheduling(&self, standby: &StandbyRef, provisioning: Provisioning) -> Result<(), ProviderError> {
        let instance = self.ours(standby).await?;
        if !instance.is_off() {
            return Err(ProviderError::NotReady {
                detail: format!(
                    "{} is {}; only a stopped machine can change how it is sold",
                    standby.name, instance.status
                ),
            });
        }
        self.act(standby, "setScheduling", &[], Some(&scheduling(provisioning)))
            .await
    }

    pub(super) async fn start_ours(&self, standby: &StandbyRef) -> Result<(), ProviderError> {
        if self.ours(standby).await?.is_up() {
            return Ok(());
        }
        self.act(standby, "start", &[], None).await
    }

    pub(super) async fn stop_ours(&self, standby: &StandbyRef) -> Result<(), ProviderError> {
        if self.ours(standby).await?.is_down() {
            return Ok(());
        }
        self.act(standby, "stop", &[], None).await
    }

    pub(super) async fn delete_ours(&self, standby: &StandbyRef) -> Result<Destroyed, ProviderError> {
        let owner = Owner::of(standby, &self.settings.deployment)?;
        let Some(instance) = self.instance(standby).await? else {
            return Ok(Destroyed::AlreadyGone);
        };
        owner.check(&instance.labels, standby.name.as_str())?;
        self.keep_data_disk(standby, &instance).await?;
        let name = standby.name.as_str();
        self.delete(standby, ["zones", standby.zone.as_str(), "instances", name], name)
            .await
    }

    pub(super) async fn grow_disk_of_ours(&self, standby: &StandbyRef, gb: u32) -> Result<(), ProviderError> {
        let owner = Owner::of(standby, &self.settings.deployment)?;
        let name = standby.name.data_disk();
        let disk = self.disk(standby).await?;
        let disk = disk.ok_or_else(|| ProviderError::NotFound { what: name.clone() })?;
        owner.check(&disk.labels, &name)?;
        // Google refuses a size that the disk has already, say because the answer to an earlier order was lost.
        if disk.size_gb.parse::<u32>().is_ok_and(|now| now >= gb) {
            return Ok(());
        }
        tracing::info!(standby.name = %standby.name, "growing a standby's data disk to {gb} GB");
        let path = ["zones", standby.zone.as_str(), "disks", &name, "resize"];
        let body = serde_json::json!({"sizeGb": gb.to_string()});
        let ordered = self
            .calls
            .order(Method::POST, &path, &with_request_id(&[]), Some(&body))
            .await;
        let outcome = match ordered {
            Ok(operation) => self.calls.watch(&standby.zone, operation).await,
            Err(refusal) => Progress::Failed(refusal),
        };
        match outcome {
            Progress::Done => Ok(()),
            Progress::UnderWay => Err(ProviderError::NotReady {
                detail: format!("disk {name} is still growing"),
            }),
            Progress::Failed(refusal) => Err(refusal.into_error(&name)),
        }
    }

    pub(super) async fn delete_disk_of_ours(&self, standby: &StandbyRef) -> Result<Destroyed, ProviderError> {
        let owner = Owner::of(standby, &self.settings.deployment)?;
        let name = standby.name.data_disk();
        let Some(disk) = self.disk(standby).await? else {
            return Ok(Destroyed::AlreadyGone);
        };
        owner.check(&disk.labels, &name)?;
        if !disk.users.is_empty() {
            return Err(ProviderError::NotReady {
                detail: format!("disk {name} is still attached"),
            });
        }
        self.delete(standby, ["zones", standby.zone.as_str(), "disks", &name], &name)
            .await
    }

    /// Somebody may have set the data disk to go with the machine. Its data outlives the machine, so that is undone first.
    async fn keep_data_disk(&self, standby: &StandbyRef, instance: &Instance) -> Result<(), ProviderError> {
        let ending = format!("/disks/{}", standby.name.data_disk());
        let endangered = instance
            .disks
            .iter()
            .find(|disk| disk.auto_delete && disk.source.ends_with(&ending));
        let Some(disk) = endangered else { return Ok(()) };
        tracing::warn!(standby.name = %standby.name, "the data disk was set to be deleted with its machine; undoing that");
        let query = [
            ("autoDelete", "false".to_owned()),
            ("deviceName", disk.device_name.clone()),
        ];
        self.act(standby, "setDiskAutoDelete", &query, None).await?;
        let still = self.instance(standby).await?.is_some_and(|instance| {
            instance
                .disks
                .iter()
                .any(|disk| disk.auto_delete && disk.source.ends_with(&ending))
        });
        if still {
            return Err(ProviderError::NotReady {
                detail: format!("{} would still take its data disk with it", standby.name),
            });
        }
        Ok(())
    }

    async fn ours(&self, standby: &StandbyRef) -> Result<Instance, ProviderError> {
        let owner = Owner::of(standby, &self.settings.deployment)?;
        let name = standby.name.as_str();
        let instance = self.instance(standby).await?;
        let instance = instance.ok_or_else(|| ProviderError::NotFound { what: name.to_owned() })?;
        owner.check(&instance.labels, name)?;
        Ok(instance)
    }

    async fn act(
        &self,
        standby: &StandbyRef,
        verb: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<(), ProviderError> {
        let path = ["zones", standby.zone.as_str(), "instances", standby.name.as_str(), verb];
        let query = with_request_id(query);
        let outcome = match self.calls.order(Method::POST, &path, &query, body).await {
            Ok(operation) => self.calls.watch(&standby.zone, operation).await,
            Err(refusal) => Progress::Failed(refusal),
        };
        match outcome {
            Progress::Done | Progress::UnderWay => Ok(()),
            Progress::Failed(refusal) => Err(refusal.into_error(&format!("{} in {}", standby.name, standby.zone))),
        }
    }

    async fn delete(&self, standby: &StandbyRef, path: [&str; 4], what: &str) -> Result<Destroyed, ProviderError> {
        let outcome = match self
            .calls
            .order(Method::DELETE, &path, &with_request_id(&[]), None)
            .await
        {
            Ok(operation) => self.calls.watch(&standby.zone, operation).await,
            Err(refusal) => Progress::Failed(refusal),
        };
        match outcome {
            Progress::Done | Progress::UnderWay => Ok(Destroyed::Ordered),
            Progress::Failed(Refusal {
                kind: Kind::NotFound, ..
            }) => Ok(Destroyed::AlreadyGone),
            Progress::Failed(refusal) => Err(refusal.into_error(what)),
        }
    }
}

/// One id per order, for its resend. These orders are harmless when repeated, so a later one needs no memory of it.
fn with_request_id<'a>(query: &[(&'a str, String)]) -> Vec<(&'a str, String)> {
    let mut query = query.to_vec();
    query.push(("requestId", Uuid::new_v4().to_string()));
    query
}
