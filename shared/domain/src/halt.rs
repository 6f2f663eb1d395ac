//! Why copying stopped on purpose.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A reason to stop copying before a copy could be destroyed. A person decides how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltReason {
    /// The marker that binding wrote into the tree is gone: another container, or the directory was replaced.
    MarkerMissing,
    /// The marker names another association, or an epoch that is not ours.
    MarkerForeign,
    /// The tree was full and is empty now, or its directory is gone: unmounted, wiped or recycled.
    SourceEmptied,
    /// The pass would delete more than the allowed share of the files.
    MassDeletion,
    /// What was a directory is now something else.
    RootChangedType,
    /// The GPU's SSH host key is not the one that was pinned at first contact.
    HostKeyChanged,
}

impl HaltReason {
    /// Every reason, for tests and tables.
    pub const ALL: [Self; 6] = [
        Self::MarkerMissing,
        Self::MarkerForeign,
        Self::SourceEmptied,
        Self::MassDeletion,
        Self::RootChangedType,
        Self::HostKeyChanged,
    ];
}

impl fmt::Display for HaltReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MarkerMissing => "the GPU's tree no longer carries our marker; the container was probably rebuilt",
            Self::MarkerForeign => "the GPU's tree carries the marker of another association or epoch",
            Self::SourceEmptied => "the GPU's tree was emptied or unmounted",
            Self::MassDeletion => "most of the files are gone on the GPU",
            Self::RootChangedType => "the synced path on the GPU is no longer a directory",
            Self::HostKeyChanged => {
                "the GPU answers with another SSH host key; it may be another machine or a rebuilt container"
            }
        })
    }
}
