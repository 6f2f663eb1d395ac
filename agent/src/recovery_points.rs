//! The recovery points on the disk: listing, making, thinning and clearing away.
//!
//! A recovery point exists when both its directory and its JSON file exist. The JSON file comes before the directory is put in
//! place and goes after it was taken away, so neither step can leave half a recovery point.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::statfs;
use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::PointChoice;

use crate::data_dir::{DataDir, Durability, sync_parent};
use crate::error::AgentError;
use crate::process;
use crate::state::{PUT_BACK_LOCK, PointFile, PutBackStage, REQUEST_LOCK, RestoreStage};
use crate::{thin, tree};

/// btrfs answers at once; only a disk in trouble does not.
const BTRFS_LIMIT: Duration = Duration::from_secs(120);

/// A job that was just accepted may not have found its worker yet.
const WORKER_COMES_WITHIN: Duration = Duration::from_secs(60);

/// How recovery points share what did not change between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// btrfs snapshots.
    Snapshots,
    /// Hard links.
    HardLinks,
}

impl Sharing {
    /// How the next recovery point is to share with `base`; for a first one, what the disk offers.
    #[must_use]
    pub fn choose(dir: &DataDir, base: Option<&Path>) -> Self {
        let snapshots = match base {
            Some(base) => is_subvolume(base),
            // Only root may delete a subvolume again.
            None => rustix::process::geteuid().is_root() && is_btrfs(dir.root()) && btrfs_answers(),
        };
        if snapshots { Self::Snapshots } else { Self::HardLinks }
    }

    /// What a note about `incoming/` has to survive before anything is written there.
    #[must_use]
    pub fn durability_of_notes(self) -> Durability {
        match self {
            // On btrfs what is written afterwards reaches the disk in the same commit or in a later one, never before it.
            Self::Snapshots => Durability::Kill,
            Self::HardLinks => Durability::PowerLoss,
        }
    }
}

/// Every recovery point, oldest first.
///
/// # Errors
/// When the directory or one of the files cannot be read.
pub fn list(dir: &DataDir) -> Result<Vec<PointFile>, AgentError> {
    let mut points = Vec::new();
    for id in ids_with_file(dir)? {
        // One that is being thinned may go between two looks.
        if let Some(point) = dir.read_json::<PointFile>(&file_of(dir, &id))?
            && is_directory(&tree_of(dir, &id))?
        {
            points.push(point);
        }
    }
    points.sort_by(|a, b| a.point.id.cmp(&b.point.id));
    Ok(points)
}

/// The recovery point that is meant.
///
/// # Errors
/// When there is none.
pub fn choose(dir: &DataDir, choice: &PointChoice) -> Result<PointFile, AgentError> {
    let mut points = list(dir)?;
    let (found, wanted) = match choice {
        PointChoice::Latest => (points.pop(), "the latest".to_owned()),
        PointChoice::Id(id) => (points.into_iter().find(|point| point.point.id == *id), id.to_string()),
        PointChoice::Checkpoint(name) => {
            let newest = points.into_iter().rfind(|point| point.holds(name));
            (newest, format!("checkpoint {name}"))
        }
        PointChoice::Partial => {
            return Err(AgentError::BadRequest(
                "what arrived of a first pass can only be downloaded: it may be in the middle of anything".into(),
            ));
        }
    };
    found.ok_or(AgentError::NoRecoveryPoint { wanted })
}

/// Where a recovery point's files lie.
#[must_use]
pub fn tree_of(dir: &DataDir, id: &RecoveryPointId) -> PathBuf {
    dir.points().join(id.as_str())
}

/// Makes everything that was written so far durable, unless [`promote`] will.
///
/// # Errors
/// When the disk fails.
pub fn make_durable(dir: &DataDir, sharing: Sharing) -> Result<(), AgentError> {
    // A btrfs snapshot is made by a commit, which writes out everything before it. Source: Linux 6.1, create_snapshot().
    if sharing == Sharing::HardLinks {
        dir.settle_disk()
            .map_err(|error| AgentError::io("make the pass durable", error))?;
    }
    Ok(())
}

