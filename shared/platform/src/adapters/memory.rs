//! Associations in memory, for tests: as strict about versions as the real stores.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use warmspare_domain::association::Association;
use warmspare_domain::ids::AssociationId;

use crate::ports::{AssociationStore, StoreError, Version, Versioned};
use crate::wire::Stored;

/// Associations in memory.
#[derive(Debug, Default)]
pub struct MemoryAssociations(Mutex<BTreeMap<AssociationId, Stored>>);

impl MemoryAssociations {
    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<AssociationId, Stored>> {
        // A panic elsewhere cannot leave the map half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl AssociationStore for MemoryAssociations {
    async fn get(&self, id: AssociationId) -> Result<Option<Versioned>, StoreError> {
        let stored = self.locked().get(&id).cloned();
        Ok(stored.map(|stored| Versioned {
            version: Version(stored.version()),
            association: stored.association,
        }))
    }

    async fn create(&self, association: &Association) -> Result<Version, StoreError> {
        match self.locked().entry(association.id) {
            std::collections::btree_map::Entry::Occupied(_) => Err(StoreError::Conflict(association.id)),
            std::collections::btree_map::Entry::Vacant(slot) => {
                Ok(Version(slot.insert(Stored::first(association)).version()))
            }
        }
    }

    async fn update(&self, association: &Association, read_at: &Version) -> Result<Version, StoreError> {
        match self.locked().get_mut(&association.id) {
            Some(stored) if stored.version() == read_at.0 => {
                *stored = stored.next(association);
                Ok(Version(stored.version()))
            }
            Some(_) | None => Err(StoreError::Conflict(association.id)),
        }
    }

    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        Ok(self
            .locked()
            .iter()
            .map(|(id, stored)| (*id, Version(stored.version())))
            .collect())
    }
}
