//! One rescue: find the tree in the module, pull, judge, and only then a recovery point.

use std::fs::File;

use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{PassReport, Progress, Rescue};

use crate::bind;
use crate::clock;
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::fetched::Fetched;
use crate::guard::{self, Deletions};
use crate::in_motion::{self, Reading};
use crate::incoming::{self, Incoming, Scope};
use crate::marker::{Content, MarkerFound, Tree};
use crate::module;
use crate::pass::start_after;
use crate::recovery_points;
use crate::reserve;
use crate::rsync::{Transfer, Transferred};
use crate::space;
use crate::ssh::Machine;
use crate::state::{BindingFile, PassUnderWay, PointFile, REQUEST_LOCK};
use crate::traffic;
use crate::wish::Wish;

/// A rescue, from its first look to its recovery point.
pub struct RescuePass<'a> {
    dir: &'a DataDir,
    lock: &'a File,
    request: &'a Rescue,
    binding: BindingFile,
    machine: Machine,
    base: Option<PointFile>,
    under_way: PassUnderWay,
}

impl<'a> RescuePass<'a> {
    /// Prepares it. `lock` is the pass lock, held.
    ///
    /// # Errors
    /// When it is no longer allowed, or what is on the disk cannot be read.
    pub fn new(dir: &'a DataDir, lock: &'a File, request: &'a Rescue) -> Result<Self, AgentError> {
        let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
        bind::check_current(dir, &binding, request.epoch)?;
        dir.remove_torn_writes();
        recovery_points::clear_leftovers(dir)?;
        space::leave_words(dir);
        let machine = Machine::hosting(dir, &request.host, binding.association(), binding.epoch())?;
        let base = recovery_points::list(dir)?.pop();
        if let Some(killed) = dir.pass_under_way() {
            traffic::add(dir, killed.started_at, killed.fetched);
        }
        let under_way = PassUnderWay {
            // No request for a pass: those are served by passes.
            number: 0,
            started_at: start_after(base.as_ref(), clock::now()),
            epoch: binding.epoch(),
            progress: Progress::default(),
            fetched: Bytes(0),
        };
        Ok(Self {
            dir,
            lock,
            request,
            binding,
            machine,
            base,
            under_way,
        })
    }

    /// Runs it.
    ///
    /// # Errors
    /// Why it did not happen; every recovery point is as it was.
    pub fn run(mut self) -> Result<PassReport, AgentError> {
        reserve::take(self.dir)?;
        self.dir.note_pass(&self.under_way)?;
        let outcome = space::on_a_full_disk(self.dir, &mut self, |rescue| rescue.attempt(), Self::size_of_source);
        if matches!(outcome, Err(AgentError::DiskFull)) {
            reserve::release(self.dir);
        }
        match &outcome {
            // What arrived of a first pass may be the last copy of it.
            Err(_) if self.base.is_none() => {}
            Err(AgentError::Halted { .. } | AgentError::StaleEpoch { .. }) => incoming::give_up(self.dir)?,
            Err(AgentError::DiskFull) => {
                incoming::give_up(self.dir)?;
                recovery_points::empty_trash(self.dir);
            }
            Ok(_) | Err(_) => {}
        }
        outcome
    }

    fn attempt(&self) -> Result<PassReport, AgentError> {
        let place = self.find()?;
        let incoming = Incoming::prepare(self.dir, self.base.as_ref(), &Scope::Everything)?;
        let transferred = self.pull(&incoming, &place)?;
        // The disk may have been taken away, or given to somebody else, while we read it.
        self.check(module::marker_at(
            self.dir,
            &self.machine,
            &self.request.module,
            &place,
        )?)?;
        let root = format!("/{place}");
        let mut fetched = Fetched::whole(&incoming, &transferred, &[root.as_bytes(), place.as_bytes()])?;
        // Nothing changes on this disk any more, but what was being written when the GPU stopped stays as it was.
        let reading = Reading {
            kept_back: &fetched.kept_back,
            ..Reading::default()
        };
        fetched.in_motion = in_motion::among(self.dir, self.base.as_ref(), &incoming, &reading);
        // Nobody accepted anything about a disk that no person can see: the guard stays on.
        let rule = Deletions::Guarded {
            max_percent: self.binding.bind.max_deleted_percent,
        };
        fetched.judge(self.base_files(), rule)?;
        self.promote(&incoming, &transferred, &fetched)
    }

