//! Where a download goes: what lies there already, and whether there is room.
//!
//! A note in the directory says what is downloaded there, so that the same command goes on, and another one does not mix two states. It lies
//! in `.warmspare`, which no standby copies. What has arrived in part waits there, too: a file gets its name only when it is whole, so whatever
//! has its name is left alone, be it ours or changed since.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use warmspare_domain::association::PointChoice;
use warmspare_domain::ids::{CheckpointName, GpuId};
use warmspare_domain::units::Bytes;

use super::anteroom::move_entries;
use super::transfer::Existing;

const OURS: &str = ".warmspare";
const NOTE: &str = "download.json";
const BEGINNINGS: &str = "beginnings";
const ANTEROOM: &str = "anteroom";

/// What a directory holds, or is about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The GPU as it was asked for.
    pub(super) gpu: GpuId,
    /// The id of a recovery point, or `partial`.
    pub(super) point: String,
    /// Whether everything that was asked for arrived.
    pub(super) complete: bool,
}

/// What was found there.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It is not there yet.
    Absent,
    /// It is empty.
    Empty,
    /// A download.
    Download(Note),
    /// Something else.
    Other,
}

/// The directory of a download.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
    found: Found,
    force: bool,
}

impl Place {
    /// Looks at a directory.
    ///
    /// # Errors
    /// When something else than a download is in it, unless that is no matter.
    pub(super) fn look(directory: &Path, force: bool) -> anyhow::Result<Self> {
        let shown = directory.display();
        // Programs run elsewhere.
        let directory = std::path::absolute(directory).with_context(|| format!("cannot find {shown}"))?;
        let found = match fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => Found::Absent,
            Err(error) => return Err(error).with_context(|| format!("cannot read the directory {shown}")),
            Ok(mut entries) => match (read_note(&directory), entries.next()) {
                (Some(note), _) => Found::Download(note),
                (None, None) => Found::Empty,
                (None, Some(_)) => Found::Other,
            },
        };
        if found == Found::Other && !force {
            bail!(
                "{shown} is not empty, and no download was begun in it; nothing was downloaded. Name another directory, or add --force: \
                 files of the same names are overwritten, all others stay"
            );
        }
        Ok(Self {
            directory,
            found,
            force,
        })
    }

    /// The absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    /// The recovery point whose download was begun here and not finished.
    pub(super) fn begun(&self, gpu: GpuId) -> Option<PointChoice> {
        match &self.found {
            Found::Download(note) if !self.force && !note.complete && note.gpu == gpu => {
                let point = note.point.parse().ok();
                point.filter(|point| matches!(point, PointChoice::Id(_)))
            }
            Found::Download(_) | Found::Absent | Found::Empty | Found::Other => None,
        }
    }

    /// Whether something of what was asked for is missing.
    pub(super) fn is_unfinished(&self) -> bool {
        matches!(&self.found, Found::Download(note) if !note.complete)
    }

    /// What becomes of the files in it when this arrives.
    pub(super) fn existing(&self, wanted: &Note) -> Existing {
        if self.force {
            Existing::Replaced
        } else if wanted.point == CheckpointName::PARTIAL {
            Existing::Updated
        } else {
            Existing::Kept
        }
    }

    /// Makes the directory unless it is there, and notes in it what is about to arrive.
    ///
    /// # Errors
    /// When it holds another download, has too little room, or cannot be made.
    pub(super) fn prepare(&self, wanted: &Note, bytes: Option<Bytes>) -> anyhow::Result<()> {
        let shown = self.directory.display();
        if !self.force {
            self.check_same(wanted)?;
            self.check_room(bytes.unwrap_or_default())?;
        } else if !matches!(self.found, Found::Absent | Found::Empty) {
            eprintln!("files of the same names in {shown} are overwritten, all others stay");
        }
        fs::create_dir_all(&self.directory).with_context(|| format!("cannot make {shown}"))?;
        match &self.found {
            // Should this break off nothing is less complete than before.
            Found::Download(note) if note.complete && !self.force => Ok(()),
            Found::Download(_) | Found::Absent | Found::Empty | Found::Other => self.note(wanted),
        }
    }

    /// Where the beginnings of files wait that are not whole yet.
    pub(super) fn beginnings(&self) -> PathBuf {
        self.directory.join(OURS).join(BEGINNINGS)
    }

    /// Makes the directory in which a stream is unpacked.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open_anteroom(&self) -> anyhow::Result<PathBuf> {
        let anteroom = self.directory.join(OURS).join(ANTEROOM);
        self.close_anteroom();
        // Not one that is there: what an earlier stream left may be half a file.
        fs::create_dir(&anteroom).with_context(|| format!("cannot make {}", anteroom.display()))?;
        Ok(anteroom)
    }

    /// Moves what was unpacked to its place.
    ///
    /// # Errors
    /// When something cannot be moved.
    pub(super) fn move_in(&self, wanted: &Note) -> anyhow::Result<()> {
        let anteroom = self.directory.join(OURS).join(ANTEROOM);
        move_entries(&anteroom, &self.directory, self.existing(wanted))?;
        self.close_anteroom();
        Ok(())
    }

    fn close_anteroom(&self) {
        let _ = fs::remove_dir_all(self.directory.join(OURS).join(ANTEROOM));
    }

    /// Notes what the directory holds.
    ///
    /// # Errors
    /// When the note cannot be written.
    fn note(&self, note: &Note) -> anyhow::Result<()> {
        let write = || {
            let ours = self.directory.join(OURS);
            fs::create_dir_all(&ours)?;
            let new = ours.join(format!("{NOTE}.new"));
            fs::write(&new, serde_json::to_vec(note)?)?;
            fs::rename(new, ours.join(NOTE))
        };
        write().with_context(|| format!("cannot write a note into {}", self.directory.display()))
    }

    /// Notes that what was asked for is there.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub(super) fn conclude(&self, note: &Note) -> anyhow::Result<()> {
        let _ = fs::remove_dir_all(self.beginnings());
        self.note(note)
    }

    /// Removes what was made here and is of no use, all of it if nothing arrived.
    pub(super) fn leave_nothing(&self) {
        self.close_anteroom();
        // Refused when something is in it.
        let _ = fs::remove_dir(self.beginnings());
        let nothing_arrived = !self.beginnings().exists()
            && fs::read_dir(&self.directory)
                .is_ok_and(|mut all| all.all(|one| one.is_ok_and(|one| one.file_name() == OURS)));
        if !nothing_arrived || !matches!(self.found, Found::Absent | Found::Empty) {
            return;
        }
        // Each is refused when something else is in it.
        let ours = self.directory.join(OURS);
        let _ = fs::remove_file(ours.join(NOTE));
        let _ = fs::remove_dir(ours);
        if self.found == Found::Absent {
            let _ = fs::remove_dir(&self.directory);
        }
    }

    fn check_same(&self, wanted: &Note) -> anyhow::Result<()> {
        let Found::Download(note) = &self.found else {
            return Ok(());
        };
        if (note.gpu, &note.point) == (wanted.gpu, &wanted.point) {
            return Ok(());
        }
        bail!(
            "{} holds a download of `{}` of GPU {}, and this one is `{}` of GPU {}; nothing was downloaded. Name another \
             directory, or add --force: files of the same names are overwritten, all others stay",
            self.directory.display(),
            note.point,
            note.gpu,
            wanted.point,
            wanted.gpu
        )
    }

    fn check_room(&self, bytes: Bytes) -> anyhow::Result<()> {
        let there = self.directory.ancestors().find(|path| path.exists());
        let Some(room) = there.and_then(|path| rustix::fs::statvfs(path).ok()).map(free) else {
            return Ok(());
        };
        // What a download left here before is counted only where it matters: there may be a million files.
        if bytes <= room || matches!(&self.found, Found::Download(_)) && bytes.0 <= room.0 + taken(&self.directory) {
            return Ok(());
        }
        Err(no_room(bytes, room, &self.directory.display().to_string()))
    }
}

