//! List filters and pages: `labels.x = "y"`, `(a) (b)`, `a AND b`, `key:*`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::error;
use crate::http::{Call, Reply};
use crate::world::World;

/// One condition of a filter.
struct Clause {
    field: String,
    operator: &'static str,
    value: String,
}

/// The rows that fit the request's filter.
pub(super) fn apply(call: &Call, rows: Vec<Value>) -> Result<Vec<Value>, Reply> {
    let Some(text) = call.query("filter").filter(|text| !text.trim().is_empty()) else {
        return Ok(rows);
    };
    let refused = || super::invalid("filter", text, "Invalid list filter expression.");
    let clauses = parse(text).ok_or_else(refused)?;
    Ok(rows
        .into_iter()
        .filter(|row| clauses.iter().all(|clause| clause.holds(row)))
        .collect())
}

fn parse(text: &str) -> Option<Vec<Clause>> {
    let mut rest = text.trim();
    let mut clauses = Vec::new();
    while !rest.is_empty() {
        let (clause, tail) = parse_one(rest)?;
        clauses.extend(clause);
        rest = tail.trim_start();
        rest = rest.strip_prefix("AND ").unwrap_or(rest).trim_start();
    }
    Some(clauses)
}

/// One clause, or a bracketed group of them, and what follows.
fn parse_one(text: &str) -> Option<(Vec<Clause>, &str)> {
    if let Some(inner) = text.strip_prefix('(') {
        let end = closing(inner)?;
        return Some((parse(&inner[..end])?, &inner[end + 1..]));
    }
    let field_end = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))?;
    let (field, rest) = text.split_at(field_end);
    let rest = rest.trim_start();
    let operators = [("!=", "ne"), ("=", "eq"), (":", "has"), ("eq ", "eq"), ("ne ", "ne")];
    let (sign, operator) = operators.into_iter().find(|(sign, _)| rest.starts_with(sign))?;
    let (value, rest) = parse_value(rest[sign.len()..].trim_start())?;
    (!field.is_empty()).then(|| {
        (
            vec![Clause {
                field: field.to_owned(),
                operator,
                value,
            }],
            rest,
        )
    })
}

fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn parse_value(text: &str) -> Option<(String, &str)> {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            let end = inner.find(quote)?;
            return Some((inner[..end].to_owned(), &inner[end + 1..]));
        }
    }
    let end = text.find(|c: char| c.is_whitespace() || c == ')').unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

impl Clause {
    fn holds(&self, row: &Value) -> bool {
        let seen = self.field.split('.').try_fold(row, |value, name| value.get(name));
        let text = seen.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        match (self.operator, text) {
            ("has", text) => text.is_some_and(|text| self.value == "*" || text.contains(&self.value)),
            ("ne", text) => text.is_none_or(|text| text != self.value),
            (_, text) => text.is_some_and(|text| text == self.value),
        }
    }
}

/// A row and the key that orders it.
type Keyed<T> = (String, T);

/// One page of rows, each with the key that orders it, and the token of the next page.
pub(super) fn page<T>(call: &Call, mut rows: Vec<Keyed<T>>) -> Result<(Vec<Keyed<T>>, Option<String>), Reply> {
    let most = match call.query("maxResults").map(str::parse::<usize>) {
        None => 500,
        Some(Ok(most)) if most <= 500 => most,
        Some(Ok(_) | Err(_)) => {
            return Err(super::invalid(
                "maxResults",
                call.query("maxResults").unwrap_or_default(),
                "The value must be in 0..500.",
            ));
        }
    };
    rows.sort_by(|(left, _), (right, _)| left.cmp(right));
    if let Some(token) = call.query("pageToken").filter(|token| !token.is_empty()) {
        let last = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let last = last.ok_or_else(|| super::invalid("pageToken", token, "Invalid page token."))?;
        rows.retain(|(key, _)| *key > last);
    }
    let more = most > 0 && rows.len() > most;
    if most > 0 {
        rows.truncate(most);
    }
    let next = more
        .then(|| rows.last().map(|(key, _)| URL_SAFE_NO_PAD.encode(key)))
        .flatten();
    Ok((rows, next))
}

/// The answer of a zone's list.
pub(super) fn zone_list(
    world: &Arc<World>,
    call: &Call,
    kind: &str,
    path: &str,
    rows: Vec<Value>,
) -> Result<Reply, Reply> {
    let rows = apply(call, rows)?;
    let keyed = rows
        .into_iter()
        .map(|row| (row["name"].as_str().unwrap_or_default().to_owned(), row))
        .collect();
    let (rows, next) = page(call, keyed)?;
    let mut body = json!({"kind": format!("compute#{kind}List"), "id": format!("projects/{}/{path}", world.options.project),
        "selfLink": super::link(world, path)});
    if !rows.is_empty() {
        // An empty list has no `items` at all.
        body["items"] = rows.into_iter().map(|(_, row)| row).collect();
    }
    if let Some(next) = next {
        body["nextPageToken"] = json!(next);
    }
    Ok(Reply::ok(body))
}

/// The answer of an aggregated list: a map from `zones/<z>` to the rows there, or to a warning.
pub(super) fn aggregated(
    world: &Arc<World>,
    call: &Call,
    kind: &str,
    noun: &str,
    rows: Vec<(String, Value)>,
) -> Result<Reply, Reply> {
    let mut keyed = Vec::new();
    for (zone, row) in rows {
        for row in apply(call, vec![row])? {
            keyed.push((
                format!("{zone}/{}", row["name"].as_str().unwrap_or_default()),
                (zone.clone(), row),
            ));
        }
    }
    if keyed.is_empty() {
        apply(call, Vec::new())?;
    }
    let (rows, next) = page(call, keyed)?;
    let mut items = serde_json::Map::new();
    for zone in super::catalogue::zones() {
        let here: Vec<Value> = rows
            .iter()
            .filter(|(_, (place, _))| place == zone)
            .map(|(_, (_, row))| row.clone())
            .collect();
        let scope = if here.is_empty() {
            json!({"warning": {"code": "NO_RESULTS_ON_PAGE", "message": format!("There are no results for scope 'zones/{zone}' on this page."),
                "data": [{"key": "scope", "value": format!("zones/{zone}")}]}})
        } else {
            json!({noun: here})
        };
        items.insert(format!("zones/{zone}"), scope);
    }
    let mut body = json!({"kind": format!("compute#{kind}AggregatedList"), "items": items, "id": format!("projects/{}/aggregated/{noun}", world.options.project),
        "selfLink": super::link(world, &format!("aggregated/{noun}"))});
    if let Some(next) = next {
        body["nextPageToken"] = json!(next);
    }
    Ok(Reply::ok(body))
}

/// The error of a stale or missing fingerprint of the metadata.
pub(super) fn stale_metadata() -> Reply {
    error(
        412,
        "conditionNotMet",
        "Supplied fingerprint does not match current metadata fingerprint.",
    )
}

/// The error of a stale or missing fingerprint of the labels.
pub(super) fn stale_labels() -> Reply {
    error(
        412,
        "conditionNotMet",
        "Labels fingerprint either invalid or resource labels have changed",
    )
}
