//! Files that changed while they were copied: their copies may be neither what they were nor what they became.

use std::path::{Path, PathBuf};

use warmspare_domain::ids::RecoveryPointId;
use warmspare_wire::agent::InMotion;

use crate::changes;
use crate::data_dir::DataDir;
use crate::fetched::NAMED;
use crate::incoming::Incoming;
use crate::names::shown;
use crate::recovery_points::tree_of;
use crate::state::PointFile;

/// What is known of how a tree was read.
#[derive(Debug, Default)]
pub struct Reading<'a> {
    /// What the watcher had told before. Where it cannot tell what changed later, any of it may have been read in the middle of a change.
    pub told: &'a [PathBuf],
    /// What changed after the first look, if the watcher could tell.
    pub later: Option<&'a [PathBuf]>,
    /// What keeps the base's version, torn or whole.
    pub kept_back: &'a [PathBuf],
    /// What was read in any case, also where it looks as before.
    pub written: &'a [PathBuf],
}

/// Names them, each with the newest recovery point that has it whole. Where the watcher cannot tell what changed later, what the base has
/// torn may still be.
#[must_use]
pub fn among(dir: &DataDir, base: Option<&PointFile>, incoming: &Incoming, reading: &Reading<'_>) -> Vec<InMotion> {
    let Reading {
        told,
        later,
        kept_back,
        written,
    } = *reading;
    let suspects = later.unwrap_or(told).iter();
    // One that rsync left as the base has it was not read.
    let same = |path: &Path| {
        let base = incoming.base.as_ref();
        base.is_some_and(|base| changes::is_same(base, &incoming.path, path))
    };
    let read = |path: &PathBuf| written.contains(path) || !same(path);
    let brought = suspects.filter(|path| changes::is_regular(&incoming.path, path) && read(path));
    let mut found: Vec<InMotion> = brought
        .take(NAMED)
        .map(|path| {
            let file = named(path);
            let whole_in = base.and_then(|base| base.whole_version_of(&file));
            // It may have been thinned out, or be the base that never had the file.
            let there = |id: &RecoveryPointId| changes::is_regular(&tree_of(dir, id), path);
            InMotion {
                file,
                whole_in: whole_in.filter(there),
            }
        })
        .collect();
    let still_torn = |torn: &&InMotion| later.is_none() || kept_back.iter().any(|path| named(path) == torn.file);
    let of_base = base.map(|base| &*base.report.in_motion).unwrap_or_default();
    for torn in of_base.iter().filter(still_torn) {
        let there = torn.whole_in.as_ref().is_some_and(|id| tree_of(dir, id).is_dir());
        if there && found.len() < NAMED && !found.iter().any(|known| known.file == torn.file) {
            found.push(torn.clone());
        }
    }
    found
}

fn named(path: &Path) -> String {
    shown(path.as_os_str().as_encoded_bytes())
}
