//! Pushing a recovery point to a host and proving that it arrived.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use warmspare_domain::ids::{AssociationId, PathBelow};
use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{Progress, Restore, RestoreActivity, RestoreStep};

use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::inventory::{self, Entry};
use crate::name_list::NameList;
use crate::process;
use crate::program::{self, NotPushed};
use crate::recovery_points::{self, tree_of};
use crate::rsync::Transfer;
use crate::source;
use crate::ssh::Machine;
use crate::state::{self, BindingFile, PointFile, REQUEST_LOCK, RESTORE_LOCK, RestoreFile, RestoreStage};
use crate::streams::{self, Filling, Whole};
use crate::tree;
use crate::verify::{Comparison, Differences};
use crate::wish::Wish;
use crate::worker::Worker;

/// The hidden verb of the worker.
pub const VERB: &str = "restore-worker";

const WORKER: Worker = Worker {
    verb: VERB,
    lock: RESTORE_LOCK,
};

// Older programs know no -f, and settle every disk.
const SETTLE: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && cd \"$p\" || exit 91; \
    if sync --help 2>&1 | grep -q -e \" -f\"; then exec sync -f .; else exec sync; fi'";

/// A large machine may hold back some hundred gigabytes, and its disk write a few hundred megabytes a second.
const SETTLES_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Starts a restore, resumes it, or reports the one under way; waits for its end, at most as long as the request says.
///
/// # Errors
/// When nothing is bound, the epoch is lower than the one bound or being restored, or no recovery point fits.
pub fn request(dir: &DataDir, restore: &Restore) -> Result<(), AgentError> {
    let until = Instant::now() + Duration::from_millis(restore.wait_ms);
    let attempt = accept(dir, restore)?;
    WORKER.see_through(dir, until, || {
        let job = dir.restore_file()?;
        let running = job.is_some_and(|job| job.attempt == attempt && matches!(job.stage, RestoreStage::Running(_)));
        Ok(!running)
    })
}

/// Stores the job and answers its attempt number.
fn accept(dir: &DataDir, restore: &Restore) -> Result<u64, AgentError> {
    source::check_path(&restore.target_path)?;
    let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
    // The address is checked before anything is stored.
    Machine::new(dir, &restore.target, binding.association(), restore.epoch)?;
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    let before = dir.restore_file()?;
    if let Some(job) = before.as_ref().filter(|job| is_done(job, restore)) {
        return Ok(job.attempt);
    }
    check_epoch(&binding, before.as_ref(), restore)?;
    let (attempt, same) = match before {
        Some(job) if is_same(dir, &job, restore)? => (job.attempt, Some(job)),
        Some(job) => (job.attempt, None),
        None => (0, None),
    };
    let job = match same {
        Some(job) if !matches!(job.stage, RestoreStage::Failed { .. }) => return Ok(job.attempt),
        Some(job) => RestoreFile {
            attempt: attempt + 1,
            stage: RestoreStage::Running(RestoreStep::Copying),
            ..job
        },
        None => RestoreFile {
            schema: state::SCHEMA,
            attempt: attempt + 1,
            epoch: restore.epoch,
            point: recovery_points::choose(dir, &restore.point)?.point.id,
            target: restore.target.clone(),
            target_path: restore.target_path.clone(),
            target_gpu: restore.gpu,
            first: restore.first.clone(),
            started_at: clock::now(),
            stage: RestoreStage::Running(RestoreStep::Copying),
        },
    };
    dir.note_restore_progress(&Progress::default())?;
    dir.save_restore_file(&job)?;
    Ok(job.attempt)
}

/// A verified target is somebody's running GPU by now: whatever the request says of its address, nothing is pushed there again.
fn is_done(job: &RestoreFile, restore: &Restore) -> bool {
    job.epoch == restore.epoch && matches!(job.stage, RestoreStage::Verified { .. })
}

fn check_epoch(binding: &BindingFile, before: Option<&RestoreFile>, restore: &Restore) -> Result<(), AgentError> {
    let current = before.map_or(binding.epoch(), |job| job.epoch.max(binding.epoch()));
    // The GPU of the bound epoch is live: pushing to it would overwrite what was written since.
    if restore.epoch < current || restore.epoch == binding.epoch() {
        return Err(AgentError::StaleEpoch {
            asked: restore.epoch,
            current,
        });
    }
    Ok(())
}

