//! A store that a warm process reads only where something changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use warmspare_domain::association::{Association, Phase, Space};
use warmspare_domain::ids::AssociationId;

use crate::associations::read_many;
use crate::ports::{AssociationStore, StoreError, Version, Versioned};

/// Reads through, but answers from memory what a listing just said is still that version.
///
/// # Guarantees
/// Only protected associations without a superseded GPU and with room on their disk are answered from memory: of those the rules order and delete
/// nothing, a sync carries its epoch and is refused by the agent when it is old, and a decision on an older version loses the race at the store. A
/// superseded GPU may be due to be destroyed, and by now be the one that the data was restored onto; a short disk is due to grow, and may by now have
/// grown, or have another cap. What is destroyed or paid for is never decided from memory.
pub struct Recalled {
    store: Arc<dyn AssociationStore>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    read: BTreeMap<AssociationId, Versioned>,
    listed: BTreeMap<AssociationId, Version>,
}

impl Recalled {
    /// Over this store; remembers nothing yet.
    pub fn over(store: Arc<dyn AssociationStore>) -> Self {
        Self {
            store,
            memory: Mutex::default(),
        }
    }

    /// Takes over what a listing said a moment ago.
    pub fn listed(&self, versions: impl IntoIterator<Item = (AssociationId, Version)>) {
        self.locked().listed.extend(versions);
    }

