//! What files and directories have besides their content, and what of it travels: owner, permissions, time of modification and the
//! extended attributes of users.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What the names of users' extended attributes begin with. The others are the system's.
const USERS: &[u8] = b"user.";

/// What an entry has besides its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Its permission bits.
    pub mode: u32,
    /// The numbers of its user and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds of its modification.
    pub modified: (i64, i64),
    /// Its extended attributes, names and values, in the order of the names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Those of an open file or directory.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn of(open: &File) -> io::Result<Self> {
        let found = open.metadata()?;
        Ok(Self {
            mode: found.mode() & 0o7777,
            owner: (found.uid(), found.gid()),
            modified: (found.mtime(), found.mtime_nsec()),
            extended: extended(open)?,
        })
    }

    /// Gives them to an open file or directory, besides extended ones that it has already. The time comes last, and permissions after
    /// owner and extended attributes, which both may depend on them.
    ///
    /// # Errors
    /// When the system refuses. That somebody else than root cannot give away a file is no failure.
    pub fn give(&self, open: BorrowedFd<'_>) -> io::Result<()> {
        let (user, group) = self.numbers();
        let found = rustix::fs::fstat(open)?;
        // What has its owner from the start costs no change. Others than root give files only to their own groups.
        if (found.st_uid, found.st_gid) != self.owner && rustix::fs::fchown(open, user, group).is_err() {
            let _ = rustix::fs::fchown(open, None, group);
        }
        for (name, value) in self.extended.iter().filter(|(name, _)| name.starts_with(USERS)) {
            rustix::fs::fsetxattr(open, &**name, value, XattrFlags::empty())?;
        }
        rustix::fs::fchmod(open, Mode::from_raw_mode(self.mode & 0o7777))?;
        Ok(rustix::fs::futimens(open, &self.times())?)
    }

    /// Gives them to a file or directory that has those others; afterwards it has these and no others.
    ///
    /// # Errors
    /// As [`Self::give`].
    pub fn replace(&self, others: &Self, open: BorrowedFd<'_>) -> io::Result<()> {
        for (name, _) in &others.extended {
            if !self.extended.iter().any(|(wanted, _)| wanted == name) {
                rustix::fs::fremovexattr(open, &**name)?;
            }
        }
        self.give(open)
    }

    /// User and group, as system calls take them.
    #[must_use]
    pub fn numbers(&self) -> (Option<Uid>, Option<Gid>) {
        let (user, group) = self.owner;
        (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
    }

    /// The time of modification, as system calls take it.
    #[must_use]
    pub fn times(&self) -> Timestamps {
        let (seconds, nanoseconds) = self.modified;
        let instant = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        Timestamps {
            last_access: instant(0, UTIME_OMIT),
            last_modification: instant(seconds, nanoseconds),
        }
    }
}

/// The extended attributes of users that an open file or directory has, names and values, in the order of the names.
///
/// # Errors
/// When they cannot be read.
pub fn extended(open: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    match rustix::fs::flistxattr_query(open) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    // The most that Linux lets a file have, names and each value. Source: xattr(7).
    let mut names = vec![0; 65536];
    let length = rustix::fs::flistxattr(open, &mut *names)?;
    names.truncate(length);
    let mut extended: Vec<_> = names
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(USERS))
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::fgetxattr(open, name, &mut *value)?;
            value.truncate(length);
            Ok((name.to_vec(), value))
        })
        .collect::<io::Result<_>>()?;
    extended.sort();
    Ok(extended)
}
