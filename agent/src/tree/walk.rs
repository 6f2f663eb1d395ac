//! Walking a tree by open directories: no path is too long for it, and no symbolic link is followed.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, RawDir};
use rustix::io::Errno;
use rustix::path::Arg;

use super::node::Node;
use super::reach::{DIRECTORY, open_directory, open_root};

/// So many directories stay open on the way down a deep tree.
const OPEN_AT_MOST: usize = 32;

/// Many names at once; the longest takes 280 bytes of it.
const LISTED_AT_ONCE: usize = 32 << 10;

/// What to do with an entry's children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Visit them.
    Enter,
    /// Leave them out.
    Pass,
}

/// An entry that a walk came to.
#[derive(Debug)]
pub struct Visit<'a> {
    /// Where it lies below the root.
    pub path: &'a Path,
    /// What it is.
    pub node: &'a Node,
    /// The directory that holds it.
    pub parent: BorrowedFd<'a>,
}

impl Visit<'_> {
    /// Its name in the directory that holds it.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

/// Visits everything below a root, in no order but that a directory comes before what is in it. What goes away meanwhile is left out.
///
/// # Errors
/// Those of the visitor; when a directory cannot be read.
pub fn walk(root: &Path, visit: &mut impl FnMut(&Visit<'_>) -> io::Result<Walk>) -> io::Result<()> {
    walk_below(root, Path::new(""), visit)
}

/// As [`walk`], only what is in one directory of the tree. Paths begin at the root all the same.
///
/// # Errors
/// As [`walk`]; also when there is no such directory.
pub fn walk_below(
    root: &Path,
    directory: &Path,
    visit: &mut impl FnMut(&Visit<'_>) -> io::Result<Walk>,
) -> io::Result<()> {
    walk_from(open_directory(open_root(root)?.as_fd(), directory)?, directory, visit)
}

/// As [`walk`], only what is in an open directory, which lies at `path`.
pub(super) fn walk_from(
    start: OwnedFd,
    path: &Path,
    visit: &mut impl FnMut(&Visit<'_>) -> io::Result<Walk>,
) -> io::Result<()> {
    let mut look = |parent: BorrowedFd<'_>, path: &Path, name: &CStr, _: FileType| {
        let Some(node) = Node::at(parent, name)? else {
            return Ok(Walk::Pass);
        };
        let wanted = visit(&Visit {
            path,
            node: &node,
            parent,
        })?;
        Ok(if node.is_directory() { wanted } else { Walk::Pass })
    };
    let mut way = Way::begin(start, path);
    way.list(&mut look)?;
    loop {
        match way.step()? {
            Step::Down => way.list(&mut look)?,
            Step::Up(_) => {}
            Step::End => return Ok(()),
        }
    }
}

/// Removes what has this name in an open directory, with everything below it.
pub(super) fn remove_all(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match Node::at(parent, name)? {
        None => return Ok(()),
        Some(node) if node.is_directory() => {}
        Some(_) => return unlink(parent, name, AtFlags::empty()),
    }
    let mut clear = |parent: BorrowedFd<'_>, _: &Path, name: &CStr, kind: FileType| {
        // Not every file system tells.
        let is_directory = if kind == FileType::Unknown {
            Node::at(parent, name)?.is_some_and(|node| node.is_directory())
        } else {
            kind == FileType::Directory
        };
        if is_directory {
            return Ok(Walk::Enter);
        }
        unlink(parent, name, AtFlags::empty())?;
        Ok(Walk::Pass)
    };
    let start = match open_directory(parent, Path::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut way = Way::begin(start, Path::new(""));
    way.list(&mut clear)?;
    loop {
        match way.step()? {
            Step::Down => way.list(&mut clear)?,
            Step::Up(left) => unlink(way.here()?, &*left, AtFlags::REMOVEDIR)?,
            Step::End => return unlink(parent, name, AtFlags::REMOVEDIR),
        }
    }
}

/// Somebody else may remove the same.
fn unlink(parent: BorrowedFd<'_>, name: impl Arg, flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where a walk is: the directories from where it began down to the one that is looked at.
struct Way {
    levels: Vec<Level>,
    /// The deepest directory's, and for a moment that of an entry in it.
    path: PathBuf,
    space: Vec<MaybeUninit<u8>>,
}

struct Level {
    name: CString,
    open: Open,
    /// The directories in it that are still to be entered.
    waiting: Vec<CString>,
}

enum Open {
    Still(OwnedFd),
    /// Closed, because too many were open: opened again from below, it must be the same.
    Was((u64, u64)),
}

/// Where a step led.
enum Step {
    /// Into a directory that is to be listed now.
    Down,
    /// Out of a directory of this name.
    Up(CString),
    /// Out of the one where it began.
    End,
}

impl Way {
    fn begin(directory: OwnedFd, path: &Path) -> Self {
        Self {
            levels: vec![Level::of(CString::default(), directory)],
            path: path.to_owned(),
            space: vec![MaybeUninit::uninit(); LISTED_AT_ONCE],
        }
    }

    /// The directory that is looked at.
    fn here(&self) -> io::Result<BorrowedFd<'_>> {
        match self.levels.last().map(|level| &level.open) {
            Some(Open::Still(directory)) => Ok(directory.as_fd()),
            Some(Open::Was(_)) | None => Err(io::Error::other("the walk has no open directory")),
        }
    }

    /// Shows every entry of the directory that is looked at. What is to be entered waits for its step.
    fn list(
        &mut self,
        look: &mut impl FnMut(BorrowedFd<'_>, &Path, &CStr, FileType) -> io::Result<Walk>,
    ) -> io::Result<()> {
        let Self { levels, path, space } = self;
        let Some(Level {
            open: Open::Still(directory),
            waiting,
            ..
        }) = levels.last_mut()
        else {
            return Ok(());
        };
        let mut listing = RawDir::new(directory.as_fd(), space);
        while let Some(entry) = listing.next() {
            let entry = match entry {
                // Removed while it was read.
                Err(Errno::NOENT) => return Ok(()),
                entry => entry?,
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            path.push(OsStr::from_bytes(name.to_bytes()));
            let wanted = look(directory.as_fd(), path, name, entry.file_type());
            path.pop();
            if wanted? == Walk::Enter {
                waiting.push(name.to_owned());
            }
        }
        Ok(())
    }

    /// Goes down into a directory that waits, or up when none does.
    fn step(&mut self) -> io::Result<Step> {
        while let Some(name) = self.levels.last_mut().and_then(|level| level.waiting.pop()) {
            match rustix::fs::openat(self.here()?, &*name, DIRECTORY, Mode::empty()) {
                Ok(directory) => {
                    self.path.push(OsStr::from_bytes(name.to_bytes()));
                    self.levels.push(Level::of(name, directory));
                    self.close_one()?;
                    return Ok(Step::Down);
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let left = self.levels.pop();
        self.path.pop();
        match (left, self.levels.last_mut()) {
            (Some(left), Some(above)) => {
                above.open_from(&left)?;
                Ok(Step::Up(left.name))
            }
            (None, _) | (_, None) => Ok(Step::End),
        }
    }

    fn close_one(&mut self) -> io::Result<()> {
        let too_high = self.levels.len().checked_sub(OPEN_AT_MOST + 1);
        match too_high.and_then(|at| self.levels.get_mut(at)) {
            Some(level) => level.close(),
            None => Ok(()),
        }
    }
}

impl Level {
    fn of(name: CString, directory: OwnedFd) -> Self {
        Self {
            name,
            open: Open::Still(directory),
            waiting: Vec::new(),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        if let Open::Still(directory) = &self.open {
            self.open = Open::Was(Node::of(directory.as_fd())?.identity());
        }
        Ok(())
    }

    /// Opens it again, if it was closed, by way of a directory in it.
    fn open_from(&mut self, below: &Self) -> io::Result<()> {
        let (Open::Was(identity), Open::Still(below)) = (&self.open, &below.open) else {
            return Ok(());
        };
        let directory = rustix::fs::openat(below, c"..", DIRECTORY, Mode::empty())?;
        if Node::of(directory.as_fd())?.identity() != *identity {
            return Err(io::Error::other("a directory was moved while its tree was walked"));
        }
        self.open = Open::Still(directory);
        Ok(())
    }
}
