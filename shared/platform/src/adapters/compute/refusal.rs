//! What Compute Engine's refusals mean, whether they come at once or in a finished operation: `reference/google/compute.md` §5.

use std::time::Duration;

use serde_json::Value;

use super::wire::{Operation, OperationError};
use crate::adapters::http::{Answer, words};
use crate::ports::ProviderError;

/// Compute Engine did not do what it was asked.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// What it means.
    pub(super) kind: Kind,
    /// Google's words.
    pub(super) words: String,
}

/// The meanings of a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It does not exist.
    NotFound,
    /// Something of that name exists.
    AlreadyExists,
    /// Not in its present state.
    NotReady,
    /// The zone has none left.
    Capacity,
    /// The project may not have more.
    Quota,
    /// It came up and was taken back at once.
    Preempted,
    /// Too many calls.
    Throttled { retry_after: Option<Duration> },
    /// The credentials were refused, or lack a right.
    Denied,
    /// The API is not switched on in this project.
    ApiOff,
    /// The request is wrong.
    Invalid,
    /// Nothing that can be relied on.
    NoAnswer,
}

impl Refusal {
    pub(super) fn no_answer(what: &str) -> Self {
        Self {
            kind: Kind::NoAnswer,
            words: words(what),
        }
    }

    /// Reads an answer; what is no refusal comes back as JSON.
    pub(super) fn check(answer: &Answer) -> Result<Value, Self> {
        let body: Option<Value> = serde_json::from_str(&answer.body).ok();
        match (body, (200..300).contains(&answer.status)) {
            (Some(body), true) => Ok(body),
            (None, true) => Err(Self::no_answer(&format!(
                "HTTP {} with a body that is not JSON",
                answer.status
            ))),
            (body, false) => Err(Self::read(answer, &body.unwrap_or_default())),
        }
    }

    fn read(answer: &Answer, body: &Value) -> Self {
        let error = &body["error"];
        let reason = error["errors"][0]["reason"].as_str().unwrap_or_default();
        let details = error["details"].as_array().into_iter().flatten();
        let switched_off = details.clone().any(|detail| detail["reason"] == "SERVICE_DISABLED");
        let sentence = error["message"].as_str().unwrap_or(answer.body.as_str());
        let kind = match (answer.status, reason) {
            (_, "accessNotConfigured") => Kind::ApiOff,
            (403, _) if switched_off => Kind::ApiOff,
            (429, _) | (_, "rateLimitExceeded" | "userRateLimitExceeded") => Kind::Throttled {
                retry_after: answer.retry_after,
            },
            (_, "quotaExceeded") => Kind::Quota,
            (_, _) if is_capacity(reason) || (answer.status >= 500 && is_capacity(sentence)) => Kind::Capacity,
            (401 | 403, _) => Kind::Denied,
            // A 404 without Google's own words comes from a wrong address: it must never pass for an absence.
            (404, _) if error["message"].is_string() => Kind::NotFound,
            (409, "alreadyExists") => Kind::AlreadyExists,
            (409 | 412, _) | (400, "resourceNotReady" | "resourceInUseByAnotherResource") => Kind::NotReady,
            (408 | 500.., _) => Kind::NoAnswer,
            (_, _) => Kind::Invalid,
        };
        Self {
            kind,
            words: format!("HTTP {}: {}", answer.status, words(sentence)),
        }
    }

    /// The failure in a finished operation; `None` when it succeeded. HTTP 200 on the request says nothing about this.
    pub(super) fn in_operation(operation: &Operation) -> Option<Self> {
        let first = operation.error.as_ref().and_then(|error| error.errors.first());
        match (first, operation.http_error_status_code) {
            (None, None) => None,
            (None, Some(status)) => Some(Self {
                kind: by_status(status),
                words: format!("the operation failed with HTTP {status}"),
            }),
            (Some(error), status) => Some(Self {
                kind: by_code(error, status),
                words: words(&format!("{}: {}", error.code, error.message)),
            }),
        }
    }