/// Makes `incoming/` a recovery point. The caller holds the pass lock and called [`make_durable`].
///
/// # Errors
/// When the disk is full or fails: then there is no such recovery point, and `incoming/` is still there.
pub fn promote(dir: &DataDir, point: &PointFile, sharing: Sharing) -> Result<(), AgentError> {
    let id = &point.point.id;
    let file = file_of(dir, id);
    let durability = match sharing {
        // The commit that makes the snapshot makes the file's name durable, too. Source: Linux 6.1, create_snapshot().
        Sharing::Snapshots => Durability::OldOrNew,
        Sharing::HardLinks => Durability::PowerLoss,
    };
    dir.write_json(&file, point, durability)?;
    let (from, to) = (dir.incoming(), tree_of(dir, id));
    let placed = match sharing {
        Sharing::Snapshots => btrfs(&["subvolume", "snapshot", "-r"], &[&from, &to]),
        Sharing::HardLinks => {
            move_directory(&from, &to).map_err(|error| AgentError::io("put the recovery point in place", error))
        }
    };
    if let Err(error) = placed {
        let _ = fs::remove_file(file);
        return Err(error);
    }
    if sharing == Sharing::Snapshots {
        return Ok(());
    }
    let durable = fs::File::open(dir.points()).and_then(|points| points.sync_all());
    durable.map_err(|error| AgentError::io("make the recovery point durable", error))
}

/// Notes that a later pass found nothing changed.
///
/// # Errors
/// When the disk is full or fails.
pub fn confirm(dir: &DataDir, point: &PointFile) -> Result<(), AgentError> {
    dir.write_json(&file_of(dir, &point.point.id), point, Durability::OldOrNew)
}

/// Moves the recovery points that thinning chooses out of the way. [`empty_trash`] removes them.
///
/// # Errors
/// When the disk fails. What was not moved stays.
pub fn thin_out(dir: &DataDir, now: Timestamp) -> Result<(), AgentError> {
    // A restore or a download that chooses its recovery point at this instant must find it held or gone.
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    let mut kept = held(dir, now)?;
    let points = list(dir)?;
    kept.extend(thin::named(&points));
    kept.extend(thin::whole(&points, now));
    let ages: Vec<_> = points
        .into_iter()
        .map(|point| (point.point.id, point.point.taken_at))
        .collect();
    for id in thin::thin(&ages, now) {
        if !kept.contains(&id) {
            retire(dir, &id)?;
        }
    }
    Ok(())
}

/// Moves the oldest recovery point out of the way, one that nothing else makes precious if there is one, unless only `keep` are left that nobody
/// restores or downloads. Answers whether there was one.
///
/// # Errors
/// When the disk fails.
pub fn retire_oldest(dir: &DataDir, now: Timestamp, keep: usize) -> Result<bool, AgentError> {
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    match next_to_retire(dir, now, keep)? {
        Some(point) => retire(dir, &point).map(|()| true),
        None => Ok(false),
    }
}

/// Whether [`retire_oldest`] would find nothing, and nothing that was retired is still to be removed.
///
/// # Errors
/// When the recovery points cannot be read.
pub fn is_all_retired(dir: &DataDir, now: Timestamp, keep: usize) -> Result<bool, AgentError> {
    let trash = fs::read_dir(dir.trash()).map_err(|error| AgentError::io("look at what is to be removed", error))?;
    Ok(trash.count() == 0 && next_to_retire(dir, now, keep)?.is_none())
}

