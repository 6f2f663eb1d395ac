//! A few mebibytes kept back on the data disk: on a full disk the agent must still be able to say that it is full.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use rustix::fs::FallocateFlags;

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::space;

/// Enough for every file that the agent writes about itself, many times over.
pub const SIZE: u64 = 4 << 20;

fn path(dir: &DataDir) -> PathBuf {
    dir.file("reserve")
}

/// Takes the reserve, unless it is taken. Gives it up where not as much is free beside it: nothing should begin that cannot be told of.
///
/// # Errors
/// When the disk has not even that much left.
pub fn take(dir: &DataDir) -> Result<(), AgentError> {
    let io = |error| AgentError::io("keep a reserve on the data disk", error);
    let is_taken = fs::metadata(path(dir)).is_ok_and(|found| found.len() == SIZE);
    let wanted = if is_taken { SIZE } else { 2 * SIZE };
    if space::disk(dir)?.free.0 < wanted && space::settled(dir)?.free.0 < wanted {
        release(dir);
        return Err(AgentError::DiskFull);
    }
    if is_taken {
        return Ok(());
    }
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(path(dir))
        .map_err(io)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
        // A file system without the call is one that we cannot reserve on; it must not stop the work.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => {
            release(dir);
            Err(io(error.into()))
        }
    }
}

/// Gives the reserve up, for what must be written now.
pub fn release(dir: &DataDir) {
    let _ = fs::remove_file(path(dir));
}