    /// The same for the caller; `what` names the thing that was asked for.
    pub(super) fn into_error(self, what: &str) -> ProviderError {
        let detail = self.words;
        match self.kind {
            Kind::NotFound => ProviderError::NotFound { what: what.to_owned() },
            Kind::AlreadyExists => ProviderError::NameTaken { what: what.to_owned() },
            Kind::NotReady => ProviderError::NotReady { detail },
            Kind::Capacity | Kind::Preempted => ProviderError::CapacityExhausted {
                what: format!("{what} ({detail})"),
            },
            Kind::Quota => ProviderError::QuotaExceeded { detail },
            Kind::Throttled { retry_after } => ProviderError::RateLimited { retry_after },
            Kind::Denied => ProviderError::Denied {
                detail: format!(
                    "{detail} (check the Google credentials; the role roles/compute.instanceAdmin.v1 has every right that is needed)"
                ),
            },
            Kind::ApiOff => ProviderError::Denied {
                detail: format!("{detail} (switch the API on with: gcloud services enable compute.googleapis.com)"),
            },
            Kind::Invalid => ProviderError::Invalid { detail },
            Kind::NoAnswer => ProviderError::OutcomeUnknown {
                provider: "Compute Engine",
                detail,
            },
        }
    }
}

fn by_code(error: &OperationError, status: Option<u16>) -> Kind {
    let said = error.message.to_lowercase();
    let reason = error
        .error_details
        .iter()
        .find_map(|detail| detail.error_info.as_ref())
        .map(|info| info.reason.as_str());
    match error.code.as_str() {
        code if is_capacity(code) || is_capacity(&error.message) || reason.is_some_and(is_capacity) => Kind::Capacity,
        "QUOTA_EXCEEDED" | "quotaExceeded" | "LIMIT_EXCEEDED" => Kind::Quota,
        "PREEMPTED" => Kind::Preempted,
        "RESOURCE_NOT_FOUND" | "NOT_FOUND" => Kind::NotFound,
        "RESOURCE_ALREADY_EXISTS" | "ALREADY_EXISTS" => Kind::AlreadyExists,
        "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE" | "RESOURCE_NOT_READY" | "CONDITION_NOT_MET" => Kind::NotReady,
        "PERMISSIONS_ERROR" | "PERMISSION_DENIED" | "FORBIDDEN" => Kind::Denied,
        "RATE_LIMIT_EXCEEDED" => Kind::Throttled { retry_after: None },
        "INTERNAL_ERROR" | "BACKEND_ERROR" => Kind::NoAnswer,
        _ if said.contains("due to preemption") => Kind::Preempted,
        _ => by_status(status.unwrap_or(400)),
    }
}

fn by_status(status: u16) -> Kind {
    match status {
        401 | 403 => Kind::Denied,
        404 => Kind::NotFound,
        409 | 412 => Kind::NotReady,
        429 => Kind::Throttled { retry_after: None },
        500.. => Kind::NoAnswer,
        _ => Kind::Invalid,
    }
}

