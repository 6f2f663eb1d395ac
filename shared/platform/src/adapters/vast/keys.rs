//! Who may log in to a GPU.

use reqwest::Method;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;

use super::VastGpus;
use super::calls::Call;
use super::instance::instance_path;
use super::listing::garbled;
use super::pace::Endpoint;
use super::refusal::Kind;
use super::wire::as_id;
use crate::ports::ProviderError;

/// A key that may log in to one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedKey {
    /// Its number at Vast.
    pub id: u64,
    /// The public key as it was attached.
    pub public_key: String,
}

impl VastGpus {
    /// Lists the keys that may log in to a GPU.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn attached_keys(&self, gpu: GpuId) -> Result<Vec<AttachedKey>, ProviderError> {
        let answer = self
            .calls
            .read(&Call::new(Endpoint::Keys, Method::GET, keys_path(gpu), None))
            .await;
        let answer = answer.map_err(|refusal| refusal.into_error(&gpu.to_string()))?;
        // An array, encoded as text within the JSON (`vast-api.md` §7); an array itself is read too.
        let keys: Option<Vec<Value>> = match &answer["ssh_keys"] {
            Value::String(text) => serde_json::from_str(text).ok(),
            Value::Array(keys) => Some(keys.clone()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        };
        let keys = keys.ok_or_else(|| garbled("the list of an instance's keys has an unknown form"))?;
        Ok(keys.iter().filter_map(attached_key).collect())
    }

    /// Takes a key off a GPU. A key that is not there is fine.
    ///
    /// # Errors
    /// Those of any write.
    pub async fn detach_key(&self, gpu: GpuId, key_id: u64) -> Result<(), ProviderError> {
        let path = format!("{}/{key_id}", keys_path(gpu));
        match self
            .calls
            .write(&Call::new(Endpoint::Keys, Method::DELETE, path, None))
            .await
        {
            Err(refusal) if refusal.kind != Kind::Gone => Err(refusal.into_error(&gpu.to_string())),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(super) async fn attach(&self, gpu: GpuId, public_key: &str) -> Result<(), ProviderError> {
        let body = json!({"ssh_key": public_key});
        match self
            .calls
            .write(&Call::new(Endpoint::Keys, Method::POST, keys_path(gpu), Some(&body)))
            .await
        {
            Err(refusal) if refusal.kind != Kind::AlreadyThere => Err(refusal.into_error(&gpu.to_string())),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn keys_path(gpu: GpuId) -> String {
    format!("{}/ssh", instance_path(gpu))
}

fn attached_key(row: &Value) -> Option<AttachedKey> {
    let text = row.get("public_key").or_else(|| row.get("ssh_key"))?.as_str()?;
    Some(AttachedKey {
        id: as_id(&row["id"])?,
        public_key: text.to_owned(),
    })
}
