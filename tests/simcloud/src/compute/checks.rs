//! What the real one checks in names, labels, types and rules before it accepts anything.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{catalogue, disks, error, invalid};
use crate::http::Reply;

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes.iter().all(inner)
        && bytes[bytes.len() - 1] != b'-'
}

pub(super) fn checked_name(field: &str, value: &Value) -> Result<String, Reply> {
    let text = value.as_str().unwrap_or_default();
    if is_name(text) {
        return Ok(text.to_owned());
    }
    let why = "Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'";
    Err(invalid(field, text, why))
}

/// Labels: at most 64, keys from a lowercase letter, both of lowercase letters, digits, `_` and `-`, at most 63 characters.
pub(super) fn checked_labels(labels: &Value) -> Result<BTreeMap<String, String>, Reply> {
    let allowed = |text: &str| {
        text.chars().count() <= 63
            && text
                .chars()
                .all(|c| c.is_lowercase() || c.is_numeric() || matches!(c, '_' | '-'))
    };
    let mut checked = BTreeMap::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        if !key.starts_with(char::is_lowercase) || !allowed(key) {
            let why = "Label keys must start with a lowercase character, can only contain lowercase letters, numeric characters, underscores and dashes, and must be at most 63 characters.";
            return Err(invalid("resource.labels", key, why));
        }
        if !allowed(text) {
            let why = "Label values can only contain lowercase letters, numeric characters, underscores and dashes, and must be at most 63 characters.";
            return Err(invalid("resource.labels", text, why));
        }
        checked.insert(key.clone(), text.to_owned());
    }
    if checked.len() > 64 {
        return Err(invalid("resource.labels", "", "At most 64 labels are allowed."));
    }
    Ok(checked)
}

pub(super) fn checked_machine_type(value: &Value, zone: &str) -> Result<String, Reply> {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        return Err(error(
            400,
            "required",
            "Required field 'resource.machineType' not specified",
        ));
    }
    let wrong = |why: &str| Err(invalid("resource.machineType", text, why));
    let Some((rest, name)) = text
        .rsplit_once("/machineTypes/")
        .or_else(|| text.rsplit_once("machineTypes/"))
    else {
        return wrong("The URL is malformed.");
    };
    if rest.rsplit('/').next() != Some(zone) {
        return wrong("The machine type must be in the same zone as the instance.");
    }
    if !catalogue::is_machine_type(name) {
        return wrong(&format!(
            "Machine type with name '{name}' does not exist in zone '{zone}'."
        ));
    }
    Ok(name.to_owned())
}

/// The Spot rules: no automatic restart, no migration, a termination action only for Spot.
pub(super) fn check_scheduling(scheduling: &Value) -> Result<(), Reply> {
    let spot = scheduling["provisioningModel"] == "SPOT" || scheduling["preemptible"] == true;
    let bad = |message: &str| Err(error(400, "invalid", message));
    if spot && scheduling["automaticRestart"] == true {
        return bad("Scheduling must have preemptible be false when AutomaticRestart is true.");
    }
    if spot && scheduling["onHostMaintenance"] == "MIGRATE" {
        return bad("Scheduling must have preemptible be false when OnHostMaintenance isn't TERMINATE.");
    }
    if scheduling["provisioningModel"] == "SPOT" && scheduling["preemptible"] == false {
        return bad("Scheduling preemptible must be true for provisioning model SPOT.");
    }
    if !spot && !scheduling["instanceTerminationAction"].is_null() && scheduling["maxRunDuration"].is_null() {
        return bad(
            "You cannot specify a termination action for a VM instance that has the standard provisioning model (default). To use instance termination action, the VM instance must use the spot provisioning model.",
        );
    }
    Ok(())
}

pub(super) fn check_metadata(metadata: &Value) -> Result<(), Reply> {
    let mut seen = BTreeSet::new();
    for item in metadata["items"].as_array().into_iter().flatten() {
        let key = item["key"].as_str().unwrap_or_default();
        let fits = (1..=128).contains(&key.len())
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !fits {
            return Err(invalid(
                "resource.metadata.items[].key",
                key,
                "Must be a match of regex '[a-zA-Z0-9-_]{1,128}'",
            ));
        }
        if item["value"].as_str().is_some_and(|value| value.len() > 256 * 1024) {
            return Err(invalid(
                "resource.metadata.items[].value",
                "",
                "Value for field is too large: maximum size 262144 character(s).",
            ));
        }
        if !seen.insert(key) {
            return Err(invalid("resource.metadata", key, "Metadata has duplicate keys."));
        }
    }
    Ok(())
}

pub(super) fn size_gb(value: &Value) -> Result<Option<u64>, Reply> {
    if value.is_null() {
        return Ok(None);
    }
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let size = text.parse::<u64>().ok().filter(|size| (1..=65_536).contains(size));
    size.map(Some)
        .ok_or_else(|| invalid("sizeGb", &text, "Disk size must be between 1 GB and 65536 GB."))
}

pub(super) fn checked_disk_type(value: &Value) -> Result<String, Reply> {
    let text = value.as_str().unwrap_or("pd-standard");
    let name = text.rsplit('/').next().unwrap_or_default();
    if disks::known_type(name) {
        Ok(name.to_owned())
    } else {
        Err(invalid("diskType", text, "The referenced disk type does not exist."))
    }
}

/// A device name is also a directory's name here; the real one allows the same letters.
pub(super) fn checked_device(value: &Value, index: usize) -> Result<String, Reply> {
    let Some(text) = value.as_str() else {
        return Ok(format!("persistent-disk-{index}"));
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (1..=255).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with(['.', '-']);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(invalid(
            "resource.disks[].deviceName",
            text,
            "Must be a match of regex '\\w[\\w.-]{0,254}'",
        ))
    }
}
