//! The dirty set: what changed, since which question, and never more than a bounded amount of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::tree::{Finder, Node};

/// Beyond this many changed paths a full scan is as cheap.
pub const MOST_PATHS: usize = 100_000;

/// And beyond this many bytes of their names.
const MOST_BYTES: usize = 16 << 20;

/// The changed paths, each with the number of the question that will hear of it first.
#[derive(Debug)]
pub struct Dirty {
    changed: HashMap<Box<[u8]>, Last>,
    bytes: usize,
    /// The number of the next question's answer.
    next: u64,
    /// What was acknowledged.
    floor: u64,
    /// Up to this answer, more changed than is remembered.
    collapsed: u64,
    most: usize,
}

/// When a path changed last.
#[derive(Debug, Clone, Copy)]
struct Last {
    changed: u64,
    /// When a directory was taken away here; 0 for never.
    replaced: u64,
}

/// How a path changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is to be looked at.
    Itself,
    /// A directory was taken away here. If one is here now it is another: nothing that an older copy has in it need be there.
    Replaced,
}

/// What is known of the changes since a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// These.
    Known(BTreeMap<Vec<u8>, Change>),
    /// More than is remembered.
    TooMany,
    /// The cursor was acknowledged away, or never was.
    Unknown,
}

impl Default for Dirty {
    fn default() -> Self {
        Self {
            changed: HashMap::new(),
            bytes: 0,
            next: 1,
            floor: 0,
            collapsed: 0,
            most: MOST_PATHS,
        }
    }
}

impl Dirty {
    /// Notes a change.
    pub fn mark(&mut self, path: &[u8], change: Change) {
        if self.collapsed == self.next {
            return;
        }
        let replaced = if change == Change::Replaced { self.next } else { 0 };
        if let Some(last) = self.changed.get_mut(path) {
            last.changed = self.next;
            last.replaced = last.replaced.max(replaced);
            return;
        }
        if self.changed.len() >= self.most || self.bytes + path.len() > MOST_BYTES {
            self.changed = HashMap::new();
            self.bytes = 0;
            self.collapsed = self.next;
            return;
        }
        self.bytes += path.len();
        let last = Last {
            changed: self.next,
            replaced,
        };
        self.changed.insert(path.into(), last);
    }

    /// Whether an answer to this cursor would name anything, or could not name it all.
    #[must_use]
    pub fn has_news(&self, since: u64) -> bool {
        self.collapsed > since || self.changed.values().any(|last| last.changed > since)
    }

    /// Answers the changes since a cursor and forgets what lies before it.
    pub fn since(&mut self, since: u64) -> Since {
        let known = self.floor..self.next;
        if known.contains(&since) {
            self.floor = since;
            self.changed.retain(|_, last| last.changed > since);
            self.bytes = self.changed.keys().map(|path| path.len()).sum();
        }
        self.peek(since)
    }

    /// Answers the changes since a cursor and forgets nothing.
    #[must_use]
    pub fn peek(&self, since: u64) -> Since {
        if since < self.floor || since >= self.next {
            return Since::Unknown;
        }
        if self.collapsed > since {
            return Since::TooMany;
        }
        let change = |last: &Last| {
            if last.replaced > since {
                Change::Replaced
            } else {
                Change::Itself
            }
        };
        let changed = self.changed.iter().filter(|(_, last)| last.changed > since);
        Since::Known(changed.map(|(path, last)| (path.to_vec(), change(last))).collect())
    }

