//! What driving a fleet costs a month: operations are counted while the real planner and the real recalling store play their minutes, and priced
//! with the list prices of `reference/aws/aws.md` and `reference/google/storage.md` (2026-11, us regions, arm64, free tiers not subtracted).

#![allow(clippy::unwrap_used, reason = "a test, with helpers of its own")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use warmspare_domain::association::{Association, Phase};
use warmspare_domain::ids::{AssociationId, GpuId};
use warmspare_domain::units::Timestamp;
use warmspare_functions::costs::{BATCH, Operations, PAGE, per_gpu_month};
use warmspare_platform::adapters::memory::MemoryAssociations;
use warmspare_platform::config::Config;
use warmspare_platform::ports::{AssociationStore, StoreError, Version, Versioned};
use warmspare_platform::recalled::Recalled;
use warmspare_platform::slots::{Tick, next_minute};

/// Counts what reaches the bucket.
#[derive(Default)]
struct Counted {
    store: MemoryAssociations,
    reads: AtomicU32,
    lists: AtomicU32,
}

#[async_trait]
impl AssociationStore for Counted {
    async fn get(&self, id: AssociationId) -> Result<Option<Versioned>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.store.get(id).await
    }
    async fn create(&self, association: &Association) -> Result<Version, StoreError> {
        self.store.create(association).await
    }
    async fn update(&self, association: &Association, read_at: &Version) -> Result<Version, StoreError> {
        self.store.update(association, read_at).await
    }
    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.store.list().await
    }
}

/// A fleet in its calm, and the execution environments that drive it.
struct Fleet {
    gpus: u32,
    shards: u32,
    counted: Arc<Counted>,
    planner: Recalled,
    workers: Vec<Recalled>,
}

impl Fleet {
    /// Every environment has read everything once: that first hour is not what a month looks like.
    async fn new(gpus: u32, shards: u32, environments: u32) -> Self {
        let counted = Arc::new(Counted::default());
        for contract in 1..=gpus {
            counted.store.create(&protected(contract)).await.unwrap();
        }
        let warm = || Recalled::over(Arc::clone(&counted) as Arc<dyn AssociationStore>);
        let (planner, workers): (_, Vec<_>) = (warm(), (0..environments).map(|_| warm()).collect());
        for environment in workers.iter().chain([&planner]) {
            environment.all().await.unwrap();
        }
        counted.reads.store(0, Ordering::SeqCst);
        counted.lists.store(0, Ordering::SeqCst);
        Self {
            gpus,
            shards,
            counted,
            planner,
            workers,
        }
    }

    /// Plays these minutes; answers how many messages were queued.
    async fn play(&self, minutes: u32) -> u32 {
        let mut now: Timestamp = "2026-11-23T00:00:20Z".parse().unwrap();
        let (mut messages, mut beats) = (0, 0);
        for _ in 0..minutes {
            let all = self.planner.all().await.unwrap();
            let listed: BTreeMap<_, _> = all
                .into_iter()
                .map(|read| (read.association.id, read.version))
                .collect();
            for (one, worker) in next_minute(now, self.shards, &listed)
                .into_iter()
                .zip(self.workers.iter().cycle())
            {
                let Tick::Slot { associations, .. } = one.message.tick else {
                    panic!("the planner planned a look")
                };
                messages += 1;
                beats += associations.len();
                drive(worker, associations).await;
            }
            now = now + Duration::from_secs(60);
        }
        assert_eq!(beats, (self.gpus * minutes * 2) as usize, "every GPU is in every beat");
        messages
    }

    /// What these minutes needed.
    async fn operations(&self, minutes: u32) -> Operations {
        let messages = self.play(minutes).await;
        Operations {
            minutes,
            messages,
            sends: minutes * (messages / minutes).div_ceil(BATCH),
            pages: self.counted.lists.load(Ordering::SeqCst) * self.gpus.div_ceil(PAGE),
            reads: self.counted.reads.load(Ordering::SeqCst),
            gpus_a_shard: self.gpus.div_ceil(self.shards),
        }
    }

    async fn dollars_per_gpu_month(&self, minutes: u32) -> f64 {
        self.operations(minutes).await.dollars_a_month() / f64::from(self.gpus)
    }
}

/// What a calm beat asks of the store: what does it need, and what is to be decided.
async fn drive(worker: &Recalled, associations: BTreeMap<AssociationId, String>) {
    let ids: Vec<_> = associations.keys().copied().collect();
    worker.listed(associations.into_iter().map(|(id, version)| (id, Version(version))));
    for id in ids {
        for _ in 0..2 {
            worker.get(id).await.unwrap().unwrap();
        }
    }
}

fn protected(contract: u32) -> Association {
    let settings =
        [("vast_api_key", "k"), ("gcp_project", "p")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_settings(&settings.into()).unwrap();
    let now = "2026-11-23T00:00:00Z".parse().unwrap();
    let mut association = Association::new(config.deployment, GpuId::vast(contract.into()), config.policy, now);
    association.phase = Phase::Protected;
    association
}

#[tokio::test]
async fn ten_thousand_gpus_cost_at_most_three_cents_each_and_one_alone_a_dollar_and_a_half() {
    let one = Fleet::new(1, 1, 1).await.dollars_per_gpu_month(24 * 60).await;
    let hundred = Fleet::new(100, 1, 2).await.dollars_per_gpu_month(60).await;
    let many = Fleet::new(10_000, 100, 10).await.dollars_per_gpu_month(3).await;
    println!("dollars a GPU and month: 1 GPU {one:.3}, 100 GPUs {hundred:.4}, 10,000 GPUs {many:.4}");
    assert!(many <= 0.03, "{many}");
    assert!(hundred <= 0.05, "{hundred}");
    assert!(one <= 1.5, "{one}");
}

#[tokio::test]
async fn the_share_that_an_estimate_names_is_what_really_happens() {
    for (gpus, shards, minutes) in [(1, 1, 60), (100, 1, 30), (1000, 10, 3)] {
        let counted = Fleet::new(gpus, shards, 2).await.dollars_per_gpu_month(minutes).await;
        let named = per_gpu_month(gpus).dollars();
        assert!(
            (named - counted).abs() < 0.02 * counted,
            "{gpus} GPUs: {named} named, {counted} counted"
        );
    }
}
