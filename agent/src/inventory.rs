//! What a recovery point holds, listed once: what has to travel, in which order, and in which shares it is verified.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use warmspare_domain::ids::PathBelow;

use crate::tree::{self, Node, Walk};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name below the root, as the disk has it.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: Kind,
    /// The size of a regular file in bytes; else 0.
    pub size: u64,
    /// Its permission bits.
    pub mode: u32,
    /// The numbers of its user and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds of its modification.
    pub modified: (i64, i64),
    /// Whether it has holes.
    pub sparse: bool,
    /// Whether another name in the same tree is the same file.
    pub twin: bool,
}

/// A file from this size in bytes on travels alone, so that its beginning is kept when the connection breaks.
pub const LARGE: u64 = 64 << 20;

/// How soon a program that starts to work on the target needs an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// What a person named, in the order of names.
    Named(usize),
    /// Code, configuration and whatever else is small.
    First,
    /// Large files: checkpoints and data, the newest first.
    Newest,
    /// What programs make again by themselves.
    Last,
}

/// At most this size in bytes counts as code or configuration. A tokenizer's vocabulary still fits; a checkpoint does not.
pub const SMALL: u64 = 1 << 20;

/// Directories of what programs make again by themselves.
pub const CACHES: [&[u8]; 8] = [
    b".cache",
    b"__pycache__",
    b"node_modules",
    b".venv",
    b"venv",
    b".ipynb_checkpoints",
    b".mypy_cache",
    b"tmp",
];

/// Whether a name below the root lies in, or is, one of [`CACHES`].
#[must_use]
pub fn is_cached(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'/').any(|part| CACHES.contains(&part))
}

impl Entry {
    /// The first of these paths that it is, or lies in.
    #[must_use]
    pub fn place_among(&self, named: &[PathBelow]) -> Option<usize> {
        named.iter().position(|path| {
            let rest = self.name.strip_prefix(path.as_str().as_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        })
    }

    /// When it is its turn.
    #[must_use]
    pub fn turn(&self, named: &[PathBelow]) -> Turn {
        if let Some(at) = self.place_among(named) {
            Turn::Named(at)
        } else if is_cached(&self.name) {
            Turn::Last
        } else if self.size <= SMALL {
            Turn::First
        } else {
            Turn::Newest
        }
    }

    fn of(name: &[u8], found: &Node) -> Option<Self> {
        let kind = if found.is_directory() {
            Kind::Directory
        } else if found.is_file() {
            Kind::File
        } else if found.is_link() {
            Kind::Link
        } else {
            return None;
        };
        let size = if kind == Kind::File { found.size() } else { 0 };
        Some(Self {
            name: name.into(),
            kind,
            size,
            mode: found.mode(),
            owner: found.owner(),
            modified: found.modified(),
            sparse: kind == Kind::File && found.has_holes(),
            twin: false,
        })
    }
}

/// Every entry of the tree below `root`, in the order of names.
///
/// # Errors
/// When a directory cannot be read.
pub fn list(root: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut names_of: HashMap<(u64, u64), u32> = HashMap::new();
    let mut identities = Vec::new();
    tree::walk(root, &mut |found| {
        let name = found.path.as_os_str().as_bytes();
        if name == b".warmspare" {
            return Ok(Walk::Pass);
        }
        if let Some(entry) = Entry::of(name, found.node) {
            // A recovery point may share its files with its neighbours: only two names in the same tree make twins.
            if entry.kind == Kind::File && found.node.has_other_names() {
                let identity = found.node.identity();
                *names_of.entry(identity).or_default() += 1;
                identities.push((entries.len(), identity));
            }
            entries.push(entry);
        }
        Ok(Walk::Enter)
    })?;
    for (at, identity) in identities {
        let twin = names_of.get(&identity).is_some_and(|names| *names > 1);
        if let Some(entry) = entries.get_mut(at) {
            entry.twin = twin;
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// A part of a tree, to be done in one go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// Positions in the list.
    pub entries: Vec<usize>,
    /// Regular files among them.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Share {
    /// Takes in one more entry.
    pub fn add(&mut self, at: usize, entry: &Entry) {
        self.entries.push(at);
        self.files += u64::from(entry.kind == Kind::File);
        self.bytes = self.bytes.saturating_add(entry.size);
    }

    /// Whether it has as much as one go should have.
    #[must_use]
    pub fn is_full(&self, files: usize, bytes: u64) -> bool {
        self.entries.len() >= files || self.bytes >= bytes
    }

    /// Its names.
    pub fn names<'l>(&self, list: &'l [Entry]) -> impl Iterator<Item = &'l [u8]> {
        let entries = self.entries.iter().filter_map(|at| list.get(*at));
        entries.map(|entry| &*entry.name)
    }
}

/// Parts the whole list for verification: every entry is in exactly one share, and the names of one file are in the same share.
#[must_use]
pub fn shares(list: &[Entry], files: usize, bytes: u64) -> Vec<Share> {
    let (mut done, mut open, mut twins) = (Vec::new(), Share::default(), Share::default());
    for (at, entry) in list.iter().enumerate() {
        if entry.twin {
            twins.add(at, entry);
            continue;
        }
        open.add(at, entry);
        if open.is_full(files, bytes) {
            done.push(std::mem::take(&mut open));
        }
    }
    done.extend([twins, open].into_iter().filter(|share| !share.entries.is_empty()));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size: u64, twin: bool) -> Entry {
        Entry {
            name: name.as_bytes().into(),
            kind: Kind::File,
            size,
            mode: 0o644,
            modified: (1, 0),
            sparse: false,
            owner: (0, 0),
            twin,
        }
    }

