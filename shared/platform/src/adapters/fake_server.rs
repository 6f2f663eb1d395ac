//! A server on this machine for tests: it records what it is asked and answers as the test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, Vec<String>>,
    pub(crate) body: Option<Value>,
    pub(crate) authorization: String,
}

impl Recorded {
    /// The only value of a query parameter; empty when there is none.
    pub(crate) fn query(&self, name: &str) -> &str {
        self.query
            .get(name)
            .and_then(|values| values.first())
            .map_or("", String::as_str)
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Json(u16, Value),
    Text(u16, String),
    /// A refusal with `Retry-After`.
    Wait(u16, u64),
    /// No answer at all.
    Hang,
}

/// The server; it ends with this value.
pub(crate) struct FakeServer {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Recorded>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeServer {
    pub(crate) async fn start(answer: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, answer) = (Arc::clone(&seen), Arc::new(answer));
        let router = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
            async move {
                let request = recorded(&method, &uri, &headers, &body);
                let reply = answer(&request);
                record.lock().unwrap().push(request);
                respond(reply).await
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, task }
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Recorded> {
        self.seen.lock().unwrap().clone()
    }

    /// Every request so far as `METHOD path`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.seen()
            .iter()
            .map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }
}

fn recorded(method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Recorded {
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let url = reqwest::Url::parse(&format!("http://x{uri}")).unwrap();
    for (key, value) in url.query_pairs() {
        query.entry(key.into_owned()).or_default().push(value.into_owned());
    }
    Recorded {
        method: method.to_string(),
        path: uri.path().to_owned(),
        query,
        body: (!body.is_empty()).then(|| serde_json::from_slice(body).unwrap()),
        authorization: headers
            .get("authorization")
            .map_or(String::new(), |value| value.to_str().unwrap().to_owned()),
    }
}

async fn respond(reply: Reply) -> Response {
    let status = |status| StatusCode::from_u16(status).unwrap();
    match reply {
        Reply::Json(code, body) => (status(code), axum::Json(body)).into_response(),
        Reply::Text(code, body) => (status(code), body).into_response(),
        Reply::Wait(code, seconds) => {
            (status(code), [("retry-after", seconds.to_string())], "slow down").into_response()
        }
        Reply::Hang => std::future::pending().await,
    }
}
