//! Passes over little: what the watcher hands over is written into `incoming/`, and no rsync runs at all.
//!
//! Only files and directories that the copy has already are brought up to date so. What is new, gone, linked, large or in the middle of
//! becoming something else is rsync's, which also judges new names by the user's excludes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use warmspare_domain::units::Bytes;

use super::Pass;
use super::dirty::Brought;
use crate::attributes::Attributes;
use crate::error::AgentError;
use crate::incoming::{Incoming, Start};
use crate::observer::{Failed, Told};
use crate::recovery_points::Sharing;
use crate::rsync::Transferred;
use crate::rsync_output::{Tally, Totals};
use crate::tree;
use crate::watch::hand_over::hash_of;
use crate::watch::protocol::{Copy, Handed, Have};
use crate::watching::{Haste, Watching};

/// More entries are not handed over.
const MOST_ENTRIES: usize = 64;

/// Nor are longer names, all together: they travel four times as long, and a question has 64 KiB.
const MOST_NAMES: usize = 8 << 10;

/// Both ends read so much of what they have, to find that a file only grew.
const MOST_COMPARED: u64 = 8 << 20;

impl Pass<'_> {
    /// Has the watcher hand over what changed; `None` when it takes rsync.
    pub(super) fn take_over(
        &self,
        incoming: &Incoming,
        watching: &mut Watching,
        told: &Told,
    ) -> Result<Option<Brought>, AgentError> {
        let equals_base = incoming.start == Start::Fresh && incoming.sharing == Sharing::Snapshots;
        let limited = self.haste == Haste::Calm && self.binding.bind.bandwidth_kib_per_s > 0;
        if !equals_base || limited || told.reply.holes || !told.replaced.is_empty() {
            return Ok(None);
        }
        let io = |error| AgentError::io("bring the copy up to date", error);
        let Some(have) = copies(&incoming.path, &told.paths).map_err(io)? else {
            return Ok(None);
        };
        let later = match watching.again(told.reply.cursor.clone(), have.clone()) {
            Some(Ok(later)) => later,
            Some(Err(Failed::Broken(error))) => return Err(error),
            Some(Err(Failed::Missing(_))) | None => return Ok(None),
        };
        self.check_tree(&later.reply.tree)?;
        if later.reply.handed.is_empty() {
            return Ok(None);
        }
        let mut tally = bring_up(&incoming.path, &told.paths, &have, &later).map_err(io)?;
        tally.totals = Some(Totals {
            wire_bytes: Bytes(later.wire_bytes),
            ..Totals::default()
        });
        let done = Transferred {
            tally,
            ..Transferred::default()
        };
        let later = later.known();
        Ok(Some(Brought { done, later }))
    }
}

