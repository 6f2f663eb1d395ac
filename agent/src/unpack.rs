//! The target's end of a restore: takes entries out of a stream and puts them into a directory.
//!
//! # Guarantees
//! Nothing that is there is overwritten, and nothing is reached through a symbolic link.

use std::ffi::OsStr;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::bundle::{Head, Item};
use crate::frame::read_frame;
use crate::tree;

/// The hidden verb: runs on the target, in the directory to be filled.
pub const UNPACK: &str = "restore-unpack";

/// The exit code when everything arrived that was not in the way.
pub const IN_THE_WAY: u8 = 96;

/// Where the beginnings of large files lie below the target directory.
pub const PARTS: &str = ".warmspare/restore";

/// Unpacks a stream here, and answers how many entries something was in the way of.
///
/// # Errors
/// When the stream breaks off, or the disk is full or fails. What arrived of a large file stays, to be gone on with.
pub fn unpack(root: &Path, mut from: impl BufRead) -> io::Result<u64> {
    let mut target = Target::open(root)?;
    loop {
        let (head, name) = read_frame::<Head>(&mut from)?;
        if head.item == Item::End {
            target.complete_directories();
            return Ok(target.in_the_way);
        }
        let mut content = from.by_ref().take(head.item.content());
        match target.place(&name, &head, &mut content) {
            Ok(()) => {}
            // Nothing else can come, or nothing else does.
            Err(error) if is_the_disk(&error) || matches!(head.item, Item::Large { .. }) => return Err(error),
            Err(_) => target.in_the_way += 1,
        }
        // What nobody wanted makes way for the next entry.
        io::copy(&mut content, &mut io::sink())?;
        if content.limit() > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn is_the_disk(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS))
}

struct Target {
    root: OwnedFd,
    /// The directory of the last entry: the next is most often in the same.
    last: Option<(PathBuf, OwnedFd)>,
    /// They get their attributes when nothing in them changes any more.
    directories: Vec<(PathBuf, Head)>,
    in_the_way: u64,
}

impl Target {
    fn open(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: tree::open_root(root)?,
            last: None,
            directories: Vec::new(),
            in_the_way: 0,
        })
    }

    fn place(&mut self, name: &[u8], head: &Head, content: &mut impl BufRead) -> io::Result<()> {
        if name.is_empty() && head.item == Item::Directory {
            self.directories.push((PathBuf::new(), head.clone()));
            return Ok(());
        }
        let path = tree::below(name, &[]).ok_or(io::ErrorKind::InvalidInput)?;
        match &head.item {
            Item::Directory => {
                self.directory(&path)?;
                self.directories.push((path, head.clone()));
                Ok(())
            }
            Item::File { size, pieces } => {
                let (parent, base) = self.way_to(&path)?;
                write_file(parent, base, head, *size, pieces.as_deref(), content)
            }
            Item::Large { size, from, part } => self.append(&path, head, (*size, *from), part, content),
            Item::Link { target } => {
                let (parent, base) = self.way_to(&path)?;
                rustix::fs::symlinkat(&**target, parent, base)?;
                let (user, group) = head.attributes.numbers();
                let _ = rustix::fs::chownat(parent, base, user, group, AtFlags::SYMLINK_NOFOLLOW);
                Ok(rustix::fs::utimensat(
                    parent,
                    base,
                    &head.attributes.times(),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?)
            }
            Item::Twin { of } => {
                let of = tree::below(of, &[]).ok_or(io::ErrorKind::InvalidInput)?;
                let first = self
                    .directory(of.parent().unwrap_or(Path::new("")))?
                    .try_clone_to_owned()?;
                let first_base = of.file_name().unwrap_or_default();
                let (parent, base) = self.way_to(&path)?;
                Ok(rustix::fs::linkat(first, first_base, parent, base, AtFlags::empty())?)
            }
            Item::End => Ok(()),
        }
    }

    fn way_to<'p>(&mut self, path: &'p Path) -> io::Result<(BorrowedFd<'_>, &'p OsStr)> {
        let base = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, base))
    }

    /// Opens a directory below the root, and makes what is missing on the way.
    fn directory(&mut self, path: &Path) -> io::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            self.last = Some((
                path.to_owned(),
                tree::make_directory(self.root.as_fd(), path, Mode::from(0o755))?,
            ));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, open)| open.as_fd()))
    }

    /// Appends to a part, which becomes the file when it is whole.
    fn append(
        &mut self,
        path: &Path,
        head: &Head,
        (size, from): (u64, u64),
        part: &str,
        content: &mut impl BufRead,
    ) -> io::Result<()> {
        let part = Path::new(part).file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parts = tree::make_directory(self.root.as_fd(), Path::new(PARTS), Mode::RWXU)?;
        // Not waiting: somebody may have put a pipe there.
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: std::fs::File = rustix::fs::openat(&parts, part, flags, Mode::RUSR | Mode::WUSR)?.into();
        let is_part = |length| {
            file.metadata()
                .is_ok_and(|found| found.is_file() && found.len() == length)
        };
        if !is_part(from) {
            return Err(io::Error::other("the part is not as long as it was"));
        }
        copy(content, &mut &file)?;
        // Counted by the file: another attempt's last bytes may have come in between.
        if !is_part(size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.attributes.give(file.as_fd())?;
        let (parent, base) = self.way_to(path)?;
        let renamed = tree::rename_new(parts.as_fd(), part, parent, base);
        if renamed.is_err() {
            // It is whole and not wanted under this name: rsync, which comes next, brings it again.
            let _ = rustix::fs::unlinkat(&parts, part, AtFlags::empty());
        }
        renamed
    }

    /// Deepest first, for what is done to one changes the time of the one that holds it.
    fn complete_directories(&mut self) {
        for (path, head) in std::mem::take(&mut self.directories).into_iter().rev() {
            let complete = |open: OwnedFd| head.attributes.give(open.as_fd());
            if tree::open_directory(self.root.as_fd(), &path)
                .and_then(complete)
                .is_err()
            {
                self.in_the_way += 1;
            }
        }
    }
}

