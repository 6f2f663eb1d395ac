//! Our own trees: counted, compared and cleared away, never following a symbolic link, because a GPU chose their names and targets.

mod node;
mod reach;
mod walk;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
use warmspare_domain::units::Bytes;

pub use node::Node;
pub use reach::{Finder, Spot, make_directory, open_below, open_directory, open_root, rename_new};
pub use walk::{Visit, Walk, walk, walk_below};

use walk::{remove_all, walk_from};

/// Where rsync keeps the beginning of a file whose transfer broke off, beside the file.
pub const PARTIAL: &str = ".warmspare-partial";

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Regular files.
    pub files: u64,
    /// Their size.
    pub bytes: Bytes,
    /// Whether any has a second name.
    pub hard_links: bool,
}

/// Counts a tree.
///
/// # Errors
/// When a directory cannot be read.
pub fn census(root: &Path) -> io::Result<Census> {
    census_below(root, Path::new(""))
}

/// Counts what is in one directory of a tree.
///
/// # Errors
/// When a directory cannot be read.
pub fn census_below(root: &Path, directory: &Path) -> io::Result<Census> {
    let mut census = Census::default();
    walk_below(root, directory, &mut |found| {
        census.bytes = Bytes(census.bytes.0.saturating_add(found.node.counted()));
        if found.node.is_file() {
            census.files += 1;
            census.hard_links |= found.node.has_other_names();
        }
        Ok(Walk::Enter)
    })?;
    Ok(census)
}

/// What lies at a path in a tree, never through a symbolic link. Whoever asks for many keeps a [`Finder`].
///
/// # Errors
/// When there is no such tree, or the disk fails.
pub fn look(root: &Path, path: &Path) -> io::Result<Option<Node>> {
    Finder::below(root)?.node(path)
}

/// Names everything in one directory of a tree, as it lies below the root.
///
/// # Errors
/// When a directory cannot be read.
pub fn each(root: &Path, directory: &Path, visit: &mut impl FnMut(&Path)) -> io::Result<()> {
    walk_below(root, directory, &mut |found| {
        visit(found.path);
        Ok(Walk::Enter)
    })
}

/// Removes from one directory of a tree what is not to be kept, with everything below it, but never the remains of transfers that
/// broke off.
///
/// # Errors
/// When a directory cannot be read or changed.
pub fn retain(root: &Path, directory: &Path, keep: &impl Fn(&Path) -> bool) -> io::Result<()> {
    walk_below(root, directory, &mut |found| {
        if keep(found.path) || found.name() == PARTIAL {
            return Ok(Walk::Enter);
        }
        take_out(found)?;
        Ok(Walk::Pass)
    })
}

/// How many regular files of one tree have no namesake in another.
///
/// # Errors
/// When a directory cannot be read.
pub fn missing(from: &Path, other: &Path) -> io::Result<u64> {
    let mut namesakes = Finder::below(other)?;
    let mut missing = 0;
    walk(from, &mut |found| {
        if found.node.is_file() {
            let there = namesakes.node(found.path)?.is_some_and(|node| node.is_file());
            missing += u64::from(!there);
        }
        Ok(Walk::Enter)
    })?;
    Ok(missing)
}

/// Removes from a tree every entry that is the same file as one of `base`, so that nothing done to the tree reaches `base`.
///
/// # Errors
/// When a directory cannot be read or changed.
pub fn unshare(tree: &Path, base: &Path) -> io::Result<()> {
    let mut shared = HashSet::new();
    walk(base, &mut |found| {
        if !found.node.is_directory() && found.node.has_other_names() {
            shared.insert(found.node.identity());
        }
        Ok(Walk::Enter)
    })?;
    walk(tree, &mut |found| {
        if !found.node.is_directory() && shared.contains(&found.node.identity()) {
            take_out(found)?;
        }
        Ok(Walk::Enter)
    })
}

/// Removes what transfers that broke off left beside their files.
///
/// # Errors
/// When a directory cannot be read or changed.
pub fn clear_partials(tree: &Path) -> io::Result<()> {
    walk(tree, &mut |found| {
        if found.node.is_directory() && found.name() == PARTIAL {
            remove_in(found.parent, found.name())?;
            return Ok(Walk::Pass);
        }
        Ok(Walk::Enter)
    })
}

