//! Files that changed while they were copied: their copies may be neither what they were nor what they became.

use std::path::{Path, PathBuf};

use warmspare_domain::ids::RecoveryPointId;
use warmspare_wire::agent::InMotion;

use crate::changes;
use crate::data_dir::DataDir;
use crate::fetched::NAMED;
use crate::incoming::Incoming;
use crate::recovery_points::tree_of;
use crate::state::PointFile;

/// Names them, each with the newest recovery point that has it whole.
///
/// `later` is what changed after the first look, if the watcher could tell. If not, everything that it had told before, `told`, may have
/// been read in the middle of a change, and what the base has torn may still be. `kept` keeps the base's version, torn or whole; `written`
/// was read in any case.
#[must_use]
pub fn among(
    dir: &DataDir,
    base: Option<&PointFile>,
    incoming: &Incoming,
    told: &[PathBuf],
    later: Option<&[PathBuf]>,
    kept: &[PathBuf],
    written: &[PathBuf],
) -> Vec<InMotion> {
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
            let file = path.to_string_lossy().into_owned();
            let whole_in = base.and_then(|base| base.whole_version_of(&file));
            // It may have been thinned out, or be the base that never had the file.
            let there = |id: &RecoveryPointId| changes::is_regular(&tree_of(dir, id), path);
            InMotion {
                file,
                whole_in: whole_in.filter(there),
            }
        })
        .collect();
    let still_torn = |torn: &&InMotion| later.is_none() || kept.iter().any(|path| path.to_string_lossy() == torn.file);
    let of_base = base.map(|base| &*base.report.in_motion).unwrap_or_default();
    for torn in of_base.iter().filter(still_torn) {
        let there = torn.whole_in.as_ref().is_some_and(|id| tree_of(dir, id).is_dir());
        if there && found.len() < NAMED && !found.iter().any(|known| known.file == torn.file) {
            found.push(torn.clone());
        }
    }
    found
}
