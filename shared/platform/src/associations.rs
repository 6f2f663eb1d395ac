//! The association store over any place that can write an object on a condition.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use warmspare_domain::association::Association;
use warmspare_domain::ids::AssociationId;

use crate::ports::{AssociationStore, StoreError, Version, Versioned};
use crate::report;
use crate::wire::Stored;

/// What must hold for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// There is no such object.
    Absent,
    /// It is still this version.
    Is(Version),
}

/// A place that keeps one object per association and writes it on a condition. Answers may be lost on the way.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Reads an object; `None` when there is none.
    async fn read(&self, id: AssociationId) -> Result<Option<(Stored, Version)>, StoreError>;

    /// Writes an object.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the precondition does not hold, [`StoreError::Unavailable`] when it may or may not have been written.
    async fn write(&self, stored: &Stored, precondition: &Precondition) -> Result<Version, StoreError>;

    /// Lists all objects with their versions, in the order of their ids.
    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError>;
}

/// Associations as objects. A write whose answer was lost is recognised by its nonce and reported as done.
#[derive(Debug, Clone, Default)]
pub struct Associations<O>(O);

impl<O: Objects> Associations<O> {
    /// Associations in this place.
    pub fn over(objects: O) -> Self {
        Self(objects)
    }

    async fn commit(&self, association: &Association, precondition: &Precondition) -> Result<Version, StoreError> {
        let stored = Stored::new(association);
        let error = match self.0.write(&stored, precondition).await {
            Ok(version) => return Ok(version),
            Err(error @ (StoreError::Conflict(_) | StoreError::Unavailable(_))) => error,
            Err(error @ StoreError::Corrupt { .. }) => return Err(error),
        };
        // Even a conflict may be our own doing: clients repeat a write that got no answer, and then our first try blocks the second.
        match self.0.read(association.id).await {
            Ok(Some((found, version))) if found.nonce == stored.nonce => Ok(version),
            Ok(_) | Err(_) => Err(error),
        }
    }
}

#[async_trait]
impl<O: Objects> AssociationStore for Associations<O> {
    async fn get(&self, id: AssociationId) -> Result<Option<Versioned>, StoreError> {
        let read = self.0.read(id).await?;
        Ok(read.map(|(stored, version)| Versioned {
            association: stored.association,
            version,
        }))
    }

    async fn create(&self, association: &Association) -> Result<Version, StoreError> {
        self.commit(association, &Precondition::Absent).await
    }

    async fn update(&self, association: &Association, read_at: &Version) -> Result<Version, StoreError> {
        self.commit(association, &Precondition::Is(read_at.clone())).await
    }

    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        self.0.list().await
    }
}

/// Reads under way at the same time: a bucket starts at some 5,000 a second, a function has seconds.
const READS_AT_ONCE: usize = 64;

/// Reads these, many at a time, in the order of their ids. One that cannot be read is reported and left out, as is one that is gone.
pub(crate) async fn read_many(
    store: &Arc<dyn AssociationStore>,
    ids: impl IntoIterator<Item = AssociationId>,
) -> Result<Vec<Versioned>, StoreError> {
    let (mut found, mut reads) = (Vec::new(), JoinSet::new());
    let slots = Arc::new(Semaphore::new(READS_AT_ONCE));
    for id in ids {
        let (store, slots) = (Arc::clone(store), Arc::clone(&slots));
        reads.spawn(async move {
            let _slot = slots.acquire().await;
            (id, store.get(id).await)
        });
    }
    while let Some(read) = reads.join_next().await {
        match read {
            Ok((_, Ok(read))) => found.extend(read),
            Ok((id, Err(error @ StoreError::Corrupt { .. }))) => {
                tracing::error!(gpu.id = %id, error = report::chain(&error), "an association cannot be read; its standby is left alone");
            }
            Ok((_, Err(error))) => return Err(error),
            Err(panicked) => return Err(StoreError::Unavailable(panicked.into())),
        }
    }
    found.sort_unstable_by_key(|read| read.association.id);
    Ok(found)
}