/// Removes what transfers that broke off left beside other files than those to `keep`, which are named by where they will lie.
///
/// # Errors
/// When a directory cannot be read or changed.
pub fn retain_partials(tree: &Path, keep: &impl Fn(&Path) -> bool) -> io::Result<()> {
    walk(tree, &mut |found| {
        let room = found.path.parent().filter(|place| place.ends_with(PARTIAL));
        let of = room.and_then(Path::parent).map(|place| place.join(found.name()));
        if of.is_some_and(|of| !keep(&of)) {
            take_out(found)?;
            return Ok(Walk::Pass);
        }
        Ok(Walk::Enter)
    })
}

/// Removes a tree, also one with directories that even their owner may not change.
///
/// # Errors
/// When something in it stays.
pub fn remove(tree: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (tree.parent(), tree.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A plain name lies here.
    match open_root(&Path::new(".").join(parent)) {
        Ok(parent) => remove_in(parent.as_fd(), name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove_in(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match remove_all(parent, name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    if Node::at(parent, name)?.is_some_and(|node| node.is_directory()) {
        rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
        walk_from(open_directory(parent, Path::new(name))?, Path::new(""), &mut |found| {
            if found.node.is_directory() {
                rustix::fs::chmodat(found.parent, found.name(), Mode::RWXU, AtFlags::empty())?;
            }
            Ok(Walk::Enter)
        })?;
    }
    remove_all(parent, name)
}

/// Removes an entry of a tree that a transfer goes over afterwards, so that its directory gets back its permissions.
fn take_out(found: &Visit<'_>) -> io::Result<()> {
    match remove_in(found.parent, found.name()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            rustix::fs::fchmod(found.parent, Mode::RWXU)?;
            remove_in(found.parent, found.name())
        }
        other => other,
    }
}

/// Gives one directory the owner, mode and times of another.
///
/// # Errors
/// When the system refuses.
pub fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    if rustix::process::geteuid().is_root() {
        let (owner, group) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
        rustix::fs::chown(to, Some(owner), Some(group))?;
    }
    fs::set_permissions(to, found.permissions())?;
    let instant = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: instant(found.atime(), found.atime_nsec()),
        last_modification: instant(found.mtime(), found.mtime_nsec()),
    };
    Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Where a name that rsync printed lies below the root of the tree, as plain components. `None` when it is not below it.
///
/// `roots` are the ways in which the other side may write the root.
#[must_use]
pub fn below(name: &[u8], roots: &[&[u8]]) -> Option<PathBuf> {
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    let relative = if name.is_absolute() {
        roots
            .iter()
            .find_map(|root| name.strip_prefix(std::ffi::OsStr::from_bytes(root)).ok())?
    } else {
        name
    };
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && relative.components().next().is_some()).then(|| relative.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::OFlags;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_name_from_the_gpu_cannot_leave_the_tree() {
        let roots: [&[u8]; 2] = [b"/w", b"/mnt/w"];
        assert_eq!(below(b"/w/a/b", &roots), Some("a/b".into()));
        assert_eq!(below(b"/mnt/w/a", &roots), Some("a".into()));
        assert_eq!(below(b"a/b", &roots), Some("a/b".into()));
        for bad in [&b"/etc/passwd"[..], b"/w", b"/w/../etc/passwd", b"../x", b"", b"."] {
            assert_eq!(below(bad, &roots), None, "{bad:?}");
        }
    }

    /// Directories in each other, and a file beside each.
    fn grow_deep(root: &Path, depth: usize) {
        fs::create_dir_all(root).unwrap();
        let mut here = open_root(root).unwrap();
        for level in 0..depth {
            let name = format!("{level:d<198}");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            rustix::fs::openat(&here, c"f", flags, Mode::RUSR | Mode::WUSR).unwrap();
            rustix::fs::mkdirat(&here, &*name, Mode::RWXU).unwrap();
            here = open_directory(here.as_fd(), Path::new(&name)).unwrap();
        }
    }

    fn count(root: &Path) -> (u64, u64, usize) {
        let (mut files, mut directories, mut longest) = (0, 0, 0);
        walk(root, &mut |found| {
            files += u64::from(found.node.is_file());
            directories += u64::from(found.node.is_directory());
            longest = longest.max(found.path.as_os_str().len());
            Ok(Walk::Enter)
        })
        .unwrap();
        (files, directories, longest)
    }

    #[test]
    fn a_path_of_any_length_is_walked_found_and_removed() {
        let place = tempfile::tempdir().unwrap();
        let (one, other) = (place.path().join("one"), place.path().join("other"));
        // 10,000 bytes, and more directories than are open at once.
        for tree in [&one, &other] {
            grow_deep(tree, 50);
            assert_eq!(count(tree), (50, 50, 50 * 199 - 1));
        }
        assert_eq!(census(&one).unwrap().files, 50);
        assert_eq!(missing(&one, &other).unwrap(), 0);
        let half: PathBuf = (0..25).map(|level| format!("{level:d<198}")).collect();
        assert_eq!(census_below(&one, &half).unwrap().files, 25);
        retain(&one, &half, &|_| false).unwrap();
        assert_eq!(count(&one), (25, 25, 25 * 199 - 1));
        assert_eq!(missing(&other, &one).unwrap(), 25);
        for tree in [&one, &other] {
            remove(tree).unwrap();
            assert!(!tree.exists());
        }
    }

    #[test]
    fn a_symbolic_link_is_never_followed() {
        let place = tempfile::tempdir().unwrap();
        let (tree, outside) = (place.path().join("tree"), place.path().join("outside"));
        fs::create_dir_all(outside.join("d")).unwrap();
        fs::write(outside.join("d/f"), "kept").unwrap();
        fs::create_dir_all(tree.join("real")).unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        symlink(&outside, tree.join("real/link")).unwrap();
        assert_eq!(count(&tree), (0, 1, "real/link".len()));
        let mut finder = Finder::below(&tree).unwrap();
        assert!(finder.node(Path::new("real/link")).unwrap().unwrap().is_link());
        for hidden in ["link/d", "link/d/f", "real/link/d"] {
            assert!(finder.node(Path::new(hidden)).unwrap().is_none(), "{hidden}");
            assert!(finder.open(Path::new(hidden), OFlags::RDONLY).is_err(), "{hidden}");
            let spot = Spot::of(&tree, Path::new(hidden)).unwrap();
            assert!(spot.is_none_or(|spot| spot.node().unwrap().is_none()), "{hidden}");
        }
        remove(&tree.join("link")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read(outside.join("d/f")).unwrap(), b"kept");
    }

    #[test]
    fn a_spot_is_reached_by_other_programs_and_cleared() {
        let place = tempfile::tempdir().unwrap();
        grow_deep(place.path(), 30);
        let deepest: PathBuf = (0..30).map(|level| format!("{level:d<198}")).collect();
        let spot = Spot::of(place.path(), &deepest.join("new")).unwrap().unwrap();
        assert!(spot.node().unwrap().is_none());
        fs::create_dir_all(spot.path().join("d")).unwrap();
        fs::write(spot.path().join("d/f"), "f").unwrap();
        assert!(spot.node().unwrap().unwrap().is_directory());
        spot.clear().unwrap();
        spot.clear().unwrap();
        assert!(spot.node().unwrap().is_none());
        assert!(Spot::of(place.path(), &deepest.join("f/below")).unwrap().is_none());
    }

    #[test]
    fn directories_that_their_owner_may_not_change_are_removed_all_the_same() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        let close = |path: &str, mode| fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
        let grow = || {
            fs::create_dir_all(tree.join("closed/deep")).unwrap();
            fs::write(tree.join("closed/deep/f"), "f").unwrap();
            fs::write(tree.join("f"), "f").unwrap();
            close("closed/deep", 0o000);
            close("closed", 0o500);
            close("", 0o500);
        };
        grow();
        retain(&tree, Path::new(""), &|path| path == Path::new("f")).unwrap();
        assert_eq!(count(&tree), (1, 0, 1));
        remove(&tree).unwrap();
        grow();
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn unsharing_leaves_only_what_is_not_the_bases() {
        let place = tempfile::tempdir().unwrap();
        let (base, tree) = (place.path().join("base"), place.path().join("tree"));
        fs::create_dir_all(base.join("d")).unwrap();
        fs::create_dir_all(tree.join("d")).unwrap();
        fs::write(base.join("d/old"), "old").unwrap();
        fs::hard_link(base.join("d/old"), tree.join("d/old")).unwrap();
        fs::hard_link(base.join("d/old"), tree.join("second-name")).unwrap();
        fs::write(tree.join("new"), "new").unwrap();
        fs::hard_link(tree.join("new"), tree.join("d/new")).unwrap();
        unshare(&tree, &base).unwrap();
        assert_eq!(census(&tree).unwrap().files, 2);
        assert!(tree.join("new").exists() && tree.join("d/new").exists());
        assert_eq!(census(&base).unwrap().files, 1);
    }
}
