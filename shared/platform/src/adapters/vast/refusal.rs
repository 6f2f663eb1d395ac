//! What Vast's refusals mean. Its bodies come in many shapes, and some refusals come as HTTP 200.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::adapters::http::{Answer, seconds, words};
use crate::ports::ProviderError;

/// Vast did not do what it was asked.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What it means.
    pub(super) kind: Kind,
    /// Vast's own word for it, e.g. `no_such_ask`; empty when it had none.
    pub(super) slug: String,
    /// Vast's sentence.
    pub(super) words: String,
    /// The whole answer.
    pub(super) body: Value,
}

/// The meanings of a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The instance, offer or key does not exist (any more).
    Gone,
    /// The key is bad or lacks a scope.
    Denied,
    /// No credit.
    NoCredit,
    /// The GPU is let to somebody else; Vast queues the start.
    Unavailable,
    /// The key is on the instance already.
    AlreadyThere,
    /// Too many calls.
    Throttled { retry_after: Option<Duration> },
    /// The day's searches are used up; more calls change nothing before midnight UTC.
    OutOfSearches,
    /// Nothing that can be relied on.
    NoAnswer,
    /// The request is wrong.
    Invalid,
}

impl Refusal {
    /// Reads an answer; what is no refusal comes back as JSON.
    pub(super) fn check(answer: &Answer) -> Result<Value, Self> {
        let body: Result<Value, _> = serde_json::from_str(&answer.body);
        let ok = (200..300).contains(&answer.status);
        match body {
            Ok(body) if ok && body.get("success") != Some(&Value::Bool(false)) => Ok(body),
            Ok(body) => Err(Self::read(answer, body)),
            Err(_) if ok => Err(Self {
                kind: Kind::NoAnswer,
                slug: String::new(),
                words: format!("HTTP {} with a body that is not JSON", answer.status),
                body: Value::Null,
            }),
            Err(_) => Err(Self::read(answer, Value::Null)),
        }
    }

    fn read(answer: &Answer, body: Value) -> Self {
        let field = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        let slug = field("error").to_owned();
        let sentence = ["msg", "message", "detail"]
            .into_iter()
            .map(field)
            .find(|text| !text.is_empty());
        let sentence = sentence.unwrap_or(if slug.is_empty() {
            answer.body.as_str()
        } else {
            slug.as_str()
        });
        let words = format!("HTTP {}: {}", answer.status, words(sentence));
        Self {
            kind: kind(answer, &body, &slug, sentence),
            slug,
            words,
            body,
        }
    }

    /// The same for the caller; `what` names the thing that was asked for.
    pub(super) fn into_error(self, what: &str) -> ProviderError {
        let detail = self.words;
        match self.kind {
            Kind::Gone => ProviderError::NotFound { what: what.to_owned() },
            Kind::Denied => ProviderError::Denied {
                detail: format!(
                    "{detail} (check the Vast API key and its scopes at https://cloud.vast.ai/manage-keys/)"
                ),
            },
            Kind::NoCredit => ProviderError::OutOfCredit { detail },
            Kind::Unavailable => ProviderError::CapacityExhausted {
                what: format!("{what} ({detail})"),
            },
            Kind::Throttled { retry_after } => ProviderError::RateLimited { retry_after },
            Kind::OutOfSearches => ProviderError::RateLimited {
                retry_after: Some(until_midnight()),
            },
            Kind::NoAnswer => ProviderError::OutcomeUnknown {
                provider: "Vast",
                detail,
            },
            Kind::AlreadyThere | Kind::Invalid => ProviderError::Invalid { detail },
        }
    }
}

fn kind(answer: &Answer, body: &Value, slug: &str, sentence: &str) -> Kind {
    let says = |part: &str| sentence.to_lowercase().contains(part);
    match (answer.status, slug) {
        (_, "auth_error") => Kind::Denied,
        (_, "missing_billing") => Kind::NoCredit,
        (_, "resources_unavailable") => Kind::Unavailable,
        (_, "search_quota_exceeded") => Kind::OutOfSearches,
        (429, _) => Kind::Throttled {
            retry_after: answer
                .retry_after
                .or_else(|| seconds(body.get("retry_after")?.as_f64()?)),
        },
        (401 | 403, _) => Kind::Denied,
        // `no_such_instance`, `no_such_ask`, `no_such_ssh_key` and their kin.
        (_, slug) if slug.starts_with("no_such_") => Kind::Gone,
        (_, "instances_not_found" | "invalid_id") => Kind::Gone,
        (400, _) if says("lack credit") => Kind::NoCredit,
        (200..=299, _) if says("already associated") => Kind::AlreadyThere,
        (410, _) => Kind::Gone,
        (408 | 500.., _) => Kind::NoAnswer,
        // A 404 without Vast's own word may come from a wrong address: it must never pass for `destroyed`.
        (_, _) => Kind::Invalid,
    }
}

