//! Standbys of both providers behind one port: each call goes to the one that rents the standby out.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use warmspare_domain::association::Association;
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::GpuId;
use warmspare_domain::policy::{MachineSpec, StandbyProvider};
use warmspare_domain::warrant::ReleaseWarrant;

use crate::ports::{Destroyed, LabelledStandby, MarketPrice, ProviderError, StandbyLook, Standbys};

/// The providers that are set up; an association may need one that no longer is.
pub struct StandbyProviders {
    /// Compute Engine.
    pub gcp: Option<Arc<dyn Standbys>>,
    /// Vast.
    pub vastai: Option<Arc<dyn Standbys>>,
}

impl fmt::Debug for StandbyProviders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandbyProviders")
            .field("gcp", &self.gcp.is_some())
            .field("vastai", &self.vastai.is_some())
            .finish()
    }
}

impl StandbyProviders {
    fn of(&self, provider: StandbyProvider) -> Result<&dyn Standbys, ProviderError> {
        let (standbys, fix) = match provider {
            StandbyProvider::Gcp => (&self.gcp, "set gcp_project"),
            StandbyProvider::Vastai => (&self.vastai, "set vast_api_key"),
        };
        standbys.as_deref().ok_or_else(|| ProviderError::Denied {
            detail: format!("this standby is at {provider}, which is not set up here; its data is not touched. To look after it again, {fix}"),
        })
    }
}

#[async_trait]
impl Standbys for StandbyProviders {
    async fn look(&self, standby: &StandbyRef) -> Result<StandbyLook, ProviderError> {
        self.of(standby.provider)?.look(standby).await
    }

    async fn create(
        &self,
        association: &Association,
        standby: &StandbyRef,
        machine: &MachineSpec,
    ) -> Result<(), ProviderError> {
        self.of(standby.provider)?.create(association, standby, machine).await
    }

    async fn start(&self, standby: &StandbyRef) -> Result<(), ProviderError> {
        self.of(standby.provider)?.start(standby).await
    }

    async fn stop(&self, standby: &StandbyRef) -> Result<(), ProviderError> {
        self.of(standby.provider)?.stop(standby).await
    }

    async fn grow_disk(&self, standby: &StandbyRef, gb: u32) -> Result<(), ProviderError> {
        self.of(standby.provider)?.grow_disk(standby, gb).await
    }

    async fn delete(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        self.of(standby.provider)?.delete(standby, warrant).await
    }

    async fn delete_disk(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        self.of(standby.provider)?.delete_disk(standby, warrant).await
    }

    async fn market_price(
        &self,
        gpu: GpuId,
        standby: Option<&StandbyRef>,
        machine: &MachineSpec,
    ) -> Result<Option<MarketPrice>, ProviderError> {
        self.of(machine.provider)?.market_price(gpu, standby, machine).await
    }

    /// Half a list would look like a whole one, so either provider's silence is an error.
    async fn all(&self) -> Result<Vec<LabelledStandby>, ProviderError> {
        let mut rows = Vec::new();
        for standbys in [&self.gcp, &self.vastai].into_iter().flatten() {
            rows.extend(standbys.all().await?);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use warmspare_domain::ids::{AssociationId, GpuId, StandbyName};
    use warmspare_domain::observed::Observed;

    use super::*;
    use crate::contract::{fixture, warrant};

    /// Writes down what it was asked for.
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Heard {
        fn note(&self, call: impl Into<String>) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call.into());
        }
    }

    #[async_trait]
    impl Standbys for Heard {
        async fn look(&self, _: &StandbyRef) -> Result<StandbyLook, ProviderError> {
            self.note("look");
            Ok(StandbyLook {
                machine: Observed::Absent,
                disk: Observed::Absent,
            })
        }
        async fn create(&self, _: &Association, _: &StandbyRef, _: &MachineSpec) -> Result<(), ProviderError> {
            self.note("create");
            Ok(())
        }
        async fn start(&self, _: &StandbyRef) -> Result<(), ProviderError> {
            self.note("start");
            Ok(())
        }
        async fn stop(&self, _: &StandbyRef) -> Result<(), ProviderError> {
            self.note("stop");
            Ok(())
        }
        async fn grow_disk(&self, _: &StandbyRef, gb: u32) -> Result<(), ProviderError> {
            self.note(format!("grow to {gb}"));
            Ok(())
        }
        async fn delete(&self, _: &StandbyRef, _: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
            self.note("delete");
            Ok(Destroyed::Ordered)
        }
        async fn delete_disk(&self, _: &StandbyRef, _: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
            self.note("delete disk");
            Ok(Destroyed::Ordered)
        }
        async fn all(&self) -> Result<Vec<LabelledStandby>, ProviderError> {
            self.note("all");
            Ok(Vec::new())
        }
    }

    #[tokio::test]
    async fn every_call_reaches_the_provider_of_its_standby_and_no_other() {
        for provider in [StandbyProvider::Gcp, StandbyProvider::Vastai] {
            let (gcp, vastai) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
            let both = StandbyProviders {
                gcp: Some(gcp.clone()),
                vastai: Some(vastai.clone()),
            };
            let association = fixture(7);
            let standby = StandbyRef {
                name: StandbyName::new(&association.deployment, AssociationId::of(GpuId::vast(7)), 1),
                zone: association.standby.zone.clone(),
                provider,
            };
            let machine = &association.policy.machine;
            both.look(&standby).await.unwrap();
            both.create(&association, &standby, machine).await.unwrap();
            both.start(&standby).await.unwrap();
            both.stop(&standby).await.unwrap();
            both.grow_disk(&standby, 150).await.unwrap();
            both.delete(&standby, warrant()).await.unwrap();
            both.delete_disk(&standby, warrant()).await.unwrap();
            let heard = |heard: &Heard| heard.0.lock().unwrap().clone();
            let (asked, other) = match provider {
                StandbyProvider::Gcp => (heard(&gcp), heard(&vastai)),
                StandbyProvider::Vastai => (heard(&vastai), heard(&gcp)),
            };
            assert_eq!(
                asked,
                [
                    "look",
                    "create",
                    "start",
                    "stop",
                    "grow to 150",
                    "delete",
                    "delete disk"
                ]
            );
            assert!(other.is_empty(), "{other:?}");
        }
    }
}
