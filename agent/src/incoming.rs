//! `incoming/`: where a pass grows until it is complete, prepared so that nothing done in it reaches a recovery point.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::process;
use crate::recovery_points::{self, Sharing, discard, is_directory, make_subvolume, tree_of};
use crate::rsync::Transfer;
use crate::state::{IncomingFile, PointFile, Touched};
use crate::tree::{self, PARTIAL, Spot};
use crate::watch::protocol::Cursor;

/// Putting one file or directory back; the largest takes its copying time.
const COPY_LIMIT: Duration = Duration::from_secs(3600);

const PUT_BACK: &str = "put back a file's last good version";

/// `incoming/`, ready for rsync.
#[derive(Debug)]
pub struct Incoming {
    /// The directory.
    pub path: PathBuf,
    /// How it shares with its base.
    pub sharing: Sharing,
    /// What it starts from.
    pub start: Start,
    /// The base's files.
    pub base: Option<PathBuf>,
    /// Whether the base has, or the directory may have, files with two names.
    pub hard_links: bool,
}

/// What a pass starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Exactly its base: what rsync changes is the difference between the base and the GPU.
    Fresh,
    /// The remains of a pass that broke off.
    Resumed,
}

/// What the pass will look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every file: whatever is in the directory is put right.
    Everything,
    /// What changed since: everything else must equal the base already.
    Changes(Cursor),
}

impl Incoming {
    /// Prepares the directory for a pass on top of `base`. The caller holds the pass lock.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn prepare(dir: &DataDir, base: Option<&PointFile>, scope: &Scope) -> Result<Self, AgentError> {
        let base_tree = base.map(|point| tree_of(dir, &point.point.id));
        let sharing = Sharing::choose(dir, base_tree.as_deref());
        let noted = IncomingFile {
            base: base.map(|point| point.point.id.clone()),
            touched: Touched::Yes,
            changes_since: match scope {
                Scope::Everything => None,
                Scope::Changes(since) => Some(since.clone()),
            },
        };
        let start = match usable(dir, &noted, sharing)? {
            Some(start) => start,
            None => make(dir, base_tree.as_deref(), sharing)?,
        };
        let mut incoming = Self {
            path: dir.incoming(),
            sharing,
            start,
            base: base_tree,
            hard_links: base.is_some_and(|point| point.hard_links),
        };
        dir.save_incoming_file(&noted, sharing.durability_of_notes())?;
        // A dirty pass never makes two names of one file, so one that broke off left none.
        if start == Start::Resumed && *scope == Scope::Everything {
            incoming.disarm()?;
        }
        Ok(incoming)
    }

    /// Whether rsync may rewrite files in place: only where no second name and no recovery point would feel it.
    fn may_write_in_place(&self) -> bool {
        self.sharing == Sharing::Snapshots && self.base.is_some() && !self.hard_links
    }

    /// The transfer as it may write here.
    #[must_use]
    pub fn receive(&self, transfer: Transfer) -> Transfer {
        let transfer = if self.may_write_in_place() {
            transfer.with("--inplace")
        } else {
            transfer.with(format!("--partial-dir={PARTIAL}"))
        };
        match (&self.base, self.sharing) {
            (Some(base), Sharing::HardLinks) => {
                let mut option = OsString::from("--link-dest=");
                option.push(base);
                transfer.with(option)
            }
            (Some(_), Sharing::Snapshots) | (None, _) => transfer,
        }
    }

    /// Puts back the base's version of files that the GPU could not give whole. Answers those that could not be placed.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn put_back(&self, names: &[PathBuf]) -> Result<Vec<PathBuf>, AgentError> {
        let mut lost = Vec::new();
        for name in names {
            match Spot::of(&self.path, name).map_err(on_the_disk)? {
                Some(here) => self.put_back_one(name, &here)?,
                None => lost.push(name.clone()),
            }
        }
        Ok(lost)
    }

    fn put_back_one(&self, name: &Path, here: &Spot) -> Result<(), AgentError> {
        let found = here.node().map_err(on_the_disk)?;
        // Written in place, a file that broke off is neither old nor new. Elsewhere rsync never let it become visible.
        if found.is_some_and(|found| !found.is_directory()) && !self.may_write_in_place() {
            return Ok(());
        }
        here.clear().map_err(on_the_disk)?;
        let Some(before) = self.version_of_base(name).map_err(on_the_disk)? else {
            return Ok(());
        };
        let share = match self.sharing {
            Sharing::Snapshots => "--reflink=auto",
            Sharing::HardLinks => "--link",
        };
        let done = process::run(
            Command::new("cp")
                .args(["--archive", "--no-target-directory", share, "--"])
                .args([before.path(), here.path()]),
            b"",
            COPY_LIMIT,
        )?;
        done.success(PUT_BACK).map(drop)
    }

    fn version_of_base(&self, name: &Path) -> io::Result<Option<Spot>> {
        let Some(base) = &self.base else { return Ok(None) };
        let Some(spot) = Spot::of(base, name)? else {
            return Ok(None);
        };
        Ok(spot.node()?.map(|_| spot))
    }

    fn disarm(&mut self) -> Result<(), AgentError> {
        let io = |error| AgentError::io("take up the pass that broke off", error);
        match (self.sharing, &self.base) {
            // rsync changes modes and times of files that are already here, and these may be the base's own.
            (Sharing::HardLinks, Some(base)) => tree::unshare(&self.path, base).map_err(io),
            (Sharing::Snapshots, _) => {
                self.hard_links |= tree::census(&self.path).map_err(io)?.hard_links;
                Ok(())
            }
            (Sharing::HardLinks, None) => Ok(()),
        }
    }
}

