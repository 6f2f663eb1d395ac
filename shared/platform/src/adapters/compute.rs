//! Google Compute Engine over its REST API. Facts: `reference/google/compute.md`, discovery revision 20261106.
//!
//! The Google SDK is deliberately not used: 12 calls would cost 66 more crates. Instead the tests check every request against the
//! discovery document.

mod calls;
mod change;
mod create;
mod listing;
mod look;
mod order;
mod owner;
mod refusal;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use warmspare_domain::association::Association;
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::Deployment;
use warmspare_domain::policy::MachineSpec;
use warmspare_domain::warrant::ReleaseWarrant;

pub use listing::Preemption;

use crate::adapters::google::TokenSource;
use crate::adapters::http::{Http, words};
use crate::ports::{Destroyed, LabelledStandby, ProviderError, StandbyLook, Standbys};
use calls::Calls;

/// How to reach Compute Engine, and what all standbys have in common.
#[derive(Debug, Clone)]
pub struct ComputeSettings {
    /// Where its API is; `https`, or `http` on this machine. Without a path `/compute/v1/` is meant.
    pub base_url: String,
    /// The Google Cloud project.
    pub project: String,
    /// Our installation in it.
    pub deployment: Deployment,
    /// A network's name, or its path when it belongs to another project.
    pub network: String,
    /// The network tag that the firewall rule for SSH names.
    pub network_tag: String,
    /// Where the standbys' SSH listens.
    pub ssh_port: u16,
    /// The user that the operator key logs in as.
    pub ssh_user: String,
    /// The operator's public key, one line.
    pub operator_public_key: String,
    /// What a standby runs at every start. Everybody who may look at the machine can read it.
    pub startup_script: Option<String>,
    /// The image of the boot disk.
    pub boot_image: String,
    /// Size of the boot disk, in GB.
    pub boot_disk_gb: u32,
    /// The longest that one call may take.
    pub call_limit: Duration,
    /// How long an order is watched before it counts as taken: failures for want of capacity show up in these seconds.
    pub operation_wait: Duration,
    /// How often it is looked at meanwhile.
    pub poll_every: Duration,
}

impl ComputeSettings {
    /// Google itself.
    pub const BASE_URL: &str = "https://compute.googleapis.com/compute/v1/";
    /// Debian 12: small, with Google's guest agent, which publishes the host keys.
    pub const BOOT_IMAGE: &str = "projects/debian-cloud/global/images/family/debian-12";

    /// Google itself, with the usual settings.
    #[must_use]
    pub fn new(project: String, deployment: Deployment, operator_public_key: String) -> Self {
        Self {
            base_url: Self::BASE_URL.to_owned(),
            project,
            deployment,
            network: "default".to_owned(),
            network_tag: "warmspare-standby".to_owned(),
            ssh_port: 22,
            ssh_user: "warmspare".to_owned(),
            operator_public_key,
            startup_script: None,
            boot_image: Self::BOOT_IMAGE.to_owned(),
            boot_disk_gb: 10,
            call_limit: Duration::from_secs(15),
            operation_wait: Duration::from_secs(20),
            poll_every: Duration::from_secs(1),
        }
    }

    fn check(&self) -> Result<(), ProviderError> {
        let invalid = |what: &str, value: &str, fix: &str| {
            Err(ProviderError::Invalid {
                detail: format!("{what} `{}` is not valid; {fix}", words(value)),
            })
        };
        let in_project =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b':');
        if self.project.is_empty() || !self.project.bytes().all(in_project) {
            return invalid(
                "the Google Cloud project",
                &self.project,
                "use its id, e.g. my-project-123, not its title",
            );
        }
        let in_user = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if !self.ssh_user.starts_with(|first: char| first.is_ascii_lowercase()) || !self.ssh_user.bytes().all(in_user) {
            return invalid(
                "the SSH user",
                &self.ssh_user,
                "use a Linux user name such as warmspare",
            );
        }
        let key = self.operator_public_key.trim();
        if key.contains(['\n', '\r']) || !key.starts_with("ssh-") {
            return invalid(
                "the operator's public key",
                key,
                "use the one line of a .pub file, e.g. ssh-ed25519 AAAA…",
            );
        }
        Ok(())
    }
}

/// The standbys of one deployment in one Google Cloud project.
pub struct ComputeEngine {
    calls: Calls,
    settings: ComputeSettings,
}

impl fmt::Debug for ComputeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComputeEngine")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl ComputeEngine {
    /// Makes the client; calls nobody.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] naming the setting that is wrong.
    pub fn new(settings: ComputeSettings, tokens: Arc<dyn TokenSource>) -> Result<Self, ProviderError> {
        settings.check()?;
        let http = Http::new("Compute Engine", &settings.base_url, settings.call_limit)?.below("compute/v1");
        let calls = Calls {
            http,
            tokens,
            project: settings.project.clone(),
            poll_every: settings.poll_every,
            operation_wait: settings.operation_wait,
        };
        Ok(Self { calls, settings })
    }

    fn path_of(&self, standby: &StandbyRef) -> String {
        format!("projects/{}/zones/{}", self.settings.project, standby.zone)
    }
}

#[async_trait]
impl Standbys for ComputeEngine {
    async fn look(&self, standby: &StandbyRef) -> Result<StandbyLook, ProviderError> {
        self.look_at(standby).await
    }

    async fn create(
        &self,
        association: &Association,
        standby: &StandbyRef,
        machine: &MachineSpec,
    ) -> Result<(), ProviderError> {
        self.create_once(association, standby, machine).await
    }

    async fn start(&self, standby: &StandbyRef) -> Result<(), ProviderError> {
        self.start_ours(standby).await
    }

    async fn stop(&self, standby: &StandbyRef) -> Result<(), ProviderError> {
        self.stop_ours(standby).await
    }

    async fn grow_disk(&self, standby: &StandbyRef, gb: u32) -> Result<(), ProviderError> {
        self.grow_disk_of_ours(standby, gb).await
    }

    async fn delete(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        tracing::info!(standby.name = %standby.name, reason = %warrant.ground(), "deleting a standby's machine");
        self.delete_ours(standby).await
    }

    async fn delete_disk(&self, standby: &StandbyRef, warrant: ReleaseWarrant) -> Result<Destroyed, ProviderError> {
        tracing::info!(standby.name = %standby.name, reason = %warrant.ground(), "deleting a standby's data disk");
        self.delete_disk_of_ours(standby).await
    }

    async fn all(&self) -> Result<Vec<LabelledStandby>, ProviderError> {
        self.all_labelled().await
    }
}
