//! Passes over little: what the watcher hands over is written into `incoming/`, and no rsync runs at all.
//!
//! Only files and directories that the copy has already are brought up to date so. What is new, gone, linked, large or in the middle of
//! becoming something else is rsync's, which also judges new names by the user's excludes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use warmspare_wire::agent::Urgency;

use super::Pass;
use super::dirty::Brought;
use crate::attributes::Attributes;
use crate::error::AgentError;
use crate::incoming::{Incoming, Start};
use crate::link;
use crate::observer::{Failed, Told};
use crate::recovery_points::Sharing;
use crate::rsync::Transferred;
use crate::rsync_output::Tally;
use crate::tree::open_below;
use crate::watch::hand_over::hash_of;
use crate::watch::protocol::{Handed, Have, StandbyCopy};
use crate::watching::Watching;

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
        // rsync keeps to a limit, and compresses. A last gasp has no time for either.
        let frugal = self.binding.bind.bandwidth_kib_per_s > 0 || link::is_slow(self.dir);
        let frugal = frugal && self.urgency == Urgency::Due;
        if !equals_base || frugal || told.reply.holes || !told.replaced.is_empty() {
            return Ok(None);
        }
        let Some(have) = copies(&incoming.path, &told.paths)? else {
            return Ok(None);
        };
        let later = match watching.hand_over(told.reply.cursor.clone(), have.clone(), self.urgency) {
            Some(Ok(later)) => later,
            Some(Err(Failed::Broken(error))) => return Err(error),
            Some(Err(Failed::Missing(_))) | None => return Ok(None),
        };
        self.check_tree(&later.reply.tree)?;
        if later.reply.handed.is_empty() {
            return Ok(None);
        }
        let (tally, written) = bring_up(&incoming.path, &told.paths, &have, &later)?;
        Ok(Some(Brought {
            done: Transferred {
                tally,
                ..Transferred::default()
            },
            later: later.known(),
            written,
        }))
    }
}

/// What a copy has at the paths; `None` when bringing that up to date takes more than little.
fn copies(copy: &Path, paths: &[PathBuf]) -> Result<Option<Vec<Have>>, AgentError> {
    let names: usize = paths.iter().map(|path| path.as_os_str().len()).sum();
    if paths.len() > MOST_ENTRIES || names > MOST_NAMES {
        return Ok(None);
    }
    let root = File::open(copy).map_err(on_the_disk)?;
    let mut compared = 0;
    let mut have = Vec::new();
    for path in paths {
        let is = match open_below(root.as_fd(), path, OFlags::RDONLY) {
            Ok(mut open) => {
                let found = open.metadata().map_err(on_the_disk)?;
                if found.is_dir() {
                    StandbyCopy::Directory
                } else if found.is_file() && found.nlink() == 1 && compared + found.len() <= MOST_COMPARED {
                    compared += found.len();
                    StandbyCopy::File {
                        size: found.len(),
                        hash: hash_of(&mut open, found.len()).map_err(on_the_disk)?,
                    }
                } else {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => StandbyCopy::Nothing,
            // A symbolic link, or something below what is no directory.
            Err(_) => return Ok(None),
        };
        let path = path.as_os_str().as_encoded_bytes().to_vec();
        have.push(Have { path, is });
    }
    Ok(Some(have))
}

/// Writes what was handed over. Answers its count and the files that were written.
fn bring_up(copy: &Path, paths: &[PathBuf], have: &[Have], later: &Told) -> Result<(Tally, Vec<PathBuf>), AgentError> {
    let unasked = || AgentError::Unexpected("the GPU's watcher hands over what it was not asked for".into());
    if later.reply.handed.len() != have.len() {
        return Err(unasked());
    }
    let root = File::open(copy).map_err(on_the_disk)?;
    let open = |path: &Path, flags| open_below(root.as_fd(), path, flags).map_err(on_the_disk);
    let (mut tally, mut written) = (Tally::default(), Vec::new());
    let mut content = later.content.as_slice();
    for ((path, have), handed) in paths.iter().zip(have).zip(&later.reply.handed) {
        match (&have.is, handed) {
            (StandbyCopy::File { size, .. }, Handed::File { from, more, attributes }) if *from == 0 || from == size => {
                let length = usize::try_from(*more).map_err(|_| unasked())?;
                let (new, rest) = content.split_at_checked(length).ok_or_else(unasked)?;
                content = rest;
                let file = open(path, OFlags::RDWR)?;
                if bring_up_file(&file, *size, (*from, new), attributes).map_err(on_the_disk)? {
                    tally.differences += 1;
                    tally.changed_files += 1;
                    written.push(path.clone());
                }
            }
            (StandbyCopy::Directory, Handed::Directory(attributes)) => {
                let directory = open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                tally.differences += u64::from(give(&directory, attributes).map_err(on_the_disk)?);
            }
            (StandbyCopy::Nothing, Handed::Nothing) => {}
            (StandbyCopy::File { .. } | StandbyCopy::Directory | StandbyCopy::Nothing, _) => return Err(unasked()),
        }
    }
    Ok((tally, written))
}

/// Answers whether the file was any different.
fn bring_up_file(file: &File, size: u64, (from, new): (u64, &[u8]), attributes: &Attributes) -> io::Result<bool> {
    let longer = from + new.len() as u64;
    let differs = !new.is_empty() || longer != size;
    if differs {
        file.write_all_at(new, from)?;
        file.set_len(longer)?;
    }
    Ok(give(file, attributes)? || differs)
}

/// Gives attributes to what has others. Answers whether it had.
fn give(open: &File, attributes: &Attributes) -> io::Result<bool> {
    let others = Attributes::of(open)?;
    if others == *attributes {
        return Ok(false);
    }
    attributes.replace(&others, open.as_fd())?;
    Ok(true)
}

fn on_the_disk(error: io::Error) -> AgentError {
    AgentError::io("bring the copy up to date", error)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::watch::hand_over::hand_over;
    use crate::watch::protocol::Reply;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    fn told(handed: Vec<Handed>, content: &[u8]) -> Told {
        Told {
            reply: Reply {
                handed,
                ..Reply::bare()
            },
            paths: vec![],
            replaced: vec![],
            content: content.to_vec(),
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
        let (tally, written) = bring_up(copy.path(), &listed, &have, &told(handed, &content)).unwrap();
        assert_eq!((tally.changed_files, written.len()), (4, 4), "times differ, too");
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
        let (tally, written) = bring_up(copy.path(), &listed, &have, &told(handed, &content)).unwrap();
        assert_eq!((content.len(), tally.differences, written.len()), (0, 0, 0));
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
