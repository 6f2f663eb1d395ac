//! On the GPU: `checkpoint NAME [PATH…]`, for a training script.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use warmspare_domain::ids::CheckpointName;

use crate::checkpoints::{KEPT, LONGEST, MISSED, MOST, NamedFile, PLACE, SCHEMA, WANTED, Wanted, is_plain};
use crate::clock;
use crate::marker::MARKER_DIRECTORY;
use crate::watch;

/// How often a waiting script looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why a checkpoint is not asked for, for the person who wrote the script.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No standby copies this directory.
    #[error(
        "{0} is in no directory that a standby copies; nothing was asked for. Run it below source_path, or name that with --tree, after the standby was bound"
    )]
    NoTree(PathBuf),
    /// It names something that does not exist.
    #[error("{0} is not there; nothing was asked for")]
    Absent(PathBuf),
    /// It names something that cannot be part of a checkpoint.
    #[error("{path} cannot be part of the checkpoint: {reason}; nothing was asked for")]
    Unusable {
        /// What.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The request is too long.
    #[error("the checkpoint has too many files ({0}); nothing was asked for. Name fewer, or none for the whole tree")]
    TooMany(usize),
    /// The disk did not do as told.
    #[error("cannot ask for the checkpoint")]
    Io(#[from] std::io::Error),
}

/// What became of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// The standby has it, in this recovery point.
    Kept(String),
    /// No recovery point has it.
    Missed(String),
    /// No pass answered yet; it stays asked for.
    NotYet,
}

/// A checkpoint that was asked for.
#[derive(Debug)]
pub struct Asked {
    place: PathBuf,
    id: String,
}

/// Asks the standby to keep these files, directories with all that is in them, as they are now; none for the whole tree.
///
/// # Errors
/// When nothing was asked for.
pub fn ask(tree: Option<&Path>, name: CheckpointName, paths: &[PathBuf]) -> Result<Asked, CheckpointError> {
    let start = match (tree, paths.first()) {
        (Some(tree), _) => tree.to_owned(),
        (None, Some(path)) => path.clone(),
        (None, None) => std::env::current_dir()?,
    };
    let root = root_of(&start)?;
    let mut files = Vec::new();
    for path in paths {
        add(&root, path, &mut files)?;
    }
    let wanted = Wanted {
        schema: SCHEMA,
        id: watch::random()?,
        name,
        at: clock::now(),
        files,
    };
    let json = serde_json::to_vec(&wanted).map_err(std::io::Error::from)?;
    if json.len() >= LONGEST {
        return Err(CheckpointError::TooMany(wanted.files.len()));
    }
    let place = root.join(MARKER_DIRECTORY).join(PLACE);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&place)?;
    make_room(&place);
    let asked = Asked { place, id: wanted.id };
    let new = asked.place.join(format!(".{}.new", asked.id));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
    file.write_all(&json)?;
    fs::rename(&new, asked.file(WANTED))?;
    Ok(asked)
}

impl Asked {
    /// Waits for the standby's answer.
    #[must_use]
    pub fn wait(&self, at_most: Duration) -> Answered {
        let until = Instant::now() + at_most;
        loop {
            if let Ok(point) = fs::read_to_string(self.file(KEPT)) {
                return Answered::Kept(point.trim().to_owned());
            }
            if let Ok(reason) = fs::read_to_string(self.file(MISSED)) {
                return Answered::Missed(reason.trim().to_owned());
            }
            if Instant::now() >= until {
                return Answered::NotYet;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn file(&self, end: &str) -> PathBuf {
        self.place.join(format!("{}.{end}", self.id))
    }
}

/// The copied directory that a path lies in.
fn root_of(path: &Path) -> Result<PathBuf, CheckpointError> {
    let is_tree = |at: &&Path| at.join(MARKER_DIRECTORY).join("marker.json").is_file();
    let found = real(path)?.ancestors().find(is_tree).map(Path::to_owned);
    found.ok_or_else(|| CheckpointError::NoTree(path.to_owned()))
}

fn real(path: &Path) -> Result<PathBuf, CheckpointError> {
    fs::canonicalize(path).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            CheckpointError::Absent(path.to_owned())
        } else {
            error.into()
        }
    })
}

fn add(root: &Path, path: &Path, files: &mut Vec<NamedFile>) -> Result<(), CheckpointError> {
    let unusable = |reason| CheckpointError::Unusable {
        path: path.to_owned(),
        reason,
    };
    let real = real(path)?;
    let below = real
        .strip_prefix(root)
        .map_err(|_| unusable("it lies outside the directory that is copied"))?;
    let found = fs::symlink_metadata(&real)?;
    if found.is_dir() {
        let mut inside: Vec<_> = fs::read_dir(&real)?.flatten().map(|entry| entry.path()).collect();
        inside.sort();
        // What a symbolic link in it points to is no part of it, and what is ours is never copied.
        inside.retain(|path| {
            let ours = path
                .strip_prefix(root)
                .is_ok_and(|below| below.starts_with(MARKER_DIRECTORY));
            !ours && fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() || found.is_file())
        });
        return inside.iter().try_for_each(|path| add(root, path, files));
    }
    let name = below.to_str().filter(|name| is_plain(name));
    files.push(NamedFile {
        path: name
            .ok_or_else(|| unusable("its name is not text in one line"))?
            .to_owned(),
        size: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
    });
    if files.len() > LONGEST {
        return Err(CheckpointError::TooMany(files.len()));
    }
    Ok(())
}

/// A standby takes so many at once. When it is away for long, the newest count.
fn make_room(place: &Path) {
    let mut waiting: Vec<(SystemTime, PathBuf)> = fs::read_dir(place)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == WANTED))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    waiting.sort();
    let too_many = (waiting.len() + 1).saturating_sub(MOST);
    for (_, path) in waiting.into_iter().take(too_many) {
        let reason =
            format!("{MOST} newer checkpoints wait for a standby, this one no longer does. Is the standby there?");
        eprintln!("{reason}");
        // Whoever waits for it must not wait in vain.
        let _ = fs::write(path.with_extension(MISSED), reason);
        let _ = fs::remove_file(path);
    }
}