/// The quota of searches is reset at midnight UTC. Source: `reference/vast/vast-api.md` §2, read 2026-10.
fn until_midnight() -> Duration {
    const DAY: u64 = 24 * 3600;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    Duration::from_secs(DAY - now % DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        let answer = Answer {
            status,
            retry_after: None,
            body: body.to_owned(),
        };
        Refusal::check(&answer).expect_err(body)
    }

    #[test]
    fn every_shape_of_refusal_is_understood() {
        let second = Some(Duration::from_secs_f64(1.5));
        let rows = [
            (
                400,
                r#"{"success":false,"error":"missing_billing","msg":"You lack credit, see the billing page."}"#,
                Kind::NoCredit,
            ),
            (
                400,
                r#"{"msg":"You lack credit, see the billing page."}"#,
                Kind::NoCredit,
            ),
            (
                401,
                r#"{"success":false,"error":"auth_error","msg":"Invalid user key"}"#,
                Kind::Denied,
            ),
            (
                404,
                r#"{"success":false,"error":"auth_error","msg":"Invalid user key"}"#,
                Kind::Denied,
            ),
            (403, "Forbidden", Kind::Denied),
            (
                404,
                r#"{"success":false,"error":"no_such_instance","msg":"Instance 5 not found."}"#,
                Kind::Gone,
            ),
            (
                404,
                r#"{"success":false,"error":"no_such_ask","msg":"No ask by id 5 is available."}"#,
                Kind::Gone,
            ),
            (
                404,
                r#"{"success":false,"error":"no_such_ssh_key","msg":"x"}"#,
                Kind::Gone,
            ),
            (
                410,
                r#"{"error":"no_such_ask","msg":"Instance type 5 is no longer available."}"#,
                Kind::Gone,
            ),
            (200, r#"{"success":false,"error":"invalid_id"}"#, Kind::Gone),
            (404, "<html>nginx</html>", Kind::Invalid),
            (404, r#"{"detail":"Not Found"}"#, Kind::Invalid),
            (
                200,
                r#"{"success":false,"error":"resources_unavailable","msg":"Required resources are currently unavailable, state change queued."}"#,
                Kind::Unavailable,
            ),
            (
                200,
                r#"{"success":false,"msg":"SSH key already associated with instance."}"#,
                Kind::AlreadyThere,
            ),
            (
                429,
                "API requests too frequent: endpoint threshold=4.5",
                Kind::Throttled { retry_after: None },
            ),
            (
                429,
                r#"{"error":"HTTPTooManyRequests","msg":"slow","retry_after":1.5}"#,
                Kind::Throttled { retry_after: second },
            ),
            (
                429,
                r#"{"error":"search_quota_exceeded","msg":"x"}"#,
                Kind::OutOfSearches,
            ),
            (
                400,
                r#"{"success":false,"error":"invalid_args","msg":"label_too_long"}"#,
                Kind::Invalid,
            ),
            (483, "bad json", Kind::Invalid),
            (308, "", Kind::Invalid),
            (503, "Could Not Dispatch Cloud Copy", Kind::NoAnswer),
            (502, "", Kind::NoAnswer),
            (200, "<html>", Kind::NoAnswer),
        ];
        for (status, body, kind) in rows {
            assert_eq!(refusal(status, body).kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn a_refusal_keeps_the_words_of_vast_and_says_what_to_do() {
        let error = refusal(403, r#"{"error":"forbidden","msg":"key lacks instance_write"}"#).into_error("GPU vast-5");
        let text = error.to_string();
        assert!(
            text.contains("key lacks instance_write") && text.contains("scopes"),
            "{text}"
        );
    }

    #[test]
    fn the_day_ends_within_a_day() {
        assert!(until_midnight() <= Duration::from_secs(24 * 3600));
    }
}
