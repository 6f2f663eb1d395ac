//! The GPU's end of putting a path back: what has arrived beside the tree is moved to its place, one rename each.
//!
//! # Guarantees
//! Nothing is overwritten: what is there stays, or is renamed to a place aside that nothing else has. A directory that is there keeps
//! its attributes. Nothing is reached through a symbolic link.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, Mode};
use serde::{Deserialize, Serialize};
use warmspare_wire::agent::Existing;

use crate::tree::{Node, make_directory, open_directory, open_root, rename_new};

/// The hidden verb: runs on the GPU, in the tree.
pub const PUT_IN: &str = "put-in";

/// Where what is on its way waits, below the tree; no pass copies it.
pub const ROOM: &str = ".warmspare/put-back";

/// What is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What becomes of what is there.
    pub existing: Existing,
    /// The place aside, below the tree. Nothing has this name yet.
    pub aside: String,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedEntries {
    /// Entries that got their place, a directory with all that is in it counted once.
    pub put: u64,
    /// Entries whose place was taken, and stayed so.
    pub kept: u64,
    /// Entries that were moved aside.
    pub aside: u64,
}

/// Moves everything in [`ROOM`] to its place.
///
/// # Errors
/// When the disk fails, or the place is on another file system than the tree's own directory. What was not moved stays in the room.
pub fn put_in(root: &Path, order: &Order) -> io::Result<PlacedEntries> {
    let root = open_root(root)?;
    let room = open_directory(root.as_fd(), Path::new(ROOM))?;
    let mut moving = Moving {
        root: root.as_fd(),
        order,
        placed: PlacedEntries::default(),
    };
    moving.all(room.as_fd(), root.as_fd(), Path::new(""))?;
    Ok(moving.placed)
}

struct Moving<'a> {
    root: BorrowedFd<'a>,
    order: &'a Order,
    placed: PlacedEntries,
}

impl Moving<'_> {
    fn all(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        for name in names(from)? {
            match rename_new(from, &name, to, &name) {
                Ok(()) => self.placed.put += 1,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.one_that_is_there(from, to, &path.join(&name), &name)?;
                }
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    return Err(io::Error::other(format!(
                        "{} lies on another disk than .warmspare",
                        path.join(&name).display()
                    )));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn one_that_is_there(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &Path,
        name: &OsStr,
    ) -> io::Result<()> {
        let is_directory = |parent| Ok::<_, io::Error>(Node::at(parent, name)?.is_some_and(|node| node.is_directory()));
        if is_directory(from)? && is_directory(to)? {
            let from = open_directory(from, Path::new(name))?;
            let to = open_directory(to, Path::new(name))?;
            return self.all(from.as_fd(), to.as_fd(), path);
        }
        match self.order.existing {
            Existing::Keep => {
                self.placed.kept += 1;
                Ok(())
            }
            Existing::Replace => {
                let aside = self.aside(path.parent().unwrap_or(Path::new("")))?;
                rename_new(to, name, aside.as_fd(), name)?;
                self.placed.aside += 1;
                rename_new(from, name, to, name)?;
                self.placed.put += 1;
                Ok(())
            }
        }
    }

    fn aside(&self, directory: &Path) -> io::Result<OwnedFd> {
        make_directory(self.root, &Path::new(&self.order.aside).join(directory), Mode::RWXU)
    }
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn write(root: &Path, name: &str, words: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, words).unwrap();
    }

    fn run(root: &Path, existing: Existing) -> PlacedEntries {
        let aside = ".warmspare/replaced/1".to_owned();
        put_in(root, &Order { existing, aside }).unwrap()
    }

    /// A tree in which every kind of thing stands in the way of another.
    fn crowded() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let (root, room) = (place.path(), place.path().join(ROOM));
        for name in [
            "d/missing",
            "d/there",
            "new/deep/file",
            "d/was-dir",
            "d/was-file/x",
            "d/was-link/x",
        ] {
            write(&room, name, "point");
        }
        for name in ["d/there", "d/was-dir/mine", "d/was-file"] {
            write(root, name, "mine");
        }
        fs::create_dir(root.join("elsewhere")).unwrap();
        symlink("../elsewhere", root.join("d/was-link")).unwrap();
        fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o710)).unwrap();
        fs::set_permissions(room.join("new"), fs::Permissions::from_mode(0o700)).unwrap();
        place
    }

    fn read(root: &Path, name: &str) -> String {
        fs::read_to_string(root.join(name)).unwrap_or_default()
    }

    #[test]
    fn what_is_there_stays_with_its_attributes_and_what_is_missing_comes() {
        let place = crowded();
        let root = place.path();
        let placed = run(root, Existing::Keep);
        assert_eq!((placed.put, placed.kept, placed.aside), (2, 4, 0));
        assert_eq!(read(root, "d/missing"), "point");
        assert_eq!(read(root, "new/deep/file"), "point");
        for mine in ["d/there", "d/was-dir/mine", "d/was-file"] {
            assert_eq!(read(root, mine), "mine", "{mine}");
        }
        assert!(root.join("d/was-link").is_symlink());
        assert_eq!(fs::read_dir(root.join("elsewhere")).unwrap().count(), 0);
        let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("d"), mode("new")), (0o710, 0o700));
    }

    #[test]
    fn what_makes_room_lies_aside_whole() {
        let place = crowded();
        let root = place.path();
        let placed = run(root, Existing::Replace);
        assert_eq!((placed.put, placed.kept, placed.aside), (6, 0, 4));
        for name in ["d/missing", "d/there", "d/was-dir", "d/was-file/x", "d/was-link/x"] {
            assert_eq!(read(root, name), "point", "{name}");
        }
        let aside = root.join(".warmspare/replaced/1");
        for mine in ["d/there", "d/was-dir/mine", "d/was-file"] {
            assert_eq!(read(&aside, mine), "mine", "{mine}");
        }
        assert!(aside.join("d/was-link").is_symlink());
        assert_eq!(fs::read_dir(root.join("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn what_lies_aside_already_is_not_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        write(&root.join(ROOM), "f", "point");
        write(root, "f", "mine");
        write(&root.join(".warmspare/replaced/1"), "f", "a week of work");
        let aside = ".warmspare/replaced/1".to_owned();
        let existing = Existing::Replace;
        put_in(root, &Order { existing, aside }).unwrap_err();
        assert_eq!(read(root, "f"), "mine");
        assert_eq!(read(root, ".warmspare/replaced/1/f"), "a week of work");
    }
}