    /// Where in the module the tree lies that carries our marker.
    fn find(&self) -> Result<String, AgentError> {
        let bind = &self.binding.bind;
        let mut last = MarkerFound::Missing;
        for place in module::candidates(&bind.source_path, &bind.source.user) {
            let found = module::marker_at(self.dir, &self.machine, &self.request.module, &place)?;
            if self.check(found).is_ok() {
                return Ok(place);
            }
            if found != MarkerFound::Missing {
                last = found;
            }
        }
        self.check(last)?;
        Err(AgentError::Interrupted("the tree was not found".into()))
    }

    fn check(&self, marker: MarkerFound) -> Result<(), AgentError> {
        let tree = Tree::Directory {
            path: Vec::new(),
            content: Content::Some,
            marker,
        };
        Ok(guard::check_tree(&tree, self.binding.marker(), self.base_files())?)
    }

    fn pull(&self, incoming: &Incoming, place: &str) -> Result<Transferred, AgentError> {
        let from = format!("{}/{place}", self.request.module);
        let filters = self.binding.filters();
        let transfer = Transfer::pull_module(&self.machine, &from, &filters, &incoming.path);
        let transfer = incoming.receive(transfer);
        let mut under_way = self.under_way.clone();
        let pulled = transfer.run(self.dir, &self.machine, self.lock, |progress| {
            if let Some(progress) = progress {
                under_way.progress = progress;
                under_way.fetched = progress.bytes_done;
                let _ = self.dir.note_pass(&under_way);
            }
            self.wish()
        });
        if pulled.is_err() {
            traffic::add(self.dir, under_way.started_at, under_way.fetched);
        }
        pulled
    }

    /// How large all that is rescued is.
    fn size_of_source(&self) -> Result<Option<Bytes>, AgentError> {
        let Some(base) = &self.base else { return Ok(None) };
        let into = recovery_points::tree_of(self.dir, &base.point.id);
        let from = format!("{}/{}", self.request.module, self.find()?);
        let filters = self.binding.filters();
        let listing = Transfer::pull_module(&self.machine, &from, &filters, &into).with("--dry-run");
        let listed = listing.run(self.dir, &self.machine, self.lock, |_| self.wish())?;
        Ok(listed.tally.totals.map(|totals| totals.bytes))
    }

    fn wish(&self) -> Wish {
        match self.still_ours() {
            Ok(()) => Wish::GoOn,
            Err(_) => Wish::Stop("the data is on its way to another GPU"),
        }
    }

    fn still_ours(&self) -> Result<(), AgentError> {
        let binding = self.dir.binding()?.ok_or(AgentError::NotBound)?;
        if binding.revision != self.binding.revision {
            return Err(AgentError::Interrupted("the standby was bound anew meanwhile".into()));
        }
        bind::check_current(self.dir, &binding, self.request.epoch)
    }

    fn base_files(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.point.files)
    }

    fn promote(&self, incoming: &Incoming, done: &Transferred, fetched: &Fetched) -> Result<PassReport, AgentError> {
        recovery_points::make_durable(self.dir, incoming.sharing)?;
        let point = PointFile::of(fetched.report(done, &self.under_way), fetched.hard_links);
        // From here to the end no bind and no restore can come in between: a restore takes this point, or began before it.
        let _decision = self.dir.lock_briefly(REQUEST_LOCK)?;
        self.still_ours()?;
        recovery_points::promote(self.dir, &point, incoming.sharing)?;
        // The next pass starts from this point, not from what is left here.
        incoming::give_up(self.dir)?;
        Ok(point.report)
    }
}
