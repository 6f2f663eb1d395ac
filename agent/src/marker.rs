//! The tree of a GPU as it may be found, and our marker in it: whose it is.

use serde::{Deserialize, Serialize};
use warmspare_domain::ids::{AssociationId, Epoch};

/// Where the marker lies in the tree. The whole directory is left out of copies.
pub const MARKER_DIRECTORY: &str = ".warmspare";

/// The version of [`Marker`].
pub const SCHEMA: u32 = 1;

/// What binding writes into the GPU's tree: whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The association that the tree belongs to.
    pub association: AssociationId,
    /// The epoch it was bound under.
    pub epoch: Epoch,
}

/// The synced path on the GPU, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tree {
    /// There is nothing at the path.
    Gone,
    /// There is something, but no directory.
    NotADirectory,
    /// There is a directory that the login may not enter.
    Closed,
    /// A directory.
    Directory {
        /// Its path without symbolic links: rsync names files by it.
        path: Vec<u8>,
        /// Whether it holds anything besides our marker.
        content: Content,
        /// Our marker.
        marker: MarkerFound,
    },
}

/// Whether a tree holds anything besides our marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Nothing.
    Empty,
    /// Something.
    Some,
}

/// The marker, as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkerFound {
    /// There is none.
    Missing,
    /// There is one that no version of ours wrote.
    Unreadable,
    /// This one.
    Is(Marker),
}

/// Understands the marker file.
#[must_use]
pub fn read_marker(bytes: &[u8]) -> MarkerFound {
    match serde_json::from_slice::<Marker>(bytes) {
        Ok(marker) if marker.schema <= SCHEMA => MarkerFound::Is(marker),
        Ok(_) | Err(_) => MarkerFound::Unreadable,
    }
}
