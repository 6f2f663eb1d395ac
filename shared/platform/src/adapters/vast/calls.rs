//! One call to Vast: its turn, its answer, and for reads one more try.

use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use serde_json::Value;

use super::pace::{Endpoint, Pace};
use super::refusal::{Kind, Refusal};
use crate::adapters::http::{Http, NoAnswer};

/// A longer wait belongs to the caller, who may have better things to do.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause when Vast does not name one: a bucket of the read endpoints refills in 1 to 2 s (`vast-api.md` §2).
const PAUSE: Duration = Duration::from_secs(2);

/// The way to Vast.
#[derive(Debug)]
pub(super) struct Calls {
    http: Http,
    key: SecretString,
    pace: Pace,
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) method: Method,
    /// Below the base address, e.g. `api/v0/instances/5`; a slash is appended, as Vast's own clients do.
    pub(super) path: String,
    pub(super) query: &'a [(&'a str, String)],
    pub(super) body: Option<&'a Value>,
}

impl<'a> Call<'a> {
    /// A call without a query.
    pub(super) fn new(endpoint: Endpoint, method: Method, path: String, body: Option<&'a Value>) -> Self {
        Self {
            endpoint,
            method,
            path,
            query: &[],
            body,
        }
    }
}

impl Calls {
    pub(super) fn new(http: Http, key: SecretString, pace: Pace) -> Self {
        Self { http, key, pace }
    }

    /// Makes a call that changes something: once, because Vast has no idempotency key.
    pub(super) async fn write(&self, call: &Call<'_>) -> Result<Value, Refusal> {
        self.once(call).await
    }

    /// Makes a call that changes nothing, again when the first was throttled or got no answer.
    pub(super) async fn read(&self, call: &Call<'_>) -> Result<Value, Refusal> {
        let refusal = match self.once(call).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        let pause = match refusal.kind {
            Kind::Throttled { retry_after } => retry_after.unwrap_or(PAUSE),
            Kind::NoAnswer => PAUSE,
            Kind::Gone
            | Kind::Denied
            | Kind::NoCredit
            | Kind::Unavailable
            | Kind::AlreadyThere
            | Kind::OutOfSearches
            | Kind::Invalid => return Err(refusal),
        };
        if pause > LONGEST_PAUSE {
            return Err(refusal);
        }
        tracing::debug!(error = %refusal.words, "reading from Vast once more");
        self.pace.pause(pause).await;
        self.once(call).await
    }

    /// Reads a text that Vast linked to; `None` while it is not there yet.
    pub(super) async fn linked(&self, link: &str) -> Result<Option<String>, NoAnswer> {
        let answer = self.http.fetch(link).await?;
        Ok((answer.status == 200).then_some(answer.body))
    }

    /// Waits in Vast's scale of time.
    pub(super) async fn pause(&self, duration: Duration) {
        self.pace.pause(duration).await;
    }

    async fn once(&self, call: &Call<'_>) -> Result<Value, Refusal> {
        self.pace.turn(call.endpoint).await;
        let mut segments: Vec<&str> = call.path.split('/').collect();
        segments.push("");
        let mut request = self.http.request(call.method.clone(), &segments).query(call.query);
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let answer = self.http.send(request, &self.key).await;
        self.pace.answered(call.endpoint);
        match answer {
            Ok(answer) => Refusal::check(&answer),
            Err(no_answer) => Err(lost(no_answer)),
        }
    }
}

fn lost(no_answer: NoAnswer) -> Refusal {
    Refusal {
        kind: Kind::NoAnswer,
        slug: String::new(),
        words: no_answer.0,
        body: Value::Null,
    }
}
