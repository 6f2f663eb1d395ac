//! Google's Cloud Billing Catalog: the public price list. Facts: `reference/google/pricing.md`, last section, and `cloudbilling.v1` of 2026-09-01.
//!
//! # Assumptions
//! The API is switched on in the project (`infra/google-setup.sh` does it); reading takes no role. Prices are the public ones, without contracts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;

use super::google::{TokenError, TokenSource};
use super::http::{Answer, Http, words};
use crate::ports::{PriceCatalogue, ProviderError};
use crate::prices::Rates;

mod rows;

use rows::{Collected, Sku};

/// Google's own endpoint.
pub const ENDPOINT: &str = "https://cloudbilling.googleapis.com";

/// Compute Engine's id in the catalogue.
const SERVICE: &str = "6F81-5844-456A";

/// One page. A page of 5000 rows is some megabytes.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Rows a page: less than the 5000 allowed, so that a page stays far below the largest answer we read even when `fields` is ignored.
const PAGE_SIZE: &str = "2500";

/// Compute Engine has some tens of thousands of rows; a list that goes on beyond this never ends.
const PAGES_AT_MOST: usize = 100;

/// Only what [`rows`] looks at.
const FIELDS: &str = "nextPageToken,skus(description,category(resourceFamily,usageType),serviceRegions,pricingInfo(effectiveTime,pricingExpression(usageUnit,tieredRates)))";

/// The price list of Compute Engine.
pub struct CloudBilling {
    http: Http,
    tokens: Arc<dyn TokenSource>,
}

impl fmt::Debug for CloudBilling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudBilling")
    }
}

impl CloudBilling {
    /// Sets up the client; calls nobody yet.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] when the address is none that may carry credentials.
    pub fn new(base_url: &str, tokens: Arc<dyn TokenSource>) -> Result<Self, ProviderError> {
        Ok(Self {
            http: Http::new("the Cloud Billing Catalog", base_url, CALL_LIMIT)?,
            tokens,
        })
    }

    async fn page(&self, token: Option<&str>) -> Result<Page, ProviderError> {
        let secret = self.tokens.token().await.map_err(|error| match error {
            TokenError::Refused(detail) => ProviderError::Denied { detail },
            TokenError::Unreachable(detail) => no_answer(detail),
        })?;
        let mut request = self
            .http
            .request(Method::GET, &["v1", "services", SERVICE, "skus"])
            .query(&[("currencyCode", "USD"), ("pageSize", PAGE_SIZE), ("fields", FIELDS)]);
        if let Some(token) = token {
            request = request.query(&[("pageToken", token)]);
        }
        let sent = self.http.send(request, &secret).await;
        let answer = sent.map_err(|lost| no_answer(lost.0))?;
        if answer.status != 200 {
            return Err(refusal(&answer));
        }
        serde_json::from_str(&answer.body).map_err(|error| no_answer(format!("a page that cannot be read: {error}")))
    }
}

#[async_trait]
impl PriceCatalogue for CloudBilling {
    async fn read(&self) -> Result<BTreeMap<String, Rates>, ProviderError> {
        let (mut collected, mut next) = (Collected::default(), None);
        for _ in 0..PAGES_AT_MOST {
            let page = self.page(next.as_deref()).await?;
            page.skus.iter().for_each(|sku| collected.add(sku));
            let token = page.next_page_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return collected.believed();
            }
            if token == next {
                return Err(no_answer("the same page again and again".to_owned()));
            }
            next = token;
        }
        Err(no_answer(format!("no end after {PAGES_AT_MOST} pages")))
    }
}

fn no_answer(detail: String) -> ProviderError {
    ProviderError::OutcomeUnknown {
        provider: "the Cloud Billing Catalog",
        detail,
    }
}

fn refusal(answer: &Answer) -> ProviderError {
    let said = format!("{}: {}", answer.status, words(&answer.body));
    match answer.status {
        429 => ProviderError::RateLimited {
            retry_after: answer.retry_after,
        },
        401 | 403 => ProviderError::Denied {
            detail: format!("{said}. Is the API on? gcloud services enable cloudbilling.googleapis.com"),
        },
        400..=499 => ProviderError::Invalid { detail: said },
        _ => no_answer(said),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    skus: Vec<Sku>,
    next_page_token: Option<String>,
}

#[cfg(test)]
mod tests;
