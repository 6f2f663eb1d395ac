//! What every association store must keep, as one suite that runs on each of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use warmspare_domain::association::Association;
use warmspare_domain::ids::{AssociationId, GpuId};
use warmspare_domain::policy::{
    Failover, MachineSpec, Policy, Provisioning, StandbyProvider, SupersededGpu, WhenDeletedAtVast,
};
use warmspare_domain::units::Timestamp;
use warmspare_domain::warrant::ReleaseWarrant;

use crate::associations::{Associations, Objects, Precondition};
use crate::ports::{AssociationStore, StoreError, Version};
use crate::wire::Stored;

/// A warrant as it comes from a store: here nobody but the rules can make one.
pub(crate) fn warrant() -> ReleaseWarrant {
    serde_json::from_str("\"user_request\"").expect("a literal ground parses")
}

/// An association of some GPU.
#[must_use]
pub(crate) fn fixture(contract: u64) -> Association {
    let policy = Policy {
        source_path: "/workspace".to_owned(),
        excludes: vec!["*.tmp".to_owned()],
        includes: Vec::new(),
        first: Vec::new(),
        before_pass: String::new(),
        lag_objective: Policy::DEFAULT_LAG_OBJECTIVE,
        max_deleted_percent: Policy::DEFAULT_MAX_DELETED_PERCENT,
        machine: MachineSpec {
            provider: StandbyProvider::Gcp,
            machine_type: "e2-medium".to_owned(),
            disk_gb: 100,
            disk_type: "pd-standard".to_owned(),
            provisioning: Provisioning::Spot,
            zones: vec!["us-central1-a".parse().expect("a literal zone parses")],
        },
        max_disk_gb: Policy::DEFAULT_MAX_DISK_GB,
        bandwidth_kib_per_s: 0,
        retention: Policy::DEFAULT_RETENTION,
        stop_standby_after: Policy::DEFAULT_STOP_STANDBY_AFTER,
        when_deleted_at_vast: WhenDeletedAtVast::Hold,
        failover: Failover::Manual,
        superseded: SupersededGpu::Keep,
    };
    let deployment = "test".parse().expect("a literal deployment parses");
    Association::new(
        deployment,
        GpuId::vast(contract),
        policy,
        Timestamp::from_millis(1_795_441_530_250),
    )
}

/// Runs the suite; `make` gives a fresh, empty place each time.
///
/// # Panics
/// When the store over it breaks a promise.
pub(crate) async fn association_store_contract<O: Objects + 'static>(make: impl AsyncFn() -> O) {
    let sound = async || Arc::new(Associations::over(make().await));
    one_creator_wins(&*sound().await).await;
    stale_updates_change_nothing(&*sound().await).await;
    versions_never_repeat(&*sound().await).await;
    lists_agree_with_reads(&*sound().await).await;
    one_of_twenty_creators_wins(sound().await).await;
    twenty_writers_lose_nothing(sound().await).await;
    let losing_answers = async || Arc::new(Associations::over(LosesAnswers::over(make().await)));
    one_creator_wins(&*losing_answers().await).await;
    one_of_twenty_creators_wins(losing_answers().await).await;
    a_lone_writer_knows_what_it_wrote(&*losing_answers().await).await;
}

/// A place whose writes happen, and whose answers to two writes of three are lost: one as silence, one as the conflict that a client's own
/// repetition meets.
struct LosesAnswers<O> {
    objects: O,
    writes: AtomicUsize,
}

impl<O> LosesAnswers<O> {
    fn over(objects: O) -> Self {
        Self {
            objects,
            writes: AtomicUsize::new(0),
        }
    }
}

#[async_trait]
impl<O: Objects> Objects for LosesAnswers<O> {
    async fn read(&self, id: AssociationId) -> Result<Option<(Stored, Version)>, StoreError> {
        self.objects.read(id).await
    }

    async fn write(&self, stored: &Stored, precondition: &Precondition) -> Result<Version, StoreError> {
        let version = self.objects.write(stored, precondition).await?;
        match self.writes.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => Err(StoreError::Unavailable("the answer was lost".into())),
            1 => Err(StoreError::Conflict(stored.association.id)),
            _ => Ok(version),
        }
    }

    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        self.objects.list().await
    }
}

async fn one_creator_wins(store: &impl AssociationStore) {
    let association = fixture(7);
    assert!(store.get(association.id).await.expect("reads").is_none());
    let version = store.create(&association).await.expect("creates");
    assert!(
        matches!(store.create(&association).await, Err(StoreError::Conflict(_))),
        "created twice"
    );
    let read = store.get(association.id).await.expect("reads").expect("exists");
    assert_eq!((read.association, read.version), (association, version));
}

