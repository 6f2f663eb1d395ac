//! The agent's directory: where everything lies, and how a file is written so that a kill at any byte leaves the old or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::AgentError;

/// The agent's directory, absolute.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Opens the directory, making it (readable by its owner only) where it is missing.
    ///
    /// # Errors
    /// When it cannot be made or is not a directory.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        let shown = path.display();
        make(path).map_err(|error| AgentError::io(format!("make the data directory {shown}"), error))?;
        let root = path
            .canonicalize()
            .map_err(|error| AgentError::io(format!("open the data directory {shown}"), error))?;
        let dir = Self { root };
        for part in [dir.points(), dir.trash(), dir.logs()] {
            make(&part).map_err(|error| AgentError::io(format!("make {}", part.display()), error))?;
        }
        Ok(dir)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until everything that was done on its disk is on the disk for good.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn settle_disk(&self) -> std::io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }

    /// A file or directory directly inside.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The recovery points: one directory and one JSON file each.
    #[must_use]
    pub fn points(&self) -> PathBuf {
        self.file("recovery-points")
    }

    /// What a pass is filling.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.file("incoming")
    }

    /// What is on its way out.
    #[must_use]
    pub fn trash(&self) -> PathBuf {
        self.file("trash")
    }

    /// What detached workers wrote to their standard streams.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.file("logs")
    }

    /// Reads a JSON file; `None` when it does not exist.
    ///
    /// # Errors
    /// When it cannot be read or is not what this version of the agent, or an older one, wrote.
    pub fn read_json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, AgentError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(AgentError::io(format!("read {}", path.display()), error)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| AgentError::io(format!("understand {}", path.display()), error.into()))
    }

    /// Reads a JSON file that only survives a kill; one that a power failure tore stands for nothing.
    #[must_use]
    pub fn read_passing_json<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        self.read_json(path).ok().flatten()
    }

    /// Replaces a JSON file.
    ///
    /// # Errors
    /// When the disk is full or fails; the old file stays.
    pub fn write_json<T: Serialize>(&self, path: &Path, value: &T, durability: Durability) -> Result<(), AgentError> {
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| AgentError::io(format!("encode {}", path.display()), error.into()))?;
        self.replace(path, &bytes, durability)
    }

    /// Replaces a file's content atomically. It keeps its owner; a new one gets that of its directory.
    ///
    /// # Errors
    /// When the disk is full or fails; the old file stays.
    pub fn replace(&self, path: &Path, bytes: &[u8], durability: Durability) -> Result<(), AgentError> {
        let temporary = temporary_name(path);
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            keep_owner(&file, path)?;
            if durability != Durability::Kill {
                file.sync_all()?;
            }
            fs::rename(&temporary, path)?;
            if durability == Durability::PowerLoss {
                sync_parent(path)?;
            }
            Ok(())
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            AgentError::io(format!("write {}", path.display()), error)
        })
    }

    /// Takes a lock that ends with the last process that holds it, however that ends. `None` when another holds it.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn try_lock(&self, name: &str) -> Result<Option<File>, AgentError> {
        let file = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(AgentError::io(format!("lock {name}"), error)),
        }
    }

    /// Takes a lock for long work. Whoever only looks whether it is held holds it for an instant, so one refusal is not believed.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn lock_to_work(&self, name: &str) -> Result<Option<File>, AgentError> {
        let until = Instant::now() + Duration::from_millis(100);
        loop {
            let lock = self.try_lock(name)?;
            if lock.is_some() || Instant::now() >= until {
                return Ok(lock);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a lock that nobody holds for longer than one request takes.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn lock_briefly(&self, name: &str) -> Result<File, AgentError> {
        let file = self.lock_file(name)?;
        file.lock()
            .map_err(|error| AgentError::io(format!("lock {name}"), error))?;
        Ok(file)
    }

    /// Whether some process holds the lock.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn is_locked(&self, name: &str) -> Result<bool, AgentError> {
        Ok(self.try_lock(name)?.is_none())
    }

    fn lock_file(&self, name: &str) -> Result<File, AgentError> {
        let path = self.file(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| AgentError::io(format!("open {}", path.display()), error))
    }

    /// Removes what a killed writer of this directory left behind.
    pub fn remove_torn_writes(&self) {
        for place in [self.root.clone(), self.points()] {
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                let Some(owner) = owner_of_temporary(&entry.file_name().to_string_lossy()) else {
                    continue;
                };
                if !Path::new(&format!("/proc/{owner}")).exists() {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// What a written file survives. Whatever ends the writer, readers find the old or the new one, never a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A kill: such as progress, which a power failure may tear.
    Kill,
    /// A power failure, but perhaps as the old one.
    OldOrNew,
    /// A power failure, as the new one.
    PowerLoss,
}

/// Running as root through sudo, a file of the login's must stay the login's: sshd reads `authorized_keys` as that user.
fn keep_owner(file: &File, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let model = match fs::metadata(path) {
        Ok(found) => found,
        Err(_) => fs::metadata(path.parent().unwrap_or(Path::new("/")))?,
    };
    let is_root = file.metadata()?.uid() == 0;
    if is_root && model.uid() != 0 {
        fchown(file, Some(model.uid()), Some(model.gid()))
    } else {
        Ok(())
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp-{}", std::process::id()))
}

fn owner_of_temporary(name: &str) -> Option<u32> {
    let (_, owner) = name.strip_prefix('.')?.rsplit_once(".tmp-")?;
    owner.parse().ok()
}

/// Makes a rename or a removal in this path's directory durable.
///
/// # Errors
/// When the directory cannot be opened or the disk fails.
pub fn sync_parent(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Makes a file or directory private to its owner.
///
/// # Errors
/// When it belongs to somebody else.
pub fn make_private(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_is_never_read_and_is_cleared_away() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&place.path().join("data")).unwrap();
        let path = dir.file("state.json");
        dir.write_json(&path, &vec![1, 2, 3], Durability::PowerLoss).unwrap();
        // What a writer leaves that is killed before its rename. No process has this id: it is above the kernel's limit.
        fs::write(dir.file(".state.json.tmp-4194305"), b"[1, 2").unwrap();
        assert_eq!(dir.read_json::<Vec<u32>>(&path).unwrap(), Some(vec![1, 2, 3]));
        dir.remove_torn_writes();
        assert!(!dir.file(".state.json.tmp-4194305").exists());
        assert!(path.exists());
    }

    #[test]
    fn a_lock_is_free_again_when_its_holder_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let held = dir.try_lock("lock").unwrap().expect("nobody holds it");
        assert!(dir.is_locked("lock").unwrap());
        drop(held);
        assert!(!dir.is_locked("lock").unwrap());
    }
}
