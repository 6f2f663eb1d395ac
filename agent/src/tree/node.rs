//! What lies at a name.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

/// What the directory says of a name: of a symbolic link, not of what it leads to.
#[derive(Debug, Clone, Copy)]
pub struct Node(Stat);

impl Node {
    /// Looks at a name in an open directory. `None` when nothing has it.
    ///
    /// # Errors
    /// When the directory cannot be asked.
    pub fn at(directory: BorrowedFd<'_>, name: impl Arg) -> io::Result<Option<Self>> {
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(Self(found))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at what is open.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn of(open: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(rustix::fs::fstat(open)?))
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.0.st_mode)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.kind() == FileType::Symlink
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.st_size.cast_unsigned()
    }

    /// What it adds to the size of a tree: as rsync counts it, files and the targets of symbolic links.
    #[must_use]
    pub fn counted(&self) -> u64 {
        if self.is_file() || self.is_link() {
            self.size()
        } else {
            0
        }
    }

    /// Whether it has holes, as far as its blocks tell: a file that its file system compresses counts as well.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        // Blocks of 512 bytes, whatever the file system's are. Source: stat(2).
        self.0.st_blocks.cast_unsigned().saturating_mul(512) < self.size()
    }

    /// Whether it has another name, wherever on its file system.
    #[must_use]
    pub fn has_other_names(&self) -> bool {
        self.0.st_nlink > 1
    }

    /// What tells it from every other: its file system and its number there.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.0.st_dev, self.0.st_ino)
    }

    /// Its permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.0.st_mode & 0o7777
    }

    /// The numbers of its user and group.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        (self.0.st_uid, self.0.st_gid)
    }

    /// Seconds and nanoseconds of its modification.
    #[must_use]
    pub fn modified(&self) -> (i64, i64) {
        (self.0.st_mtime, self.0.st_mtime_nsec.cast_signed())
    }
}