    #[test]
    fn every_entry_is_in_one_share_and_twins_stay_together() {
        let list: Vec<_> = (0..100_u64).map(|n| file(&format!("{n:03}"), n, n % 10 == 0)).collect();
        let shares = shares(&list, 7, 200);
        let mut seen: Vec<_> = shares.iter().flat_map(|share| share.entries.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        let with_twins = shares
            .iter()
            .filter(|share| share.entries.iter().any(|at| at % 10 == 0));
        assert_eq!(with_twins.count(), 1);
        assert_eq!(shares.iter().map(|share| share.files).sum::<u64>(), 100);
    }

    #[test]
    fn what_was_named_comes_first_then_code_then_checkpoints_and_caches_last() {
        let named = ["runs/best", ".cache/hub"].map(|path| path.parse().unwrap());
        let turn = |name: &str, size| file(name, size, false).turn(&named);
        assert_eq!(turn("runs/best/model.pt", 5 << 30), Turn::Named(0));
        assert_eq!(turn(".cache/hub/blob", 5 << 30), Turn::Named(1));
        assert_eq!(turn("runs/best-of-all.pt", 5 << 30), Turn::Newest);
        assert_eq!(turn("train.py", 9000), Turn::First);
        assert_eq!(turn("runs/7/model.pt", 5 << 30), Turn::Newest);
        assert_eq!(turn(".cache/pip/x", 10), Turn::Last);
        assert_eq!(turn("a/__pycache__/b.pyc", 10), Turn::Last);
    }

    #[test]
    fn names_of_one_file_are_found_only_within_the_tree() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("tree");
        std::fs::create_dir_all(root.join(".warmspare")).unwrap();
        for name in ["one", "shared", ".warmspare/marker.json"] {
            std::fs::write(root.join(name), "x").unwrap();
        }
        std::fs::hard_link(root.join("one"), root.join("two")).unwrap();
        std::fs::hard_link(root.join("shared"), place.path().join("elsewhere")).unwrap();
        let twins: Vec<_> = list(&root).unwrap().into_iter().map(|e| (e.name, e.twin)).collect();
        let expected = [("one", true), ("shared", false), ("two", true)];
        assert_eq!(twins, expected.map(|(name, twin)| (name.as_bytes().into(), twin)));
    }
}
