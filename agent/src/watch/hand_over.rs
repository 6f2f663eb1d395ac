//! Handing over what little changed, so that a pass over a few small files and the ends of logs needs no rsync.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::protocol::{Handed, Have, StandbyCopy};
use crate::attributes::Attributes;
use crate::names::hex;
use crate::tree::open_below;

/// No longer end of a file is handed over.
const MOST_OF_AN_END: u64 = 256 << 10;

/// No longer file is handed over anew: rsync finds what of it is already there.
const MOST_OF_A_FILE: u64 = 32 << 10;

/// No more is handed over at once.
const MOST: u64 = 1 << 20;

/// Reads what is there beyond the standby's copies, content behind content; `None` when not all of it can be handed over.
#[must_use]
pub fn hand_over(tree: &Path, have: &[Have]) -> Option<(Vec<Handed>, Vec<u8>)> {
    let root = File::open(tree).ok()?;
    let mut content = Vec::new();
    let mut handed = Vec::new();
    for Have { path, is } in have {
        let (root, path) = (root.as_fd(), Path::new(OsStr::from_bytes(path)));
        handed.push(match is {
            StandbyCopy::File { size, hash } => file(root, path, *size, hash, &mut content).ok()??,
            StandbyCopy::Directory => Handed::Directory(directory(root, path).ok()?),
            StandbyCopy::Nothing => nothing(root, path)?,
        });
        if content.len() as u64 > MOST {
            return None;
        }
    }
    Some((handed, content))
}

fn nothing(root: BorrowedFd<'_>, path: &Path) -> Option<Handed> {
    // Only looked at: it may be anything.
    let found = open_below(root, path, OFlags::PATH);
    let missing = found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    missing.then_some(Handed::Nothing)
}

fn directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<Attributes> {
    Attributes::of(&open_below(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?)
}

fn file(root: BorrowedFd<'_>, path: &Path, size: u64, hash: &str, content: &mut Vec<u8>) -> io::Result<Option<Handed>> {
    let mut file = open_below(root, path, OFlags::RDONLY)?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 {
        return Ok(None);
    }
    // Before its content: what is written meanwhile makes it newer than this says.
    let attributes = Attributes::of(&file)?;
    let more = found.len().checked_sub(size).filter(|more| *more <= MOST_OF_AN_END);
    let (from, more) = match more {
        Some(more) if hash_of(&mut file, size)? == hash => (size, more),
        Some(_) | None if found.len() <= MOST_OF_A_FILE => (0, found.len()),
        Some(_) | None => return Ok(None),
    };
    file.seek(SeekFrom::Start(from))?;
    let read = file.take(more).read_to_end(content)?;
    let handed = Handed::File { from, more, attributes };
    Ok((read as u64 == more).then_some(handed))
}

/// The SHA-256 of the first bytes of a file.
///
/// # Errors
/// When it cannot be read.
pub fn hash_of(file: &mut File, size: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut beginning = file.take(size);
    let mut chunk = vec![0; 64 << 10];
    loop {
        match beginning.read(&mut chunk)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(chunk.get(..read).unwrap_or_default()),
        }
    }
}