    /// The cursor of the answer that is given now; what changes from here on belongs to the next.
    pub fn close(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

/// Changed paths as they lie on the disk now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The paths. None lies below another that is missing or no directory.
    pub paths: BTreeMap<Vec<u8>, Change>,
    /// Whether a file among them has a second name.
    pub hard_links: bool,
    /// Whether a file among them has holes.
    pub holes: bool,
}

/// Looks at every changed path. One below a directory that is gone, or became something else, stands for the change of that
/// directory: nobody may follow what took its place.
#[must_use]
pub fn settle(root: &Path, changed: &BTreeMap<Vec<u8>, Change>) -> Settled {
    let mut settled = Settled::default();
    let mut tree = Finder::below(root).ok();
    let mut find = |path: &[u8]| tree.as_mut()?.node(Path::new(OsStr::from_bytes(path))).ok().flatten();
    let mut parents: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::new();
    for (path, change) in changed {
        let parent = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .and_then(|at| path.get(..at));
        let blocked = parent.and_then(|parent| blocked_at(parent, &mut find, &mut parents));
        if let Some(ancestor) = blocked {
            settled.paths.entry(ancestor).or_insert(Change::Itself);
            continue;
        }
        if let Some(found) = find(path).filter(Node::is_file) {
            settled.hard_links |= found.has_other_names();
            settled.holes |= found.has_holes();
        }
        let stronger = settled.paths.entry(path.clone()).or_insert(*change);
        *stronger = (*stronger).max(*change);
    }
    settled
}

/// The topmost part of a path that is not a directory.
fn blocked_at(
    path: &[u8],
    find: &mut impl FnMut(&[u8]) -> Option<Node>,
    known: &mut HashMap<Vec<u8>, Option<Vec<u8>>>,
) -> Option<Vec<u8>> {
    let ends = path
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at);
    for end in ends.chain([path.len()]) {
        let part = path.get(..end).unwrap_or_default();
        let blocked = known.entry(part.to_vec()).or_insert_with(|| {
            let is_directory = find(part).is_some_and(|found| found.is_directory());
            (!is_directory).then(|| part.to_vec())
        });
        if blocked.is_some() {
            return blocked.clone();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn all(names: &[&str]) -> BTreeMap<Vec<u8>, Change> {
        names
            .iter()
            .map(|name| (name.as_bytes().to_vec(), Change::Itself))
            .collect()
    }

    fn known(names: &[&str]) -> Since {
        Since::Known(all(names))
    }

    #[test]
    fn a_change_is_told_until_it_is_acknowledged() {
        let mut dirty = Dirty::default();
        let start = dirty.close();
        dirty.mark(b"a", Change::Itself);
        assert!(dirty.has_news(start));
        assert_eq!(dirty.since(start), known(&["a"]));
        let first = dirty.close();
        dirty.mark(b"b", Change::Itself);
        assert_eq!(dirty.peek(first), known(&["b"]));
        // The pass died: the same cursor again.
        assert_eq!(dirty.since(start), known(&["a", "b"]));
        let second = dirty.close();
        assert_eq!(dirty.since(second), known(&[]));
        assert!(!dirty.has_news(second));
        assert_eq!(dirty.since(first), Since::Unknown, "what was acknowledged is gone");
        assert_eq!(dirty.since(second + 99), Since::Unknown);
    }

    #[test]
    fn a_path_that_changes_again_is_told_again() {
        let mut dirty = Dirty::default();
        dirty.mark(b"a", Change::Itself);
        let first = dirty.close();
        dirty.mark(b"a", Change::Itself);
        assert_eq!(dirty.since(first), known(&["a"]));
    }

    #[test]
    fn a_directory_that_was_taken_away_is_told_as_such_until_it_is_acknowledged() {
        let mut dirty = Dirty::default();
        let start = dirty.close();
        dirty.mark(b"d", Change::Replaced);
        let first = dirty.close();
        dirty.mark(b"d", Change::Itself);
        let replaced = BTreeMap::from([(b"d".to_vec(), Change::Replaced)]);
        assert_eq!(dirty.since(start), Since::Known(replaced));
        assert_eq!(dirty.since(first), known(&["d"]));
    }

    #[test]
    fn more_than_can_be_remembered_asks_for_a_full_scan_once() {
        let mut dirty = Dirty {
            most: 3,
            ..Dirty::default()
        };
        let start = dirty.close();
        for n in 0..9_u8 {
            dirty.mark(&[b'a' + n], Change::Itself);
        }
        assert!(dirty.has_news(start));
        assert_eq!(dirty.since(start), Since::TooMany);
        let after = dirty.close();
        dirty.mark(b"z", Change::Itself);
        assert_eq!(dirty.since(start), Since::TooMany);
        assert_eq!(dirty.since(after), known(&["z"]));
    }

    #[test]
    fn what_lies_below_a_lost_directory_stands_for_it() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("d/e/f"), "1").unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        let settled = settle(
            root,
            &all(&["d/e/f", "d/e/gone", "gone/x/y", "link/passwd", "d/e/f/below", ""]),
        );
        assert_eq!(settled.paths, all(&["", "d/e/f", "d/e/gone", "gone", "link"]));
        assert!(!settled.hard_links && !settled.holes);
        fs::File::create(root.join("holes")).unwrap().set_len(1 << 20).unwrap();
        assert!(settle(root, &all(&["holes"])).holes);
        fs::hard_link(root.join("d/e/f"), root.join("twin")).unwrap();
        assert!(settle(root, &all(&["twin"])).hard_links);
    }
}
