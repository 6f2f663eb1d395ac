//! The list of names that rsync is given with `--files-from`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;

/// Names below a root, in a file that goes with its owner.
#[derive(Debug)]
pub struct NameList(PathBuf);

impl NameList {
    /// Writes the list. `purpose` sets it apart from others of the same process.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn write<'n>(
        dir: &DataDir,
        purpose: &str,
        names: impl IntoIterator<Item = &'n [u8]>,
    ) -> Result<Self, AgentError> {
        let mut list = Vec::new();
        for name in names {
            // Without it a name that begins with # or ; would be a comment. Source: rsync 3.2.7, io.c, read_line().
            list.extend_from_slice(b"./");
            list.extend_from_slice(name);
            list.push(0);
        }
        // Named like a torn write, so that a killed worker's lists are cleared away like one.
        let path = dir.file(&format!(".{purpose}.tmp-{}", std::process::id()));
        dir.replace(&path, &list, Durability::Kill)?;
        Ok(Self(path))
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for NameList {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_taken_for_a_comment_and_the_list_goes_with_its_owner() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let names: [&[u8]; 3] = [b"#autosave#", b";x", b"line\nbreak"];
        let list = NameList::write(&dir, "some", names).unwrap();
        assert_eq!(fs::read(list.path()).unwrap(), b"./#autosave#\0./;x\0./line\nbreak\0");
        let path = list.path().to_owned();
        drop(list);
        assert!(!path.exists());
    }
}