fn on_the_disk(error: io::Error) -> AgentError {
    AgentError::io(PUT_BACK, error)
}

/// Where what arrived of a first pass lies, while that is all there is.
///
/// # Errors
/// When the first pass completed, or nothing arrived.
pub fn unfinished(dir: &DataDir) -> Result<PathBuf, AgentError> {
    if !recovery_points::list(dir)?.is_empty() {
        return Err(AgentError::BadRequest(
            "the first pass is complete: there are recovery points to download".into(),
        ));
    }
    let here = dir.incoming();
    match fs::read_dir(&here).is_ok_and(|mut entries| entries.next().is_some()) {
        true => Ok(here),
        false => Err(AgentError::NoRecoveryPoint {
            wanted: "partial: nothing has arrived yet".into(),
        }),
    }
}

/// Moves `incoming/` out of the way: it must not become a recovery point, or fills the disk.
///
/// # Errors
/// When it cannot be moved.
pub fn give_up(dir: &DataDir) -> Result<(), AgentError> {
    discard(dir, &dir.incoming())
}

fn usable(dir: &DataDir, wanted: &IncomingFile, sharing: Sharing) -> Result<Option<Start>, AgentError> {
    let here = is_directory(&dir.incoming())?;
    let noted = dir.incoming_file()?.filter(|noted| here && noted.base == wanted.base);
    let same_changes = noted
        .as_ref()
        .is_some_and(|noted| noted.changes_since == wanted.changes_since);
    Ok(match (noted.map(|noted| noted.touched), sharing) {
        (Some(Touched::Yes), _) if wanted.changes_since.is_some() && !same_changes => None,
        (Some(Touched::Yes), _) => Some(Start::Resumed),
        (Some(Touched::No), Sharing::Snapshots) => Some(Start::Fresh),
        (Some(Touched::No), Sharing::HardLinks) | (None, _) => None,
    })
}

fn make(dir: &DataDir, base: Option<&Path>, sharing: Sharing) -> Result<Start, AgentError> {
    let path = dir.incoming();
    discard(dir, &path)?;
    let io = |error| AgentError::io("make the directory for the pass", error);
    match sharing {
        Sharing::Snapshots => make_subvolume(base, &path)?,
        Sharing::HardLinks => {
            DirBuilder::new().mode(0o700).create(&path).map_err(io)?;
            if let Some(base) = base {
                // So that rsync reports the root only when it really changed.
                tree::copy_attributes(base, &path).map_err(io)?;
            }
        }
    }
    Ok(Start::Fresh)
}
