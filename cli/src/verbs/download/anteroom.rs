//! From where a stream was unpacked to where its files belong.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

use super::transfer::Existing;

/// Moves everything in one directory into another, file by file where that has a directory of the name already.
pub(super) fn move_entries(from: &Path, to: &Path, existing: Existing) -> anyhow::Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let (entry, place) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        let is_directory = |path: &Path| path.symlink_metadata().map(|found| found.is_dir());
        let moved = match (is_directory(&place), is_directory(&entry)?) {
            (Ok(true), true) => {
                make_writable(&entry)?;
                move_entries(&entry, &place, existing)?;
                continue;
            }
            (Ok(_), _) if existing == Existing::Kept => continue,
            (Ok(_), _) if existing == Existing::Updated && !is_newer(&entry, &place)? => continue,
            (Ok(false), true) => fs::remove_file(&place).and_then(|()| move_directory(&entry, &place)),
            (Err(_), true) => move_directory(&entry, &place),
            (Ok(_) | Err(_), false) => fs::rename(&entry, &place),
        };
        moved.with_context(|| format!("cannot put {} in its place", place.display()))?;
    }
    Ok(())
}

fn is_newer(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(one.symlink_metadata()?.modified()? > other.symlink_metadata()?.modified()?)
}

/// A directory that may not be written cannot get another parent.
fn move_directory(from: &Path, to: &Path) -> io::Result<()> {
    let rights = make_writable(from)?;
    fs::rename(from, to)?;
    fs::set_permissions(to, rights)
}

/// Answers the rights it had.
fn make_writable(directory: &Path) -> io::Result<Permissions> {
    let rights = directory.metadata()?.permissions();
    let mut wider = rights.clone();
    wider.set_mode(rights.mode() | 0o700);
    fs::set_permissions(directory, wider)?;
    Ok(rights)
}