fn is_same(dir: &DataDir, job: &RestoreFile, restore: &Restore) -> Result<bool, AgentError> {
    use warmspare_wire::agent::PointChoice;
    let point = match &restore.point {
        // The latest when the job began: a resumed job must not change its mind half-way.
        PointChoice::Latest => true,
        PointChoice::Id(id) => *id == job.point,
        // Nor when the name was given again meanwhile.
        PointChoice::Checkpoint(name) => recovery_points::list(dir)?
            .iter()
            .any(|point| point.point.id == job.point && point.holds(name)),
        PointChoice::Partial => false,
    };
    Ok(point && job.epoch == restore.epoch && job.target == restore.target && job.target_path == restore.target_path)
}

/// The job as the world is told.
///
/// # Errors
/// When the recovery point's figures cannot be read.
pub fn activity(dir: &DataDir, job: RestoreFile) -> Result<RestoreActivity, AgentError> {
    let point = recovery_points::list(dir)?
        .into_iter()
        .find(|point| point.point.id == job.point);
    let (files, bytes) = point.map_or((0, Bytes(0)), |point| (point.point.files, point.point.bytes));
    Ok(match job.stage {
        RestoreStage::Running(step) => {
            let begun = dir.read_passing_json::<u64>(&dir.file("restore-worker.json"));
            let gone = match begun == Some(job.attempt) {
                true => !dir.is_locked(RESTORE_LOCK)?,
                // Its worker has not taken the lock yet.
                false => WORKER.is_gone(dir, "restore.json")?,
            };
            if gone {
                // A worker notes its end before it lets go of the lock: only what still says so now tells of a kill.
                if let Some(now) = dir.restore_file()?.filter(|now| *now != job) {
                    return activity(dir, now);
                }
                return Ok(RestoreActivity::Failed {
                    epoch: job.epoch,
                    at: clock::now(),
                    message: AgentError::Interrupted("the restore was killed; ask for it again".into()).message(),
                    not_ready: false,
                });
            }
            RestoreActivity::Running {
                epoch: job.epoch,
                point: job.point,
                step,
                started_at: job.started_at,
                progress: Progress {
                    bytes_total: bytes,
                    files_total: files,
                    ..dir.restore_progress()
                },
                first_there_at: dir.restore_first_there_at(job.attempt),
            }
        }
        RestoreStage::Verified { ended_at } => {
            let proof = dir.read_json::<Proof>(&dir.file("restore-proof.json"))?;
            let (files, bytes) = proof.map_or((files, bytes), |proof| (proof.files, proof.bytes));
            RestoreActivity::Verified {
                epoch: job.epoch,
                point: job.point,
                started_at: job.started_at,
                ended_at,
                files,
                bytes,
            }
        }
        RestoreStage::Failed { at, message, not_ready } => RestoreActivity::Failed {
            epoch: job.epoch,
            at,
            message,
            not_ready,
        },
    })
}

/// What was verified. It outlives the recovery point, which may be thinned out afterwards.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Proof {
    files: u64,
    bytes: Bytes,
}

/// The worker: runs the stored job, and the one that replaces it meanwhile.
///
/// # Errors
/// When the disk fails so that not even a failure can be noted.
pub fn work(dir: &DataDir) -> Result<(), AgentError> {
    let next = || {
        let job = dir.restore_file()?;
        Ok(job.filter(|job| matches!(job.stage, RestoreStage::Running(_))))
    };
    WORKER.work_off(dir, next, |job, lock| {
        dir.write_json(&dir.file("restore-worker.json"), &job.attempt, Durability::PowerLoss)?;
        let outcome = Job::new(dir, lock, job).and_then(|run| run.run());
        let stage = match outcome {
            Ok(()) => RestoreStage::Verified { ended_at: clock::now() },
            Err(error) => {
                process::log(&format!("restore: {}", error.message()));
                RestoreStage::Failed {
                    at: clock::now(),
                    message: error.message(),
                    not_ready: matches!(
                        error,
                        AgentError::Unreachable { .. }
                            | AgentError::KeyRefused { .. }
                            | AgentError::ProgramMissing { .. }
                    ),
                }
            }
        };
        note(dir, job.attempt, stage)
    })
}

fn note(dir: &DataDir, attempt: u64, stage: RestoreStage) -> Result<(), AgentError> {
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    match dir.restore_file()? {
        Some(job) if job.attempt == attempt => dir.save_restore_file(&RestoreFile { stage, ..job }),
        Some(_) | None => Ok(()),
    }
}

struct Job<'a> {
    dir: &'a DataDir,
    lock: &'a File,
    job: &'a RestoreFile,
    point: PointFile,
    machine: Machine,
    /// Files and bytes that were on the target when rsync began.
    filled: Cell<(u64, u64)>,
    /// Whether all that was to travel first is there.
    first_there: AtomicBool,
    first_noted: Cell<bool>,
}

