//! Reaching what lies at a path below a root by open directories: no symbolic link on the way is taken, and where a path is longer
//! than the system takes one, it is gone part by part.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::node::Node;

/// How directories are opened: never through a link.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens the root of a tree, whose path is ours.
///
/// # Errors
/// When there is none.
pub fn open_root(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, root, flags, Mode::empty())?)
}

/// Opens a directory below another without following a link at any part of the way.
///
/// # Errors
/// When something on the way is missing, or no directory.
pub fn open_directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    if path.as_os_str().is_empty() {
        return Ok(rustix::fs::openat(root, c".", DIRECTORY, Mode::empty())?);
    }
    let strictly = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), strictly) {
        // Linux before 5.6 lacks it, some containers forbid it, and a path may be too long for it.
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => part_by_part(root, path, Missing::Refuse),
        opened => Ok(opened?),
    }
}

/// As [`open_directory`], and makes what is missing on the way.
///
/// # Errors
/// When something on the way is no directory, or the disk is full or fails.
pub fn make_directory(root: BorrowedFd<'_>, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
    part_by_part(root, path, Missing::Make(mode))
}

/// Gives what has a name another one that nothing has.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when something has it.
pub fn rename_new(from: BorrowedFd<'_>, name: &OsStr, to: BorrowedFd<'_>, new: &OsStr) -> io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Not every file system can be asked for that, NFS among them: then the look comes a moment before.
        Err(Errno::INVAL | Errno::NOSYS) => match Node::at(to, new)? {
            None => Ok(rustix::fs::renameat(from, name, to, new)?),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        },
        renamed => Ok(renamed?),
    }
}

/// What to do about a part of the way that is missing.
#[derive(Clone, Copy)]
enum Missing {
    Refuse,
    Make(Mode),
}

fn part_by_part(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    let mut here = root.try_clone_to_owned()?;
    for part in path.components() {
        let Component::Normal(part) = part else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let open = || rustix::fs::openat(&here, part, DIRECTORY, Mode::empty());
        here = match (open(), missing) {
            (Err(Errno::NOENT), Missing::Make(mode)) => match rustix::fs::mkdirat(&here, part, mode) {
                Ok(()) | Err(Errno::EXIST) => open()?,
                Err(error) => return Err(error.into()),
            },
            (opened, _) => opened?,
        };
    }
    Ok(here)
}

/// Opens what lies below a directory without following a link at any part of the way, and without waiting for whoever sits at the
/// other end of a pipe.
///
/// # Errors
/// As [`open_directory`]; also when it cannot be opened in this way.
pub fn open_below(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<File> {
    let (parent, name) = split(path);
    open_in(open_directory(root, parent)?.as_fd(), name, flags)
}

fn open_in(directory: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?.into())
}

/// The directory that holds a path, and the path's name there. The root holds itself.
fn split(path: &Path) -> (&Path, &OsStr) {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, name),
        _ => (Path::new(""), OsStr::new(".")),
    }
}

/// A name in a directory of a tree, whether or not anything has it.
#[derive(Debug)]
pub struct Spot {
    directory: OwnedFd,
    name: OsString,
}

impl Spot {
    /// The one of a path below a root. `None` when a symbolic link or something else than a directory lies on the way there.
    ///
    /// # Errors
    /// When the disk fails, or the path is none that anything could lie at.
    pub fn of(root: &Path, path: &Path) -> io::Result<Option<Self>> {
        let (parent, name) = split(path);
        let directory = reachable(open_directory(open_root(root)?.as_fd(), parent))?;
        Ok(directory.map(|directory| Self {
            directory,
            name: name.to_owned(),
        }))
    }

    /// What has the name.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn node(&self) -> io::Result<Option<Node>> {
        Node::at(self.directory.as_fd(), &*self.name)
    }

    /// Removes what has the name, with everything below it.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn clear(&self) -> io::Result<()> {
        super::remove_in(self.directory.as_fd(), &self.name)
    }

    /// A path that leads there for a program that we start, for as long as this lives. It is short however deep the name lies.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let ours = format!("/proc/{}/fd/{}", std::process::id(), self.directory.as_raw_fd());
        Path::new(&ours).join(&self.name)
    }
}