/// What a copy has at the paths; `None` when bringing that up to date takes more than little.
fn copies(copy: &Path, paths: &[PathBuf]) -> io::Result<Option<Vec<Have>>> {
    let names: usize = paths.iter().map(|path| path.as_os_str().len()).sum();
    if paths.len() > MOST_ENTRIES || names > MOST_NAMES {
        return Ok(None);
    }
    let mut compared = 0;
    let mut have = Vec::new();
    for path in paths {
        let Some(here) = tree::inside(copy, path) else {
            return Ok(None);
        };
        let is = match fs::symlink_metadata(&here) {
            Ok(found) if found.is_dir() => Copy::Directory,
            Ok(found) if found.is_file() && found.nlink() == 1 => {
                compared += found.len();
                if compared > MOST_COMPARED {
                    return Ok(None);
                }
                Copy::File {
                    size: found.len(),
                    hash: hash_of(&mut open_file(&here)?, found.len())?,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Copy::Nothing,
            Ok(_) | Err(_) => return Ok(None),
        };
        let path = path.as_os_str().as_encoded_bytes().to_vec();
        have.push(Have { path, is });
    }
    Ok(Some(have))
}

/// Writes what was handed over, and counts it.
fn bring_up(copy: &Path, paths: &[PathBuf], have: &[Have], later: &Told) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut content = later.content.as_slice();
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the watcher hands over what it was not asked for",
        )
    };
    if later.reply.handed.len() != have.len() {
        return Err(wrong());
    }
    for ((path, have), handed) in paths.iter().zip(have).zip(&later.reply.handed) {
        let here = tree::inside(copy, path).ok_or_else(wrong)?;
        match (&have.is, handed) {
            (Copy::File { size, .. }, Handed::File { from, more, attributes }) if *from == 0 || from == size => {
                let length = usize::try_from(*more).map_err(|_| wrong())?;
                let (new, rest) = content.split_at_checked(length).ok_or_else(wrong)?;
                content = rest;
                let differs = bring_up_file(&here, *size, (*from, new), attributes)?;
                tally.differences += u64::from(differs);
                tally.changed_files += u64::from(differs);
            }
            (Copy::Directory, Handed::Directory(attributes)) => {
                let open = open(&here, OFlags::DIRECTORY, OpenOptions::new().read(true))?;
                tally.differences += u64::from(give(&open, attributes)?);
            }
            (Copy::Nothing, Handed::Nothing) => {}
            (Copy::File { .. } | Copy::Directory | Copy::Nothing, _) => return Err(wrong()),
        }
    }
    Ok(tally)
}

/// Answers whether the file was any different.
fn bring_up_file(path: &Path, size: u64, (from, new): (u64, &[u8]), attributes: &Attributes) -> io::Result<bool> {
    let file = open_file(path)?;
    let longer = from + new.len() as u64;
    let differs = !new.is_empty() || longer != size;
    if differs {
        file.write_all_at(new, from)?;
        file.set_len(longer)?;
    }
    Ok(give(&file, attributes)? || differs)
}

/// Gives attributes to what has others. Answers whether it had.
fn give(open: &File, attributes: &Attributes) -> io::Result<bool> {
    let differs = Attributes::of(open)? != *attributes;
    if differs {
        attributes.replace_those_of(open)?;
    }
    Ok(differs)
}

fn open_file(path: &Path) -> io::Result<File> {
    open(path, OFlags::empty(), OpenOptions::new().read(true).write(true))
}

