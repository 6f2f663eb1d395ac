//! One pass: look, pull, judge, and only then a recovery point.

mod checkpoints;
mod conclude;
mod dirty;
mod full_scan;
mod handed;
mod room;
mod seeding;

use std::cell::Cell;
use std::fs::File;
use std::time::Instant;

use warmspare_domain::units::{Bytes, Timestamp};
use warmspare_wire::agent::{PassReport, Progress, Urgency};

use crate::bandwidth;
use crate::before_pass;
use crate::checkpoints::Wanted;
use crate::clock;
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::guard;
use crate::incoming::{self, Incoming};
use crate::link;
use crate::marker::Tree;
use crate::recovery_points::{self, tree_of};
use crate::reserve;
use crate::rsync::{Transfer, Transferred};
use crate::source::Look;
use crate::space;
use crate::ssh::{Connection, Machine};
use crate::state::{BindingFile, PassUnderWay, PointFile};
use crate::traffic;
use crate::watching::{Plan, Watching, trusted};
use crate::wish::Wish;

use self::seeding::Backlog;

/// A pass, from its first look to its recovery point.
pub struct Pass<'a> {
    dir: &'a DataDir,
    lock: &'a File,
    urgency: Urgency,
    binding: BindingFile,
    machine: Machine,
    base: Option<PointFile>,
    /// Whether this is a first pass that found the disk full the last time.
    makes_room: bool,
    under_way: PassUnderWay,
    /// The checkpoints that were wanted before anything was copied.
    wanted: Vec<Wanted>,
    command_failed: Option<String>,
    backlog: Option<Backlog>,
    /// What this attempt fetched so far.
    fetched: Cell<Bytes>,
}

impl<'a> Pass<'a> {
    /// Prepares a pass that serves the request of this number. `lock` is the pass lock, held.
    ///
    /// # Errors
    /// When nothing is bound, or what is on the disk cannot be read.
    pub fn new(dir: &'a DataDir, lock: &'a File, number: u64, urgency: Urgency) -> Result<Self, AgentError> {
        let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
        let machine = Machine::new(dir, &binding.bind.source, binding.association(), binding.epoch())?;
        let base = recovery_points::list(dir)?.pop();
        let under_way = PassUnderWay {
            number,
            started_at: start_after(base.as_ref(), clock::now()),
            epoch: binding.epoch(),
            progress: Progress::default(),
            fetched: Bytes(0),
        };
        Ok(Self {
            dir,
            lock,
            urgency,
            binding,
            machine,
            makes_room: base.is_none() && room::was_missing(dir)?,
            base,
            under_way,
            wanted: Vec::new(),
            command_failed: None,
            backlog: None,
            fetched: Cell::default(),
        })
    }

    /// Runs the pass.
    ///
    /// # Errors
    /// Why it did not happen. A guard that tripped is [`AgentError::Halted`]; every recovery point is as it was.
    pub fn run(mut self, watching: &mut Watching) -> Result<PassReport, AgentError> {
        // Where nothing but the reserve is free, a first pass needs it to make room.
        if !self.makes_room {
            reserve::take(self.dir)?;
        }
        self.dir.note_pass(&self.under_way)?;
        // A worker's session with the watcher may be older than a connection that was just made.
        let had_session = watching.observer().is_some();
        let connection = self.machine.connect()?;
        self.command_failed = self.prepare_source()?;
        let dir = self.dir;
        let attempt = |pass: &mut Self| match pass.attempt(watching) {
            // What was kept may have died with the GPU's last life: once more over a fresh connection.
            Err(AgentError::Unreachable { .. }) if connection == Connection::Kept || had_session => {
                watching.hang_up();
                if connection == Connection::Kept {
                    pass.machine.disconnect();
                }
                pass.machine.connect()?;
                pass.attempt(watching)
            }
            outcome => outcome,
        };
        let outcome = space::on_a_full_disk(dir, &mut self, attempt, Self::size_of_source);
        match &outcome {
            // What arrived of a first pass may be the last copy of it.
            Err(_) if self.base.is_none() => {}
            // What a guard refused must not be taken up by the next pass.
            Err(AgentError::Halted { .. }) => incoming::give_up(self.dir)?,
            Err(AgentError::DiskFull) => {
                incoming::give_up(self.dir)?;
                recovery_points::empty_trash(self.dir);
            }
            Ok(_) | Err(_) => {}
        }
        outcome
    }

    /// Runs the user's command. A GPU that is about to stop has no time for it.
    fn prepare_source(&self) -> Result<Option<String>, AgentError> {
        let bind = &self.binding.bind;
        if bind.before_pass.is_empty() || self.urgency == Urgency::LastGasp {
            return Ok(None);
        }
        before_pass::run(&self.machine, &bind.source_path, &bind.before_pass, &|| {
            if bandwidth::is_overtaken(self.dir, self.under_way.number) {
                Wish::Stop("the last-gasp pass has no time for the command before a pass")
            } else {
                still_bound(self.dir, self.binding.revision)
            }
        })
    }

    fn attempt(&mut self, watching: &mut Watching) -> Result<PassReport, AgentError> {
        self.fetched.set(Bytes(0));
        let outcome = self.look_and_pull(watching);
        if outcome.is_err() {
            traffic::add(self.dir, self.under_way.started_at, self.fetched.get());
        }
        outcome
    }

