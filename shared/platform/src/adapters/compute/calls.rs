//! One call to Compute Engine, and the wait for what it started.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;
use warmspare_domain::ids::Zone;

use super::refusal::{Kind, Refusal};
use super::wire::Operation;
use crate::adapters::google::{TokenError, TokenSource};
use crate::adapters::http::Http;

/// A longer wait belongs to the caller, who may have better things to do.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The way to Compute Engine.
pub(super) struct Calls {
    pub(super) http: Http,
    pub(super) tokens: Arc<dyn TokenSource>,
    pub(super) project: String,
    pub(super) poll_every: Duration,
    pub(super) operation_wait: Duration,
}

/// How far an operation came while we watched.
pub(super) enum Progress {
    /// It succeeded.
    Done,
    /// It failed.
    Failed(Refusal),
    /// It was taken, and goes on.
    UnderWay,
}

/// The query of a call.
pub(super) type Query<'a> = [(&'a str, String)];

impl Calls {
    /// Reads.
    pub(super) async fn get<T: DeserializeOwned>(&self, segments: &[&str], query: &Query<'_>) -> Result<T, Refusal> {
        self.call(Method::GET, segments, query, None).await
    }

    /// Orders something. The query must carry a `requestId`, because a lost answer makes the same request go out once more.
    pub(super) async fn order(
        &self,
        method: Method,
        segments: &[&str],
        query: &Query<'_>,
        body: Option<&Value>,
    ) -> Result<Operation, Refusal> {
        self.call(method, segments, query, body).await
    }

    /// Watches an operation for a while by polling: `wait` may hold a request for two minutes.
    pub(super) async fn watch(&self, zone: &Zone, mut operation: Operation) -> Progress {
        let deadline = Instant::now() + self.operation_wait;
        loop {
            if operation.is_done() {
                return Refusal::in_operation(&operation).map_or(Progress::Done, Progress::Failed);
            }
            if Instant::now() + self.poll_every > deadline {
                return Progress::UnderWay;
            }
            tokio::time::sleep(self.poll_every).await;
            match self
                .get(&["zones", zone.as_str(), "operations", &operation.name], &[])
                .await
            {
                Ok(newer) => operation = newer,
                // The order was taken; only the news of it is missing.
                Err(refusal) => tracing::debug!(error = %refusal.words, "an operation cannot be read"),
            }
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        segments: &[&str],
        query: &Query<'_>,
        body: Option<&Value>,
    ) -> Result<T, Refusal> {
        let refusal = match self.once(&method, segments, query, body).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        let pause = match refusal.kind {
            Kind::NoAnswer => self.poll_every,
            Kind::Throttled { retry_after } => retry_after.unwrap_or(self.poll_every),
            Kind::NotFound
            | Kind::AlreadyExists
            | Kind::NotReady
            | Kind::Capacity
            | Kind::Quota
            | Kind::Preempted
            | Kind::Denied
            | Kind::ApiOff
            | Kind::Invalid => return Err(refusal),
        };
        if pause > LONGEST_PAUSE {
            return Err(refusal);
        }
        tracing::debug!(error = %refusal.words, "asking Compute Engine once more");
        tokio::time::sleep(pause).await;
        self.once(&method, segments, query, body).await
    }

    async fn once<T: DeserializeOwned>(
        &self,
        method: &Method,
        segments: &[&str],
        query: &Query<'_>,
        body: Option<&Value>,
    ) -> Result<T, Refusal> {
        let token = self.tokens.token().await.map_err(no_token)?;
        let path = [&["projects", self.project.as_str()], segments].concat();
        let mut request = self.http.request(method.clone(), &path).query(query);
        if let Some(body) = body {
            request = request.json(body);
        } else if *method == Method::POST {
            // A POST without a body still needs its length, or Google answers 411.
            request = request.header("content-length", "0");
        }
        let answer = self
            .http
            .send(request, &token)
            .await
            .map_err(|lost| Refusal::no_answer(&lost.0))?;
        let body = Refusal::check(&answer)?;
        serde_json::from_value(body).map_err(|error| Refusal::no_answer(&format!("an answer of unknown form: {error}")))
    }
}

fn no_token(error: TokenError) -> Refusal {
    match error {
        TokenError::Refused(words) => Refusal {
            kind: Kind::Denied,
            words,
        },
        TokenError::Unreachable(words) => Refusal {
            kind: Kind::NoAnswer,
            words,
        },
    }
}
