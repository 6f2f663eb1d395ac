//! The hooks that tools send, signed: see the README for the signature.

use serde::{Deserialize, Serialize};
use warmspare_domain::ids::GpuId;

/// `POST /hooks/gpu-created`: a GPU was rented and wants a standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuCreated {
    /// Version of this message: 1.
    pub schema: u32,
    /// Unique per event, so that a repeat is recognised.
    pub event_id: String,
    /// Which GPU.
    pub gpu_id: GpuId,
}

/// `POST /hooks/gpu-destroyed`: a GPU is gone, for the reason given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuDestroyed {
    /// Version of this message: 1.
    pub schema: u32,
    /// Unique per event, so that a repeat is recognised.
    pub event_id: String,
    /// Which GPU.
    pub gpu_id: GpuId,
    /// Only `user_request` lets the standby go; every other reason keeps the data.
    pub reason: String,
}

/// `POST /hooks/gpu-failed`: a tool found the GPU lost; the standby keeps the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuFailed {
    /// Version of this message: 1.
    pub schema: u32,
    /// Unique per event, so that a repeat is recognised.
    pub event_id: String,
    /// Which GPU.
    pub gpu_id: GpuId,
    /// For people.
    #[serde(default)]
    pub reason: String,
}