fn next_to_retire(dir: &DataDir, now: Timestamp, keep: usize) -> Result<Option<RecoveryPointId>, AgentError> {
    let held = held(dir, now)?;
    let points = list(dir)?;
    let old = points.len().saturating_sub(keep);
    let mut wanted = thin::named(&points);
    wanted.extend(thin::whole(&points, now));
    let free = |point: &&PointFile| !held.contains(&point.point.id);
    let free = points.iter().take(old).filter(free);
    // Of equals the first, which is the oldest.
    let next = free.min_by_key(|point| wanted.contains(&point.point.id));
    Ok(next.map(|point| point.point.id.clone()))
}

/// Clears away what a kill left between the two steps of making or removing a recovery point. The caller holds the pass lock.
///
/// # Errors
/// When the directory cannot be read.
pub fn clear_leftovers(dir: &DataDir) -> Result<(), AgentError> {
    let io = |error| AgentError::io("clear away unfinished recovery points", error);
    for path in listing(dir)? {
        if is_directory(&path)? && !path.with_file_name(json_name(&path)).try_exists().map_err(io)? {
            discard(dir, &path)?;
        }
    }
    for id in ids_with_file(dir)? {
        if !is_directory(&tree_of(dir, &id))? {
            let _ = fs::remove_file(file_of(dir, &id));
        }
    }
    Ok(())
}

