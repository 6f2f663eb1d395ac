//! Calls to Google that tell an API that is off from a right that is missing.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::adapters::google::TokenSource;
use crate::adapters::http::{Http, words};
use crate::config::Config;
use crate::report;

/// One call. All checks together must fit into a function's 30 s.
const CALL_LIMIT: Duration = Duration::from_secs(8);

/// One of Google's APIs.
pub(super) struct Api {
    http: Http,
    tokens: Arc<dyn TokenSource>,
    service: &'static str,
}

/// Why there is no answer to use.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    words: String,
}

/// What a refusal means for the one who is to put it right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The API is not switched on in the project.
    ApiOff,
    /// A right is missing.
    Denied,
    /// There is no such thing.
    NotFound,
    /// The precondition does not hold.
    Stale,
    /// What was promised does not hold.
    Unsafe,
    /// No answer, or one that passes.
    Passing,
}

/// The project, for commands that a person is to type; a deployment with all standbys at Vast has none.
pub(super) fn project(config: &Config) -> &str {
    config.gcp.project.as_deref().unwrap_or("PROJECT")
}

impl Api {
    pub(super) fn new(service: &'static str, url: &str, tokens: &Arc<dyn TokenSource>) -> Result<Self, Refusal> {
        let http = Http::new(service, url, CALL_LIMIT).map_err(|error| passing(report::chain(&error)))?;
        Ok(Self {
            http,
            tokens: Arc::clone(tokens),
            service,
        })
    }

    pub(super) async fn get(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<Value, Refusal> {
        self.call(Method::GET, segments, query, None).await
    }

    pub(super) async fn post(&self, segments: &[&str], query: &[(&str, &str)], body: &Value) -> Result<Value, Refusal> {
        self.call(Method::POST, segments, query, Some(body)).await
    }

    async fn call(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, Refusal> {
        let token = self
            .tokens
            .token()
            .await
            .map_err(|error| passing(report::chain(&error)))?;
        let mut request = self.http.request(method, segments).query(query);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.http.send(request, &token).await.map_err(|lost| passing(lost.0))?;
        if (200..300).contains(&answer.status) {
            return serde_json::from_str(&answer.body).map_err(|_| passing("the answer is not JSON".to_owned()));
        }
        Err(Refusal {
            kind: kind(answer.status, &answer.body),
            words: format!("{}: {}", answer.status, said(&answer.body)),
        })
    }

    /// What to do about a refusal when `role` is the one that has the right, if there is one.
    pub(super) fn advice(&self, refusal: &Refusal, role: Option<&str>, project: &str) -> String {
        let todo = match refusal.kind {
            Kind::ApiOff => format!(
                "the API is off: gcloud services enable {} --project={project}",
                self.service
            ),
            Kind::Denied => match role {
                Some(role) => format!(
                    "give the account {role}: gcloud projects add-iam-policy-binding {project} --member=serviceAccount:ACCOUNT --role={role}"
                ),
                None => "the credentials may not ask that; the other checks say what matters".to_owned(),
            },
            Kind::NotFound => "is the name right? gcloud projects list shows the projects' ids".to_owned(),
            Kind::Unsafe => {
                "associations would be overwritten there: use another bucket, at Google's own address".to_owned()
            }
            Kind::Stale | Kind::Passing => "try again in a minute".to_owned(),
        };
        format!("{} answered {}; {todo}", self.service, refusal.words)
    }
}

impl Refusal {
    pub(super) fn breach(words: &str) -> Self {
        Self {
            kind: Kind::Unsafe,
            words: words.to_owned(),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

fn passing(words: String) -> Refusal {
    Refusal {
        kind: Kind::Passing,
        words,
    }
}

/// `SERVICE_DISABLED` is in `details`, `accessNotConfigured` in `errors`; older front ends say it in words only.
fn kind(status: u16, body: &str) -> Kind {
    let off = [
        "SERVICE_DISABLED",
        "accessNotConfigured",
        "has not been used in project",
    ];
    match status {
        401 | 403 if off.iter().any(|word| body.contains(word)) => Kind::ApiOff,
        // Google says rate limits with 403, too.
        403 if body.contains("ateLimitExceeded") => Kind::Passing,
        401 | 403 => Kind::Denied,
        404 => Kind::NotFound,
        412 => Kind::Stale,
        _ => Kind::Passing,
    }
}

fn said(body: &str) -> String {
    let message = serde_json::from_str::<Value>(body)
        .ok()
        .and_then(|value| value["error"]["message"].as_str().map(str::to_owned));
    words(&message.unwrap_or_else(|| body.to_owned()))
}
