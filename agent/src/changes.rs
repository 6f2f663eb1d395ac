//! The paths of a dirty pass: what rsync is to look at, and what became of it. Nothing here walks a whole tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::Mode;

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::marker::MARKER_DIRECTORY;
use crate::name_list::NameList;
use crate::process::{self, Finished};
use crate::rsync_output::{Itemized, Tally};
use crate::tree::{self, Finder, Node, PARTIAL, Spot};

/// Copying one file beside itself without its content, or filtering a few directories.
const MOMENT: Duration = Duration::from_secs(600);

/// Whether a list of changes can be true of a copy: whatever holds a changed path was a directory already, or changed, too.
#[must_use]
pub fn fit(base: &Path, paths: &[PathBuf]) -> bool {
    let listed: BTreeSet<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let mut base = Directories::of(base);
    paths
        .iter()
        .all(|path| parents(path).all(|parent| listed.contains(parent) || base.have(parent)))
}

/// Leaves out what lies in directories that the user excludes. rsync itself judges every name that it is given, but not the
/// directories above it. Those of the base were judged by the scan that made it; new ones are shown to rsync, empty.
///
/// # Errors
/// When the disk is full or fails.
pub fn without_excluded(
    dir: &DataDir,
    base: &Path,
    paths: Vec<PathBuf>,
    filters: &[String],
) -> Result<Vec<PathBuf>, AgentError> {
    if filters.is_empty() {
        return Ok(paths);
    }
    let mut base = Directories::of(base);
    let new: BTreeSet<PathBuf> = paths
        .iter()
        .flatten_parents()
        .filter(|parent| !base.have(parent))
        .map(Path::to_owned)
        .collect();
    if new.is_empty() {
        return Ok(paths);
    }
    let copied = copied_directories(dir, &new, filters)?;
    let stays = |path: &PathBuf| parents(path).all(|parent| !new.contains(parent) || copied.contains(parent));
    Ok(paths.into_iter().filter(stays).collect())
}

/// Removes from a copy what it has in directories that were taken away: whatever took their place, all that is there now is listed.
///
/// # Errors
/// When a directory cannot be read or changed.
pub fn clear_replaced(tree: &Path, paths: &[PathBuf], replaced: &[PathBuf]) -> io::Result<()> {
    let listed: BTreeSet<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let mut finder = Finder::below(tree)?;
    for path in replaced {
        if finder.node(path)?.is_some_and(|found| found.is_directory()) {
            tree::retain(tree, path, &|path| listed.contains(path))?;
        }
    }
    Ok(())
}

/// The listed paths, and with them what the base has in directories that were taken away.
///
/// # Errors
/// When a directory cannot be read.
pub fn with_remains(base: &Path, paths: &[PathBuf], replaced: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut all = paths.to_vec();
    let mut finder = Finder::below(base)?;
    for path in replaced {
        if finder.node(path)?.is_some_and(|found| found.is_directory()) {
            tree::each(base, path, &mut |below| all.push(below.to_owned()))?;
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}

trait FlattenParents<'a> {
    fn flatten_parents(self) -> impl Iterator<Item = &'a Path>;
}

impl<'a, I: Iterator<Item = &'a PathBuf>> FlattenParents<'a> for I {
    fn flatten_parents(self) -> impl Iterator<Item = &'a Path> {
        self.flat_map(|path| parents(path))
    }
}

fn copied_directories(
    dir: &DataDir,
    new: &BTreeSet<PathBuf>,
    filters: &[String],
) -> Result<BTreeSet<PathBuf>, AgentError> {
    const DOING: &str = "find out which new directories are excluded";
    let io = |error| AgentError::io(DOING, error);
    let place = dir.file("filter");
    tree::remove(&place).map_err(io)?;
    let (all, copied) = (place.join("all"), place.join("copied"));
    for path in [&place, &all, &copied] {
        fs::DirBuilder::new().mode(0o700).create(path).map_err(io)?;
    }
    let root = tree::open_root(&all).map_err(io)?;
    for path in new {
        tree::make_directory(root.as_fd(), path, Mode::RWXU).map_err(io)?;
    }
    rsync_here(&[], filters, &all, &copied)?.success(DOING)?;
    let mut there = Directories::of(&copied);
    let found = new.iter().filter(|path| there.have(path)).cloned().collect();
    tree::remove(&place).map_err(io)?;
    Ok(found)
}

/// Only rsync knows what its patterns mean: it is asked on our own disk.
fn rsync_here(options: &[&str], filters: &[String], from: &Path, to: &Path) -> Result<Finished, AgentError> {
    process::run(
        Command::new("rsync")
            .arg("--recursive")
            .args(options)
            .args(filters)
            .arg("--")
            .arg(from.join(""))
            .arg(to.join(""))
            .env("LC_ALL", "C"),
        b"",
        MOMENT,
    )
}

