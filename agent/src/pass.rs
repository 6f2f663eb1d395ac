//! One pass: look, pull, judge, and only then a recovery point.

use std::fs::File;
use std::path::PathBuf;

use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::{Bytes, Timestamp};
use warmspare_wire::agent::{PassReport, Progress, RecoveryPoint};

use crate::bandwidth;
use crate::clock;
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::guard::{self, Deletions, Loss, Tripped};
use crate::incoming::{self, Incoming, Start};
use crate::recovery_points::{self, Sharing};
use crate::reserve;
use crate::rsync::{PARTIAL, Transfer, Transferred, Wish};
use crate::source::{self, Look, Marker, RsyncThere, Tree, Watched};
use crate::ssh::{Connection, Machine, last_words};
use crate::state::{self, BindingFile, IncomingFile, PassUnderWay, PointFile, REQUEST_LOCK, Touched};
use crate::tree;

/// How many of the files that kept their last good version are named.
const NAMED: usize = 100;

/// A pass, from its first look to its recovery point.
pub struct Pass<'a> {
    dir: &'a DataDir,
    lock: &'a File,
    binding: BindingFile,
    machine: Machine,
    base: Option<PointFile>,
    under_way: PassUnderWay,
}

/// What a pass fetched, counted.
struct Fetched {
    files: u64,
    bytes: Bytes,
    deleted: u64,
    kept: Vec<PathBuf>,
}

impl<'a> Pass<'a> {
    /// Prepares a pass that serves the request of this number. `lock` is the pass lock, held.
    ///
    /// # Errors
    /// When nothing is bound, or what is on the disk cannot be read.
    pub fn new(dir: &'a DataDir, lock: &'a File, number: u64) -> Result<Self, AgentError> {
        let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
        let machine = Machine::new(dir, &binding.bind.source, binding.association(), binding.epoch())?;
        let base = recovery_points::list(dir)?.pop();
        let under_way = PassUnderWay {
            number,
            started_at: start_after(base.as_ref(), clock::now()),
            epoch: binding.epoch(),
            progress: Progress::default(),
        };
        Ok(Self {
            dir,
            lock,
            binding,
            machine,
            base,
            under_way,
        })
    }

    /// Runs the pass.
    ///
    /// # Errors
    /// Why it did not happen. A guard that tripped is [`AgentError::Halted`]; every recovery point is as it was.
    pub fn run(mut self) -> Result<PassReport, AgentError> {
        reserve::take(self.dir)?;
        self.dir.note_pass(&self.under_way)?;
        let connection = self.machine.connect()?;
        let outcome = match (self.attempt(), connection) {
            // The kept connection may have died with the GPU's last life: once more over a fresh one.
            (Err(AgentError::Unreachable { .. }), Connection::Kept) => {
                self.machine.disconnect();
                self.machine.connect()?;
                self.attempt()
            }
            (outcome, _) => outcome,
        };
        match &outcome {
            // What a guard refused must not be taken up by the next pass.
            Err(AgentError::Halted { .. }) => incoming::give_up(self.dir)?,
            Err(AgentError::DiskFull) if self.base.is_some() => {
                incoming::give_up(self.dir)?;
                recovery_points::empty_trash(self.dir);
            }
            Ok(_) | Err(_) => {}
        }
        outcome
    }

    fn attempt(&mut self) -> Result<PassReport, AgentError> {
        // The first look goes on while rsync starts: what it finds decides before anything is kept, and starting a shell
        // on the GPU may take as long as a small pass.
        let mut source = Watched::open(&self.machine, &self.binding.bind.source_path)?;
        let incoming = Incoming::prepare(self.dir, self.base.as_ref())?;
        let pulled = self.pull(&incoming, &mut source);
        let before = source.before()?.clone();
        self.check(&before)?;
        if before.rsync == RsyncThere::Missing {
            return Err(source::no_rsync(&self.machine));
        }
        let transferred = match (pulled, source.after()) {
            (Ok(done), Ok(after)) => {
                self.check(&after)?;
                done
            }
            // The GPU stopped right after it had given everything: a complete pass, over one and the same connection.
            (Ok(done), Err(AgentError::Unreachable { .. })) if done.kept.is_empty() => done,
            (Ok(_), Err(error)) => return Err(error),
            (Err(error), Ok(after)) => {
                self.check(&after)?;
                return Err(error);
            }
            (Err(error), Err(_)) => return Err(error),
        };
        let fetched = self.settle(&incoming, &transferred, &before)?;
        self.judge(&fetched)?;
        self.conclude(&incoming, &transferred, &fetched)
    }

