//! What the standby asks a watcher and what it answers, over one SSH session: a question is a line of JSON, an answer a [frame](crate::frame).
//!
//! Both ends are the same program, pushed by its content hash, so these messages need no versions.

use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::checkpoints::Wanted;
use crate::marker::Tree;

/// How far the changes of one watcher are known: "everything up to here".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The watcher's life: random, so that no other watcher's cursor is ever taken for its own.
    pub life: String,
    /// Counts the questions of that life.
    pub seq: u64,
}

/// A question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its answer carries the same number: one that comes late is not taken for another's.
    pub number: u64,
    /// Since when; what lies before is acknowledged and may be forgotten. Nothing is acknowledged without it.
    pub since: Option<Cursor>,
    /// Instead: since when, without acknowledging anything.
    pub peek: Option<Cursor>,
    /// How long to wait until there is a change.
    pub wait_ms: u64,
    /// How long to wait until every directory is watched.
    pub patience_ms: u64,
    /// Whether the watcher is to end: a newer one takes its place.
    pub leave: bool,
    /// What the standby has at some paths: the watcher hands over what is there beyond that, and only then looks what changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hand: Vec<Have>,
}

/// What the standby has at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The path, relative to the tree.
    pub path: Vec<u8>,
    /// What is there.
    pub is: StandbyCopy,
}

/// The standby's copy of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandbyCopy {
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// The SHA-256 of its content.
        hash: String,
    },
    /// A directory.
    Directory,
    /// There is nothing.
    Nothing,
}

/// What is there on the GPU, beyond the standby's copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handed {
    /// A regular file that begins as the copy does up to a byte.
    File {
        /// That byte.
        from: u64,
        /// How many bytes follow it.
        more: u64,
        /// What it has besides its content.
        attributes: Attributes,
    },
    /// A directory, with what it has besides its content.
    Directory(Attributes),
    /// There is nothing, either.
    Nothing,
}

/// What a watcher says when somebody connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Device and inode of its program.
    pub program: (u64, u64),
    /// The tree it watches, as it was named.
    pub tree: Vec<u8>,
    /// Device and inode of the tree's root.
    pub root: (u64, u64),
}

/// Before a path that is to be looked at.
pub const ITSELF: u8 = b'.';
/// Before a path at which a directory was taken away: if one is there now, it is another.
pub const REPLACED: u8 = b'/';

/// An answer. The changed paths follow it, each with [`ITSELF`] or [`REPLACED`] before and a zero byte behind it, relative to the
/// tree; the root itself is the empty path. The content that is handed over follows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The number of the question.
    pub number: u64,
    /// The tree, looked at now.
    pub tree: Tree,
    /// A full scan that starts after this answer, or a transfer of these changes, brings a copy up to here.
    pub cursor: Option<Cursor>,
    /// Whether the changes that follow are all that happened since.
    pub changes: Changes,
    /// Whether a file among them has holes.
    pub holes: bool,
    /// How many directories are watched.
    pub directories: u64,
    /// The checkpoints that were wanted before the tree was looked at.
    pub checkpoints: Vec<Wanted>,
    /// What was asked for in [`Question::hand`], in that order; nothing when not all of it can be handed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handed: Vec<Handed>,
}

impl Reply {
    /// One that says nothing, for tests to say something with.
    #[cfg(test)]
    pub(crate) fn bare() -> Self {
        Self {
            number: 1,
            tree: Tree::Gone,
            cursor: None,
            changes: Changes::Complete,
            holes: false,
            directories: 0,
            checkpoints: Vec::new(),
            handed: Vec::new(),
        }
    }

    /// How many bytes of content follow the paths.
    #[must_use]
    pub fn content(&self) -> u64 {
        let more = |handed: &Handed| match handed {
            Handed::File { more, .. } => *more,
            Handed::Directory(_) | Handed::Nothing => 0,
        };
        self.handed
            .iter()
            .fold(0, |sum, handed| u64::saturating_add(sum, more(handed)))
    }
}

/// Whether a list of changes is all that must be transferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    /// It is.
    Complete,
    /// The changes are known, but a file among them has a second name that nobody reported.
    HardLinks,
    /// They are not known: another life, a cursor that was acknowledged away, or none was given.
    NoCursor,
    /// There were more than the watcher remembers.
    TooMany,
    /// Not every directory is watched yet.
    Starting,
    /// The machine's limits do not let us watch; the words are for a person.
    Blind(String),
}
