//! Reading instances: the paged list, the old list, the single view.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{error, filters};
use crate::http::{Call, Reply};
use crate::world::World;

/// Rows of one page at most (`vast-api.md` §3).
const PAGE: i64 = 25;
/// Columns that are stored on the contract and may therefore be filtered and ordered by.
const STORED: [&str; 21] = [
    "id",
    "actual_status",
    "intended_status",
    "cur_state",
    "next_state",
    "label",
    "gpu_name",
    "verification",
    "machine_id",
    "host_id",
    "image_uuid",
    "image_runtype",
    "is_bid",
    "start_date",
    "end_date",
    "geolocation",
    "country_code",
    "disk_space",
    "public_ipaddr",
    "ssh_host",
    "ssh_port",
];

/// `GET /api/v1/instances/`
pub(super) fn page(world: &Arc<World>, call: &Call) -> Reply {
    if call.method != "GET" {
        return Reply::json(405, json!({"detail": "Method Not Allowed"}));
    }
    match read_page(world, call) {
        Ok(body) => Reply::ok(body),
        Err((slug, sentence)) => error(400, slug, sentence),
    }
}

type Refusal = (&'static str, String);

fn read_page(world: &Arc<World>, call: &Call) -> Result<Value, Refusal> {
    let order = order(call)?;
    let mut rows = filtered(world, call)?;
    rows.sort_by(|left, right| by(&order, left, right));
    let total = rows.len();
    let mut labels: BTreeMap<String, u64> = BTreeMap::new();
    for row in &rows {
        *labels
            .entry(row["label"].as_str().unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    if let Some(token) = call.query("after_token").filter(|token| !token.is_empty()) {
        let last = read_token(token).ok_or_else(|| ("invalid_token", "Invalid pagination token".to_owned()))?;
        rows.retain(|row| by(&order, row, &last).is_gt());
    }
    let limit = limit(call)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = more.then(|| rows.last().map(|row| write_token(&order, row))).flatten();
    let columns = columns(call)?;
    let rows: Vec<Value> = rows.into_iter().map(|row| select(row, columns.as_deref())).collect();
    Ok(json!({
        "success": true, "total_instances": total, "instances_found": rows.len(), "label_counts": labels,
        "instances": rows, "next_token": next,
    }))
}

fn parameter(call: &Call, name: &str, default: Value) -> Result<Value, Refusal> {
    let Some(text) = call.query(name) else {
        return Ok(default);
    };
    serde_json::from_str(text).map_err(|_| ("invalid_request", format!("{name}: Invalid JSON")))
}

fn limit(call: &Call) -> Result<usize, Refusal> {
    let limit: i64 = call
        .query("limit")
        .map_or(Ok(PAGE), str::parse)
        .map_err(|_| ("invalid_request", "limit: not an integer".to_owned()))?;
    let limit = if limit <= 0 { 5 } else { limit.min(PAGE) };
    Ok(usize::try_from(limit).unwrap_or(5))
}

fn order(call: &Call) -> Result<Vec<(String, bool)>, Refusal> {
    let wanted = parameter(call, "order_by", json!([]))?;
    let mut order = Vec::new();
    for entry in wanted.as_array().into_iter().flatten() {
        let column = entry["col"].as_str().filter(|column| STORED.contains(column));
        let column = column.ok_or_else(|| ("invalid_request", format!("order_by: invalid column {}", entry["col"])))?;
        order.push((column.to_owned(), entry["dir"] == "desc"));
    }
    // The id settles ties, or pages would overlap.
    order.push(("id".to_owned(), false));
    Ok(order)
}

fn by(order: &[(String, bool)], left: &Value, right: &Value) -> Ordering {
    let one = |(column, descending): &(String, bool)| {
        let ordering = filters::compare(&left[column.as_str()], &right[column.as_str()]);
        if *descending { ordering.reverse() } else { ordering }
    };
    order
        .iter()
        .map(one)
        .find(|ordering| ordering.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn filtered(world: &Arc<World>, call: &Call) -> Result<Vec<Value>, Refusal> {
    let wanted = parameter(call, "select_filters", json!({}))?;
    let Value::Object(wanted) = wanted else {
        return Err((
            "invalid_request",
            "select_filters: Input should be a valid dictionary".to_owned(),
        ));
    };
    let state = world.state();
    let mut rows = Vec::new();
    for instance in state.vast.instances.values().filter(|instance| !instance.hidden) {
        let row = instance.row();
        if fits(instance.actual, &row, &wanted)? {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        // A bad filter is refused whether or not there is a row to hold it against.
        fits(None, &json!({}), &wanted)?;
    }
    Ok(rows)
}

fn fits(stored_status: Option<&str>, row: &Value, wanted: &Map<String, Value>) -> Result<bool, Refusal> {
    for (name, condition) in wanted {
        if !STORED.contains(&name.as_str()) {
            return Err((
                "invalid_request",
                format!("select_filters: column {name} cannot be filtered"),
            ));
        }
        // `offline` is computed when shown, so filters see what is stored (vast-api.md §12).
        let seen = if name == "actual_status" {
            json!(stored_status)
        } else {
            row[name.as_str()].clone()
        };
        if !filters::matches(name, &seen, condition).map_err(|sentence| ("invalid_request", sentence))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn columns(call: &Call) -> Result<Option<Vec<String>>, Refusal> {
    let wanted = parameter(call, "select_cols", json!(["*"]))?;
    let names: Vec<String> = wanted
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    Ok((!names.iter().any(|name| name == "*")).then_some(names))
}

fn select(row: Value, columns: Option<&[String]>) -> Value {
    let Some(columns) = columns else { return row };
    Value::Object(
        columns
            .iter()
            .map(|name| (name.clone(), row[name.as_str()].clone()))
            .collect(),
    )
}

fn write_token(order: &[(String, bool)], row: &Value) -> String {
    let values: Map<String, Value> = order
        .iter()
        .map(|(name, _)| (name.clone(), row[name.as_str()].clone()))
        .collect();
    STANDARD.encode(json!({"values": values}).to_string())
}

fn read_token(token: &str) -> Option<Value> {
    let token: Value = serde_json::from_slice(&STANDARD.decode(token).ok()?).ok()?;
    token["values"].get("id").is_some().then(|| token["values"].clone())
}

/// `GET /api/v0/instances/`
pub(super) fn legacy(world: &Arc<World>) -> Reply {
    let state = world.state();
    let rows: Vec<Value> = state
        .vast
        .instances
        .values()
        .filter(|one| !one.hidden)
        .map(|one| one.row())
        .collect();
    Reply::ok(json!({"success": true, "instances_found": rows.len(), "instances": rows}))
}

/// `GET /api/v0/instances/{id}/`: a missing one is 200 with null.
pub(super) fn show(world: &Arc<World>, id: u64) -> Reply {
    let state = world.state();
    let row = state
        .vast
        .instances
        .get(&id)
        .filter(|one| !one.hidden)
        .map(|one| one.row());
    Reply::ok(json!({"instances": row}))
}

/// `GET /api/v0/instances/filters/`: the combinations of filterable values that occur.
pub(super) fn filters(world: &Arc<World>) -> Reply {
    let state = world.state();
    let one = |instance: &super::Instance| json!({"actual_status": instance.actual, "verification": instance.offer.verification, "gpu_name": instance.offer.gpu_name});
    let mut rows: Vec<Value> = state
        .vast
        .instances
        .values()
        .filter(|one| !one.hidden)
        .map(one)
        .collect();
    rows.sort_by_key(Value::to_string);
    rows.dedup();
    Reply::ok(json!({"success": true, "filters": rows}))
}