fn open(path: &Path, more: OFlags, options: &mut OpenOptions) -> io::Result<File> {
    options
        .custom_flags((OFlags::NOFOLLOW | more).bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Tree;
    use crate::watch::hand_over::hand_over;
    use crate::watch::protocol::{Changes, Reply};

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    fn told(handed: Vec<Handed>, content: &[u8]) -> Told {
        let reply = Reply {
            number: 1,
            tree: Tree::Gone,
            cursor: None,
            changes: Changes::Complete,
            holes: false,
            directories: 0,
            checkpoints: vec![],
            handed,
        };
        Told {
            reply,
            paths: vec![],
            replaced: vec![],
            content: content.to_vec(),
            wire_bytes: 0,
        }
    }

    fn file(from: u64, more: u64) -> Handed {
        let attributes = Attributes {
            mode: 0o600,
            modified: (1, 2),
            ..Attributes::default()
        };
        Handed::File { from, more, attributes }
    }

    fn copy_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::create_dir_all(place.path().join(name).parent().unwrap()).unwrap();
            fs::write(place.path().join(name), content).unwrap();
        }
        place
    }

    #[test]
    fn a_copy_becomes_what_was_handed_over() {
        let files = [
            ("d/log", "step 1\n"),
            ("d/cut", "too long"),
            ("d/same", "same"),
            ("d/other", "old words"),
        ];
        let (gpu, copy) = (copy_with(&files), copy_with(&files));
        fs::write(gpu.path().join("d/log"), "step 1\nstep 2\n").unwrap();
        fs::write(gpu.path().join("d/cut"), "too").unwrap();
        fs::write(gpu.path().join("d/other"), "new words").unwrap();
        let listed = paths(&["d", "d/cut", "d/gone", "d/log", "d/other", "d/same"]);
        let have = copies(copy.path(), &listed).unwrap().unwrap();
        let (handed, content) = hand_over(gpu.path(), &have).unwrap();
        assert_eq!(content, b"toostep 2\nnew words");
        let tally = bring_up(copy.path(), &listed, &have, &told(handed, &content)).unwrap();
        assert_eq!(tally.changed_files, 4, "times differ, too");
        for (name, _) in files {
            let (there, here) = (gpu.path().join(name), copy.path().join(name));
            assert_eq!(fs::read(&there).unwrap(), fs::read(&here).unwrap(), "{name}");
            assert_eq!(
                fs::metadata(there).unwrap().mtime_nsec(),
                fs::metadata(here).unwrap().mtime_nsec()
            );
        }
        let have = copies(copy.path(), &listed).unwrap().unwrap();
        let (handed, content) = hand_over(gpu.path(), &have).unwrap();
        let tally = bring_up(copy.path(), &listed, &have, &told(handed, &content)).unwrap();
        assert_eq!((content.len(), tally.differences), (0, 0));
    }

    #[test]
    fn what_nobody_asked_for_is_refused() {
        let copy = copy_with(&[("a", "abc"), ("d/b", "")]);
        let listed = paths(&["a", "d", "none"]);
        let have = copies(copy.path(), &listed).unwrap().unwrap();
        let directory = || Handed::Directory(Attributes::default());
        let wrong: [(Vec<Handed>, &[u8]); 8] = [
            (vec![], b""),
            (vec![file(0, 1), directory()], b"x"),
            (vec![directory(), directory(), Handed::Nothing], b""),
            (vec![Handed::Nothing, directory(), Handed::Nothing], b""),
            (vec![file(3, 0), file(0, 0), Handed::Nothing], b""),
            (vec![file(3, 0), directory(), file(0, 1)], b"x"),
            (vec![file(2, 1), directory(), Handed::Nothing], b"x"),
            (vec![file(0, u64::MAX), directory(), Handed::Nothing], b"x"),
        ];
        for (handed, content) in wrong {
            let shown = format!("{handed:?}");
            assert!(
                bring_up(copy.path(), &listed, &have, &told(handed, content)).is_err(),
                "{shown}"
            );
        }
        assert!(!copy.path().join("none").exists());
    }

    #[test]
    fn nothing_is_brought_through_a_link() {
        let (copy, outside) = (copy_with(&[("d/f", "kept")]), copy_with(&[("f", "outside")]));
        let listed = paths(&["d/f"]);
        let have = copies(copy.path(), &listed).unwrap().unwrap();
        fs::remove_dir_all(copy.path().join("d")).unwrap();
        std::os::unix::fs::symlink(outside.path(), copy.path().join("d")).unwrap();
        assert!(bring_up(copy.path(), &listed, &have, &told(vec![file(0, 3)], b"new")).is_err());
        assert!(copies(copy.path(), &listed).unwrap().is_none());
        assert!(copies(copy.path(), &paths(&["d"])).unwrap().is_none());
        assert_eq!(fs::read(outside.path().join("f")).unwrap(), b"outside");
    }

    #[test]
    fn much_is_left_to_rsync() {
        let copy = copy_with(&[("a", "abc"), ("twin", "")]);
        assert!(
            copies(copy.path(), &vec![PathBuf::from("a"); MOST_ENTRIES + 1])
                .unwrap()
                .is_none()
        );
        assert!(
            copies(copy.path(), &paths(&[&"n".repeat(MOST_NAMES + 1)]))
                .unwrap()
                .is_none()
        );
        fs::File::create(copy.path().join("large"))
            .unwrap()
            .set_len(MOST_COMPARED + 1)
            .unwrap();
        assert!(copies(copy.path(), &paths(&["large"])).unwrap().is_none());
        fs::hard_link(copy.path().join("twin"), copy.path().join("other")).unwrap();
        assert!(copies(copy.path(), &paths(&["twin"])).unwrap().is_none());
    }
}