    fn pull(&mut self, incoming: &Incoming, source: &mut Watched) -> Result<Transferred, AgentError> {
        let mut under_way = self.under_way.clone();
        let limit = bandwidth::limit(self.dir, self.binding.bind.bandwidth_kib_per_s, under_way.number)?;
        limit
            .apply(self.transfer(incoming))
            .run(self.dir, &self.machine, self.lock, |progress| {
                if let Some(progress) = progress {
                    under_way.progress = progress;
                    let _ = self.dir.note_pass(&under_way);
                }
                match source.glance() {
                    Ok(Some(look)) if self.check(look).is_err() => Wish::Stop("a guard objects"),
                    // Where the connection broke rsync notices by itself, and keeps what it has.
                    Ok(_) | Err(_) if bandwidth::must_hurry(self.dir, &limit) => {
                        Wish::Stop("the last-gasp pass needs the whole network")
                    }
                    Ok(_) | Err(_) => still_bound(self.dir, self.binding.revision),
                }
            })
    }

    fn transfer(&self, incoming: &Incoming) -> Transfer {
        let bind = &self.binding.bind;
        let transfer =
            Transfer::pull(&self.machine, &bind.source_path, &bind.excludes, &incoming.path).with("--delete");
        let transfer = if incoming.may_write_in_place() {
            transfer.with("--inplace")
        } else {
            transfer.with(format!("--partial-dir={PARTIAL}"))
        };
        match (&incoming.base, incoming.sharing) {
            (Some(base), Sharing::HardLinks) => {
                let mut option = std::ffi::OsString::from("--link-dest=");
                option.push(base);
                transfer.with(option)
            }
            // Listing first costs a moment and gives the long first pass its totals.
            (None, _) => transfer.with("--no-inc-recursive"),
            (Some(_), Sharing::Snapshots) => transfer,
        }
    }

    fn check(&self, look: &Look) -> Result<(), AgentError> {
        let ours = Marker {
            schema: source::SCHEMA,
            association: self.binding.association(),
            epoch: self.binding.epoch(),
        };
        guard::check_tree(&look.tree, ours, self.base_files()).map_err(halted)
    }

