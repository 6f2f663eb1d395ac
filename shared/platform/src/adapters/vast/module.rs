//! Where a paused GPU's disk can be read: the rsync module of its host's own daemon (`vast-api.md` §9).

use reqwest::Method;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;

use super::VastGpus;
use super::calls::Call;
use super::listing::garbled;
use super::pace::Endpoint;
use super::wire::as_id;
use crate::ports::{DiskModule, ProviderError};

impl VastGpus {
    pub(super) async fn module_of(&self, gpu: GpuId) -> Result<DiskModule, ProviderError> {
        let module = format!("C.{}", gpu.contract());
        // As Vast's own command line asks; the side that is not an instance is the caller's machine.
        let body = json!({"client_id": "me", "src_id": module, "dst_id": null, "src_path": "/", "dst_path": ""});
        let call = Call::new(
            Endpoint::Copy,
            Method::PUT,
            "api/v0/commands/rsync".to_owned(),
            Some(&body),
        );
        // It names a place and begins nothing, so asking twice is fine.
        let answer = self.calls.read(&call).await;
        let answer = answer.map_err(|refusal| refusal.into_error(&gpu.to_string()))?;
        place(&answer, module, &self.settings.disk_user)
            .ok_or_else(|| garbled("the answer about a GPU's disk names no address"))
    }
}

fn place(answer: &Value, module: String, user: &str) -> Option<DiskModule> {
    let address = answer["src_addr"].as_str().filter(|address| !address.is_empty())?;
    let port = as_id(&answer["src_port"])?;
    Some(DiskModule {
        address: address.to_owned(),
        port: u16::try_from(port).ok().filter(|port| *port > 0)?,
        user: user.to_owned(),
        module,
    })
}
