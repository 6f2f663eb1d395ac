//! Walking our own trees without ever following a symbolic link: a GPU chose their names and targets.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use warmspare_domain::units::Bytes;

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
    let mut census = Census::default();
    walk(root, &mut |_, found| {
        census.bytes = Bytes(census.bytes.0.saturating_add(counted(Some(found))));
        if found.is_file() {
            census.files += 1;
            census.hard_links |= found.nlink() > 1;
        }
        Ok(Walk::Enter)
    })?;
    Ok(census)
}

/// What an entry adds to the size of a tree: as rsync counts it, files and the targets of symbolic links.
#[must_use]
pub fn counted(found: Option<&Metadata>) -> u64 {
    found
        .filter(|found| found.is_file() || found.is_symlink())
        .map_or(0, Metadata::len)
}

/// Whether a file has holes, as far as its blocks tell: one that its file system compresses counts as well.
#[must_use]
pub fn has_holes(found: &Metadata) -> bool {
    // Blocks of 512 bytes, whatever the file system's are. Source: stat(2).
    found.blocks().saturating_mul(512) < found.len()
}

/// Names everything in a tree.
///
/// # Errors
/// When a directory cannot be read.
pub fn each(root: &Path, visit: &mut impl FnMut(&Path)) -> io::Result<()> {
    walk(root, &mut |path, _| {
        visit(path);
        Ok(Walk::Enter)
    })
}

/// Removes what is not to be kept, with everything below it, but never the remains of transfers that broke off.
///
/// # Errors
/// When a directory cannot be read or changed.
pub fn retain(root: &Path, keep: &impl Fn(&Path) -> bool) -> io::Result<()> {
    walk(root, &mut |path, found| {
        let partial = path.file_name().is_some_and(|name| name == PARTIAL);
        match (keep(path) || partial, found.is_dir()) {
            (true, _) => return Ok(Walk::Enter),
            (false, true) => remove(path)?,
            (false, false) => remove_file(path)?,
        }
        Ok(Walk::Pass)
    })
}

/// How many regular files of one tree have no namesake in another.
///
/// # Errors
/// When a directory cannot be read.
pub fn missing(from: &Path, other: &Path) -> io::Result<u64> {
    let mut missing = 0;
    walk(from, &mut |path, found| {
        if found.is_file() {
            let namesake = path.strip_prefix(from).map(|rest| other.join(rest));
            let there = namesake.is_ok_and(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file()));
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
    walk(base, &mut |_, found| {
        if !found.is_dir() && found.nlink() > 1 {
            shared.insert(found.ino());
        }
        Ok(Walk::Enter)
    })?;
    walk(tree, &mut |path, found| {
        if !found.is_dir() && shared.contains(&found.ino()) {
            remove_file(path)?;
        }
        Ok(Walk::Enter)
    })
}

/// Removes what transfers that broke off left beside their files.
///
/// # Errors
/// When a directory cannot be read or changed.
pub fn clear_partials(tree: &Path) -> io::Result<()> {
    walk(tree, &mut |path, found| {
        if found.is_dir() && path.file_name().is_some_and(|name| name == PARTIAL) {
            remove(path)?;
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
    match fs::remove_dir_all(tree) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error),
    }
    walk(tree, &mut |path, found| {
        if found.is_dir() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Walk::Enter)
    })?;
    fs::remove_dir_all(tree)
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

/// A path below a root, unless a symbolic link or a non-directory lies on the way.
#[must_use]
pub fn inside(root: &Path, relative: &Path) -> Option<PathBuf> {
    let mut path = root.to_owned();
    let parents = relative.parent().into_iter().flat_map(Path::components);
    for part in parents {
        path.push(part);
        if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            return None;
        }
    }
    Some(root.join(relative))
}

/// Opens a directory below another without following a link at any part of the way.
///
/// # Errors
/// When something on the way is missing, or no directory.
pub fn open_directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = root.try_clone_to_owned()?;
    for part in path.components() {
        here = rustix::fs::openat(&here, part.as_os_str(), flags, Mode::empty())?;
    }
    Ok(here)
}

/// Opens what lies below a directory without following a link at any part of the way, and without waiting for whoever sits at the
/// other end of a pipe.
///
/// # Errors
/// As [`open_directory`]; also when it cannot be opened in this way.
pub fn open_below(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<File> {
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (open_directory(root, parent)?, name),
        _ => (root.try_clone_to_owned()?, OsStr::new(".")),
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?.into())
}

/// What to do with an entry's children.
pub(crate) enum Walk {
    /// Visit them.
    Enter,
    /// Leave them out.
    Pass,
}

/// Visits everything below a root, in no order.
pub(crate) fn walk(root: &Path, visit: &mut impl FnMut(&Path, &Metadata) -> io::Result<Walk>) -> io::Result<()> {
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match (visit(&path, &found)?, found.is_dir()) {
                (Walk::Enter, true) => waiting.push(path),
                (Walk::Enter, false) | (Walk::Pass, _) => {}
            }
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            fs::set_permissions(parent, fs::Permissions::from_mode(0o700))?;
            fs::remove_file(path)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

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

    #[test]
    fn a_symbolic_link_on_the_way_is_not_taken() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("real")).unwrap();
        symlink("/etc", place.path().join("link")).unwrap();
        assert!(inside(place.path(), Path::new("real/x")).is_some());
        assert!(inside(place.path(), Path::new("link/passwd")).is_none());
        assert!(inside(place.path(), Path::new("absent/x")).is_none());
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
