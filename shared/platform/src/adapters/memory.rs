//! Associations in memory, for tests: as strict about versions as the real stores.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use warmspare_domain::ids::AssociationId;

use crate::associations::{Associations, Objects, Precondition};
use crate::ports::{StoreError, Version};
use crate::wire::Stored;

/// Associations in memory.
pub type MemoryAssociations = Associations<MemoryObjects>;

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryObjects(Mutex<BTreeMap<AssociationId, Stored>>);

impl MemoryObjects {
    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<AssociationId, Stored>> {
        // A panic elsewhere cannot leave the map half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version(stored: &Stored) -> Version {
    Version(stored.nonce.clone())
}

#[async_trait]
impl Objects for MemoryObjects {
    async fn read(&self, id: AssociationId) -> Result<Option<(Stored, Version)>, StoreError> {
        let stored = self.locked().get(&id).cloned();
        Ok(stored.map(|stored| (stored.clone(), version(&stored))))
    }

    async fn write(&self, stored: &Stored, precondition: &Precondition) -> Result<Version, StoreError> {
        let id = stored.association.id;
        let mut objects = self.locked();
        let holds = match (objects.get(&id), precondition) {
            (None, Precondition::Absent) => true,
            (Some(found), Precondition::Is(expected)) => version(found) == *expected,
            (None, Precondition::Is(_)) | (Some(_), Precondition::Absent) => false,
        };
        if !holds {
            return Err(StoreError::Conflict(id));
        }
        objects.insert(id, stored.clone());
        Ok(version(stored))
    }

    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        Ok(self
            .locked()
            .iter()
            .map(|(id, stored)| (*id, version(stored)))
            .collect())
    }
}