impl<'a> Job<'a> {
    fn new(dir: &'a DataDir, lock: &'a File, job: &'a RestoreFile) -> Result<Self, AgentError> {
        let choice = warmspare_wire::agent::PointChoice::Id(job.point.clone());
        Ok(Self {
            dir,
            lock,
            job,
            point: recovery_points::choose(dir, &choice)?,
            machine: Machine::new(dir, &job.target, association(dir)?, job.epoch)?,
            filled: Cell::default(),
            first_there: AtomicBool::new(false),
            first_noted: Cell::new(job.first.is_empty()),
        })
    }

    fn run(&self) -> Result<(), AgentError> {
        let tree = self.tree();
        // Listing a large tree takes as long as reaching the machine.
        let (program, list) = thread::scope(|scope| {
            let listing = scope.spawn(|| inventory::list(&tree));
            (self.reach(scope), listing.join())
        });
        let program = program?;
        let list = list
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
            .map_err(|error| AgentError::io("list the recovery point", error))?;
        let filling = Filling {
            machine: &self.machine,
            program: program.as_deref(),
            target_path: &self.job.target_path,
            tree: &tree,
            list: &list,
            first: &self.job.first,
            first_there: &self.first_there,
        };
        note(self.dir, self.job.attempt, RestoreStage::Running(RestoreStep::Copying))?;
        let filled = filling.run(|progress| self.watch(progress))?;
        self.filled
            .set((filled.done.files.into_inner(), filled.done.bytes.into_inner()));
        match filled.whole {
            Whole::AsFarAsKnown => {}
            Whole::No => {
                self.copy_first()?;
                self.copy(None)?;
            }
        }
        self.settle()?;
        let differences = self.compare(&list)?;
        if differences.count > 0 {
            process::log(&format!(
                "restore: {} entries differ: {}",
                differences.count, differences.examples
            ));
            // Something of the same size and time was there before, with other content: only reading it tells.
            self.copy(Some("--checksum"))?;
            self.settle()?;
            let left = self.compare(&list)?;
            if left.count > 0 {
                return Err(AgentError::Rsync(format!(
                    "{} entries on the target differ from the recovery point after copying, for example {}; is something writing there?",
                    left.count, left.examples
                )));
            }
        }
        let proof = Proof {
            files: self.point.point.files,
            bytes: self.point.point.bytes,
        };
        filling.tidy();
        self.dir
            .write_json(&self.dir.file("restore-proof.json"), &proof, Durability::PowerLoss)
    }