/// Refuses a stream of so many bytes when standard output is a file on a disk with too little room.
pub(super) fn check_room_for_output(bytes: Bytes) -> anyhow::Result<()> {
    let output = std::io::stdout();
    let is_file =
        rustix::fs::fstat(&output).is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_file());
    match rustix::fs::fstatvfs(&output).map(free) {
        Ok(room) if is_file && bytes > room => Err(no_room(bytes, room, "the file")),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn no_room(bytes: Bytes, room: Bytes, place: &str) -> anyhow::Error {
    anyhow!(
        "the recovery point has {bytes}, and the disk of {place} has {room} free; nothing was downloaded. Make room, or use another disk; \
         --force tries it, because files with holes take less"
    )
}

fn free(disk: rustix::fs::StatVfs) -> Bytes {
    Bytes(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What a tree takes on its disk.
fn taken(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let each = entries.filter_map(|entry| Some((entry.metadata().ok()?, entry.path())));
    each.map(|(found, path)| match found.is_dir() {
        true => taken(&path),
        false => found.blocks() * 512,
    })
    .sum()
}

fn read_note(directory: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(directory.join(OURS).join(NOTE)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(point: &str, complete: bool) -> Note {
        Note {
            gpu: "7".parse().unwrap(),
            point: point.to_owned(),
            complete,
        }
    }

    const OLD: &str = "20261123T134530.250Z";
    const NEW: &str = "20261123T134600.250Z";

    #[test]
    fn a_directory_takes_one_download_and_goes_on_with_that() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("a/b");
        let begin = |point: &str, force| {
            let place = Place::look(&directory, force)?;
            let note = note(point, false);
            place.prepare(&note, None).map(|()| place.existing(&note))
        };
        let look = || Place::look(&directory, false).unwrap();
        let gpu = |text: &str| text.parse().unwrap();
        assert_eq!(look().begun(gpu("7")), None);
        assert_eq!(begin(OLD, false).unwrap(), Existing::Kept);
        assert_eq!(look().begun(gpu("7")).unwrap().to_string(), OLD);
        assert_eq!(look().begun(gpu("8")), None);
        assert_eq!(begin(OLD, false).unwrap(), Existing::Kept);
        let refused = begin(NEW, false).unwrap_err().to_string();
        assert!(refused.contains(OLD) && refused.contains("--force"), "{refused}");

        look().conclude(&note(OLD, true)).unwrap();
        assert_eq!(look().begun(gpu("7")), None, "nothing is left to go on with");
        assert_eq!(begin(OLD, false).unwrap(), Existing::Kept);
        assert!(
            !look().is_unfinished(),
            "more of it that breaks off leaves it as whole as it was"
        );
        assert_eq!(begin(NEW, true).unwrap(), Existing::Replaced);
        assert!(look().is_unfinished());
    }

    #[test]
    fn what_no_download_made_is_not_touched() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("mine"), "x").unwrap();
        let refused = Place::look(place.path(), false).unwrap_err().to_string();
        assert!(refused.contains("not empty"), "{refused}");
        let forced = Place::look(place.path(), true).unwrap();
        forced.prepare(&note(OLD, false), None).unwrap();
        assert_eq!(forced.existing(&note(OLD, false)), Existing::Replaced);
    }

    #[test]
    fn what_was_unpacked_is_put_beside_what_is_there_and_over_it_only_by_force() {
        for (force, mine) in [(false, "mine"), (true, "theirs")] {
            let place = tempfile::tempdir().unwrap();
            let write = |directory: &Path, name: &str, words: &str| {
                let path = directory.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, words).unwrap();
            };
            let target = Place::look(place.path(), false).unwrap();
            target.prepare(&note(OLD, true), None).unwrap();
            for name in ["runs/7/log", "only", "was-a-directory"] {
                write(place.path(), name, "mine");
            }
            let target = Place::look(place.path(), force).unwrap();
            let anteroom = target.open_anteroom().unwrap();
            for name in ["runs/7/log", "runs/7/new", "runs/8/log", "was-a-directory/x"] {
                write(&anteroom, name, "theirs");
            }
            target.move_in(&note(OLD, true)).unwrap();
            let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap_or_default();
            assert_eq!((read("runs/7/log"), read("only")), (mine.to_owned(), "mine".to_owned()));
            assert_eq!(
                (read("runs/7/new"), read("runs/8/log")),
                ("theirs".to_owned(), "theirs".to_owned())
            );
            assert_eq!(read(if force { "was-a-directory/x" } else { "was-a-directory" }), mine);
            assert!(!anteroom.exists());
        }
    }

    #[test]
    fn more_of_a_first_pass_replaces_what_is_older_there() {
        let place = tempfile::tempdir().unwrap();
        let partial = note(CheckpointName::PARTIAL, false);
        let target = Place::look(place.path(), false).unwrap();
        target.prepare(&partial, None).unwrap();
        let anteroom = target.open_anteroom().unwrap();
        let write = |path: PathBuf, words: &str, seconds: u64| {
            fs::write(&path, words).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::options()
                .append(true)
                .open(path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        };
        for (name, theirs) in [("grew", 20), ("edited", 5)] {
            write(place.path().join(name), "mine", 10);
            write(anteroom.join(name), "theirs", theirs);
        }
        target.move_in(&partial).unwrap();
        let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
        assert_eq!((read("grew"), read("edited")), ("theirs".to_owned(), "mine".to_owned()));
    }

    #[test]
    fn nothing_is_left_where_nothing_arrived() {
        let place = tempfile::tempdir().unwrap();
        for (directory, arrived) in [("new", false), ("new", true), ("", false)] {
            let directory = place.path().join(directory);
            let before = directory.exists();
            let target = Place::look(&directory, false).unwrap();
            target.prepare(&note(OLD, false), None).unwrap();
            target.open_anteroom().unwrap();
            if arrived {
                fs::write(directory.join("file"), "x").unwrap();
            }
            target.leave_nothing();
            assert_eq!(directory.exists(), before || arrived);
            assert_eq!(directory.join(OURS).exists(), arrived);
            let _ = fs::remove_dir_all(place.path().join("new"));
        }
    }

    #[test]
    fn a_disk_that_is_too_small_is_named_before_anything_is_made() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("new");
        let look = |force| Place::look(&directory, force).unwrap();
        let much = Some(Bytes(u64::MAX));
        let refused = look(false).prepare(&note(OLD, false), much).unwrap_err().to_string();
        assert!(refused.contains(" free; nothing was downloaded"), "{refused}");
        assert!(!directory.exists());
        assert!(look(true).prepare(&note(OLD, false), much).is_ok());
    }
}
