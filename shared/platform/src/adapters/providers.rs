//! Standbys of both providers behind one port: each call goes to the one that rents the standby out.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use warmspare_domain::association::Association;
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::policy::{MachineSpec, StandbyProvider};
use warmspare_domain::warrant::ReleaseWarrant;

use crate::ports::{Destroyed, LabelledStandby, ProviderError, StandbyLook, Standbys};

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

    async fn delete(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        self.of(standby.provider)?.delete(standby, warrant).await
    }

    async fn delete_disk(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        self.of(standby.provider)?.delete_disk(standby, warrant).await
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
