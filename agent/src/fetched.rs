//! What a pass or a rescue fetched: what could not be read put back, the rest counted, judged and reported.

use std::path::PathBuf;

use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{InMotion, PassReport, PassScope};

use crate::clock;
use crate::error::AgentError;
use crate::guard::{self, Deletions, Loss};
use crate::incoming::Incoming;
use crate::names::shown;
use crate::process::last_words;
use crate::rsync::Transferred;
use crate::state::PassUnderWay;
use crate::tree;

/// How many of the files that kept their last good version, or changed while they were copied, are named.
pub const NAMED: usize = 100;

/// What was fetched, counted.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// What was looked at.
    pub scope: PassScope,
    /// Regular files in the tree as it is now.
    pub files: u64,
    /// Their size.
    pub bytes: Bytes,
    /// Files of the newest recovery point that are no longer there.
    pub deleted: u64,
    /// Files that keep their last good version.
    pub kept_back: Vec<PathBuf>,
    /// Whether two names in the tree may share one file.
    pub hard_links: bool,
    /// Changes that a full scan found and the watcher had not told of.
    pub missed: u64,
    /// What asking the watcher put on the wire.
    pub told_bytes: Bytes,
    /// Files that changed while they were copied.
    pub in_motion: Vec<InMotion>,
}

impl Fetched {
    /// Nothing yet.
    #[must_use]
    pub fn of(scope: PassScope) -> Self {
        Self {
            scope,
            files: 0,
            bytes: Bytes(0),
            deleted: 0,
            kept_back: Vec::new(),
            hard_links: false,
            missed: 0,
            told_bytes: Bytes(0),
            in_motion: Vec::new(),
        }
    }

    /// Puts back what could not be read, clears away the beginnings of files, and counts the whole tree. `roots` are the ways in
    /// which the other side may write the root.
    ///
    /// # Errors
    /// When something cannot be put back, or the disk is full or fails.
    pub fn whole(incoming: &Incoming, done: &Transferred, roots: &[&[u8]]) -> Result<Self, AgentError> {
        let io = |error| AgentError::io("count the files of the pass", error);
        let kept_back = keep_back(incoming, done, roots)?;
        tree::clear_partials(&incoming.path).map_err(io)?;
        let census = tree::census(&incoming.path).map_err(io)?;
        let deleted = match &incoming.base {
            Some(base) => tree::missing(base, &incoming.path).map_err(io)?,
            None => 0,
        };
        Ok(Self {
            files: census.files,
            bytes: census.bytes,
            deleted,
            kept_back,
            hard_links: incoming.hard_links || done.tally.hard_links || census.hard_links,
            ..Self::of(PassScope::Everything)
        })
    }

    /// Checks that it does not take away the user's work.
    ///
    /// # Errors
    /// [`AgentError::Halted`].
    pub fn judge(&self, base_files: u64, deletions: Deletions) -> Result<(), AgentError> {
        let loss = Loss {
            base_files,
            new_files: self.files,
            deleted: self.deleted,
        };
        Ok(guard::check_loss(loss, deletions)?)
    }

    /// The report of a pass that ends now with a recovery point of its own.
    #[must_use]
    pub fn report(&self, done: &Transferred, under_way: &PassUnderWay) -> PassReport {
        let kept_back = self.kept_back.iter().take(NAMED);
        PassReport {
            started_at: under_way.started_at,
            ended_at: clock::now(),
            epoch: under_way.epoch,
            files: self.files,
            bytes: self.bytes,
            changed_files: done.tally.changed_files,
            deleted_files: self.deleted,
            wire_bytes: Bytes(done.tally.totals.unwrap_or_default().wire_bytes.0 + self.told_bytes.0),
            kept_back: kept_back
                .map(|name| shown(name.as_os_str().as_encoded_bytes()))
                .collect(),
            point: RecoveryPointId::at(under_way.started_at),
            scope: self.scope,
            missed: self.missed,
            command_failed: None,
            in_motion: self.in_motion.clone(),
        }
    }
}

/// Puts back the base's version of what the GPU could not give whole, and names it.
///
/// # Errors
/// When that cannot be done, or the disk is full or fails.
pub fn keep_back(incoming: &Incoming, done: &Transferred, roots: &[&[u8]]) -> Result<Vec<PathBuf>, AgentError> {
    let mut kept = Vec::new();
    for name in &done.unreadable {
        let below = tree::below(name, roots)
            .ok_or_else(|| AgentError::Rsync(format!("cannot read {}", last_words(&String::from_utf8_lossy(name)))))?;
        kept.push(below);
    }
    kept.sort();
    kept.dedup();
    match incoming.put_back(&kept)?.first() {
        None => Ok(kept),
        Some(lost) => Err(AgentError::Rsync(format!(
            "cannot keep the last version of {}",
            lost.display()
        ))),
    }
}
