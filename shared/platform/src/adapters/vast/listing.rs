//! Reading Vast's list of instances: completely, or not at all.

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::VastGpus;
use super::calls::Call;
use super::pace::Endpoint;
use super::wire::Instance;
use crate::adapters::http::words;
use crate::ports::ProviderError;

/// Rows per call, and ids per filter so that addresses stay short. Source: OpenAPI of `v1/instances`, read 2026-10.
pub(super) const PAGE: usize = 25;
/// More pages than any account has; a server that never ends its list is broken.
const MAX_PAGES: usize = 4000;

#[derive(Deserialize)]
struct Page {
    instances: Vec<Value>,
    #[serde(default)]
    next_token: Option<Value>,
    #[serde(default)]
    total_instances: Option<usize>,
}

impl VastGpus {
    /// Every instance that fits the filters.
    ///
    /// # Errors
    /// Any page that fails, any row without an id, or fewer rows than Vast says there are: what is missing must not pass for absent.
    pub(super) async fn list(&self, filters: &Value) -> Result<Vec<Instance>, ProviderError> {
        let mut rows = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(filters, token.as_deref()).await?;
            for value in page.instances {
                rows.push(readable(value)?);
            }
            let next = match page.next_token {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text).filter(|text| !text.is_empty()),
                Some(other) => Some(other.to_string()),
            };
            if next.is_none() {
                return complete(rows, page.total_instances);
            }
            if next == token {
                break;
            }
            token = next;
        }
        Err(garbled("the list of instances never ends"))
    }

    async fn page(&self, filters: &Value, token: Option<&str>) -> Result<Page, ProviderError> {
        let mut query = vec![
            ("select_filters", filters.to_string()),
            ("order_by", json!([{"col": "id", "dir": "asc"}]).to_string()),
            ("limit", PAGE.to_string()),
        ];
        query.extend(token.map(|token| ("after_token", token.to_owned())));
        let call = Call {
            endpoint: Endpoint::List,
            method: Method::GET,
            path: "api/v1/instances".to_owned(),
            query: &query,
            body: None,
        };
        let answer = self.calls.read(&call).await;
        let answer = answer.map_err(|refusal| refusal.into_error("the list of instances"))?;
        serde_json::from_value(answer).map_err(|_| garbled("the list of instances has an unknown form"))
    }
}

fn readable(value: Value) -> Result<Instance, ProviderError> {
    match serde_json::from_value::<Instance>(value) {
        Ok(instance) if instance.id.is_some() => Ok(instance),
        Ok(_) => Err(garbled("the list of instances has a row without an id")),
        Err(error) => Err(garbled(&format!(
            "the list of instances has an unreadable row: {}",
            words(&error.to_string())
        ))),
    }
}

fn complete(rows: Vec<Instance>, total: Option<usize>) -> Result<Vec<Instance>, ProviderError> {
    match total {
        Some(total) if rows.len() < total => Err(garbled(&format!(
            "the list of instances is short: {} of {total} came",
            rows.len()
        ))),
        Some(_) | None => Ok(rows),
    }
}

pub(super) fn garbled(detail: &str) -> ProviderError {
    ProviderError::OutcomeUnknown {
        provider: "Vast",
        detail: detail.to_owned(),
    }
}