fn is_capacity(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["zone_resource_pool_exhausted", "stockout", "resource_availability"]
        .iter()
        .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn http(status: u16, reason: &str, message: &str) -> Kind {
        let body =
            json!({"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}});
        let answer = Answer {
            status,
            retry_after: None,
            body: body.to_string(),
        };
        Refusal::check(&answer).unwrap_err().kind
    }

    fn operation(error: Value, status: Option<u16>) -> Option<Kind> {
        let body = json!({"name": "operation-1", "status": "DONE", "error": {"errors": [error]}, "httpErrorStatusCode": status});
        Refusal::in_operation(&serde_json::from_value(body).unwrap()).map(|refusal| refusal.kind)
    }

    #[test]
    fn every_row_of_the_reference_is_told_apart_when_it_comes_at_once() {
        let slow = Kind::Throttled { retry_after: None };
        for (status, reason, message, kind) in [
            (
                409,
                "alreadyExists",
                "The resource 'x' already exists",
                Kind::AlreadyExists,
            ),
            (404, "notFound", "The resource 'x' was not found", Kind::NotFound),
            (400, "resourceNotReady", "The resource 'x' is not ready", Kind::NotReady),
            (400, "resourceInUseByAnotherResource", "used by y", Kind::NotReady),
            (412, "conditionNotMet", "stale", Kind::NotReady),
            (400, "invalid", "Invalid value for field", Kind::Invalid),
            (403, "rateLimitExceeded", "Queries per minute", slow),
            (429, "rateLimitExceeded", "Queries per minute", slow),
            (
                403,
                "quotaExceeded",
                "Quota 'CPUS' exceeded. Limit: 8.0 in region us-central1.",
                Kind::Quota,
            ),
            (
                403,
                "forbidden",
                "Required 'compute.instances.create' permission",
                Kind::Denied,
            ),
            (403, "accessNotConfigured", "API has not been used", Kind::ApiOff),
            (401, "authError", "Invalid Credentials", Kind::Denied),
            (503, "backendError", "Backend Error", Kind::NoAnswer),
            (
                503,
                "resource_availability",
                "ZONE_RESOURCE_POOL_EXHAUSTED",
                Kind::Capacity,
            ),
            (308, "", "", Kind::Invalid),
        ] {
            assert_eq!(http(status, reason, message), kind, "{status} {reason}");
        }
        for (status, kind) in [(502, Kind::NoAnswer), (404, Kind::Invalid)] {
            let answer = Answer {
                status,
                retry_after: None,
                body: "<html>".into(),
            };
            assert_eq!(Refusal::check(&answer).unwrap_err().kind, kind);
        }
    }

    #[test]
    fn every_row_of_the_reference_is_told_apart_in_a_finished_operation() {
        let details = json!([{"errorInfo": {"reason": "resource_availability", "metadatas": {"zonesAvailable": ""}}}]);
        for (error, status, kind) in [
            (
                json!({"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "x"}),
                Some(503),
                Kind::Capacity,
            ),
            (
                json!({"code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "message": "x"}),
                Some(503),
                Kind::Capacity,
            ),
            (
                json!({"code": "UNSUPPORTED", "message": "STOCKOUT"}),
                None,
                Kind::Capacity,
            ),
            (
                json!({"code": "SOMETHING_NEW", "message": "", "errorDetails": details}),
                None,
                Kind::Capacity,
            ),
            (
                json!({"code": "QUOTA_EXCEEDED", "message": "Quota 'CPUS' exceeded"}),
                Some(403),
                Kind::Quota,
            ),
            (json!({"code": "PREEMPTED", "message": "x"}), None, Kind::Preempted),
            (
                json!({"code": "X", "message": "Instance failed to start due to preemption."}),
                Some(400),
                Kind::Preempted,
            ),
            (
                json!({"code": "RESOURCE_ALREADY_EXISTS", "message": "x"}),
                Some(409),
                Kind::AlreadyExists,
            ),
            (
                json!({"code": "RESOURCE_NOT_FOUND", "message": "x"}),
                Some(404),
                Kind::NotFound,
            ),
            (
                json!({"code": "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "message": "x"}),
                Some(400),
                Kind::NotReady,
            ),
            (
                json!({"code": "INTERNAL_ERROR", "message": "x"}),
                Some(500),
                Kind::NoAnswer,
            ),
            (json!({"code": "NEVER_SEEN", "message": "x"}), Some(502), Kind::NoAnswer),
            (json!({"code": "NEVER_SEEN"}), Some(400), Kind::Invalid),
        ] {
            assert_eq!(operation(error.clone(), status), Some(kind), "{error}");
        }
        let fine = serde_json::from_value(json!({"name": "operation-1", "status": "DONE"})).unwrap();
        assert!(Refusal::in_operation(&fine).is_none());
    }

    #[test]
    fn refused_access_says_what_to_do() {
        let refusal = Refusal {
            kind: Kind::ApiOff,
            words: "off".into(),
        };
        assert!(
            refusal
                .into_error("x")
                .to_string()
                .contains("gcloud services enable compute.googleapis.com")
        );
    }
}