    fn look_and_pull(&mut self, watching: &mut Watching) -> Result<PassReport, AgentError> {
        let base = self.base.as_ref();
        let told = watching.ask(self.dir, &self.machine, &self.binding, base, self.urgency)?;
        self.wanted = told
            .as_ref()
            .map_or_else(Vec::new, |told| told.reply.checkpoints.clone());
        let file = self.dir.watch_file();
        let seen = trusted(&file, &self.binding, base).cloned();
        match self.plan(seen.as_ref(), told.as_ref())? {
            (Plan::Nothing, Some(told), Some(seen)) => self.nothing(watching, &told, &seen),
            (Plan::Changes, Some(told), Some(seen)) => self.changes(watching, told, &seen),
            (_, told, seen) => self.everything(watching, told, seen),
        }
    }

    /// What was pulled, if the tree was ours to the end.
    fn hold(
        &self,
        pulled: Result<Transferred, AgentError>,
        after: impl FnOnce() -> Result<Look, AgentError>,
    ) -> Result<Transferred, AgentError> {
        match (pulled, after()) {
            (Ok(done), Ok(after)) => {
                self.check(&after)?;
                Ok(done)
            }
            // The GPU stopped right after it had given everything: a complete pass, over one and the same connection.
            (Ok(done), Err(AgentError::Unreachable { .. })) if done.unreadable.is_empty() => Ok(done),
            (Ok(_), Err(error)) => Err(error),
            (Err(error), Ok(after)) => {
                self.check(&after)?;
                Err(error)
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    fn pull(
        &self,
        transfer: &Transfer,
        mut glance: impl FnMut(&Self) -> Result<(), AgentError>,
    ) -> Result<Transferred, AgentError> {
        let mut under_way = self.under_way.clone();
        let before = self.fetched.get();
        let limit = bandwidth::limit(self.dir, self.binding.bind.bandwidth_kib_per_s, under_way.number)?;
        let transfer = link::apply(self.dir, limit.apply(transfer.clone()));
        let began = Instant::now();
        let done = transfer.run(self.dir, &self.machine, self.lock, |progress| {
            if let Some(progress) = progress {
                under_way.fetched = Bytes(before.0 + progress.bytes_done.0);
                self.fetched.set(under_way.fetched);
                under_way.progress = self.backlog.map_or(progress, |backlog| backlog.progress(progress));
                let _ = self.dir.note_pass(&under_way);
            }
            match glance(self) {
                Err(AgentError::Halted { .. }) => Wish::Stop("a guard objects"),
                // Where the connection broke rsync notices by itself, and keeps what it has.
                Ok(()) | Err(_) if bandwidth::must_hurry(self.dir, &limit) => {
                    Wish::Stop("the last-gasp pass needs the whole network")
                }
                Ok(()) | Err(_) => still_bound(self.dir, self.binding.revision),
            }
        })?;
        let totals = done.tally.totals.unwrap_or_default();
        self.fetched.set(Bytes(before.0 + totals.wire_bytes.0));
        link::note(self.dir, totals, began.elapsed());
        Ok(done)
    }

    fn transfer(&self, incoming: &Incoming) -> Transfer {
        let bind = &self.binding.bind;
        let transfer = Transfer::pull(
            &self.machine,
            &bind.source_path,
            &self.binding.filters(),
            &incoming.path,
        );
        let transfer = incoming.receive(transfer);
        if incoming.base.is_none() {
            // Listing first costs a moment and gives the long first pass its totals.
            transfer.with("--no-inc-recursive")
        } else {
            transfer
        }
    }

    /// How large all that is copied is.
    fn size_of_source(&self) -> Result<Option<Bytes>, AgentError> {
        let Some(base) = &self.base else { return Ok(None) };
        let into = tree_of(self.dir, &base.point.id);
        let filters = self.binding.filters();
        let listing = Transfer::pull(&self.machine, &self.binding.bind.source_path, &filters, &into).with("--dry-run");
        let listed = self.pull(&listing, |_| Ok(()))?;
        Ok(listed.tally.totals.map(|totals| totals.bytes))
    }

    fn check(&self, look: &Look) -> Result<(), AgentError> {
        self.check_tree(&look.tree)
    }

    fn check_tree(&self, tree: &Tree) -> Result<(), AgentError> {
        Ok(guard::check_tree(tree, self.binding.marker(), self.base_files())?)
    }

    fn base_files(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.point.files)
    }

    /// The ways in which rsync on the GPU may write the root.
    fn roots<'t>(&'t self, tree: &'t Tree) -> Vec<&'t [u8]> {
        let mut roots = vec![self.binding.bind.source_path.as_bytes()];
        if let Tree::Directory { path, .. } = tree {
            roots.push(path);
        }
        roots
    }
}

fn still_bound(dir: &DataDir, revision: u64) -> Wish {
    match dir.binding() {
        Ok(Some(binding)) if binding.revision != revision => Wish::Stop("the standby was bound anew meanwhile"),
        Ok(_) | Err(_) => Wish::GoOn,
    }
}

/// When a pass starts, so that the names of recovery points sort by age, also when the clock was set back.
#[must_use]
pub fn start_after(base: Option<&PointFile>, now: Timestamp) -> Timestamp {
    match base {
        Some(base) if base.point.taken_at >= now => base.point.taken_at + std::time::Duration::from_millis(1),
        Some(_) | None => now,
    }
}
