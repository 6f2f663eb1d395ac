//! The passes that cost what changed: nothing, a few files that the watcher hands over, or one rsync over the listed paths.

use std::path::PathBuf;

use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{PassReport, PassScope};

use super::Pass;
use crate::changes;
use crate::error::AgentError;
use crate::fetched::{Fetched, keep_back};
use crate::in_motion::{self, Reading};
use crate::incoming::{Incoming, Scope, Start};
use crate::observer::{Failed, Told};
use crate::recovery_points::{Sharing, tree_of};
use crate::rsync::{Transfer, Transferred};
use crate::source::{Look, RsyncThere};
use crate::watching::{self, Plan, Seen, Watching, plan};

/// What came of the changes that a watcher told.
pub(super) struct Brought {
    /// What was done for them.
    pub(super) done: Transferred,
    /// What changed after they were told, if the watcher can tell.
    pub(super) later: Option<Vec<PathBuf>>,
    /// Files that were written in any case, also such that look as before.
    pub(super) written: Vec<PathBuf>,
}

impl Pass<'_> {
    /// Decides what to look at. What lies in excluded directories is left out of what was told.
    pub(super) fn plan(
        &self,
        seen: Option<&Seen>,
        told: Option<&Told>,
    ) -> Result<(Plan, Option<Told>, Option<Seen>), AgentError> {
        let mut told = told.cloned();
        let (Some(base), Some(known), Some(_)) = (&self.base, &mut told, seen) else {
            return Ok((Plan::Everything, told, seen.cloned()));
        };
        let tree = tree_of(self.dir, &base.point.id);
        let mut choice = plan(seen, Some(known), self.urgency);
        if choice == Plan::Changes {
            let paths = std::mem::take(&mut known.paths);
            known.paths = changes::without_excluded(self.dir, &tree, paths, &self.binding.filters())?;
            // By now the GPU's file may have one name only, and the other one's copy be old.
            let twins = base.hard_links && changes::have_twins(&tree, &known.paths);
            if twins || !changes::fit(&tree, &known.paths) {
                return Ok((Plan::Everything, told, seen.cloned()));
            }
            choice = plan(seen, Some(known), self.urgency);
        }
        // With hard links every recovery point is a tree of its own, and making it walks the whole of it.
        if choice == Plan::Changes && Sharing::choose(self.dir, Some(&tree)) == Sharing::HardLinks {
            choice = Plan::Everything;
        }
        Ok((choice, told, seen.cloned()))
    }

    /// Nothing changed: the newest recovery point stands for now, too.
    pub(super) fn nothing(&self, watching: &mut Watching, told: &Told, seen: &Seen) -> Result<PassReport, AgentError> {
        self.check_tree(&told.reply.tree)?;
        let Some(base) = &self.base else {
            return Err(AgentError::Interrupted("there is no recovery point to confirm".into()));
        };
        let fetched = Fetched {
            files: base.point.files,
            bytes: base.point.bytes,
            told_bytes: watching.take_wire_bytes(),
            ..Fetched::of(PassScope::Nothing)
        };
        let report = PassReport {
            point: base.point.id.clone(),
            ..self.report(&Transferred::default(), &fetched)
        };
        let checkpoints = self.judge_checkpoints(&tree_of(self.dir, &base.point.id))?;
        let decision = self.decide()?;
        self.confirm_base(base, &checkpoints)?;
        self.remember(told, seen, &report)?;
        drop(decision);
        self.answer_checkpoints(checkpoints, base);
        Ok(report)
    }

    /// Transfers what the watcher told.
    pub(super) fn changes(
        &mut self,
        watching: &mut Watching,
        told: Told,
        seen: &Seen,
    ) -> Result<PassReport, AgentError> {
        self.check_tree(&told.reply.tree)?;
        let scope = Scope::Changes(seen.cursor.clone());
        let mut incoming = Incoming::prepare(self.dir, self.base.as_ref(), &scope)?;
        let outcome = self.transfer_changes(&mut incoming, watching, &told);
        if let Err(AgentError::Rsync(_) | AgentError::Unexpected(_) | AgentError::Io { .. }) = &outcome {
            // Whatever is wrong with this list, it must not be wrong for ever.
            watching::remember(self.dir, None)?;
        }
        let report = outcome?;
        self.remember(&told, seen, &report)?;
        Ok(report)
    }

    fn transfer_changes(
        &self,
        incoming: &mut Incoming,
        watching: &mut Watching,
        told: &Told,
    ) -> Result<PassReport, AgentError> {
        let Brought { done, later, written } = match self.take_over(incoming, watching, told)? {
            Some(brought) => brought,
            None => self.transfer_listed(incoming, watching, told)?,
        };
        let mut fetched = self.count_changes(incoming, &done, told)?;
        fetched.in_motion = in_motion::among(
            self.dir,
            self.base.as_ref(),
            incoming,
            &Reading {
                told: &told.paths,
                later: later.as_deref(),
                kept_back: &fetched.kept_back,
                written: &written,
            },
        );
        fetched.told_bytes = watching.take_wire_bytes();
        self.judge(&fetched)?;
        self.conclude(incoming, &done, &fetched)
    }

    /// Runs one rsync over the listed paths.
    fn transfer_listed(
        &self,
        incoming: &mut Incoming,
        watching: &mut Watching,
        told: &Told,
    ) -> Result<Brought, AgentError> {
        let io = |error| AgentError::io("clear away what was replaced", error);
        changes::clear_replaced(&incoming.path, &told.paths, &told.replaced).map_err(io)?;
        if !told.replaced.is_empty() {
            // What rsync changes is no longer the whole difference to the base.
            incoming.start = Start::Resumed;
        }
        let bind = &self.binding.bind;
        let list = changes::write_list(self.dir, &told.paths)?;
        let transfer = Transfer::pull_listed(
            &self.machine,
            &bind.source_path,
            &self.binding.filters(),
            list.path(),
            &incoming.path,
        );
        let transfer = if told.reply.holes { transfer } else { transfer.dense() };
        let pulled = self.pull(&incoming.receive(transfer), |_| Ok(()));
        let mut later = None;
        let done = self.hold(pulled, || {
            let (look, changed) = self.look_again(watching, told)?;
            later = changed;
            Ok(look)
        })?;
        Ok(Brought {
            done,
            later,
            written: Vec::new(),
        })
    }

    /// How the tree looks now, and what changed since it was looked at first, if the watcher can tell.
    fn look_again(&self, watching: &mut Watching, told: &Told) -> Result<(Look, Option<Vec<PathBuf>>), AgentError> {
        match watching.again(told.reply.cursor.clone()) {
            Some(Ok(later)) => {
                let look = Look {
                    tree: later.reply.tree.clone(),
                    rsync: RsyncThere::Present,
                    checkpoints: Vec::new(),
                };
                Ok((look, later.known()))
            }
            Some(Err(Failed::Broken(error))) => Err(error),
            // The watcher ended meanwhile: the shell on the GPU can say as much about the tree.
            Some(Err(Failed::Missing(_))) | None => {
                crate::source::look(&self.machine, &self.binding.bind.source_path).map(|look| (look, None))
            }
        }
    }

    fn count_changes(&self, incoming: &Incoming, done: &Transferred, told: &Told) -> Result<Fetched, AgentError> {
        let io = |error| AgentError::io("count the files of the pass", error);
        let (Some(base), Some(base_tree)) = (&self.base, &incoming.base) else {
            return Err(AgentError::Interrupted(
                "there is no recovery point to start from".into(),
            ));
        };
        let kept_back = keep_back(incoming, done, &self.roots(&told.reply.tree))?;
        if incoming.start == Start::Resumed || !kept_back.is_empty() {
            changes::clear_partials(&incoming.path, &told.paths).map_err(io)?;
        }
        let touched = changes::with_remains(base_tree, &told.paths, &told.replaced).map_err(io)?;
        let changed = changes::difference(base_tree, &incoming.path, &touched).map_err(io)?;
        let total = |before: u64, less: u64, more: u64| before.saturating_sub(less) + more;
        Ok(Fetched {
            files: total(base.point.files, changed.files_before, changed.files_after),
            bytes: Bytes(total(base.point.bytes.0, changed.bytes_before, changed.bytes_after)),
            deleted: changed.deleted,
            kept_back,
            hard_links: incoming.hard_links || done.tally.hard_links,
            ..Fetched::of(PassScope::Changes)
        })
    }

    fn remember(&self, told: &Told, seen: &Seen, report: &PassReport) -> Result<(), AgentError> {
        let cursor = told.reply.cursor.clone().map(|cursor| Seen {
            cursor,
            point: report.point.clone(),
            revision: self.binding.revision,
            full_at: seen.full_at,
        });
        watching::remember(self.dir, cursor)
    }
}
