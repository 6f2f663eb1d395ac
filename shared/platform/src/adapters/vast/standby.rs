//! Standbys at Vast: containers on demand, found by their labels. Facts: `reference/vast/vast-api.md` §4 to §9, read 2026-10.
//!
//! A container's disk lives and dies with it, so the two steps of the rules, deleting the machine and then its disk, become: stop it and say
//! in its label that only its disk is left; then destroy it. Nothing is destroyed before the second step.

mod life;
mod offers;
mod onstart;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::json;
use warmspare_domain::association::Association;
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::{AssociationId, Deployment, GpuId, StandbyName, Zone};
use warmspare_domain::observed::Observed;
use warmspare_domain::policy::{MachineSpec, StandbyProvider};
use warmspare_domain::units::MicroUsd;
use warmspare_domain::warrant::ReleaseWarrant;

use super::VastGpus;
use super::wire::{Instance, dollars, whole};
use crate::ports::{
    Destroyed, LabelledKind, LabelledStandby, MarketPrice, ProviderError, StandbyLabel, StandbyLook, Standbys,
};

/// What all standbys at Vast have in common.
#[derive(Debug, Clone)]
pub struct VastStandbySettings {
    /// Our installation in the account.
    pub deployment: Deployment,
    /// The most that a standby may cost an hour, its storage included, traffic not.
    pub max_price_per_hour: MicroUsd,
    /// The container's image; anything from which Vast makes an SSH container, with apt when it lacks rsync.
    pub image: String,
    /// Where the agent keeps its data, from the login's home or absolute; part of a command, so `[A-Za-z0-9._/-]` only.
    pub data_dir: String,
    /// The operator's public key, one line.
    pub operator_public_key: String,
}

impl VastStandbySettings {
    /// Small, and of a family that Vast's own SSH start-up supports (`vast-api.md` §14).
    pub const IMAGE: &str = "ubuntu:24.04";
    /// 0.10 dollars: an idle consumer GPU is let below it, and a standby at Google costs a tenth of it.
    pub const MAX_PRICE_PER_HOUR: MicroUsd = MicroUsd(100_000);
}

/// The standbys of one deployment in one Vast account.
#[derive(Debug)]
pub struct VastStandbys {
    vast: Arc<VastGpus>,
    settings: VastStandbySettings,
    onstart: String,
    /// By instance: a container keeps its key as long as it keeps its number.
    host_keys: Mutex<BTreeMap<u64, String>>,
}

impl VastStandbys {
    /// Makes the client, which keeps one pace with `vast`; calls nobody.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] when a setting cannot be part of the container's start-up commands.
    pub fn new(vast: Arc<VastGpus>, settings: VastStandbySettings) -> Result<Self, ProviderError> {
        let onstart = onstart::script(&settings)?;
        Ok(Self {
            vast,
            settings,
            onstart,
            host_keys: Mutex::default(),
        })
    }

    /// The label of this standby's machine.
    fn label(&self, standby: &StandbyRef) -> Result<StandbyLabel, ProviderError> {
        let (deployment, name) = (&self.settings.deployment, &standby.name);
        let owner = || {
            let rest = name.as_str().strip_prefix(&format!("ws-{deployment}-"))?;
            let (association, attempt) = rest.rsplit_once('-')?;
            let association: AssociationId = association.parse().ok()?;
            Some((association, attempt.parse::<u16>().ok()?))
        };
        let (association, attempt) = owner().ok_or_else(|| ProviderError::NameTaken {
            what: format!("the name {name}"),
        })?;
        Ok(StandbyLabel {
            deployment: deployment.clone(),
            association,
            attempt,
            part: LabelledKind::Machine,
        })
    }

    /// Everything that carries the label; that there is nothing is believed when two reads say so.
    async fn find_surely(&self, label: &StandbyLabel) -> Result<Rows, ProviderError> {
        let rows = self.find(label).await?;
        if !rows.is_empty() {
            return Ok(rows);
        }
        // One list that misses a row is no proof (`vast-api.md` §12, rule 3): renting on it would rent twice.
        self.find(label).await
    }

    /// Everything that carries the label, in one complete read: the machines, and those of which only the disk is left.
    async fn find(&self, label: &StandbyLabel) -> Result<Rows, ProviderError> {
        let (machine, disk) = (label.to_string(), disk_label(label).to_string());
        let rows = self.vast.list(&json!({"label": {"in": [machine, disk]}})).await?;
        let (mut machines, mut disks) = (Vec::new(), Vec::new());
        for row in rows {
            match row.label.as_deref() {
                Some(text) if text == machine => machines.push(row),
                Some(text) if text == disk => disks.push(row),
                Some(_) | None => {}
            }
        }
        if machines.len() > 1 {
            tracing::warn!(
                standby.name = machine,
                "several instances at Vast carry one standby's label: the oldest is it, and all go when it is released"
            );
        }
        machines.sort_by_key(|row| row.id);
        Ok(Rows { machines, disks })
    }
}

struct Rows {
    /// The oldest first.
    machines: Vec<Instance>,
    disks: Vec<Instance>,
}

