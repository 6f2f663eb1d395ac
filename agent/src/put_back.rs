//! Putting one path of a recovery point back onto the GPU that runs, beside everything else that is there.
//!
//! # Guarantees
//! Nothing on the GPU is lost: what is there and differs stays, or is moved below `.warmspare/replaced/` when the caller wants the
//! recovery point's in its place. Passes go on meanwhile, and see each file whole or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{Existing, Progress, PutBack, PutBackActivity, RestoreStep};

use crate::bind;
use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::name_list::NameList;
use crate::names::shown;
use crate::process;
use crate::recovery_points::{self, tree_of};
use crate::rsync::{Placing, Transfer, Transferred};
use crate::source;
use crate::ssh::Machine;
use crate::state::{self, PUT_BACK_LOCK, PutBackFile, PutBackProof, PutBackStage, REQUEST_LOCK};
use crate::tree::{self, Census, Finder, Node};
use crate::wish::Wish;
use crate::worker::Worker;

/// The hidden verb of the worker.
pub const VERB: &str = "put-back-worker";

const WORKER: Worker = Worker {
    verb: VERB,
    lock: PUT_BACK_LOCK,
};

/// Starts the job, or reports the same one under way; waits for its end, at most as long as the request says.
///
/// # Errors
/// When nothing is bound, the epoch is not the one bound, or no recovery point has the path.
pub fn request(dir: &DataDir, request: &PutBack) -> Result<(), AgentError> {
    let until = Instant::now() + Duration::from_millis(request.wait_ms);
    let attempt = accept(dir, request)?;
    WORKER.see_through(dir, until, || {
        let running = |job: PutBackFile| job.attempt == attempt && matches!(job.stage, PutBackStage::Running(_));
        Ok(!dir.put_back_file()?.is_some_and(running))
    })
}

/// Stores the job and answers its attempt number.
fn accept(dir: &DataDir, request: &PutBack) -> Result<u64, AgentError> {
    source::check_below(std::slice::from_ref(&request.path))?;
    let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    bind::check_current(dir, &binding, request.epoch)?;
    let before = dir.put_back_file()?;
    let running = |job: &&PutBackFile| matches!(job.stage, PutBackStage::Running(_));
    if let Some(job) = before
        .as_ref()
        .filter(running)
        .filter(|job| is_same(&job.request, request))
    {
        return Ok(job.attempt);
    }
    let job = PutBackFile {
        schema: state::SCHEMA,
        attempt: before.map_or(0, |job| job.attempt) + 1,
        point: choose(dir, request)?,
        request: request.clone(),
        started_at: clock::now(),
        stage: PutBackStage::Running(RestoreStep::Copying),
    };
    note_progress(dir, &Progress::default());
    dir.save_put_back_file(&job)?;
    Ok(job.attempt)
}

/// How long somebody waits makes no other job.
fn is_same(one: &PutBack, other: &PutBack) -> bool {
    let wait_ms = other.wait_ms;
    *other == PutBack { wait_ms, ..one.clone() }
}

/// The recovery point that is meant; where none is named, the newest that has the path: it was deleted, so later ones have not.
fn choose(dir: &DataDir, request: &PutBack) -> Result<RecoveryPointId, AgentError> {
    let path = &request.path;
    if let Some(choice) = &request.point {
        let id = recovery_points::choose(dir, choice)?.point.id;
        return match find(dir, &id, path)? {
            Some(_) => Ok(id),
            None => Err(AgentError::NoRecoveryPoint {
                wanted: format!("{id} has nothing at {path:?}"),
            }),
        };
    }
    for point in recovery_points::list(dir)?.into_iter().rev() {
        if find(dir, &point.point.id, path)?.is_some() {
            return Ok(point.point.id);
        }
    }
    Err(AgentError::NoRecoveryPoint {
        wanted: format!("none has anything at {path:?}"),
    })
}

/// What lies at a path in a recovery point; never through a symbolic link, for a GPU chose where it leads.
fn find(dir: &DataDir, id: &RecoveryPointId, path: &str) -> Result<Option<Node>, AgentError> {
    let found = match tree::below(path.as_bytes(), &[]) {
        Some(path) => Finder::below(&tree_of(dir, id)).and_then(|mut tree| tree.node(&path)),
        None => Ok(None),
    };
    found.map_err(|error| AgentError::io("look into a recovery point", error))
}