/// Moves a directory out of the way, in one step, to be removed later.
///
/// # Errors
/// When it cannot be moved.
pub fn discard(dir: &DataDir, path: &Path) -> Result<(), AgentError> {
    if !is_directory(path)? {
        return Ok(());
    }
    if is_subvolume(path) {
        // A read-only subvolume cannot change its parent directory.
        btrfs(
            &["property", "set", "-ts"],
            &[path, Path::new("ro"), Path::new("false")],
        )?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = (0_u32..)
        .map(|n| dir.trash().join(format!("{name}.{n}")))
        .find(|to| !to.exists());
    let to = free.unwrap_or_else(|| dir.trash().join(&name));
    move_directory(path, &to).map_err(|error| AgentError::io(format!("move {name} out of the way"), error))
}

/// Removes for good what was moved out of the way. Several processes may do this at once.
pub fn empty_trash(dir: &DataDir) {
    let gone: Vec<_> = fs::read_dir(dir.trash()).into_iter().flatten().flatten().collect();
    let (snapshots, others): (Vec<PathBuf>, Vec<PathBuf>) =
        gone.iter().map(fs::DirEntry::path).partition(|path| is_subvolume(path));
    if !snapshots.is_empty() {
        // Committed, because btrfs gives the space back only then: a full disk would stay full for half a minute. Once for all.
        let paths: Vec<&Path> = snapshots.iter().map(PathBuf::as_path).collect();
        let _ = btrfs(&["subvolume", "delete", "--commit-after"], &paths);
    }
    for path in others.into_iter().chain(snapshots) {
        if let Err(error) = tree::remove(&path) {
            process::log(&format!(
                "cannot remove {}: {error}; the next pass tries again",
                path.display()
            ));
        }
    }
}

/// Waits until the space of what was removed is free again, which btrfs sees to in the background. Answers whether it is.
#[must_use]
pub fn is_space_back(dir: &DataDir, within: Duration) -> bool {
    // The second, because what the removal freed is counted as free with the next commit only (measured, Linux 6.18).
    let steps = [["subvolume", "sync"], ["filesystem", "sync"]];
    !is_btrfs(dir.root())
        || steps.iter().all(|step| {
            let mut wait = Command::new("btrfs");
            wait.args(step).arg(dir.root());
            process::run(&mut wait, b"", within).is_ok_and(|done| done.code == Some(0))
        })
}

/// A new writable subvolume, from a snapshot or empty.
///
/// # Errors
/// When btrfs refuses.
pub fn make_subvolume(base: Option<&Path>, at: &Path) -> Result<(), AgentError> {
    match base {
        Some(base) => btrfs(&["subvolume", "snapshot"], &[base, at]),
        None => btrfs(&["subvolume", "create"], &[at]),
    }
}

fn retire(dir: &DataDir, id: &RecoveryPointId) -> Result<(), AgentError> {
    discard(dir, &tree_of(dir, id))?;
    let file = file_of(dir, id);
    fs::remove_file(&file)
        .and_then(|()| sync_parent(&file))
        .map_err(|error| AgentError::io(format!("retire recovery point {id}"), error))
}

fn held(dir: &DataDir, now: Timestamp) -> Result<Vec<RecoveryPointId>, AgentError> {
    let downloads = dir.holds()?.unwrap_or_default().holds;
    let mut held: Vec<_> = downloads
        .into_iter()
        .filter(|hold| hold.until > now)
        .map(|hold| hold.point)
        .collect();
    // A restore that failed may be asked for again and needs the same recovery point.
    if let Some(job) = dir.restore_file()?
        && !matches!(job.stage, RestoreStage::Verified { .. })
    {
        held.push(job.point);
    }
    if let Some(job) = dir.put_back_file()?
        && matches!(job.stage, PutBackStage::Running(_))
        && (now.since(job.started_at) < WORKER_COMES_WITHIN || dir.is_locked(PUT_BACK_LOCK)?)
    {
        held.push(job.point);
    }
    Ok(held)
}

fn ids_with_file(dir: &DataDir) -> Result<Vec<RecoveryPointId>, AgentError> {
    let all = listing(dir)?;
    let names = all.iter().filter_map(|path| path.file_name()?.to_str());
    Ok(names
        .filter_map(|name| name.strip_suffix(".json")?.parse().ok())
        .collect())
}

fn listing(dir: &DataDir) -> Result<Vec<PathBuf>, AgentError> {
    let io = |error| AgentError::io("list the recovery points", error);
    let all = fs::read_dir(dir.points()).map_err(io)?;
    all.map(|entry| entry.map(|entry| entry.path()).map_err(io)).collect()
}

fn file_of(dir: &DataDir, id: &RecoveryPointId) -> PathBuf {
    dir.points().join(format!("{id}.json"))
}

fn json_name(path: &Path) -> String {
    format!("{}.json", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Whether there is a directory. A disk that cannot tell is never taken for one on which nothing is: what has no namesake is removed.
///
/// # Errors
/// When the disk cannot tell.
pub fn is_directory(path: &Path) -> Result<bool, AgentError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(AgentError::io(format!("look at {}", path.display()), error)),
    }
}

/// Moving a directory elsewhere rewrites its `..`, for which its owner (unless root) needs leave to write.
fn move_directory(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let before = fs::symlink_metadata(from)?.permissions();
            fs::set_permissions(from, fs::Permissions::from_mode(before.mode() | 0o200))?;
            fs::rename(from, to)?;
            fs::set_permissions(to, before)
        }
        other => other,
    }
}

fn is_btrfs(path: &Path) -> bool {
    // Source: linux/magic.h, BTRFS_SUPER_MAGIC.
    statfs(path).is_ok_and(|found| found.f_type == 0x9123_683e)
}

/// The root of every subvolume has inode number 256. Source: btrfs(5), Linux 6.1.
fn is_subvolume(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.ino() == 256) && is_btrfs(path)
}

fn btrfs_answers() -> bool {
    process::run(Command::new("btrfs").arg("--version"), b"", BTRFS_LIMIT).is_ok_and(|done| done.code == Some(0))
}

fn btrfs(verb: &[&str], paths: &[&Path]) -> Result<(), AgentError> {
    let done = process::run(Command::new("btrfs").args(verb).args(paths), b"", BTRFS_LIMIT)?;
    done.success(&format!("btrfs {}", verb.join(" "))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_cannot_tell_is_no_disk_without_the_directory() {
        let place = tempfile::tempdir().unwrap();
        assert!(is_directory(place.path()).unwrap());
        assert!(!is_directory(&place.path().join("missing")).unwrap());
        // As with EIO: the answer is an error, but not that there is nothing.
        let long = place.path().join("n".repeat(300));
        assert!(is_directory(&long).is_err());
    }
}