impl Rows {
    fn is_empty(&self) -> bool {
        self.machines.is_empty() && self.disks.is_empty()
    }
}

fn disk_label(label: &StandbyLabel) -> StandbyLabel {
    StandbyLabel {
        part: LabelledKind::Disk,
        ..label.clone()
    }
}

#[async_trait]
impl Standbys for VastStandbys {
    async fn look(&self, standby: &StandbyRef) -> Result<StandbyLook, ProviderError> {
        let rows = self.find_surely(&self.label(standby)?).await?;
        let machine = match rows.machines.first() {
            Some(row) => Observed::Present(self.seen(row).await?),
            None => Observed::Absent,
        };
        let disk = match (&machine, rows.disks.is_empty()) {
            (Observed::Present(_) | Observed::Unknown, _) => Observed::Unknown,
            (Observed::Absent, false) => Observed::Present(()),
            (Observed::Absent, true) => Observed::Absent,
        };
        Ok(StandbyLook { machine, disk })
    }

    async fn create(
        &self,
        association: &Association,
        standby: &StandbyRef,
        machine: &MachineSpec,
    ) -> Result<(), ProviderError> {
        let label = self.label(standby)?;
        let rows = self.find_surely(&label).await?;
        if !rows.machines.is_empty() {
            return Ok(());
        }
        if let Some(id) = rows.disks.first().and_then(|row| row.id) {
            return self.revive(id, &label).await;
        }
        self.rent(association, &label, machine).await
    }

    async fn start(&self, standby: &StandbyRef) -> Result<(), ProviderError> {
        let gpu = self.only(standby).await?;
        self.vast.start(gpu).await
    }

    async fn stop(&self, standby: &StandbyRef) -> Result<(), ProviderError> {
        let gpu = self.only(standby).await?;
        self.vast.stop(gpu).await
    }

    async fn grow_disk(&self, standby: &StandbyRef, gb: u32) -> Result<(), ProviderError> {
        Err(ProviderError::Invalid {
            detail: format!(
                "the disk of {} cannot grow to {gb} GB: Vast fixes the size for life; exclude files, or order a larger standby",
                standby.name
            ),
        })
    }

    async fn delete(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        tracing::info!(standby.name = %standby.name, reason = %warrant.ground(), "stopping a standby at Vast for good");
        let label = self.label(standby)?;
        let rows = self.find(&label).await?;
        self.retire(&rows.machines, &label).await
    }

    async fn delete_disk(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        tracing::info!(standby.name = %standby.name, reason = %warrant.ground(), "destroying a standby at Vast with its disk");
        let label = self.label(standby)?;
        let rows = self.find(&label).await?;
        self.destroy(&rows).await
    }

    async fn all(&self) -> Result<Vec<LabelledStandby>, ProviderError> {
        let rows = self.vast.list(&json!({})).await?;
        let ours = rows.iter().filter_map(|row| {
            let label = StandbyLabel::parse(row.label.as_deref()?)?;
            (label.deployment == self.settings.deployment).then(|| labelled(row, &label))
        });
        Ok(ours.collect())
    }

    async fn market_price(
        &self,
        gpu: GpuId,
        standby: Option<&StandbyRef>,
        machine: &MachineSpec,
    ) -> Result<Option<MarketPrice>, ProviderError> {
        let Some(standby) = standby else {
            return self.offered(gpu, machine).await.map(Some);
        };
        let rows = self.find_surely(&self.label(standby)?).await?;
        let paid = rows.machines.first().and_then(|row| {
            Some(MarketPrice {
                what: in_words(row),
                per_hour: MicroUsd::from_dollars(row.dph_total?)?,
                download_per_gb: row.inet_down_cost.and_then(MicroUsd::from_dollars),
                upload_per_gb: row.inet_up_cost.and_then(MicroUsd::from_dollars),
            })
        });
        match paid {
            Some(paid) => Ok(Some(paid)),
            // It is being made, or lost its machine: it costs what the next one would.
            None => self.offered(gpu, machine).await.map(Some),
        }
    }
}

fn labelled(row: &Instance, label: &StandbyLabel) -> LabelledStandby {
    LabelledStandby {
        association: label.association,
        attempt: label.attempt,
        standby: StandbyRef {
            name: StandbyName::new(&label.deployment, label.association, label.attempt),
            zone: Zone::at_vast(),
            provider: StandbyProvider::Vastai,
        },
        kind: label.part,
        gpu: label.association.first_gpu(),
        detail: Some(in_words(row)),
    }
}

/// What was rented, e.g. `Vast instance 1005, RTX 3060 as a CPU box in Texas, US, $0.050 an hour`.
fn in_words(row: &Instance) -> String {
    let what = match (whole(row.num_gpus), row.gpu_name.as_deref()) {
        (0, _) | (_, None) => "CPU only".to_owned(),
        (_, Some(model)) => format!("{model} as a CPU box"),
    };
    let place = row.geolocation.as_deref().unwrap_or("a place unknown");
    format!(
        "Vast instance {}, {what} in {place}, {} an hour",
        row.id.unwrap_or(0),
        dollars(row.dph_total)
    )
}