/// The job as the world is told.
///
/// # Errors
/// When its file cannot be read.
pub fn activity(dir: &DataDir) -> Result<PutBackActivity, AgentError> {
    let Some(job) = dir.put_back_file()? else {
        return Ok(PutBackActivity::Never);
    };
    let abandoned = matches!(job.stage, PutBackStage::Running(_)) && WORKER.is_gone(dir, "put-back.json")?;
    // A worker notes its end before it lets go of the lock: only what still says so now tells of a kill.
    if abandoned && dir.put_back_file()?.is_some_and(|now| now != job) {
        return activity(dir);
    }
    let path = job.request.path;
    Ok(match job.stage {
        PutBackStage::Running(_) if abandoned => PutBackActivity::Failed {
            path,
            at: clock::now(),
            message: AgentError::Interrupted("the job was killed; ask for it again".into()).message(),
        },
        PutBackStage::Running(step) => PutBackActivity::Running {
            path,
            point: job.point,
            step,
            progress: dir.read_passing_json(&dir.file(PROGRESS)).unwrap_or_default(),
        },
        PutBackStage::Verified(proof) => PutBackActivity::Verified {
            path,
            point: job.point,
            ended_at: proof.ended_at,
            files: proof.files,
            bytes: proof.bytes,
            put: proof.put,
            kept: proof.kept,
            replaced: proof.replaced,
        },
        PutBackStage::Failed { at, message } => PutBackActivity::Failed { path, at, message },
    })
}

/// The worker: runs the stored job, and the one that replaces it meanwhile.
///
/// # Errors
/// When the disk fails so that not even a failure can be noted.
pub fn work(dir: &DataDir) -> Result<(), AgentError> {
    process::leave_session();
    let Some(lock) = dir.lock_to_work(WORKER.lock)? else {
        return Ok(());
    };
    loop {
        let decision = dir.lock_briefly(REQUEST_LOCK)?;
        let Some(job) = dir
            .put_back_file()?
            .filter(|job| matches!(job.stage, PutBackStage::Running(_)))
        else {
            // Released together: a job stored from now on finds the lock free.
            drop(lock);
            drop(decision);
            return Ok(());
        };
        drop(decision);
        let outcome = Run::new(dir, &lock, &job).and_then(|run| run.run());
        let stage = outcome.map_or_else(
            |error| {
                process::log(&format!("put back: {}", error.message()));
                PutBackStage::Failed {
                    at: clock::now(),
                    message: error.message(),
                }
            },
            PutBackStage::Verified,
        );
        note(dir, job.attempt, stage)?;
    }
}

struct Run<'a> {
    dir: &'a DataDir,
    lock: &'a File,
    job: &'a PutBackFile,
    machine: Machine,
    source_path: String,
    tree: PathBuf,
    census: Census,
    list: NameList,
}

impl<'a> Run<'a> {
    fn new(dir: &'a DataDir, lock: &'a File, job: &'a PutBackFile) -> Result<Self, AgentError> {
        let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
        bind::check_current(dir, &binding, job.request.epoch)?;
        let (tree, path) = (tree_of(dir, &job.point), &job.request.path);
        let node = find(dir, &job.point, path)?.ok_or_else(|| AgentError::NoRecoveryPoint {
            wanted: job.point.to_string(),
        })?;
        Ok(Self {
            dir,
            lock,
            job,
            machine: Machine::new(dir, &binding.bind.source, binding.association(), binding.epoch())?,
            source_path: binding.bind.source_path,
            census: count(&tree, path, node)?,
            list: NameList::write(dir, "put-back", [path.trim_end_matches('/').as_bytes()])?,
            tree,
        })
    }