/// How many regular files of a tree the user's filters let through.
///
/// # Errors
/// When rsync cannot walk it.
pub fn files_that_pass(dir: &DataDir, tree: &Path, filters: &[String]) -> Result<u64, AgentError> {
    const DOING: &str = "count what is not excluded";
    let io = |error| AgentError::io(DOING, error);
    let nowhere = dir.file("filter");
    tree::remove(&nowhere).map_err(io)?;
    fs::DirBuilder::new().mode(0o700).create(&nowhere).map_err(io)?;
    let options = ["--links", "--dry-run", "--stats", "--no-human-readable"];
    let told = rsync_here(&options, filters, tree, &nowhere)?.success(DOING)?;
    tree::remove(&nowhere).map_err(io)?;
    let mut tally = Tally::default();
    for line in String::from_utf8_lossy(&told).lines() {
        tally.read(line);
    }
    let totals = tally
        .totals
        .ok_or_else(|| io(io::Error::other("rsync told no total")))?;
    Ok(totals.files)
}

/// The list of paths for rsync.
///
/// # Errors
/// When the disk is full or fails.
pub fn write_list(dir: &DataDir, paths: &[PathBuf]) -> Result<NameList, AgentError> {
    // Our own directory is excluded. It is there so that the list is never without a name that begins with "./", which makes rsync
    // give the root its attributes, too. Source: rsync 3.2.7, flist.c.
    let names = paths.iter().map(|path| path.as_os_str().as_encoded_bytes());
    let names = names.filter(|name| !name.is_empty());
    NameList::write(dir, "changes", [MARKER_DIRECTORY.as_bytes()].into_iter().chain(names))
}

/// Removes what transfers that broke off left beside the listed paths.
///
/// # Errors
/// When it cannot be removed.
pub fn clear_partials(tree: &Path, paths: &[PathBuf]) -> io::Result<()> {
    let places: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
    for place in places {
        if let Some(partial) = Spot::of(tree, &place.join(PARTIAL))? {
            partial.clear()?;
        }
    }
    Ok(())
}

/// What a pass did to the listed paths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Regular files among them before, and in directories that are gone.
    pub files_before: u64,
    /// Regular files among them now.
    pub files_after: u64,
    /// The size of those before, as rsync counts it.
    pub bytes_before: u64,
    /// The size of those now.
    pub bytes_after: u64,
    /// Regular files of before that are none any more.
    pub deleted: u64,
}

/// Compares the listed paths, parents first, in two trees.
///
/// # Errors
/// When a directory cannot be read.
pub fn difference(base: &Path, new: &Path, paths: &[PathBuf]) -> io::Result<Difference> {
    let mut sum = Difference::default();
    let (mut old, mut now) = (Finder::below(base)?, Finder::below(new)?);
    let mut gone: Option<&Path> = None;
    for path in paths.iter().filter(|path| !path.as_os_str().is_empty()) {
        if gone.is_some_and(|gone| path.starts_with(gone)) {
            continue;
        }
        let (before, after) = (old.node(path)?, now.node(path)?);
        let is_directory = |found: Option<Node>| found.is_some_and(|found| found.is_directory());
        if is_directory(before) && !is_directory(after) {
            let lost = tree::census_below(base, path)?;
            sum.files_before += lost.files;
            sum.bytes_before += lost.bytes.0;
            sum.deleted += lost.files;
            gone = Some(path);
        }
        let is_file = |found: Option<Node>| found.is_some_and(|found| found.is_file());
        let (was, is) = (is_file(before), is_file(after));
        sum.files_before += u64::from(was);
        sum.files_after += u64::from(is);
        sum.deleted += u64::from(was && !is);
        sum.bytes_before += before.map_or(0, |found| found.counted());
        sum.bytes_after += after.map_or(0, |found| found.counted());
    }
    Ok(sum)
}

/// Whether there is a regular file at a path in a tree.
#[must_use]
pub fn is_regular(tree: &Path, path: &Path) -> bool {
    found(tree, path).is_some_and(|found| found.is_file())
}

/// Whether any of the paths is a file that has other names in a tree: what is written through one is told of that one only.
#[must_use]
pub fn have_twins(tree: &Path, paths: &[PathBuf]) -> bool {
    let is_twin = |found: Node| found.is_file() && found.has_other_names();
    let mut finder = Finder::below(tree).ok();
    let mut found = |path| finder.as_mut()?.node(path).ok().flatten();
    paths.iter().any(|path| found(path).is_some_and(is_twin))
}

/// Whether two trees have the same file at a path, as far as size and time tell.
#[must_use]
pub fn is_same(one: &Path, other: &Path, path: &Path) -> bool {
    let version = |tree| found(tree, path).map(|found| (found.size(), found.modified()));
    version(one) == version(other)
}

fn found(tree: &Path, path: &Path) -> Option<Node> {
    tree::look(tree, path).ok()?
}

/// The directories that hold a path, without the root.
fn parents(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty())
}