    /// Answers the name of our program there, unless the target does not take it: rsync restores without it, only slower.
    fn reach<'s>(&self, scope: &'s Scope<'s, '_>) -> Result<Option<String>, AgentError> {
        self.machine.pin()?;
        self.machine.connect()?;
        if streams::are_worth_it(self.point.point.files, self.point.point.bytes) {
            for lane in 1..streams::lanes() {
                let machine = self.machine.lane(lane);
                // A connection takes as long as all that follows here. One that fails is tried again by the stream that wants it.
                scope.spawn(move || machine.connect());
            }
        }
        source::make_target(&self.machine, &self.job.target_path)?;
        let name = program::name(self.dir)?;
        match program::bring(&self.machine, &self.job.target_path, &name) {
            Ok(()) => Ok(Some(name)),
            Err(NotPushed::Refused(words)) => {
                process::log(&format!("restore: {words}, rsync does everything"));
                Ok(None)
            }
            Err(NotPushed::Broken(error)) => Err(error),
        }
    }

    fn copy(&self, option: Option<&str>) -> Result<(), AgentError> {
        note(self.dir, self.job.attempt, RestoreStage::Running(RestoreStep::Copying))?;
        let mut transfer = Transfer::push_to(&self.machine, &self.tree(), &self.job.target_path);
        if let Some(option) = option {
            transfer = transfer.with(option);
        }
        let done = transfer.run(self.dir, &self.machine, self.lock, |progress| {
            self.watch(progress.map(|now| self.on_top(now)))
        })?;
        match done.unreadable.first() {
            None => Ok(()),
            Some(name) => Err(AgentError::Rsync(format!(
                "cannot read {}",
                String::from_utf8_lossy(name).escape_debug()
            ))),
        }
    }

    /// Where streams could not bring what travels first.
    fn copy_first(&self) -> Result<(), AgentError> {
        if self.job.first.is_empty() || self.first_there.load(Ordering::SeqCst) {
            return Ok(());
        }
        let tree = self.tree();
        let mut there: Vec<&str> = self.job.first.iter().map(PathBelow::as_str).collect();
        // Never through a link: it would lead to a file of this machine.
        there.retain(|path| matches!(tree::look(&tree, Path::new(path)), Ok(Some(_))));
        if there.is_empty() {
            return Ok(());
        }
        let list = NameList::write(self.dir, "first", there.into_iter().map(str::as_bytes))?;
        let transfer = Transfer::push_listed(&self.machine, &tree, &self.job.target_path, list.path());
        let pushed = transfer.run(self.dir, &self.machine, self.lock, |progress| {
            self.watch(progress.map(|now| self.on_top(now)))
        })?;
        if pushed.unreadable.is_empty() {
            self.first_there.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// What a power failure on the target would take away is not restored yet. Where it cannot be made sure of, it is verified all
    /// the same: the standby keeps its copy.
    fn settle(&self) -> Result<(), AgentError> {
        let path = format!("{}\n", self.job.target_path);
        let settled = self
            .machine
            .run_while(SETTLE, path.as_bytes(), SETTLES_WITHIN, &|| self.watch(None));
        match settled {
            Ok(done) if done.code == Some(0) => Ok(()),
            Ok(done) => {
                process::log(&format!(
                    "restore: the target's disk is not settled, exit code {:?}",
                    done.code
                ));
                Ok(())
            }
            Err(AgentError::Interrupted(words)) if self.watch(None) == Wish::GoOn => {
                process::log(&format!("restore: the target's disk is not settled: {words}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// rsync counts what it brings itself; before it came, most of it was there.
    fn on_top(&self, now: Progress) -> Progress {
        let (files, bytes) = self.filled.get();
        let most = &self.point.point;
        Progress {
            files_done: now.files_done.max(files).min(most.files),
            bytes_done: Bytes(now.bytes_done.0.saturating_add(bytes).min(most.bytes.0)),
            ..now
        }
    }

    fn compare(&self, list: &[Entry]) -> Result<Differences, AgentError> {
        note(
            self.dir,
            self.job.attempt,
            RestoreStage::Running(RestoreStep::Verifying),
        )?;
        let comparison = Comparison {
            dir: self.dir,
            machine: &self.machine,
            lock: self.lock,
            tree: &self.tree(),
            target_path: &self.job.target_path,
            list,
        };
        comparison.run(|progress| self.watch(progress))
    }

    fn tree(&self) -> std::path::PathBuf {
        tree_of(self.dir, &self.job.point)
    }

    fn watch(&self, progress: Option<Progress>) -> Wish {
        if let Some(progress) = progress {
            let _ = self.dir.note_restore_progress(&progress);
        }
        if self.first_there.load(Ordering::SeqCst) && !self.first_noted.replace(true) {
            let _ = self.dir.note_restore_first_there(self.job.attempt);
        }
        match self.dir.restore_file() {
            Ok(Some(job)) if job.attempt != self.job.attempt => Wish::Stop("another restore replaced this one"),
            Ok(_) | Err(_) => Wish::GoOn,
        }
    }
}

fn association(dir: &DataDir) -> Result<AssociationId, AgentError> {
    Ok(dir.binding()?.ok_or(AgentError::NotBound)?.association())
}

#[cfg(test)]
mod tests {
    use super::*;
    use warmspare_domain::ids::{Epoch, RecoveryPointId};
    use warmspare_wire::agent::Host;

    #[test]
    fn a_job_that_ended_while_it_was_looked_at_is_not_taken_for_killed() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let running = RestoreFile {
            schema: state::SCHEMA,
            attempt: 1,
            epoch: Epoch::FIRST.next(),
            point: RecoveryPointId::at(clock::now()),
            target: Host {
                address: "203.0.113.7".into(),
                port: 22,
                user: "root".into(),
            },
            target_path: "/workspace".into(),
            started_at: clock::now(),
            stage: RestoreStage::Running(RestoreStep::Copying),
            target_gpu: None,
            first: vec![],
        };
        dir.write_json(&dir.file("restore-worker.json"), &1, Durability::PowerLoss)
            .unwrap();
        let failed = RestoreStage::Failed {
            at: clock::now(),
            message: "cannot reach 203.0.113.7".into(),
            not_ready: true,
        };
        let told = |stored: &RestoreFile| {
            dir.save_restore_file(stored).unwrap();
            let told = activity(&dir, running.clone()).unwrap();
            let RestoreActivity::Failed { message, .. } = told else {
                panic!("{told:?}");
            };
            message
        };
        assert!(told(&running).contains("killed"));
        assert!(
            told(&RestoreFile {
                stage: failed,
                ..running.clone()
            })
            .contains("cannot reach")
        );
    }
}
