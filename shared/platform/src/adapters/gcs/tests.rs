use secrecy::SecretString;
use simcloud::{Fault, FaultAction, Options, Simcloud};
use warmspare_domain::association::Association;

use super::*;
use crate::adapters::google::StaticToken;
use crate::contract::{association_store_contract, fixture};
use crate::ports::AssociationStore;
use crate::report;

async fn cloud() -> Simcloud {
    Simcloud::start(Options::default()).await.unwrap()
}

async fn objects(cloud: &Simcloud, bucket: &str, token: &str) -> GcsObjects {
    let settings = GcsSettings {
        endpoint: cloud.base_url(),
        bucket: bucket.to_owned(),
    };
    let tokens = Arc::new(StaticToken::new(SecretString::from(token)));
    GcsObjects::new(settings, tokens).await.unwrap()
}

async fn of(cloud: &Simcloud) -> GcsObjects {
    let options = cloud.options();
    objects(cloud, &options.bucket, &options.compute_token).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_keeps_the_contract_and_googles_published_schema() {
    let cloud = cloud().await;
    association_store_contract(async || {
        cloud.lose_bucket();
        of(&cloud).await
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let recorded = directory.path().join("storage.jsonl");
    cloud.write_storage_requests(&recorded).unwrap();
    assert!(std::fs::metadata(&recorded).unwrap().len() > 0);
    crate::adapters::published_schema::check("storage.v1.trimmed.json", &recorded);
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_lost_on_the_wire_are_recognised_as_our_own_writes() {
    let cloud = cloud().await;
    let store = Associations::over(of(&cloud).await);
    cloud.inject(Fault::once("POST", "/upload/storage/*", FaultAction::LoseAnswer));
    let version = store.create(&fixture(7)).await.unwrap();
    // Every attempt of the client loses its answer, the first one's write has happened.
    cloud.inject(Fault::once("POST", "/upload/storage/*", FaultAction::LoseAnswer).times(ATTEMPTS));
    let version = store.update(&fixture(7), &version).await.unwrap();
    let read = store.get(fixture(7).id).await.unwrap().unwrap();
    assert_eq!(read.version, version);
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_and_more_are_listed_and_tombstones_carry_their_end() {
    let cloud = cloud().await;
    let store = of(&cloud).await;
    let mut writes = tokio::task::JoinSet::new();
    let store = Arc::new(store);
    for contract in 1..=1003 {
        let store = Arc::clone(&store);
        writes.spawn(async move {
            store
                .write(&Stored::new(&fixture(contract)), &Precondition::Absent)
                .await
        });
    }
    for written in writes.join_all().await {
        written.unwrap();
    }
    let listed = store.list().await.unwrap();
    assert_eq!(listed.len(), 1003);
    assert!(listed.is_sorted_by_key(|(id, _)| *id));

    let living = fixture(5000);
    let tombstone = Association::released_before_it_began(
        living.deployment.clone(),
        living.gpu,
        living.policy.clone(),
        living.created_at,
    );
    store
        .write(&Stored::new(&tombstone), &Precondition::Absent)
        .await
        .unwrap();
    let last = cloud.requests().pop().unwrap();
    assert_eq!(last.body["customTime"], "2026-11-23T13:45:30.25Z", "{:?}", last.body);
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bucket_no_access_and_silence_end_soon_and_say_what_to_do() {
    let cloud = cloud().await;
    let options = cloud.options().clone();
    let missing = objects(&cloud, "elsewhere", &options.compute_token).await;
    let refused = objects(&cloud, &options.bucket, "somebody else's").await;
    for (objects, words) in [(&missing, "404"), (&refused, "401")] {
        let store = objects.list().await.unwrap_err();
        let text = report::chain(&store);
        assert!(text.contains("does the bucket exist") && text.contains(words), "{text}");
        assert!(
            matches!(
                objects.write(&Stored::new(&fixture(7)), &Precondition::Absent).await,
                Err(StoreError::Unavailable(_))
            ),
            "a write that was refused"
        );
    }
    cloud.inject(Fault::once("GET", "/storage/*", FaultAction::Status { code: 503 }).times(100));
    let store = of(&cloud).await;
    assert!(matches!(
        store.read(fixture(7).id).await,
        Err(StoreError::Unavailable(_))
    ));
    let asked = cloud.requests().iter().filter(|one| one.status == 503).count();
    assert_eq!(asked, ATTEMPTS as usize, "a function cannot afford more");
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_price_list_of_one_function_is_found_by_another_and_is_no_association() {
    let cloud = cloud().await;
    let shelf = of(&cloud).await.prices();
    assert!(shelf.load().await.unwrap().is_none());
    let now = warmspare_domain::units::Timestamp::from_millis(7);
    for price in [1, 2] {
        let prices = crate::prices::tests::live_spot(now, &[("us-west4", price, price)]);
        shelf.save(&prices).await.unwrap();
        let other = of(&cloud).await;
        assert_eq!(other.prices().load().await.unwrap().as_ref(), Some(&*prices));
    }
    assert!(of(&cloud).await.list().await.unwrap().is_empty());
    assert!(of(&cloud).await.heartbeats().read().await.unwrap().is_empty());
    cloud.shutdown().await;
}
