//! Handing over what little changed, so that a pass over a few small files and the ends of logs needs no rsync.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::protocol::{Copy, Handed, Have};
use crate::attributes::Attributes;

/// No more of a file is handed over: rsync finds what of a large change is already there.
pub const MOST_OF_A_FILE: u64 = 256 << 10;

/// No more is handed over at once.
pub const MOST: u64 = 1 << 20;

/// Reads what is there beyond the standby's copies, content behind content; `None` when not all of it can be handed over.
#[must_use]
pub fn hand_over(tree: &Path, have: &[Have]) -> Option<(Vec<Handed>, Vec<u8>)> {
    let mut content = Vec::new();
    let mut handed = Vec::new();
    for Have { path, is } in have {
        let path = tree.join(OsStr::from_bytes(path));
        handed.push(match is {
            Copy::File { size, hash } => file(&path, *size, hash, &mut content).ok()??,
            Copy::Directory => Handed::Directory(
                open(&path, OFlags::DIRECTORY)
                    .and_then(|open| Attributes::of(&open))
                    .ok()?,
            ),
            Copy::Nothing => nothing(&path)?,
        });
        if content.len() as u64 > MOST {
            return None;
        }
    }
    Some((handed, content))
}

fn nothing(path: &Path) -> Option<Handed> {
    let missing = fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    missing.then_some(Handed::Nothing)
}

fn file(path: &Path, size: u64, hash: &str, content: &mut Vec<u8>) -> io::Result<Option<Handed>> {
    let mut file = open(path, OFlags::empty())?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 {
        return Ok(None);
    }
    // Before its content: what is written meanwhile makes it newer than this says.
    let attributes = Attributes::of(&file)?;
    let begins_so = found.len() >= size && found.len() - size <= MOST_OF_A_FILE && hash_of(&mut file, size)? == hash;
    let from = if begins_so { size } else { 0 };
    let more = found.len() - from;
    if more > MOST_OF_A_FILE {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(from))?;
    let read = file.take(more).read_to_end(content)?;
    let handed = Handed::File { from, more, attributes };
    Ok((read as u64 == more).then_some(handed))
}

fn open(path: &Path, more: OFlags) -> io::Result<File> {
    // Not waiting: somebody may have put a pipe there.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | more).bits();
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)
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
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hash.update(chunk.get(..read).unwrap_or_default()),
        }
    }
}
