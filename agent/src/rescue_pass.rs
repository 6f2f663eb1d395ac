//! One rescue: find the tree in the module, pull, judge, and only then a recovery point.

use std::fs::File;
use std::path::PathBuf;

use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::RecoveryPointId;
use warmspare_wire::agent::{PassReport, PassScope, Progress, RecoveryPoint, Rescue};

use crate::clock;
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::guard::{self, Deletions, Loss, Tripped};
use crate::incoming::{self, Incoming, Scope};
use crate::module;
use crate::pass::start_after;
use crate::recovery_points::{self, Sharing};
use crate::rescue::still_allowed;
use crate::reserve;
use crate::rsync::{PARTIAL, Transfer, Transferred, Wish};
use crate::source::{self, Content, Marker, MarkerFound, Tree};
use crate::ssh::Machine;
use crate::state::{self, BindingFile, PassUnderWay, PointFile, REQUEST_LOCK};
use crate::tree::{self, Census};

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
        still_allowed(dir, &binding, request)?;
        dir.remove_torn_writes();
        recovery_points::clear_leftovers(dir)?;
        let machine = Machine::hosting(dir, &request.host, binding.association(), binding.epoch())?;
        let base = recovery_points::list(dir)?.pop();
        let under_way = PassUnderWay {
            // No request for a pass: those are served by passes.
            number: 0,
            started_at: start_after(base.as_ref(), clock::now()),
            epoch: binding.epoch(),
            progress: Progress::default(),
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
    pub fn run(self) -> Result<PassReport, AgentError> {
        reserve::take(self.dir)?;
        self.dir.note_pass(&self.under_way)?;
        let outcome = self.attempt();
        match &outcome {
            Err(AgentError::Halted { .. } | AgentError::StaleEpoch { .. }) => incoming::give_up(self.dir)?,
            Err(AgentError::DiskFull) => {
                reserve::release(self.dir);
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
        let (kept, census, deleted) = self.settle(&incoming, &transferred, &place)?;
        self.judge(&census, deleted)?;
        self.promote(&incoming, &transferred, &kept, &census, deleted)
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
        let ours = Marker {
            schema: source::SCHEMA,
            association: self.binding.association(),
            epoch: self.binding.epoch(),
        };
        let tree = Tree::Directory {
            path: Vec::new(),
            content: Content::Some,
            marker,
        };
        guard::check_tree(&tree, ours, self.base_files()).map_err(halted)
    }

    fn pull(&self, incoming: &Incoming, place: &str) -> Result<Transferred, AgentError> {
        let from = format!("{}/{place}", self.request.module);
        let excludes = &self.binding.bind.excludes;
        let transfer = Transfer::pull_module(&self.machine, &from, excludes, &incoming.path);
        let transfer = if incoming.may_write_in_place() {
            transfer.with("--inplace")
        } else {
            transfer.with(format!("--partial-dir={PARTIAL}"))
        };
        let transfer = match (&incoming.base, incoming.sharing) {
            (Some(base), Sharing::HardLinks) => {
                let mut option = std::ffi::OsString::from("--link-dest=");
                option.push(base);
                transfer.with(option)
            }
            (Some(_), Sharing::Snapshots) | (None, _) => transfer,
        };
        let mut under_way = self.under_way.clone();
        transfer.run(self.dir, &self.machine, self.lock, |progress| {
            if let Some(progress) = progress {
                under_way.progress = progress;
                let _ = self.dir.note_pass(&under_way);
            }
            match self.still_ours() {
                Ok(()) => Wish::GoOn,
                Err(_) => Wish::Stop("the data is on its way to another GPU"),
            }
        })
    }

    fn still_ours(&self) -> Result<(), AgentError> {
        let binding = self.dir.binding()?.ok_or(AgentError::NotBound)?;
        if binding.revision != self.binding.revision {
            return Err(AgentError::Interrupted("the standby was bound anew meanwhile".into()));
        }
        still_allowed(self.dir, &binding, self.request)
    }

    /// Puts back what could not be read, and counts.
    fn settle(
        &self,
        incoming: &Incoming,
        done: &Transferred,
        place: &str,
    ) -> Result<(Vec<PathBuf>, Census, u64), AgentError> {
        let io = |error| AgentError::io("count the files of the rescue", error);
        let root = format!("/{place}");
        let mut kept = Vec::new();
        for name in &done.kept {
            kept.push(tree::below(name, &[root.as_bytes(), place.as_bytes()]).ok_or_else(|| {
                AgentError::Rsync(format!("cannot read {}", String::from_utf8_lossy(name).escape_debug()))
            })?);
        }
        kept.sort();
        kept.dedup();
        if let Some(lost) = incoming.put_back(&kept)?.first() {
            return Err(AgentError::Rsync(format!(
                "cannot keep the last version of {}",
                lost.display()
            )));
        }
        tree::clear_partials(&incoming.path).map_err(io)?;
        let census = tree::census(&incoming.path).map_err(io)?;
        let deleted = match &incoming.base {
            Some(base) => tree::missing(base, &incoming.path).map_err(io)?,
            None => 0,
        };
        Ok((kept, census, deleted))
    }

    /// Nobody accepted anything about a disk that no person can see: the guard stays on.
    fn judge(&self, census: &Census, deleted: u64) -> Result<(), AgentError> {
        let loss = Loss {
            base_files: self.base_files(),
            new_files: census.files,
            deleted,
        };
        let rule = Deletions::Guarded {
            max_percent: self.binding.bind.max_deleted_percent,
        };
        guard::check_loss(loss, rule).map_err(halted)
    }

    fn base_files(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.point.files)
    }

    fn promote(
        &self,
        incoming: &Incoming,
        done: &Transferred,
        kept: &[PathBuf],
        census: &Census,
        deleted: u64,
    ) -> Result<PassReport, AgentError> {
        let io = |error: std::io::Error| AgentError::io("make the rescue durable", error);
        let disk = File::open(self.dir.root()).map_err(io)?;
        rustix::fs::syncfs(&disk).map_err(|error| io(error.into()))?;
        let started_at = self.under_way.started_at;
        let report = PassReport {
            started_at,
            ended_at: clock::now(),
            epoch: self.binding.epoch(),
            files: census.files,
            bytes: census.bytes,
            changed_files: done.tally.changed_files,
            deleted_files: deleted,
            wire_bytes: done.tally.totals.unwrap_or_default().wire_bytes,
            kept_back: kept
                .iter()
                .take(100)
                .map(|name| name.to_string_lossy().into_owned())
                .collect(),
            point: RecoveryPointId::at(started_at),
            scope: PassScope::Everything,
            missed: 0,
        };
        let point = PointFile {
            schema: state::SCHEMA,
            point: RecoveryPoint {
                id: report.point.clone(),
                taken_at: started_at,
                confirmed_at: started_at,
                epoch: report.epoch,
                files: report.files,
                bytes: report.bytes,
            },
            report: report.clone(),
            hard_links: incoming.hard_links || done.tally.hard_links || census.hard_links,
        };
        // From here to the end no bind and no restore can come in between: a restore takes this point, or began before it.
        let _decision = self.dir.lock_briefly(REQUEST_LOCK)?;
        self.still_ours()?;
        recovery_points::promote(self.dir, &point, incoming.sharing)?;
        // The next pass starts from this point, not from what is left here.
        incoming::give_up(self.dir)?;
        Ok(report)
    }
}

fn halted((reason, detail): Tripped) -> AgentError {
    let reason: HaltReason = reason;
    AgentError::Halted { reason, detail }
}