    /// Every association with its version; only what changed is read. One that cannot be read is reported and left out.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn all(&self) -> Result<Vec<Versioned>, StoreError> {
        let (mut all, mut unknown) = (Vec::new(), Vec::new());
        for (id, version) in self.store.list().await? {
            let memory = self.locked();
            match memory.read.get(&id).filter(|read| read.version == version) {
                Some(known) => all.push(known.clone()),
                None => unknown.push(id),
            }
        }
        for read in read_many(&self.store, unknown).await? {
            self.locked().read.insert(read.association.id, read.clone());
            all.push(read);
        }
        all.sort_unstable_by_key(|read| read.association.id);
        Ok(all)
    }

    /// Whether it was protected when it was read last.
    #[must_use]
    pub fn is_protected(&self, id: AssociationId) -> bool {
        let memory = self.locked();
        let read = memory.read.get(&id);
        read.is_some_and(|read| matches!(read.association.phase, Phase::Protected))
    }

    fn recall(&self, id: AssociationId) -> Option<Versioned> {
        let memory = self.locked();
        let read = memory.read.get(&id)?;
        let fresh = memory.listed.get(&id) == Some(&read.version);
        (fresh && is_calm(&read.association)).then(|| read.clone())
    }

    fn remember(&self, association: &Association, version: &Version) {
        let mut memory = self.locked();
        // What the listing said is older than this.
        memory.listed.remove(&association.id);
        let read = Versioned {
            association: association.clone(),
            version: version.clone(),
        };
        memory.read.insert(association.id, read);
    }

    fn forget(&self, id: AssociationId) {
        let mut memory = self.locked();
        memory.listed.remove(&id);
        memory.read.remove(&id);
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Memory> {
        // A panic elsewhere cannot leave the maps half-written.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing but fenced passes can follow from it.
fn is_calm(association: &Association) -> bool {
    matches!(association.phase, Phase::Protected)
        && association.superseded.is_empty()
        && association.standby.disk.space == Space::Enough
}

#[async_trait]
impl AssociationStore for Recalled {
    async fn get(&self, id: AssociationId) -> Result<Option<Versioned>, StoreError> {
        if let Some(known) = self.recall(id) {
            return Ok(Some(known));
        }
        let read = self.store.get(id).await?;
        match &read {
            Some(read) => {
                let mut memory = self.locked();
                if memory.listed.get(&id).is_some_and(|listed| *listed != read.version) {
                    memory.listed.remove(&id);
                }
                memory.read.insert(id, read.clone());
            }
            None => self.forget(id),
        }
        Ok(read)
    }

    async fn create(&self, association: &Association) -> Result<Version, StoreError> {
        let version = self.store.create(association).await?;
        self.remember(association, &version);
        Ok(version)
    }

    async fn update(&self, association: &Association, read_at: &Version) -> Result<Version, StoreError> {
        match self.store.update(association, read_at).await {
            Ok(version) => {
                self.remember(association, &version);
                Ok(version)
            }
            Err(error) => {
                self.forget(association.id);
                Err(error)
            }
        }
    }

    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        self.store.list().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use warmspare_domain::ids::GpuId;

    use super::*;
    use crate::adapters::memory::MemoryAssociations;
    use crate::contract::fixture;

    /// Counts the reads that reach the store.
    #[derive(Default)]
    struct Counting {
        store: MemoryAssociations,
        reads: AtomicUsize,
    }

    #[async_trait]
    impl AssociationStore for Counting {
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
            self.store.list().await
        }
    }

    async fn beat(recalled: &Recalled, counting: &Counting) -> (usize, Versioned) {
        recalled.listed(counting.list().await.unwrap());
        let before = counting.reads.load(Ordering::SeqCst);
        let read = recalled.get(fixture(7).id).await.unwrap().unwrap();
        (counting.reads.load(Ordering::SeqCst) - before, read)
    }

    #[tokio::test]
    async fn only_what_changed_is_read_and_never_what_is_not_protected() {
        let counting = Arc::new(Counting::default());
        let recalled = Recalled::over(Arc::clone(&counting) as Arc<dyn AssociationStore>);
        let mut association = fixture(7);
        let version = counting.create(&association).await.unwrap();
        assert_eq!(beat(&recalled, &counting).await.0, 1);
        assert_eq!(beat(&recalled, &counting).await.0, 1, "still provisioning: always read");

        association.phase = Phase::Protected;
        let version = counting.update(&association, &version).await.unwrap();
        assert_eq!(beat(&recalled, &counting).await.0, 1, "another process changed it");
        assert_eq!(beat(&recalled, &counting).await.0, 0, "nothing changed");

        association.superseded.insert(GpuId::vast(6));
        let version = counting.update(&association, &version).await.unwrap();
        assert_eq!(beat(&recalled, &counting).await.0, 1);
        assert_eq!(
            beat(&recalled, &counting).await.0,
            1,
            "a GPU may be due to be destroyed: always read"
        );
        association.superseded.clear();

        let elsewhere = counting.update(&association, &version).await.unwrap();
        let (reads, read) = beat(&recalled, &counting).await;
        assert_eq!((reads, read.version), (1, elsewhere), "it changed again");
    }

    #[tokio::test]
    async fn a_disk_that_is_due_to_grow_is_always_read() {
        let counting = Arc::new(Counting::default());
        let recalled = Recalled::over(Arc::clone(&counting) as Arc<dyn AssociationStore>);
        let mut association = fixture(7);
        association.phase = Phase::Protected;
        association.standby.disk.space = Space::Short;
        let version = counting.create(&association).await.unwrap();
        assert_eq!(beat(&recalled, &counting).await.0, 1);
        assert_eq!(beat(&recalled, &counting).await.0, 1, "it may have grown by now");

        association.standby.disk.space = Space::Enough;
        counting.update(&association, &version).await.unwrap();
        assert_eq!(beat(&recalled, &counting).await.0, 1, "it has grown");
        assert_eq!(beat(&recalled, &counting).await.0, 0, "and is calm again");
    }

    #[tokio::test]
    async fn everything_is_read_once_and_then_only_what_changed() {
        let counting = Arc::new(Counting::default());
        let recalled = Recalled::over(Arc::clone(&counting) as Arc<dyn AssociationStore>);
        for contract in 1..=20 {
            counting.create(&fixture(contract)).await.unwrap();
        }
        let reads = || counting.reads.load(Ordering::SeqCst);
        assert_eq!((recalled.all().await.unwrap().len(), reads()), (20, 20));
        assert_eq!((recalled.all().await.unwrap().len(), reads()), (20, 20));
        let read = counting.store.get(fixture(3).id).await.unwrap().unwrap();
        counting.update(&read.association, &read.version).await.unwrap();
        let all = recalled.all().await.unwrap();
        assert_eq!((all.len(), reads()), (20, 21));
        assert!(all.is_sorted_by_key(|read| read.association.id));
    }

    #[tokio::test]
    async fn a_lost_race_is_not_answered_from_memory() {
        let counting = Arc::new(Counting::default());
        let recalled = Recalled::over(Arc::clone(&counting) as Arc<dyn AssociationStore>);
        let mut association = fixture(7);
        association.phase = Phase::Protected;
        let version = counting.create(&association).await.unwrap();
        let (_, read) = beat(&recalled, &counting).await;
        // Somebody writes between our listing and our update.
        let newer = counting.update(&association, &version).await.unwrap();
        let lost = recalled.update(&association, &read.version).await;
        assert!(matches!(lost, Err(StoreError::Conflict(_))));
        assert_eq!(recalled.get(association.id).await.unwrap().unwrap().version, newer);
    }
}
