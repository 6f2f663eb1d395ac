//! The GPU's end of putting a path back: what has arrived beside the tree is moved to its place, one rename each.
//!
//! # Guarantees
//! Nothing is overwritten: what is there stays, or is renamed to a place aside that nothing else has. A directory that is there keeps
//! its attributes. Nothing is reached through a symbolic link.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
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
    /// The place aside, below the tree; where it is taken, the next of the same name with a number.
    pub aside: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedEntries {
    /// Entries that got their place, a directory with all that is in it counted once.
    pub put: u64,
    /// Entries whose place was taken, and stayed so.
    pub kept: u64,
    /// The places aside in which something lies, from this order or an earlier one that named the same.
    pub aside: Vec<String>,
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
    let aside = moving.places_that_exist();
    Ok(PlacedEntries { aside, ..moving.placed })
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
                self.move_aside(to, name, path.parent().unwrap_or(Path::new("")))?;
                rename_new(from, name, to, name)?;
                self.placed.put += 1;
                Ok(())
            }
        }
    }

    fn move_aside(&self, from: BorrowedFd<'_>, name: &OsStr, directory: &Path) -> io::Result<()> {
        let mut number = 1;
        loop {
            // Made first and by itself: where it cannot be, the next one cannot be either.
            let place = make_directory(self.root, Path::new(&self.place(number)), Mode::RWXU)?;
            let moved = make_directory(place.as_fd(), directory, Mode::RWXU)
                .and_then(|aside| rename_new(from, name, aside.as_fd(), name));
            match moved.as_ref().map_err(io::Error::kind) {
                // Something lies there by this name, or a file by the name of a directory on the way.
                Err(io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => number += 1,
                _ => return moved,
            }
        }
    }

    fn place(&self, number: usize) -> String {
        match number {
            1 => self.order.aside.clone(),
            number => format!("{}-{number}", self.order.aside),
        }
    }

    fn places_that_exist(&self) -> Vec<String> {
        let exists = |place: &String| open_directory(self.root, Path::new(place)).is_ok();
        (1..).map(|number| self.place(number)).take_while(exists).collect()
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

    const ASIDE: &str = ".warmspare/replaced/1";

    fn run(root: &Path, existing: Existing) -> PlacedEntries {
        let aside = ASIDE.to_owned();
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
        assert_eq!((placed.put, placed.kept, placed.aside), (2, 4, vec![]));
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
        assert_eq!(
            (placed.put, placed.kept, &placed.aside[..]),
            (6, 0, &[ASIDE.to_owned()][..])
        );
        for name in ["d/missing", "d/there", "d/was-dir", "d/was-file/x", "d/was-link/x"] {
            assert_eq!(read(root, name), "point", "{name}");
        }
        let aside = root.join(ASIDE);
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
        for name in ["f", "d/f"] {
            write(&root.join(ROOM), name, "point");
            write(root, name, "mine");
        }
        write(&root.join(ASIDE), "f", "a week of work");
        // A file aside that was moved from where a directory is by now.
        write(&root.join(ASIDE), "d", "another");
        let second = ".warmspare/replaced/1-2";
        assert_eq!(run(root, Existing::Replace).aside, [ASIDE, second]);
        for name in ["f", "d/f"] {
            assert_eq!(read(root, name), "point");
            assert_eq!(read(&root.join(second), name), "mine");
        }
        assert_eq!(read(&root.join(ASIDE), "f"), "a week of work");
        assert_eq!(read(&root.join(ASIDE), "d"), "another");
    }

    #[test]
    fn where_there_is_no_place_aside_nothing_makes_room() {
        for existing in [Existing::Keep, Existing::Replace] {
            let place = crowded();
            let root = place.path();
            fs::create_dir_all(root.join(".warmspare")).unwrap();
            symlink("../elsewhere", root.join(".warmspare/replaced")).unwrap();
            let aside = ASIDE.to_owned();
            let placed = put_in(root, &Order { existing, aside });
            assert_eq!(placed.is_ok(), existing == Existing::Keep, "{placed:?}");
            for mine in ["d/there", "d/was-dir/mine", "d/was-file"] {
                assert_eq!(read(root, mine), "mine", "{mine}");
            }
            assert_eq!(fs::read_dir(root.join("elsewhere")).unwrap().count(), 0);
        }
    }

    #[test]
    fn an_order_that_is_carried_out_again_says_where_the_first_one_moved_things() {
        let place = crowded();
        let first = run(place.path(), Existing::Replace);
        let again = run(place.path(), Existing::Replace);
        assert_eq!((again.put, again.kept, again.aside), (0, 0, first.aside));
    }
}
