//! Associations in a local directory, one file each: the store of `warmspare serve`.
//!
//! # Guarantees
//! A file is replaced by a rename, so it is old or new, never torn, whatever is killed when. Compare-and-set holds between processes: it happens under
//! a lock that the kernel releases when its holder dies. What was acknowledged is on disk.
//!
//! # Assumptions
//! A local file system: locks and renames of network file systems promise less.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use warmspare_domain::ids::AssociationId;

use crate::associations::{Associations, Objects, Precondition};
use crate::ports::{StoreError, Version};
use crate::wire::Stored;

/// Associations in a directory.
pub type DirectoryAssociations = Associations<DirectoryObjects>;

/// Objects in a directory.
#[derive(Debug, Clone)]
pub struct DirectoryObjects {
    directory: Arc<PathBuf>,
}

impl DirectoryAssociations {
    /// As [`DirectoryObjects::open`].
    ///
    /// # Errors
    /// When the directory cannot be made or written to.
    pub fn open(directory: &Path) -> io::Result<Self> {
        DirectoryObjects::open(directory).map(Self::over)
    }
}

impl DirectoryObjects {
    /// Opens a directory, which is made when it is missing, readable by its owner only.
    ///
    /// # Errors
    /// When it cannot be made or written to.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        // One that was there may be open to others.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        let store = Self {
            directory: Arc::new(directory.to_owned()),
        };
        let lock = store.lock()?;
        store.remove_leftovers()?;
        drop(lock);
        Ok(store)
    }

    /// What a writer left that died before its rename. Only under the lock: nobody is writing then.
    fn remove_leftovers(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.directory.as_path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// One lock for all: writes are rare, and the kernel releases it when its holder dies.
    fn lock(&self) -> io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(self.directory.join("lock"))?;
        file.lock()?;
        Ok(file)
    }

    fn path(&self, id: AssociationId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn read_now(&self, id: AssociationId) -> Result<Option<Stored>, StoreError> {
        let path = self.path(id);
        match fs::read(&path) {
            Ok(bytes) => Stored::from_bytes(&bytes)
                .map(Some)
                .map_err(|error| StoreError::Corrupt {
                    id,
                    source: at(&path, error),
                }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable(&path, error)),
        }
    }

    /// Under the lock only.
    fn publish(&self, stored: &Stored) -> Result<Version, StoreError> {
        let path = self.path(stored.association.id);
        let fresh = path.with_extension("new");
        let written = stored.to_bytes().map_err(io::Error::other).and_then(|bytes| {
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            // The name, too, must survive a power cut.
            File::open(self.directory.as_path())?.sync_all()
        });
        written.map_err(|error| unavailable(&path, error))?;
        Ok(version(stored))
    }

    fn write_now(&self, stored: &Stored, precondition: &Precondition) -> Result<Version, StoreError> {
        let id = stored.association.id;
        let _lock = self.lock().map_err(|error| unavailable(&self.directory, error))?;
        match (self.read_now(id)?, precondition) {
            (None, Precondition::Absent) => self.publish(stored),
            (Some(found), Precondition::Is(expected)) if version(&found) == *expected => self.publish(stored),
            (Some(_), _) | (None, Precondition::Is(_)) => Err(StoreError::Conflict(id)),
        }
    }

    fn list_now(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        let entries = fs::read_dir(self.directory.as_path()).map_err(|error| unavailable(&self.directory, error))?;
        let mut listed = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| unavailable(&self.directory, error))?.file_name();
            let Some(id) = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(|stem| stem.parse().ok())
            else {
                continue;
            };
            // One unreadable file must not hide the others; reading it by itself says what is wrong.
            let version = match self.read_now(id) {
                Ok(Some(stored)) => version(&stored),
                Ok(None) => continue,
                Err(StoreError::Corrupt { .. }) => Version("unreadable".to_owned()),
                Err(error) => return Err(error),
            };
            listed.push((id, version));
        }
        listed.sort_unstable_by_key(|(id, _)| *id);
        Ok(listed)
    }

    /// File work may block for as long as a disk likes, so it happens off the runtime's own threads.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .unwrap_or_else(|error| Err(StoreError::Unavailable(error.into())))
    }
}

fn version(stored: &Stored) -> Version {
    Version(stored.nonce.clone())
}

#[async_trait]
impl Objects for DirectoryObjects {
    async fn read(&self, id: AssociationId) -> Result<Option<(Stored, Version)>, StoreError> {
        let stored = self.off_thread(move |this| this.read_now(id)).await?;
        Ok(stored.map(|stored| (stored.clone(), version(&stored))))
    }

    async fn write(&self, stored: &Stored, precondition: &Precondition) -> Result<Version, StoreError> {
        let (stored, precondition) = (stored.clone(), precondition.clone());
        self.off_thread(move |this| this.write_now(&stored, &precondition))
            .await
    }

    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        self.off_thread(Self::list_now).await
    }
}

/// An error with the file it is about.
#[derive(Debug, thiserror::Error)]
#[error("{}; move the file away to go on without it, or restore it from a backup of the state directory", path.display())]
struct AtFile {
    path: PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn at(
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(AtFile {
        path: path.to_owned(),
        source: source.into(),
    })
}

fn unavailable(path: &Path, error: io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    StoreError::Unavailable(io::Error::new(error.kind(), text).into())
}

#[cfg(test)]
mod tests;
