//! Faults that befall single requests: what is asked, how often, and what happens to it.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::http::{Call, Reply};

/// A fault waiting for its requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Only requests of this HTTP method; `None` means any.
    #[serde(default)]
    pub method: Option<String>,
    /// Only requests with this path, where `*` stands for any text. A trailing slash makes no difference.
    pub path: String,
    /// Only requests whose decoded query contains this text as `name=value`, e.g. `after_token=`.
    #[serde(default)]
    pub query: Option<String>,
    /// How many matching requests pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// How many matching requests it befalls.
    #[serde(default = "once")]
    pub times: u32,
    /// What happens.
    pub action: FaultAction,
}

fn once() -> u32 {
    1
}

impl Fault {
    /// A fault that befalls the next request to this path.
    #[must_use]
    pub fn once(method: &str, path: &str, action: FaultAction) -> Self {
        Self {
            method: Some(method.to_owned()),
            path: path.to_owned(),
            query: None,
            skip: 0,
            times: 1,
            action,
        }
    }

    /// The same fault, befalling so many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// The same fault, only for requests whose query contains this text.
    #[must_use]
    pub fn when_query(self, text: &str) -> Self {
        Self {
            query: Some(text.to_owned()),
            ..self
        }
    }

    fn matches(&self, call: &Call) -> bool {
        let method = self
            .method
            .as_ref()
            .is_none_or(|method| method.eq_ignore_ascii_case(&call.method));
        let query = self.query.as_ref().is_none_or(|text| {
            let joined: Vec<String> = call.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
            joined.join("&").contains(text)
        });
        method && query && glob(self.path.trim_end_matches('/'), call.path.trim_end_matches('/'))
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FaultAction {
    /// The answer comes this many real milliseconds late; the work is done at once.
    Slow {
        /// The delay in milliseconds, not scaled.
        milliseconds: u64,
    },
    /// 429, nothing done.
    TooManyRequests {
        /// Seconds for the `Retry-After` header; `None` sends none.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Google's own form of a rate limit: 403 `rateLimitExceeded`, nothing done.
    RateLimitExceeded,
    /// This status with a plain body, nothing done.
    Status {
        /// The HTTP status.
        code: u16,
    },
    /// HTTP 200 whose body says `success:false`, nothing done.
    SuccessFalse {
        /// The error slug.
        error: String,
        /// The sentence.
        msg: String,
    },
    /// This status and JSON body, nothing done.
    Body {
        /// The HTTP status.
        code: u16,
        /// The JSON.
        body: Value,
    },
    /// The work is done, then the connection drops without an answer.
    LoseAnswer,
    /// The connection drops before anything is done.
    DropRequest,
}

impl FaultAction {
    /// The answer given in place of doing the work, when there is one.
    pub(crate) fn refusal(&self) -> Option<Reply> {
        match self {
            Self::Slow { .. } | Self::LoseAnswer | Self::DropRequest => None,
            Self::TooManyRequests { retry_after: None } => {
                Some(Reply::text(429, "API requests too frequent: endpoint threshold=4.5"))
            }
            Self::TooManyRequests {
                retry_after: Some(seconds),
            } => {
                let body = json!({"error": "HTTPTooManyRequests", "msg": "API requests too frequent",
                    "retry_after": seconds, "limit": 1, "remaining": 0});
                Some(Reply::json(429, body).with_header("Retry-After", seconds.to_string()))
            }
            Self::RateLimitExceeded => Some(crate::compute::error(
                403,
                "rateLimitExceeded",
                "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service 'compute.googleapis.com'.",
            )),
            Self::Status { code } => Some(Reply::text(*code, format!("simulated status {code}\n"))),
            Self::SuccessFalse { error, msg } => Some(Reply::ok(json!({"success": false, "error": error, "msg": msg}))),
            Self::Body { code, body } => Some(Reply::json(*code, body.clone())),
        }
    }
}

/// The faults that still wait.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.lock().push(fault);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn waiting(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// Takes the fault that befalls this request: the first added that matches.
    pub(crate) fn take(&self, call: &Call) -> Option<FaultAction> {
        let mut faults = self.lock();
        let at = faults.iter().position(|fault| fault.matches(call))?;
        let fault = &mut faults[at];
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times = fault.times.saturating_sub(1);
        let action = fault.action.clone();
        if fault.times == 0 {
            faults.remove(at);
        }
        Some(action)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a text fits a pattern in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| glob(tail, &rest[at..]))
        }),
    }
}
