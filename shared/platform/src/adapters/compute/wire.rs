//! What Compute Engine sends, as far as it is read: field names of discovery revision 20261106.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Instance {
    /// A 64-bit number, written as text.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) status: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) network_interfaces: Vec<NetworkInterface>,
    pub(super) disks: Vec<AttachedDisk>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NetworkInterface {
    pub(super) access_configs: Vec<AccessConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AccessConfig {
    #[serde(rename = "natIP")]
    pub(super) nat_ip: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AttachedDisk {
    pub(super) source: String,
    pub(super) device_name: String,
    pub(super) auto_delete: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) users: Vec<String>,
    /// A number in quotes, as Google writes 64-bit numbers.
    #[serde(rename = "sizeGb")]
    pub(super) size_gb: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) target_id: String,
    pub(super) insert_time: String,
    pub(super) error: Option<OperationErrors>,
    pub(super) http_error_status_code: Option<u16>,
}

impl Operation {
    pub(super) fn is_done(&self) -> bool {
        self.status == "DONE"
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct OperationErrors {
    pub(super) errors: Vec<OperationError>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct OperationError {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) error_details: Vec<ErrorDetail>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ErrorDetail {
    pub(super) error_info: Option<ErrorInfo>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorInfo {
    pub(super) reason: String,
}

/// One page of an aggregated list. `items` maps `zones/<zone>` to what is there.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    default,
    rename_all = "camelCase",
    bound(deserialize = "T: Deserialize<'de> + Default")
)]
pub(super) struct Aggregated<T> {
    pub(super) items: BTreeMap<String, T>,
    pub(super) next_page_token: Option<String>,
    pub(super) unreachables: Vec<String>,
    pub(super) warning: Option<Warning>,
}

impl<T> Default for Aggregated<T> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            next_page_token: None,
            unreachables: Vec::new(),
            warning: None,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Scope {
    pub(super) instances: Vec<Instance>,
    pub(super) disks: Vec<Disk>,
    pub(super) warning: Option<Warning>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Warning {
    pub(super) code: String,
    pub(super) message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct OperationPage {
    pub(super) items: Vec<Operation>,
    pub(super) next_page_token: Option<String>,
}

/// An answer of `getGuestAttributes`: a list for `queryPath`, one value for `variableKey`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct GuestAttributes {
    pub(super) query_value: GuestValues,
    pub(super) variable_value: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct GuestValues {
    pub(super) items: Vec<GuestValue>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct GuestValue {
    pub(super) key: String,
    pub(super) value: String,
}
