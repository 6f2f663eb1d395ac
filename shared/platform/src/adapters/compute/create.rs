//! Ordering a standby so that repeating the order is no second one.
//!
//! The name is what makes the order unique; `requestId` only spares a resend within minutes. The first try always carries the same id
//! (made from the name), so an order whose answer was lost is recognised. When that id is answered with an operation that is *already
//! finished*, it belongs to an earlier order, which failed or whose machine was deleted since: the order then goes out under a fresh id,
//! because a used one would be ignored. Should that answer be lost in turn, the next call finds the machine by its name.

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;
use warmspare_domain::association::Association;
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::policy::MachineSpec;

use super::ComputeEngine;
use super::calls::Progress;
use super::order::{self, DataDisk};
use super::owner::Owner;
use super::refusal::{Kind, Refusal};
use super::wire::Operation;
use crate::ports::ProviderError;

enum Ordered {
    /// Taken; this is its operation.
    Taken(Operation),
    /// Something of that name exists.
    Exists,
}

impl ComputeEngine {
    pub(super) async fn create_once(
        &self,
        association: &Association,
        standby: &StandbyRef,
        machine: &MachineSpec,
    ) -> Result<(), ProviderError> {
        let owner = Owner::of(standby, &self.settings.deployment)?;
        if owner.association != association.id {
            return Err(ProviderError::Invalid {
                detail: format!("{} is not the standby of {}", standby.name, association.id),
            });
        }
        if let Some(instance) = self.instance(standby).await? {
            return owner.check(&instance.labels, standby.name.as_str());
        }
        let disk = self.data_disk_for(standby, &owner).await?;
        let body = order::body(&self.settings, &owner, association.gpu, standby, machine, disk);
        let same_id = Uuid::new_v5(
            &Uuid::NAMESPACE_OID,
            format!("{}/{}/insert", self.path_of(standby), standby.name).as_bytes(),
        );
        let operation = match self.insert(standby, &body, same_id).await? {
            Ordered::Exists => return self.confirm(standby, &owner).await,
            Ordered::Taken(operation) => operation,
        };
        if !operation.is_done() {
            return self.outcome(standby, &owner, operation).await;
        }
        if let Some(instance) = self.instance(standby).await? {
            return owner.check(&instance.labels, standby.name.as_str());
        }
        match self.insert(standby, &body, Uuid::new_v4()).await? {
            Ordered::Exists => self.confirm(standby, &owner).await,
            Ordered::Taken(operation) => self.outcome(standby, &owner, operation).await,
        }
    }

    /// An old disk of the right name would be attached as it is, whoever's data it holds: so it must be ours, of the same attempt.
    async fn data_disk_for(&self, standby: &StandbyRef, owner: &Owner) -> Result<DataDisk, ProviderError> {
        let name = standby.name.data_disk();
        match self.disk(standby).await? {
            None => Ok(DataDisk::New),
            Some(disk) => {
                owner.check(&disk.labels, &name)?;
                match disk.users.first() {
                    None => Ok(DataDisk::Existing),
                    Some(_) => Err(ProviderError::NotReady {
                        detail: format!("disk {name} is still attached to another machine"),
                    }),
                }
            }
        }
    }

    async fn insert(&self, standby: &StandbyRef, body: &Value, id: Uuid) -> Result<Ordered, ProviderError> {
        let path = ["zones", standby.zone.as_str(), "instances"];
        match self
            .calls
            .order(Method::POST, &path, &[("requestId", id.to_string())], Some(body))
            .await
        {
            Ok(operation) => Ok(Ordered::Taken(operation)),
            Err(Refusal {
                kind: Kind::AlreadyExists,
                ..
            }) => Ok(Ordered::Exists),
            // What does not exist here is the zone, the machine type, the image or the network: the order itself is wrong.
            Err(Refusal {
                kind: Kind::NotFound,
                words,
            }) => Err(ProviderError::Invalid { detail: words }),
            Err(refusal) => Err(refusal.into_error(&wanted(standby))),
        }
    }

    async fn outcome(&self, standby: &StandbyRef, owner: &Owner, operation: Operation) -> Result<(), ProviderError> {
        match self.calls.watch(&standby.zone, operation).await {
            Progress::Done | Progress::UnderWay => Ok(()),
            Progress::Failed(refusal) => match (refusal.kind, self.instance(standby).await?) {
                // Taken back while it booted, or ordered by an earlier call: it exists, and the next look sees it.
                (Kind::Preempted | Kind::AlreadyExists, Some(instance)) => {
                    owner.check(&instance.labels, standby.name.as_str())
                }
                // An order that failed leaves no machine; while there still is one, nothing is certain.
                (_, Some(_)) => Err(Refusal::no_answer(&refusal.words).into_error(standby.name.as_str())),
                (Kind::NotFound, None) => Err(ProviderError::Invalid { detail: refusal.words }),
                (_, None) => Err(refusal.into_error(&wanted(standby))),
            },
        }
    }

    async fn confirm(&self, standby: &StandbyRef, owner: &Owner) -> Result<(), ProviderError> {
        match self.instance(standby).await? {
            Some(instance) => owner.check(&instance.labels, standby.name.as_str()),
            None => Err(ProviderError::NotReady {
                detail: format!(
                    "the name {} is still in use by something on its way in or out",
                    standby.name
                ),
            }),
        }
    }
}

fn wanted(standby: &StandbyRef) -> String {
    format!("{} in {}", standby.name, standby.zone)
}
