//! Vast's filters: `{"field": {"op": value}}`, with numbers that may come as strings.

use std::cmp::Ordering;

use serde_json::Value;

/// Whether a row's value satisfies every operator of a condition.
///
/// # Errors
/// A sentence when the condition is not a dictionary of known operators.
pub(super) fn matches(name: &str, seen: &Value, condition: &Value) -> Result<bool, String> {
    let Value::Object(operators) = condition else {
        return Err(format!("q.{name}: Input should be a valid dictionary"));
    };
    for (operator, wanted) in operators {
        if !holds(name, seen, operator, wanted)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(name: &str, seen: &Value, operator: &str, wanted: &Value) -> Result<bool, String> {
    let listed = || match wanted {
        Value::Array(items) => Ok(items.iter().any(|item| same(seen, item))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Err(format!("q.{name}.{operator}: Input should be a valid list"))
        }
    };
    let ordered = |fits: fn(Ordering) -> bool| !seen.is_null() && fits(compare(seen, wanted));
    Ok(match operator {
        "eq" => same(seen, wanted),
        "neq" => !same(seen, wanted),
        "gt" => ordered(Ordering::is_gt),
        "gte" => ordered(Ordering::is_ge),
        "lt" => ordered(Ordering::is_lt),
        "lte" => ordered(Ordering::is_le),
        "in" => listed()?,
        "notin" | "nin" => !listed()?,
        _ => return Err(format!("q.{name}.{operator}: unknown operator")),
    })
}

fn same(seen: &Value, wanted: &Value) -> bool {
    seen.is_null() == wanted.is_null() && compare(seen, wanted).is_eq()
}

/// Orders two values: numbers and number-like strings by size, everything else as text, null last.
pub(super) fn compare(left: &Value, right: &Value) -> Ordering {
    match (left.is_null(), right.is_null()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    match (number(left), number(right)) {
        (Some(left), Some(right)) => left.total_cmp(&right),
        (Some(_), None) | (None, Some(_)) | (None, None) => text(left).cmp(&text(right)),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