async fn stale_updates_change_nothing(store: &impl AssociationStore) {
    let association = fixture(7);
    assert!(
        matches!(
            store.update(&association, &Version("1".to_owned())).await,
            Err(StoreError::Conflict(_))
        ),
        "updated nothing"
    );
    let first = store.create(&association).await.expect("creates");
    let second = store.update(&counted(&association, 1), &first).await.expect("updates");
    assert_ne!(first, second, "versions never repeat");
    assert!(
        matches!(
            store.update(&counted(&association, 9), &first).await,
            Err(StoreError::Conflict(_))
        ),
        "a stale update won"
    );
    let read = store.get(association.id).await.expect("reads").expect("exists");
    assert_eq!((counter(&read.association), read.version), (1, second));
}

async fn versions_never_repeat(store: &impl AssociationStore) {
    let mut version = store.create(&fixture(7)).await.expect("creates");
    let mut seen = BTreeSet::from([version.0.clone()]);
    for _ in 0..20 {
        // The very same content, over and over.
        version = store.update(&fixture(7), &version).await.expect("updates");
        assert!(seen.insert(version.0.clone()), "version {} came twice", version.0);
    }
}

async fn lists_agree_with_reads(store: &impl AssociationStore) {
    assert!(store.list().await.expect("lists").is_empty());
    for contract in [30, 7, 100, 8] {
        store.create(&fixture(contract)).await.expect("creates");
    }
    let listed = store.list().await.expect("lists");
    let ids: Vec<_> = listed.iter().map(|(id, _)| id.first_gpu().contract()).collect();
    assert_eq!(ids, [7, 8, 30, 100], "in the order of their ids");
    for (id, version) in listed {
        assert_eq!(store.get(id).await.expect("reads").expect("exists").version, version);
    }
}

async fn one_of_twenty_creators_wins<S: AssociationStore + 'static>(store: Arc<S>) {
    let mut creators = JoinSet::new();
    for number in 0..20 {
        let store = Arc::clone(&store);
        creators.spawn(async move {
            store
                .create(&counted(&fixture(7), number))
                .await
                .is_ok()
                .then_some(number)
        });
    }
    let winners: Vec<_> = creators.join_all().await.into_iter().flatten().collect();
    let stored = store.get(fixture(7).id).await.expect("reads").expect("exists");
    assert_eq!(
        winners,
        [counter(&stored.association)],
        "exactly one wins, and its content stays"
    );
}

async fn a_lone_writer_knows_what_it_wrote(store: &impl AssociationStore) {
    let mut version = store.create(&fixture(7)).await.expect("creates");
    for count in 1..=20 {
        version = store
            .update(&counted(&fixture(7), count), &version)
            .await
            .expect("a write that happened is reported as done");
        let read = store.get(fixture(7).id).await.expect("reads").expect("exists");
        assert_eq!((counter(&read.association), &read.version), (count, &version));
    }
}

async fn twenty_writers_lose_nothing<S: AssociationStore + 'static>(store: Arc<S>) {
    store.create(&fixture(7)).await.expect("creates");
    let mut writers = JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for _ in 0..50 {
                add_one(&*store, fixture(7).id).await;
            }
        });
    }
    writers.join_all().await;
    let stored = store.get(fixture(7).id).await.expect("reads").expect("exists");
    assert_eq!(counter(&stored.association), 1000);
}

/// Reads, adds one, writes, until it wins; answers the number it wrote.
///
/// # Panics
/// When the store fails.
pub(crate) async fn add_one(store: &impl AssociationStore, id: AssociationId) -> u64 {
    loop {
        let read = store.get(id).await.expect("reads").expect("exists");
        let count = counter(&read.association) + 1;
        match store.update(&counted(&read.association, count), &read.version).await {
            Ok(_) => return count,
            Err(StoreError::Conflict(_)) => {}
            Err(error) => panic!("{}", crate::report::chain(&error)),
        }
    }
}

/// The number that [`add_one`] keeps in an association.
#[must_use]
pub(crate) fn counter(association: &Association) -> u64 {
    association.standby.wanted_until.since(association.created_at).as_secs()
}

fn counted(association: &Association, count: u64) -> Association {
    let mut next = association.clone();
    next.standby.wanted_until = association.created_at + Duration::from_secs(count);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::memory::MemoryObjects;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn memory_keeps_the_contract() {
        association_store_contract(async || MemoryObjects::default()).await;
    }
}
