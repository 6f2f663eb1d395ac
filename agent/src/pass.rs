//! One pass: look, pull, judge, and only then a recovery point.

mod checkpoints;
mod dirty;
mod handed;
mod seeding;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::{Bytes, Timestamp};
use warmspare_wire::agent::{PassReport, PassScope, Progress, Urgency};

use crate::bandwidth;
use crate::before_pass;
use crate::changes;
use crate::checkpoints::Wanted;
use crate::clock;
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::fetched::Fetched;
use crate::guard::{self, Deletions};
use crate::in_motion::{self, Reading};
use crate::incoming::{self, Incoming, Scope, Start};
use crate::link;
use crate::marker::Tree;
use crate::observer::Told;
use crate::recovery_points::{self, Sharing, tree_of};
use crate::reserve;
use crate::rsync::{Transfer, Transferred};
use crate::rsync_output::Tally;
use crate::source::{Look, RsyncThere, Watched};
use crate::space;
use crate::ssh::{Connection, Machine};
use crate::state::{BindingFile, IncomingFile, PassUnderWay, PointFile, REQUEST_LOCK, Touched};
use crate::traffic;
use crate::watch::protocol::Changes;
use crate::watching::{self, Plan, Seen, Watching, trusted};
use crate::wish::Wish;

use self::checkpoints::Checkpoints;
use self::seeding::Backlog;

/// A pass, from its first look to its recovery point.
pub struct Pass<'a> {
    dir: &'a DataDir,
    lock: &'a File,
    urgency: Urgency,
    binding: BindingFile,
    machine: Machine,
    base: Option<PointFile>,
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
        reserve::take(self.dir)?;
        self.dir.note_pass(&self.under_way)?;
        let connection = self.machine.connect()?;
        self.command_failed = self.prepare_source()?;
        let outcome = space::on_a_full_disk(self.dir, || {
            match (self.attempt(watching), connection) {
                // The kept connection may have died with the GPU's last life: once more over a fresh one.
                (Err(AgentError::Unreachable { .. }), Connection::Kept) => {
                    watching.hang_up();
                    self.machine.disconnect();
                    self.machine.connect()?;
                    self.attempt(watching)
                }
                (outcome, _) => outcome,
            }
        });
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

    fn everything(
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

    fn check(&self, look: &Look) -> Result<(), AgentError> {
        self.check_tree(&look.tree)
    }

    fn check_tree(&self, tree: &Tree) -> Result<(), AgentError> {
        Ok(guard::check_tree(tree, self.binding.marker(), self.base_files())?)
    }

    fn base_files(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.point.files)
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

    /// The ways in which rsync on the GPU may write the root.
    fn roots<'t>(&'t self, tree: &'t Tree) -> Vec<&'t [u8]> {
        let mut roots = vec![self.binding.bind.source_path.as_bytes()];
        if let Tree::Directory { path, .. } = tree {
            roots.push(path);
        }
        roots
    }

    fn judge(&self, fetched: &Fetched) -> Result<(), AgentError> {
        let deletions = if self.dir.state()?.deletions_accepted {
            Deletions::Accepted
        } else {
            Deletions::Guarded {
                max_percent: self.binding.bind.max_deleted_percent,
            }
        };
        let judged = fetched.judge(self.base_files(), deletions);
        match (&self.base, judged) {
            // What the user excludes since is not gone: judged again without it, because counting takes a walk.
            (Some(base), Err(AgentError::Halted { .. })) if !self.binding.filters().is_empty() => {
                let tree = tree_of(self.dir, &base.point.id);
                let kept = changes::files_that_pass(self.dir, &tree, &self.binding.filters())?;
                let excluded = self.base_files().saturating_sub(kept);
                let without = Fetched {
                    deleted: fetched.deleted.saturating_sub(excluded),
                    ..fetched.clone()
                };
                without.judge(kept, deletions)
            }
            (_, judged) => judged,
        }
    }

    fn conclude(&self, incoming: &Incoming, done: &Transferred, fetched: &Fetched) -> Result<PassReport, AgentError> {
        let checkpoints = self.judge_checkpoints(&incoming.path)?;
        let unchanged = incoming.start == Start::Fresh && done.tally.differences == 0 && fetched.kept_back.is_empty();
        let report = self.report(done, fetched);
        match &self.base {
            Some(base) if unchanged && fetched.deleted == 0 => self.confirm(incoming, base, report, checkpoints),
            Some(_) | None => self.promote(incoming, fetched, report, checkpoints),
        }
    }

    fn report(&self, done: &Transferred, fetched: &Fetched) -> PassReport {
        PassReport {
            command_failed: self.command_failed.clone(),
            ..fetched.report(done, &self.under_way)
        }
    }

    fn confirm(
        &self,
        incoming: &Incoming,
        base: &PointFile,
        report: PassReport,
        checkpoints: Checkpoints,
    ) -> Result<PassReport, AgentError> {
        let decision = self.decide()?;
        self.confirm_base(base, &checkpoints)?;
        self.leave_untouched(incoming, base.point.id.clone())?;
        drop(decision);
        self.answer_checkpoints(checkpoints, base);
        Ok(PassReport {
            point: base.point.id.clone(),
            ..report
        })
    }

    fn confirm_base(&self, base: &PointFile, checkpoints: &Checkpoints) -> Result<(), AgentError> {
        let mut confirmed = base.clone();
        confirmed.hold(checkpoints.kept());
        confirmed.point.confirmed_at = self.under_way.started_at;
        recovery_points::confirm(self.dir, &confirmed)
    }

    fn promote(
        &self,
        incoming: &Incoming,
        fetched: &Fetched,
        report: PassReport,
        checkpoints: Checkpoints,
    ) -> Result<PassReport, AgentError> {
        recovery_points::make_durable(self.dir, incoming.sharing)?;
        let mut point = PointFile::of(report, fetched.hard_links);
        point.hold(checkpoints.kept());
        let decision = self.decide()?;
        recovery_points::promote(self.dir, &point, incoming.sharing)?;
        self.leave_untouched(incoming, point.point.id.clone())?;
        drop(decision);
        self.answer_checkpoints(checkpoints, &point);
        Ok(point.report)
    }

    /// From here to the end of the guard no bind can come in between: what is made now belongs to the epoch bound now.
    fn decide(&self) -> Result<File, AgentError> {
        let decision = self.dir.lock_briefly(REQUEST_LOCK)?;
        match still_bound(self.dir, self.binding.revision) {
            Wish::GoOn => Ok(decision),
            Wish::Stop(reason) => Err(AgentError::Interrupted(reason.into())),
        }
    }

    fn leave_untouched(&self, incoming: &Incoming, equals: RecoveryPointId) -> Result<(), AgentError> {
        match incoming.sharing {
            Sharing::Snapshots => {
                let equal = IncomingFile {
                    base: Some(equals),
                    touched: Touched::No,
                    changes_since: None,
                };
                self.dir
                    .save_incoming_file(&equal, incoming.sharing.durability_of_notes())
            }
            Sharing::HardLinks => incoming::give_up(self.dir),
        }
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
