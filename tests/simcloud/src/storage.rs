//! The Cloud Storage side: objects with generations and preconditions, over the JSON API. Facts: `reference/google/storage.md` (2026-11).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::compute::error;
use crate::http::{Call, Reply};
use crate::world::World;

/// The state of the Cloud Storage side: one bucket.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    objects: BTreeMap<String, Object>,
    writes: u64,
}

#[derive(Debug, Clone)]
struct Object {
    generation: u64,
    content: String,
    metadata: Value,
}

/// Generations are this high in reality: microseconds since 1970.
const FIRST_GENERATION: u64 = 1_795_000_000_000_000;

/// How many objects a page of a listing has at most.
const PAGE: usize = 1000;

pub(crate) fn route(world: &Arc<World>, call: &Call) -> Reply {
    if let Err(refusal) = crate::compute::authorize(world, call) {
        return refusal;
    }
    let bucket = &world.options.bucket;
    if let ("GET", ["storage", "v1", "b", name, "iam", "testPermissions"]) =
        (call.method.as_str(), call.parts().as_slice())
        && name == bucket
    {
        let asked = call.query.iter().filter(|(name, _)| name == "permissions");
        return crate::rights::answer(world, asked.map(|(_, right)| right.as_str()));
    }
    let mut state = world.state();
    let storage = &mut state.storage;
    match (call.method.as_str(), call.parts().as_slice()) {
        (_, ["storage", "v1", "b", bucket, ..] | ["upload", "storage", "v1", "b", bucket, ..])
            if *bucket != world.options.bucket =>
        {
            error(404, "notFound", "The specified bucket does not exist.")
        }
        ("POST", ["upload", "storage", "v1", "b", _, "o"]) => storage.insert(call, &world.options.bucket),
        ("GET", ["storage", "v1", "b", name]) => Reply::ok(json!({"kind": "storage#bucket", "name": name,
            "softDeletePolicy": {"retentionDurationSeconds": "0"},
            "lifecycle": {"rule": [{"action": {"type": "Delete"}, "condition": {"daysSinceCustomTime": 30}}]}})),
        ("GET", ["storage", "v1", "b", _, "o"]) => storage.list(call),
        ("GET", ["storage", "v1", "b", _, "o", name]) => storage.get(call, name),
        _ => error(404, "notFound", "Not Found"),
    }
}

impl Storage {
    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Loses everything, as a bucket that somebody deleted and made anew.
    pub(crate) fn clear(&mut self) {
        self.objects.clear();
    }

    fn insert(&mut self, call: &Call, bucket: &str) -> Reply {
        let Some((mut metadata, content)) = (match call.query("uploadType") {
            Some("multipart") => multipart(call),
            Some("media") => Some((json!({}), String::from_utf8_lossy(&call.raw).into_owned())),
            _ => None,
        }) else {
            return error(400, "badRequest", "simcloud takes uploadType=multipart and media");
        };
        let named = call.query("name").map(str::to_owned);
        let Some(name) = named.or_else(|| metadata["name"].as_str().map(str::to_owned)) else {
            return error(400, "required", "Required parameter: name");
        };
        let found = self.objects.get(&name).map_or(0, |object| object.generation);
        if !matches(call.query("ifGenerationMatch"), found) {
            return condition_not_met();
        }
        self.writes += 1;
        let generation = FIRST_GENERATION + self.writes;
        metadata["kind"] = json!("storage#object");
        metadata["name"] = json!(name);
        metadata["bucket"] = json!(bucket);
        metadata["generation"] = json!(generation.to_string());
        metadata["metageneration"] = json!("1");
        metadata["size"] = json!(content.len().to_string());
        let object = Object {
            generation,
            content,
            metadata: metadata.clone(),
        };
        self.objects.insert(name, object);
        Reply::ok(metadata)
    }

    fn get(&self, call: &Call, name: &str) -> Reply {
        let Some(object) = self.objects.get(name) else {
            return Reply::text(404, format!("No such object: {name}"));
        };
        if !matches(call.query("ifGenerationMatch"), object.generation) {
            return condition_not_met();
        }
        if call.query("ifGenerationNotMatch") == Some(object.generation.to_string().as_str()) {
            return Reply::text(304, "");
        }
        if call.query("alt") != Some("media") {
            return Reply::ok(object.metadata.clone());
        }
        Reply::text(200, object.content.clone())
            .with_header("x-goog-generation", object.generation.to_string())
            .with_header("x-goog-metageneration", "1")
            .with_header("x-goog-stored-content-length", object.content.len().to_string())
    }

    fn list(&self, call: &Call) -> Reply {
        let prefix = call.query("prefix").unwrap_or_default();
        let most = call
            .query("maxResults")
            .and_then(|text| text.parse().ok())
            .unwrap_or(PAGE);
        let after = call.query("pageToken").unwrap_or_default();
        let start = call.query("startOffset").unwrap_or_default();
        let end = call.query("endOffset").unwrap_or_default();
        let mut chosen = self
            .objects
            .iter()
            .filter(|(name, _)| name.starts_with(prefix) && (after.is_empty() || name.as_str() > after))
            .filter(|(name, _)| name.as_str() >= start && (end.is_empty() || name.as_str() < end));
        let page: Vec<_> = chosen.by_ref().take(most.clamp(1, PAGE)).collect();
        let items: Vec<_> = page.iter().map(|(_, object)| object.metadata.clone()).collect();
        let mut body = json!({"kind": "storage#objects", "items": items});
        if items.is_empty() {
            // Google leaves an empty list out.
            body = json!({"kind": "storage#objects"});
        }
        if let (Some((last, _)), Some(_)) = (page.last(), chosen.next()) {
            body["nextPageToken"] = json!(last);
        }
        Reply::ok(body)
    }
}

/// Whether `ifGenerationMatch` allows it; 0 stands for no such object.
fn matches(wanted: Option<&str>, found: u64) -> bool {
    wanted.is_none_or(|wanted| wanted == found.to_string())
}

fn condition_not_met() -> Reply {
    error(
        412,
        "conditionNotMet",
        "At least one of the pre-conditions you specified did not hold.",
    )
}

/// Metadata and content of a `multipart/related` body.
pub(crate) fn multipart(call: &Call) -> Option<(Value, String)> {
    let boundary = call
        .content_type
        .split("boundary=")
        .nth(1)?
        .split(';')
        .next()?
        .trim()
        .trim_matches('"');
    let body = String::from_utf8(call.raw.to_vec()).ok()?;
    let mark = format!("--{boundary}");
    let mut parts = body.split(mark.as_str()).skip(1).filter_map(|part| {
        let (_, content) = part.split_once("\r\n\r\n")?;
        Some(content.strip_suffix("\r\n").unwrap_or(content).to_owned())
    });
    let metadata = serde_json::from_str(&parts.next()?).ok()?;
    Some((metadata, parts.next()?))
}
