use std::collections::BTreeSet;

use secrecy::SecretString;
use serde_json::json;
use simcloud::{Fault, FaultAction, Options, Simcloud};

use super::*;
use crate::adapters::fake_server::{FakeServer, Reply};
use crate::adapters::google::StaticToken;
use crate::adapters::published_schema;
use crate::prices::{Item, NanoUsd};

fn billing(url: &str, token: &str) -> CloudBilling {
    let tokens = Arc::new(StaticToken::new(SecretString::from(token)));
    CloudBilling::new(url, tokens).unwrap()
}

async fn cloud() -> Simcloud {
    Simcloud::start(Options::default()).await.unwrap()
}

fn of(cloud: &Simcloud) -> CloudBilling {
    billing(&cloud.billing_url(), &cloud.options().compute_token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_read_and_no_trap_is_stepped_into() {
    let cloud = cloud().await;
    let prices = of(&cloud).read().await.unwrap();
    assert!(cloud.requests().len() > 3, "one page only");
    let rate = |region: &str, item| prices.get(region).and_then(|rates| rates.get(&item)).copied();
    for region in ["us-central1", "us-east1", "us-west1"] {
        assert_eq!(rate(region, Item::SpotCpu), Some(NanoUsd(13_400_000)), "{region}");
        assert_eq!(
            rate(region, Item::PdStandard),
            Some(NanoUsd(40_000_000)),
            "after the free GB"
        );
    }
    assert_eq!(rate("us-west4", Item::SpotMemory), Some(NanoUsd(410_000)));
    assert_eq!(rate("us-west4", Item::StandardCpu), Some(NanoUsd(24_570_000)));
    assert_eq!(rate("asia-northeast3", Item::PdSsd), Some(NanoUsd(221_000_000)));
    assert_eq!(rate("us-west3", Item::SpotCpu), None, "not sold, so not known");
    assert!(rate("us-west3", Item::StandardCpu).is_some());
    let paris: BTreeSet<_> = prices["europe-west9"].keys().copied().collect();
    assert_eq!(paris, BTreeSet::from([Item::StandardCpu, Item::StandardMemory]));
    assert!(!prices.contains_key("europe-southwest1"), "a price in euros");
    assert!(!prices.contains_key("global"));
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_prices_fits_googles_published_schema() {
    let cloud = cloud().await;
    of(&cloud).read().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let recorded = directory.path().join("billing.jsonl");
    cloud.write_billing_requests(&recorded).unwrap();
    published_schema::check("cloudbilling.v1.trimmed.json", &recorded);
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_breaks_off_is_no_list() {
    let cloud = cloud().await;
    let mut fault = Fault::once("GET", "/v1/services/*", FaultAction::Status { code: 503 });
    fault.skip = 2;
    cloud.inject(fault);
    let error = of(&cloud).read().await.unwrap_err();
    assert!(matches!(error, ProviderError::OutcomeUnknown { .. }), "{error}");
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_which_api_to_switch_on() {
    let cloud = cloud().await;
    let error = billing(&cloud.billing_url(), "a-token-of-nobody")
        .read()
        .await
        .unwrap_err();
    assert!(matches!(error, ProviderError::Denied { .. }));
    let text = error.to_string();
    assert!(
        text.contains("gcloud services enable cloudbilling.googleapis.com") && !text.contains("a-token-of-nobody"),
        "{text}"
    );
    cloud.shutdown().await;
}

#[tokio::test]
async fn a_list_without_end_or_sense_is_given_up() {
    let endless = FakeServer::start(|request| {
        let at: u32 = request.query("pageToken").parse().unwrap_or(0);
        Reply::Json(200, json!({"skus": [], "nextPageToken": (at + 1).to_string()}))
    })
    .await;
    let error = billing(&endless.url, "t-0123456789").read().await.unwrap_err();
    assert!(error.to_string().contains("no end"), "{error}");
    assert_eq!(endless.seen().len(), PAGES_AT_MOST);
    assert!(
        endless
            .seen()
            .iter()
            .all(|request| request.authorization == "Bearer t-0123456789")
    );

    let circling = FakeServer::start(|_| Reply::Json(200, json!({"skus": [], "nextPageToken": "same"}))).await;
    let error = billing(&circling.url, "t-0123456789").read().await.unwrap_err();
    assert!(error.to_string().contains("again and again"), "{error}");

    let empty = FakeServer::start(|_| Reply::Json(200, json!({}))).await;
    assert!(
        billing(&empty.url, "t-0123456789").read().await.is_err(),
        "no price at all"
    );
    let page = FakeServer::start(|_| Reply::Text(200, "<html>".to_owned())).await;
    assert!(billing(&page.url, "t-0123456789").read().await.is_err());
}