    fn base_files(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.point.files)
    }

    /// Puts back what could not be read, and counts.
    fn settle(&self, incoming: &Incoming, done: &Transferred, before: &Look) -> Result<Fetched, AgentError> {
        let io = |error| AgentError::io("count the files of the pass", error);
        let plain = incoming.start == Start::Fresh && done.kept.is_empty() && done.vanished == 0;
        if plain && let Some(totals) = done.tally.totals {
            let expected = self.base_files() + done.tally.created_files;
            return Ok(Fetched {
                files: totals.files,
                bytes: totals.bytes,
                deleted: expected.saturating_sub(totals.files),
                kept: Vec::new(),
            });
        }
        let kept = self.keep_back(incoming, done, before)?;
        tree::clear_partials(&incoming.path).map_err(io)?;
        let census = tree::census(&incoming.path).map_err(io)?;
        let deleted = match &incoming.base {
            Some(base) => tree::missing(base, &incoming.path).map_err(io)?,
            None => 0,
        };
        Ok(Fetched {
            files: census.files,
            bytes: census.bytes,
            deleted,
            kept,
        })
    }

    fn keep_back(&self, incoming: &Incoming, done: &Transferred, before: &Look) -> Result<Vec<PathBuf>, AgentError> {
        let written = self.binding.bind.source_path.as_bytes();
        let mut roots = vec![written];
        if let Tree::Directory { path, .. } = &before.tree {
            roots.push(path);
        }
        let mut kept = Vec::new();
        for name in &done.kept {
            let below = tree::below(name, &roots).ok_or_else(|| {
                AgentError::Rsync(format!("cannot read {}", last_words(&String::from_utf8_lossy(name))))
            })?;
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

    fn judge(&self, fetched: &Fetched) -> Result<(), AgentError> {
        let deletions = if self.dir.state()?.deletions_accepted {
            Deletions::Accepted
        } else {
            Deletions::Guarded {
                max_percent: self.binding.bind.max_deleted_percent,
            }
        };
        let loss = Loss {
            base_files: self.base_files(),
            new_files: fetched.files,
            deleted: fetched.deleted,
        };
        guard::check_loss(loss, deletions).map_err(halted)
    }

    fn conclude(&self, incoming: &Incoming, done: &Transferred, fetched: &Fetched) -> Result<PassReport, AgentError> {
        let unchanged = incoming.start == Start::Fresh && done.tally.differences == 0 && fetched.kept.is_empty();
        let report = self.report(done, fetched);
        match &self.base {
            Some(base) if unchanged && fetched.deleted == 0 => self.confirm(incoming, base, report),
            Some(_) | None => self.promote(incoming, done, report),
        }
    }

    fn report(&self, done: &Transferred, fetched: &Fetched) -> PassReport {
        PassReport {
            started_at: self.under_way.started_at,
            ended_at: clock::now(),
            epoch: self.binding.epoch(),
            files: fetched.files,
            bytes: fetched.bytes,
            changed_files: done.tally.changed_files,
            deleted_files: fetched.deleted,
            wire_bytes: done.tally.totals.unwrap_or_default().wire_bytes,
            kept_back: fetched
                .kept
                .iter()
                .take(NAMED)
                .map(|name| name.to_string_lossy().into_owned())
                .collect(),
            point: RecoveryPointId::at(self.under_way.started_at),
        }
    }

    fn confirm(&self, incoming: &Incoming, base: &PointFile, report: PassReport) -> Result<PassReport, AgentError> {
        let _decision = self.decide()?;
        let mut confirmed = base.clone();
        confirmed.point.confirmed_at = self.under_way.started_at;
        recovery_points::confirm(self.dir, &confirmed)?;
        self.leave_untouched(incoming, base.point.id.clone())?;
        Ok(PassReport {
            point: base.point.id.clone(),
            ..report
        })
    }

    fn promote(&self, incoming: &Incoming, done: &Transferred, report: PassReport) -> Result<PassReport, AgentError> {
        let io = |error: std::io::Error| AgentError::io("make the pass durable", error);
        let disk = File::open(self.dir.root()).map_err(io)?;
        rustix::fs::syncfs(&disk).map_err(|error| io(error.into()))?;
        let point = PointFile {
            schema: state::SCHEMA,
            point: RecoveryPoint {
                id: report.point.clone(),
                taken_at: report.started_at,
                confirmed_at: report.started_at,
                epoch: report.epoch,
                files: report.files,
                bytes: report.bytes,
            },
            report: report.clone(),
            hard_links: incoming.hard_links || done.tally.hard_links,
        };
        let _decision = self.decide()?;
        recovery_points::promote(self.dir, &point, incoming.sharing)?;
        self.leave_untouched(incoming, report.point.clone())?;
        Ok(report)
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
            Sharing::Snapshots => self.dir.save_incoming_file(&IncomingFile {
                base: Some(equals),
                touched: Touched::No,
            }),
            Sharing::HardLinks => incoming::give_up(self.dir),
        }
    }
}

fn still_bound(dir: &DataDir, revision: u64) -> Wish {
    match dir.binding() {
        Ok(Some(binding)) if binding.revision != revision => Wish::Stop("the standby was bound anew meanwhile"),
        Ok(_) | Err(_) => Wish::GoOn,
    }
}

fn halted((reason, detail): Tripped) -> AgentError {
    AgentError::Halted { reason, detail }
}

/// When a pass starts, so that the names of recovery points sort by age, also when the clock was set back.
#[must_use]
pub fn start_after(base: Option<&PointFile>, now: Timestamp) -> Timestamp {
    match base {
        Some(base) if base.point.taken_at >= now => base.point.taken_at + std::time::Duration::from_millis(1),
        Some(_) | None => now,
    }
}
