//! Two recovery points against each other.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use warmspare_domain::units::Bytes;

use super::RecoveryPoint;

/// What changed between two recovery points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The recovery point started from.
    pub from: RecoveryPoint,
    /// The recovery point compared with it.
    pub to: RecoveryPoint,
    /// Entries that only the second has.
    pub added: u64,
    /// Entries that both have and that differ in kind, size, time or mode.
    pub changed: u64,
    /// Entries that only the first has.
    pub deleted: u64,
    /// The first of them, in the order of names.
    pub changes: Vec<Change>,
}

impl Display for Comparison {
    /// One line for each change listed, then the counts.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            let sign = match change.kind {
                ChangeKind::Added => '+',
                ChangeKind::Changed => '~',
                ChangeKind::Deleted => '-',
            };
            let size = |bytes: Option<Bytes>| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
            let (before, after) = (size(change.bytes_before), size(change.bytes_after));
            writeln!(f, "{sign} {before:>10} -> {after:>10}  {}", change.path)?;
        }
        let Self {
            added,
            changed,
            deleted,
            ..
        } = self;
        let listed = u64::try_from(self.changes.len()).unwrap_or(u64::MAX);
        let rest = (added + changed + deleted).saturating_sub(listed);
        let not_listed = if rest > 0 {
            format!(", {rest} of them not listed")
        } else {
            String::new()
        };
        let (from, to) = (&self.from.id, &self.to.id);
        writeln!(
            f,
            "{added} added, {changed} changed, {deleted} deleted from {from} to {to}{not_listed}"
        )
    }
}

/// One entry that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its path below the root, in one line: control characters and bytes that are no UTF-8 are escaped with a backslash.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Its size in the first recovery point; 0 for what is no regular file.
    pub bytes_before: Option<Bytes>,
    /// Its size in the second.
    pub bytes_after: Option<Bytes>,
}

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Only the second has it.
    Added,
    /// Both have it, not the same.
    Changed,
    /// Only the first has it.
    Deleted,
}