fn reachable(opened: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    const LINK: i32 = Errno::LOOP.raw_os_error();
    match opened {
        Ok(open) => Ok(Some(open)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) if error.raw_os_error() == Some(LINK) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds what lies at paths below a root, without following a link at any part of the way. Paths in the same directory one after
/// the other cost little.
#[derive(Debug)]
pub struct Finder {
    root: OwnedFd,
    last: Option<(PathBuf, Option<OwnedFd>)>,
}

impl Finder {
    /// A finder for this tree.
    ///
    /// # Errors
    /// When there is no such tree.
    pub fn below(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: open_root(root)?,
            last: None,
        })
    }

    /// What lies at a path. `None` when nothing does, or the way there leads over something else than directories.
    ///
    /// # Errors
    /// When the disk fails, or the path is none that anything could lie at.
    pub fn node(&mut self, path: &Path) -> io::Result<Option<Node>> {
        let (parent, name) = split(path);
        match self.directory(parent)? {
            Some(directory) => Node::at(directory, name),
            None => Ok(None),
        }
    }

    /// Opens what lies at a path, as [`open_below`] does.
    ///
    /// # Errors
    /// As [`open_below`].
    pub fn open(&mut self, path: &Path, flags: OFlags) -> io::Result<File> {
        let (parent, name) = split(path);
        let directory = self.directory(parent)?.ok_or(io::ErrorKind::NotFound)?;
        open_in(directory, name, flags)
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// When there is none at this path.
    pub fn read_link(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let (parent, name) = split(path);
        let directory = self.directory(parent)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes())
    }

    fn directory(&mut self, path: &Path) -> io::Result<Option<BorrowedFd<'_>>> {
        // As bytes: comparing paths by their parts costs more than looking.
        if self
            .last
            .as_ref()
            .is_none_or(|(last, _)| last.as_os_str() != path.as_os_str())
        {
            self.last = Some((path.to_owned(), reachable(open_directory(self.root.as_fd(), path))?));
        }
        Ok(self.last.as_ref().and_then(|(_, open)| open.as_ref()).map(AsFd::as_fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    type Way<'a> = &'a dyn Fn(&str) -> io::Result<OwnedFd>;

    #[test]
    fn every_way_to_a_directory_leads_there_and_over_no_link() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", place.path().join("link")).unwrap();
        fs::write(place.path().join("file"), "").unwrap();
        let root = open_root(place.path()).unwrap();
        let there = fs::metadata(place.path().join("a/b")).unwrap();
        let identity = |open: OwnedFd| Node::of(open.as_fd()).unwrap().identity();
        let at_once = |path: &str| open_directory(root.as_fd(), Path::new(path));
        let in_parts = |path: &str| part_by_part(root.as_fd(), Path::new(path), Missing::Refuse);
        let ways: [Way<'_>; 2] = [&at_once, &in_parts];
        for way in ways {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(identity(way("a/b").unwrap()), (there.dev(), there.ino()));
            assert_eq!(identity(way("").unwrap()), identity(open_root(place.path()).unwrap()));
            for bad in ["link", "link/b", "file", "file/x", "none", "/", "..", "../x"] {
                assert!(way(bad).is_err(), "{bad}");
            }
            for nothing in ["link/b", "file/x", "none/x"] {
                assert!(reachable(way(nothing)).unwrap().is_none(), "{nothing}");
            }
        }
        assert!(make_directory(root.as_fd(), Path::new("link/new"), Mode::RWXU).is_err());
        make_directory(root.as_fd(), Path::new("a/new/deep"), Mode::RWXU).unwrap();
        assert!(place.path().join("a/new/deep").is_dir());
    }
}