fn write_file(
    parent: BorrowedFd<'_>,
    base: &OsStr,
    head: &Head,
    size: u64,
    pieces: Option<&[(u64, u64)]>,
    content: &mut impl BufRead,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, base, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(file);
    let filled = fill(&mut file, size, pieces, content).and_then(|()| head.attributes.give(file.as_fd()));
    if filled.is_err() {
        // It is ours and not whole.
        let _ = rustix::fs::unlinkat(parent, base, AtFlags::empty());
    }
    filled
}

fn fill(
    file: &mut std::fs::File,
    size: u64,
    pieces: Option<&[(u64, u64)]>,
    content: &mut impl BufRead,
) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let Some(pieces) = pieces else {
        return match copy(content, file)? < size {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(()),
        };
    };
    for (offset, length) in pieces {
        file.seek(SeekFrom::Start(*offset))?;
        if copy(&mut content.by_ref().take(*length), file)? < *length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    file.set_len(size)
}

/// As `io::copy`, straight out of the reader's buffer, and without asking for every small file how the kernel could help.
fn copy(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<u64> {
    let mut copied = 0;
    loop {
        let here = from.fill_buf()?;
        if here.is_empty() {
            return Ok(copied);
        }
        to.write_all(here)?;
        let length = here.len();
        from.consume(length);
        copied += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;
    use crate::bundle::{self, Packer};
    use crate::inventory;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn grow(root: &Path) {
        fs::create_dir_all(root.join("d/deep")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(root.join("d/deep/file"), "content").unwrap();
        fs::write(root.join("d/nothing"), "").unwrap();
        fs::hard_link(root.join("d/deep/file"), root.join("d/twin")).unwrap();
        symlink("../elsewhere", root.join("d/link")).unwrap();
        let holes = fs::File::create(root.join("holes")).unwrap();
        holes.set_len(10 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&holes, b"data", 5 << 20).unwrap();
        fs::set_permissions(root.join("d/deep/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(root.join("d/deep"), fs::Permissions::from_mode(0o555)).unwrap();
    }

    fn packed(root: &Path) -> Vec<u8> {
        let (mut stream, mut packer) = (Vec::new(), Packer::new(root).unwrap());
        packer.pack_root(&mut stream).unwrap();
        for entry in inventory::list(root).unwrap() {
            packer.pack(&entry, &mut stream).unwrap();
        }
        bundle::close(&mut stream).unwrap();
        stream
    }

    fn seen(root: &Path) -> Vec<(Vec<u8>, u32, i64, i64, u64)> {
        let described = |entry: inventory::Entry| {
            let (seconds, nanoseconds) = entry.modified;
            (entry.name.to_vec(), entry.mode, seconds, nanoseconds, entry.size)
        };
        inventory::list(root).unwrap().into_iter().map(described).collect()
    }

    fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir(&to).unwrap();
        grow(&from);
        (place, from, to)
    }

    #[test]
    fn what_was_packed_is_unpacked_in_everything() {
        let (_place, from, to) = places();
        assert_eq!(unpack(&to, packed(&from).as_slice()).unwrap(), 0);
        assert_eq!(seen(&to), seen(&from));
        assert_eq!(fs::read_to_string(to.join("d/twin")).unwrap(), "content");
        let identity = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
        assert_eq!(identity("d/twin"), identity("d/deep/file"));
        assert_eq!(fs::read_link(to.join("d/link")).unwrap(), Path::new("../elsewhere"));
        assert_eq!(
            fs::read(to.join("holes")).unwrap(),
            fs::read(from.join("holes")).unwrap()
        );
        assert!(
            fs::metadata(to.join("holes")).unwrap().blocks() * 512 < 5 << 20,
            "its holes were filled"
        );
        fs::set_permissions(to.join("d/deep"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(from.join("d/deep"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_stream_that_breaks_off_anywhere_is_an_error_and_leaves_no_torn_file() {
        let (place, from, to) = places();
        fs::remove_file(from.join("holes")).unwrap();
        let whole = packed(&from);
        for length in 0..whole.len() {
            let to = to.join(length.to_string());
            fs::create_dir(&to).unwrap();
            assert!(
                unpack(&to, whole.get(..length).unwrap()).is_err(),
                "{length} bytes passed for all"
            );
            let file = fs::read_to_string(to.join("d/deep/file")).unwrap_or_default();
            assert!(file.is_empty() || file == "content", "{file}");
        }
        fs::set_permissions(from.join("d/deep"), fs::Permissions::from_mode(0o755)).unwrap();
        drop(place);
    }

    #[test]
    fn a_large_file_whose_beginning_is_not_there_is_not_waited_for() {
        let (_place, from, to) = places();
        let mut stream = Vec::new();
        let list = inventory::list(&from).unwrap();
        let entry = list.iter().find(|entry| &*entry.name == b"holes").unwrap();
        let mut packer = Packer::new(&from).unwrap();
        packer.begin_large(entry, "part-1", 5 << 20, &mut stream).unwrap();
        stream.extend(b"content");
        let mut rest = stream.as_slice();
        assert!(unpack(&to, &mut rest).is_err());
        assert_eq!(rest, b"content");
        assert!(!to.join("holes").exists());
        fs::set_permissions(from.join("d/deep"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn what_is_there_stays_and_no_link_is_taken() {
        let (place, from, to) = places();
        let outside = place.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(to.join("holes"), "theirs").unwrap();
        symlink(&outside, to.join("d")).unwrap();
        // Everything but the root and the empty directory.
        assert_eq!(unpack(&to, packed(&from).as_slice()).unwrap(), 7);
        assert_eq!(fs::read_to_string(to.join("holes")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        fs::set_permissions(from.join("d/deep"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let (_place, _, to) = places();
        for name in ["../x", "/tmp/warmspare-x", "a/../../x", ""] {
            let mut stream = Vec::new();
            let head = Head {
                item: Item::File { size: 0, pieces: None },
                attributes: Attributes {
                    mode: 0o644,
                    ..Attributes::default()
                },
            };
            crate::frame::write_frame(&mut stream, &head, name.as_bytes()).unwrap();
            bundle::close(&mut stream).unwrap();
            assert_eq!(unpack(&to, stream.as_slice()).unwrap(), 1, "{name:?}");
        }
        assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 2);
    }
}
