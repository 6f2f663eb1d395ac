//! What a tree of files is, down to what a restore must bring back; an independent reading, without rsync.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// Modification time, to the nanosecond; not of directories, which change while they are filled.
    pub modified: (i64, i64),
    /// SHA-256 of a file, target of a link.
    pub content: Vec<u8>,
    /// The first path, in order, that names the same file.
    pub same_as: PathBuf,
    /// Extended attributes of users.
    pub attributes: BTreeMap<OsString, Vec<u8>>,
}

/// Reads a tree; our own marker directory is not part of it.
///
/// # Errors
/// When something cannot be read.
pub fn read(root: &Path) -> std::io::Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    let mut paths = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if path == Path::new(".warmspare") {
                continue;
            }
            if entry.file_type()?.is_dir() {
                waiting.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full)?;
        let content = if metadata.is_symlink() {
            fs::read_link(&full)?.as_os_str().as_bytes().to_vec()
        } else if metadata.is_file() {
            Sha256::digest(fs::read(&full)?).to_vec()
        } else {
            Vec::new()
        };
        let modified = if metadata.is_dir() {
            (0, 0)
        } else {
            (metadata.mtime(), metadata.mtime_nsec())
        };
        let same_as = if metadata.is_file() {
            first_names
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| path.clone())
                .clone()
        } else {
            path.clone()
        };
        let attributes = if metadata.is_symlink() {
            BTreeMap::new()
        } else {
            attributes(&full)?
        };
        entries.insert(
            path,
            Entry {
                mode: metadata.mode(),
                modified,
                content,
                same_as,
                attributes,
            },
        );
    }
    Ok(entries)
}

fn attributes(path: &Path) -> std::io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = rustix::fs::listxattr(path, &mut names)?;
    let mut attributes = BTreeMap::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."))
    {
        let mut value = vec![0_u8; 64 << 10];
        let name = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::getxattr(path, name, &mut value)?;
        value.truncate(length);
        attributes.insert(name.to_owned(), value);
    }
    Ok(attributes)
}

/// The paths in which two trees differ, in words; empty when they are equal.
///
/// # Errors
/// When something cannot be read.
pub fn differences(left: &Path, right: &Path) -> std::io::Result<Vec<String>> {
    let (left, right) = (read(left)?, read(right)?);
    let mut differences = Vec::new();
    for (path, entry) in &left {
        match right.get(path) {
            None => differences.push(format!("{} is missing", path.display())),
            Some(other) if other != entry => {
                differences.push(format!("{} differs: {entry:?} and {other:?}", path.display()))
            }
            Some(_) => {}
        }
    }
    differences.extend(
        right
            .keys()
            .filter(|path| !left.contains_key(*path))
            .map(|path| format!("{} is extra", path.display())),
    );
    Ok(differences)
}
