//! The pass over every file: the safety net, the first one, and where no watcher tells what changed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use warmspare_wire::agent::{PassReport, PassScope};

use super::Pass;
use crate::changes;
use crate::error::AgentError;
use crate::fetched::Fetched;
use crate::in_motion::{self, Reading};
use crate::incoming::{Incoming, Scope, Start};
use crate::observer::Told;
use crate::rsync::Transferred;
use crate::rsync_output::Tally;
use crate::source::{Look, RsyncThere, Watched};
use crate::watch::protocol::Changes;
use crate::watching::{self, Seen, Watching};

impl Pass<'_> {
    pub(super) fn everything(
        &mut self,
        watching: &mut Watching,
        told: Option<Told>,
        seen: Option<Seen>,
    ) -> Result<PassReport, AgentError> {
        // The first look goes on while rsync starts: what it finds decides before anything is kept, and starting a shell
        // on the GPU may take as long as a small pass. Where no watcher tells of checkpoints, it must have told of them before.
        let mut source = Watched::open(&self.machine, &self.binding.bind.source_path)?;
        if told.is_none() || self.base.is_none() {
            let look = self.first_look(&mut source)?;
            if told.is_none() {
                self.wanted = look.checkpoints;
            }
        }
        let mut incoming = Incoming::prepare(self.dir, self.base.as_ref(), &Scope::Everything)?;
        let seeded = match &self.base {
            None => self.seed(&mut incoming)?,
            Some(_) => Tally::default(),
        };
        let compared = told
            .as_ref()
            .filter(|told| seen.is_some() && told.reply.changes == Changes::Complete);
        let transfer = self.transfer(&incoming);
        let transfer = if compared.is_some() {
            transfer.naming()
        } else {
            transfer
        };
        let pulled = self.pull(&transfer, |pass| {
            let look = source.glance()?;
            look.map_or(Ok(()), |look| pass.check(look))
        });
        let before = self.first_look(&mut source)?;
        let mut transferred = self.hold(pulled, || source.after())?;
        transferred.tally.absorb(&seeded);
        let mut fetched = self.settle(&incoming, &transferred, &before)?;
        let later = told.as_ref().and_then(|told| changed_since(watching, told));
        // What was brought is not named here, so nothing of it can be suspected.
        let reading = Reading {
            later: later.as_deref(),
            kept_back: &fetched.kept_back,
            ..Reading::default()
        };
        fetched.in_motion = in_motion::among(self.dir, self.base.as_ref(), &incoming, &reading);
        fetched.told_bytes = watching.take_wire_bytes();
        if let (Some(told), Some(later)) = (compared, &later) {
            fetched.missed = missed_by(told, later, &transferred);
        }
        self.judge(&fetched)?;
        let report = self.conclude(&incoming, &transferred, &fetched)?;
        let now_seen = told.and_then(|told| told.reply.cursor).map(|cursor| Seen {
            cursor,
            point: report.point.clone(),
            revision: self.binding.revision,
            full_at: report.started_at,
        });
        watching::remember(self.dir, now_seen)?;
        watching::count_missed(self.dir, &report)?;
        Ok(report)
    }

    /// The tree is ours, and can be read.
    fn first_look(&self, source: &mut Watched) -> Result<Look, AgentError> {
        let look = source.before()?.clone();
        self.check(&look)?;
        match look.rsync {
            RsyncThere::Present => Ok(look),
            RsyncThere::Missing => Err(self.machine.no_rsync()),
        }
    }

    /// Puts back what could not be read, and counts.
    fn settle(&self, incoming: &Incoming, done: &Transferred, before: &Look) -> Result<Fetched, AgentError> {
        let plain = incoming.start == Start::Fresh && done.unreadable.is_empty() && done.vanished == 0;
        if plain && let Some(totals) = done.tally.totals {
            let expected = self.base_files() + done.tally.created_files;
            return Ok(Fetched {
                files: totals.files,
                bytes: totals.bytes,
                deleted: expected.saturating_sub(totals.files),
                hard_links: incoming.hard_links || done.tally.hard_links,
                ..Fetched::of(PassScope::Everything)
            });
        }
        Fetched::whole(incoming, done, &self.roots(&before.tree))
    }
}

/// What changed since the watcher was asked first; `None` when it cannot tell.
fn changed_since(watching: &mut Watching, told: &Told) -> Option<Vec<PathBuf>> {
    let cursor = told.reply.cursor.clone()?;
    watching.again(Some(cursor))?.ok()?.known()
}

/// What a full scan found that the watcher told neither before it nor while it ran.
fn missed_by(told: &Told, later: &[PathBuf], done: &Transferred) -> u64 {
    let all = told.paths.iter().chain(later).cloned().collect();
    let path = |name: &Vec<u8>| PathBuf::from(OsStr::from_bytes(name));
    let found: Vec<_> = done
        .tally
        .named
        .iter()
        .map(|(name, seen)| (path(name), *seen))
        .collect();
    changes::missed(&found, &all)
}
