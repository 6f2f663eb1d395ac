//! What Vast sends, as leniently as its documentation advises: every field may be missing, null, or a string instead of a number.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use warmspare_domain::units::MicroUsd;

/// A row of the list of instances, `vast-api.md` §3.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Instance {
    #[serde(deserialize_with = "id")]
    pub(super) id: Option<u64>,
    #[serde(deserialize_with = "id")]
    pub(super) machine_id: Option<u64>,
    #[serde(deserialize_with = "id")]
    pub(super) host_id: Option<u64>,
    #[serde(deserialize_with = "text")]
    pub(super) actual_status: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) intended_status: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) cur_state: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) next_state: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) label: Option<String>,
    #[serde(deserialize_with = "flag")]
    pub(super) is_bid: Option<bool>,
    #[serde(deserialize_with = "number")]
    pub(super) dph_total: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) inet_up_cost: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) inet_down_cost: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) disk_space: Option<f64>,
    #[serde(deserialize_with = "text")]
    pub(super) ssh_host: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) ssh_port: Option<f64>,
    #[serde(deserialize_with = "text")]
    pub(super) public_ipaddr: Option<String>,
    pub(super) ports: Value,
    #[serde(deserialize_with = "text")]
    pub(super) image_uuid: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) gpu_name: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) num_gpus: Option<f64>,
    #[serde(deserialize_with = "text")]
    pub(super) geolocation: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) end_date: Option<f64>,
}

/// A row of a search, `vast-api.md` §4.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct OfferRow {
    #[serde(deserialize_with = "id")]
    pub(super) id: Option<u64>,
    #[serde(deserialize_with = "id")]
    pub(super) machine_id: Option<u64>,
    #[serde(deserialize_with = "text")]
    pub(super) gpu_name: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) num_gpus: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) disk_space: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) dph_total: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) min_bid: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) storage_cost: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) storage_total_cost: Option<f64>,
    #[serde(deserialize_with = "text")]
    pub(super) geolocation: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) verification: Option<String>,
    #[serde(deserialize_with = "flag")]
    pub(super) rentable: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) rented: Option<bool>,
    #[serde(deserialize_with = "text")]
    pub(super) resource_type: Option<String>,
    #[serde(deserialize_with = "id")]
    pub(super) host_id: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub(super) cpu_ram: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) reliability: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) direct_port_count: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) duration: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) inet_up_cost: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) inet_down_cost: Option<f64>,
}

/// A number, or what reads as one.
pub(super) fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
    .filter(|number: &f64| number.is_finite())
}

/// A positive whole number, or what reads as one.
pub(super) fn as_id(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|number| *number > 0)
}

/// A port, or `None` when the number is none.
pub(super) fn as_port(number: f64) -> Option<u16> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was just checked"
    )]
    (1.0..=65535.0).contains(&number).then_some(number as u16)
}

/// A count or a size in whole units, rounded up; 0 when there is none.
pub(super) fn whole(number: Option<f64>) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range"
    )]
    number.map_or(0, |number| number.ceil().clamp(0.0, f64::from(u32::MAX)) as u32)
}

/// An amount of dollars; 0 when there is none.
pub(super) fn dollars(number: Option<f64>) -> MicroUsd {
    number.and_then(MicroUsd::from_dollars).unwrap_or_default()
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    })
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(as_number(&Value::deserialize(deserializer)?))
}

fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(as_id(&Value::deserialize(deserializer)?))
}

fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Bool(flag) => Some(flag),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        Value::String(text) => text.trim().to_lowercase().parse().ok(),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    })
}