    fn run(&self) -> Result<PutBackProof, AgentError> {
        self.machine.connect()?;
        source::make_room(&self.machine, &self.source_path)?;
        let mut put = self.copy(None)?;
        let mut kept = self.compare()?;
        if kept > 0 && self.job.request.existing == Existing::Replace {
            // Something of the same size and time has other content: only reading it tells.
            put += self.copy(Some("--checksum"))?;
            kept = self.compare()?;
            if kept > 0 {
                return Err(AgentError::Interrupted(format!(
                    "{kept} entries on the GPU differ again after they were put back: something is writing there"
                )));
            }
        }
        Ok(PutBackProof {
            ended_at: clock::now(),
            files: self.census.files,
            bytes: self.census.bytes,
            put,
            kept,
            replaced: source::has(&self.machine, &self.source_path, &self.aside())?.then(|| self.aside()),
        })
    }

    /// Answers how many entries were not as they are now.
    fn copy(&self, option: Option<&str>) -> Result<u64, AgentError> {
        self.step(RestoreStep::Copying)?;
        let placing = match self.job.request.existing {
            Existing::Keep => Placing::WhereNothingIs,
            Existing::Replace => Placing::InPlaceOf { aside: self.aside() },
        };
        let mut transfer = Transfer::put_back(
            &self.machine,
            &self.tree,
            &self.source_path,
            self.list.path(),
            source::ROOM,
            &placing,
        );
        if let Some(option) = option {
            transfer = transfer.with(option);
        }
        Ok(self.transfer(&transfer)?.tally.differences)
    }

    /// Answers how many entries differ. One that is missing was taken away since: something else works on this path.
    fn compare(&self) -> Result<u64, AgentError> {
        self.step(RestoreStep::Verifying)?;
        let transfer = Transfer::compare_below(&self.machine, &self.tree, &self.source_path, self.list.path());
        let tally = self.transfer(&transfer)?.tally;
        match tally.created_files {
            0 => Ok(tally.differences),
            gone => Err(AgentError::Interrupted(format!(
                "{gone} files on the GPU went away after they were put back, for example {}",
                tally.first.join(", ")
            ))),
        }
    }

    fn transfer(&self, transfer: &Transfer) -> Result<Transferred, AgentError> {
        let done = transfer.run(self.dir, &self.machine, self.lock, |progress| self.watch(progress))?;
        match done.unreadable.first() {
            None => Ok(done),
            Some(name) => Err(AgentError::Rsync(format!("cannot read {}", shown(name)))),
        }
    }

    /// Where on the GPU lies what made room, below the synced directory: each job has a place of its own.
    fn aside(&self) -> String {
        format!(".warmspare/replaced/{}", RecoveryPointId::at(self.job.started_at))
    }

    fn step(&self, step: RestoreStep) -> Result<(), AgentError> {
        note(self.dir, self.job.attempt, PutBackStage::Running(step))
    }

    fn watch(&self, progress: Option<Progress>) -> Wish {
        if let Some(progress) = progress {
            note_progress(
                self.dir,
                &Progress {
                    bytes_total: self.census.bytes,
                    files_total: self.census.files,
                    files_done: progress.files_done.min(self.census.files),
                    ..progress
                },
            );
        }
        match self.dir.put_back_file() {
            Ok(Some(job)) if job.attempt != self.job.attempt => Wish::Stop("another path is put back instead"),
            Ok(_) | Err(_) => Wish::GoOn,
        }
    }
}

fn count(tree: &Path, path: &str, node: Node) -> Result<Census, AgentError> {
    if node.is_directory() {
        return tree::census_below(tree, Path::new(path.trim_end_matches('/')))
            .map_err(|error| AgentError::io("count what is to be put back", error));
    }
    Ok(Census {
        files: u64::from(node.is_file()),
        bytes: Bytes(node.counted()),
        hard_links: false,
    })
}

const PROGRESS: &str = "put-back-progress.json";

fn note(dir: &DataDir, attempt: u64, stage: PutBackStage) -> Result<(), AgentError> {
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    match dir.put_back_file()? {
        Some(job) if job.attempt == attempt => dir.save_put_back_file(&PutBackFile { stage, ..job }),
        Some(_) | None => Ok(()),
    }
}

fn note_progress(dir: &DataDir, progress: &Progress) {
    // Only for people to look at.
    let _ = dir.write_json(&dir.file(PROGRESS), progress, Durability::Kill);
}
