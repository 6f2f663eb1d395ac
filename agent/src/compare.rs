//! What changed between two recovery points, from what their directories say: no file is read.

use std::cmp::Ordering;
use std::path::Path;

use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{Change, ChangeKind, Compare, Comparison, PointChoice};

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::inventory::{self, Entry, Kind};
use crate::names::shown;
use crate::recovery_points::{self, tree_of};

/// Compares two recovery points by kind, size, time and mode: what a pass found unchanged by these is unchanged here, too.
///
/// # Errors
/// When one of them does not exist, or goes away meanwhile.
pub fn compare(dir: &DataDir, request: &Compare) -> Result<Comparison, AgentError> {
    let older = recovery_points::choose(dir, &PointChoice::Id(request.from.clone()))?.point;
    let newer = recovery_points::choose(dir, &request.to)?.point;
    let list = |path: &Path| inventory::list(path).map_err(|error| AgentError::io("list a recovery point", error));
    let (before, after) = (list(&tree_of(dir, &older.id))?, list(&tree_of(dir, &newer.id))?);
    let mut comparison = Comparison {
        from: older,
        to: newer,
        added: 0,
        changed: 0,
        deleted: 0,
        changes: vec![],
    };
    let mut room = ROOM;
    let most = usize::try_from(request.at_most).unwrap_or(usize::MAX).min(MOST);
    merge(&before, &after, |change| {
        match change.kind {
            ChangeKind::Added => comparison.added += 1,
            ChangeKind::Changed => comparison.changed += 1,
            ChangeKind::Deleted => comparison.deleted += 1,
        }
        room = room.saturating_sub(change.path.len());
        if comparison.changes.len() < most && room > 0 {
            comparison.changes.push(change);
        }
    });
    Ok(comparison)
}

/// An answer is read whole by whoever asked, so it stays below a megabyte: so many changes, with so many bytes of names.
const MOST: usize = 2000;
const ROOM: usize = 256 << 10;

fn merge(before: &[Entry], after: &[Entry], mut tell: impl FnMut(Change)) {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(a), Some(b)) => a.name.cmp(&b.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let was = if order == Ordering::Greater { None } else { old.next() };
        let is = if order == Ordering::Less { None } else { new.next() };
        let kind = match (was, is) {
            (Some(was), Some(is)) if is_unchanged(was, is) => continue,
            (Some(_), Some(_)) => ChangeKind::Changed,
            (Some(_), None) => ChangeKind::Deleted,
            (None, _) => ChangeKind::Added,
        };
        let Some(entry) = is.or(was) else { return };
        tell(Change {
            path: shown(&entry.name),
            kind,
            bytes_before: was.map(|entry| Bytes(entry.size)),
            bytes_after: is.map(|entry| Bytes(entry.size)),
        });
    }
}

/// A directory's time changes with what is in it, which is told by itself.
fn is_unchanged(was: &Entry, is: &Entry) -> bool {
    let time = was.kind == Kind::Directory || was.modified == is.modified;
    was.kind == is.kind && was.size == is.size && was.mode == is.mode && time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], size: u64) -> Entry {
        Entry {
            name: name.into(),
            kind: Kind::File,
            size,
            mode: 0o644,
            modified: (1, 1),
            sparse: false,
            owner: (0, 0),
            twin: false,
        }
    }

    #[test]
    fn added_changed_and_deleted_are_told_apart() {
        let before = [entry(b"a", 1), entry(b"b", 2), entry(b"same", 3)];
        let mut touched = entry(b"b", 2);
        touched.modified = (1, 2);
        let after = [touched, entry(b"c", 4), entry(b"same", 3)];
        let mut told = vec![];
        merge(&before, &after, |change| {
            told.push((change.path, change.kind, change.bytes_before, change.bytes_after));
        });
        let expected = [
            ("a", ChangeKind::Deleted, Some(Bytes(1)), None),
            ("b", ChangeKind::Changed, Some(Bytes(2)), Some(Bytes(2))),
            ("c", ChangeKind::Added, None, Some(Bytes(4))),
        ];
        assert_eq!(
            told,
            expected.map(|(path, kind, was, is)| (path.to_owned(), kind, was, is))
        );
    }
}