/// The directories of a tree, each looked at once.
struct Directories<'a> {
    tree: Option<Finder>,
    known: BTreeMap<&'a Path, bool>,
}

impl<'a> Directories<'a> {
    fn of(tree: &Path) -> Self {
        Self {
            tree: Finder::below(tree).ok(),
            known: BTreeMap::new(),
        }
    }

    fn have(&mut self, path: &'a Path) -> bool {
        let Self { tree, known } = self;
        *known.entry(path).or_insert_with(|| {
            let found = tree.as_mut().and_then(|tree| tree.node(path).ok().flatten());
            found.is_some_and(|found| found.is_directory())
        })
    }
}

/// Counts the changes of a full scan that a watcher had not told of: `told` before or while the scan ran.
#[must_use]
pub fn missed(found: &[(PathBuf, Itemized)], told: &BTreeSet<PathBuf>) -> u64 {
    let was_told = |path: &PathBuf, seen: Itemized| match seen {
        Itemized::Changed => told.contains(path),
        // A directory that goes takes along what is in it.
        Itemized::Deleted => path
            .ancestors()
            .any(|part| !part.as_os_str().is_empty() && told.contains(part)),
    };
    found.iter().filter(|(path, seen)| !was_told(path, *seen)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        paths.sort();
        paths
    }

    fn grow(root: &Path, files: &[&str]) {
        for file in files {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), file).unwrap();
        }
    }

    #[test]
    fn what_is_excluded_above_a_path_is_left_out_as_rsync_would() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&place.path().join("data")).unwrap();
        let base = place.path().join("base");
        grow(&base, &["src/a", "cache-not/b"]);
        let all = paths(&[
            "src/a",
            "src/new/x",
            "cache/deep/y",
            "src/cache/z",
            "x.tmp/in/side",
            "keep/me/1",
            "keep/2",
            "a\nb/not/3",
        ]);
        let left = |excludes: &[&str]| {
            let filters: Vec<String> = excludes.iter().map(|text| format!("--exclude={text}")).collect();
            without_excluded(&dir, &base, all.clone(), &filters).unwrap()
        };
        let dropped = |excludes: &[&str]| {
            let left = left(excludes);
            all.iter()
                .filter(|path| !left.contains(path))
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(dropped(&[]), paths(&[]));
        assert_eq!(dropped(&["/cache/"]), paths(&["cache/deep/y"]));
        assert_eq!(dropped(&["cache/"]), paths(&["cache/deep/y", "src/cache/z"]));
        assert_eq!(dropped(&["*.tmp"]), paths(&["x.tmp/in/side"]));
        assert_eq!(dropped(&["+ /keep/me/", "/keep/*"]), paths(&[]));
        assert_eq!(dropped(&["/keep/*"]), paths(&["keep/me/1"]));
        assert_eq!(dropped(&["a?b/**"]), paths(&["a\nb/not/3"]));
    }

    #[test]
    fn a_difference_is_counted_once_whatever_was_listed() {
        let place = tempfile::tempdir().unwrap();
        let (base, new) = (place.path().join("base"), place.path().join("new"));
        grow(
            &base,
            &[
                "same",
                "changed",
                "lost",
                "dir/1",
                "dir/deep/2",
                "was-file",
                "was-dir/3",
            ],
        );
        grow(&new, &["same", "changed", "fresh", "was-file/4", "was-dir"]);
        let listed = paths(&[
            "",
            "changed",
            "lost",
            "dir",
            "dir/deep",
            "dir/deep/2",
            "dir/1",
            "fresh",
            "was-file",
            "was-file/4",
            "was-dir",
            "was-dir/3",
            "never",
        ]);
        let counted = difference(&base, &new, &listed).unwrap();
        assert_eq!((counted.files_before, counted.files_after, counted.deleted), (6, 4, 5));
    }

    #[test]
    fn a_list_that_cannot_be_true_of_the_copy_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        grow(place.path(), &["d/f", "file"]);
        std::os::unix::fs::symlink("/etc", place.path().join("link")).unwrap();
        assert!(fit(place.path(), &paths(&["", "d/f", "d/new", "new", "new/x", "link"])));
        assert!(fit(place.path(), &paths(&["link", "link/passwd"])));
        for bad in ["link/passwd", "new/x", "file/x"] {
            assert!(!fit(place.path(), &paths(&[bad])), "{bad}");
        }
    }

    #[test]
    fn only_what_nobody_told_of_was_missed() {
        let told = paths(&["a", "gone"]).into_iter().collect();
        let found = [
            ("a".into(), Itemized::Changed),
            ("gone/deep/x".into(), Itemized::Deleted),
            ("gone".into(), Itemized::Deleted),
            ("a/b".into(), Itemized::Changed),
            ("elsewhere".into(), Itemized::Deleted),
        ];
        assert_eq!(missed(&found, &told), 2);
    }
}
