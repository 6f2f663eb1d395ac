//! What a watcher sees around it: the tree as it stands, our marker in it, and the mounts below it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::marker::{Content, MARKER_DIRECTORY, MarkerFound, Tree, read_marker};

/// Device and inode.
pub(super) type Identity = (u64, u64);

/// Looks at the tree as the standby does over its shell.
pub(super) fn look(path: &Path) -> Tree {
    let Ok(found) = fs::metadata(path) else {
        return Tree::Gone;
    };
    if !found.is_dir() {
        return Tree::NotADirectory;
    }
    let (Ok(real), Ok(mut listing)) = (fs::canonicalize(path), fs::read_dir(path)) else {
        return Tree::Closed;
    };
    let holds_more = listing.any(|entry| entry.is_ok_and(|entry| entry.file_name() != MARKER_DIRECTORY));
    Tree::Directory {
        path: real.into_os_string().into_encoded_bytes(),
        content: if holds_more { Content::Some } else { Content::Empty },
        marker: marker(path),
    }
}

fn marker(tree: &Path) -> MarkerFound {
    let path = tree.join(MARKER_DIRECTORY).join("marker.json");
    if !fs::metadata(&path).is_ok_and(|found| found.is_file()) {
        return MarkerFound::Missing;
    }
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(4096).read_to_end(&mut bytes)) {
        Ok(_) => read_marker(&bytes),
        Err(_) => MarkerFound::Unreadable,
    }
}

/// Which file or directory a path names now.
pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// The mounts below a tree, as the kernel lists them.
pub(super) fn mounts(tree: &Path) -> Vec<u8> {
    let all = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let tree = fs::canonicalize(tree).unwrap_or_default();
    let inside = |line: &&[u8]| {
        // The fifth word is where it is mounted, with odd bytes in octal. Source: proc(5).
        let place = line.split(|byte| *byte == b' ').nth(4).unwrap_or_default();
        place.starts_with(tree.as_os_str().as_bytes()) || place.contains(&b'\\')
    };
    all.split(|byte| *byte == b'\n')
        .filter(inside)
        .collect::<Vec<_>>()
        .join(&b'\n')
}
