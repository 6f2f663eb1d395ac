//! Putting one path of a recovery point back onto the GPU that runs, beside everything else that is there.
//!
//! # Guarantees
//! Nothing on the GPU is lost or overwritten, also what is written meanwhile: what is there stays, or is renamed below
//! `.warmspare/replaced/` when the caller wants the recovery point's in its place. A directory that is there keeps its attributes.
//! Passes go on meanwhile, and see each file whole or not at all: everything waits beside the tree until it has arrived.

use std::cell::Cell;
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
use crate::process::{self, last_words};
use crate::program::{self, NotPushed};
use crate::put_in::{self, Order, PlacedEntries};
use crate::recovery_points::{self, tree_of};
use crate::rsync::{Transfer, Transferred};
use crate::source;
use crate::ssh::{Connection, Machine};
use crate::state::{self, PUT_BACK_LOCK, PutBackFile, PutBackProof, PutBackStage, REQUEST_LOCK};
use crate::tree::{self, Census, Node};
use crate::wish::Wish;
use crate::worker::Worker;

/// The hidden verb of the worker.
pub const VERB: &str = "put-back-worker";

const WORKER: Worker = Worker {
    verb: VERB,
    lock: PUT_BACK_LOCK,
};

/// Restores have those below it.
const LANE: usize = 100;

// Fixed text; path, name and order come over standard input.
const PUT_IN: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && IFS= read -r n && cd \"$p\" || exit 91; \
    [ ! -L .warmspare ] || exit 90; exec \"./.warmspare/$n\" put-in'";

/// Starts the job, or reports the same one under way; waits for its end, at most as long as the request says.
///
/// # Errors
/// When nothing is bound, the epoch is not the one bound, or no recovery point has the path.
pub fn request(dir: &DataDir, request: &PutBack) -> Result<(), AgentError> {
    let until = Instant::now() + Duration::from_millis(request.wait_ms);
    let attempt = accept(dir, request)?;
    WORKER.see_through(dir, until, || {
        let ours = |job: PutBackFile| job.attempt == attempt && is_running(&job);
        Ok(!dir.put_back_file()?.is_some_and(ours))
    })
}

/// Stores the job and answers its attempt number.
fn accept(dir: &DataDir, request: &PutBack) -> Result<u64, AgentError> {
    let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    bind::check_current(dir, &binding, request.epoch)?;
    let before = dir.put_back_file()?;
    if let Some(job) = before.as_ref().filter(|job| is_running(job))
        && !WORKER.is_gone(dir, FILE)?
    {
        if is_same(&job.request, request) {
            return Ok(job.attempt);
        }
        return Err(AgentError::Busy(format!(
            "{:?} is being put back",
            job.request.path.as_str()
        )));
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

fn is_running(job: &PutBackFile) -> bool {
    matches!(job.stage, PutBackStage::Running(_))
}

/// How long somebody waits makes no other job.
fn is_same(one: &PutBack, other: &PutBack) -> bool {
    let wait_ms = other.wait_ms;
    *other == PutBack { wait_ms, ..one.clone() }
}

/// The recovery point that is meant; where none is named, the newest that has the path: it was deleted, so later ones have not.
fn choose(dir: &DataDir, request: &PutBack) -> Result<RecoveryPointId, AgentError> {
    let path = request.path.as_str();
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
    tree::look(&tree_of(dir, id), Path::new(path)).map_err(|error| AgentError::io("look into a recovery point", error))
}

/// The job as the world is told.
///
/// # Errors
/// When its file cannot be read.
pub fn activity(dir: &DataDir) -> Result<PutBackActivity, AgentError> {
    let stored = WORKER.stored(dir, FILE, || dir.put_back_file(), is_running)?;
    let Some((job, abandoned)) = stored else {
        return Ok(PutBackActivity::Never);
    };
    if abandoned {
        let error = AgentError::Interrupted("the job was killed; ask for it again".into());
        return Ok(PutBackActivity::Failed {
            message: job.with_place_aside(error.message()),
            path: job.request.path,
            at: clock::now(),
        });
    }
    let path = job.request.path;
    Ok(match job.stage {
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
    let next = || Ok(dir.put_back_file()?.filter(is_running));
    WORKER.work_off(dir, next, |job, lock| {
        let outcome = match Run::new(dir, lock, job) {
            Ok(run) => run.run().map_err(|error| run.told(&error)),
            Err(error) => Err(error.message()),
        };
        let stage = outcome.map_or_else(
            |message| {
                process::log(&format!("put back: {message}"));
                let at = clock::now();
                PutBackStage::Failed { at, message }
            },
            PutBackStage::Verified,
        );
        note(dir, job.attempt, stage)
    })
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
    /// Whether anything was to be moved to its place yet.
    placing: Cell<bool>,
    /// Entries that got their place so far.
    put: Cell<u64>,
}

impl<'a> Run<'a> {
    fn new(dir: &'a DataDir, lock: &'a File, job: &'a PutBackFile) -> Result<Self, AgentError> {
        let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
        bind::check_current(dir, &binding, job.request.epoch)?;
        let (tree, path) = (tree_of(dir, &job.point), job.request.path.as_str());
        let node = find(dir, &job.point, path)?.ok_or_else(|| AgentError::NoRecoveryPoint {
            wanted: job.point.to_string(),
        })?;
        Ok(Self {
            dir,
            lock,
            job,
            // A connection of its own: a pass that fails closes the common one.
            machine: Machine::new(dir, &binding.bind.source, binding.association(), binding.epoch())?.lane(LANE),
            source_path: binding.bind.source_path,
            census: count(&tree, path, node)?,
            list: NameList::write(dir, "put-back", [path.as_bytes()])?,
            placing: Cell::new(false),
            put: Cell::new(0),
            tree,
        })
    }

    fn run(&self) -> Result<PutBackProof, AgentError> {
        let outcome = match (self.machine.connect()?, self.put_back()) {
            // The kept connection may have died with the GPU's last life: once more over a fresh one.
            (Connection::Kept, Err(AgentError::Unreachable { .. })) => {
                self.machine.disconnect();
                self.machine.connect()?;
                self.put_back()
            }
            (_, outcome) => outcome,
        };
        // Whatever happened: what waits there takes space from whoever works on the GPU.
        source::clear_room(&self.machine, &self.source_path);
        outcome
    }

    fn put_back(&self) -> Result<PutBackProof, AgentError> {
        let name = program::name(self.dir)?;
        match program::bring(&self.machine, &self.source_path, &name) {
            Ok(()) => {}
            Err(NotPushed::Broken(error)) => return Err(error),
            Err(NotPushed::Refused(words)) => return Err(self.without_program(&words)),
        }
        let round = |option: Option<&str>| -> Result<(u64, Vec<String>), AgentError> {
            self.stage(option)?;
            let placed = self.put_in(&name)?;
            self.put.set(self.put.get() + placed.put);
            let kept = self.compare(&placed)?;
            Ok((kept, placed.aside))
        };
        let (mut kept, mut aside) = round(None)?;
        if kept > 0 && self.job.request.existing == Existing::Replace {
            // Something of the same size and time has other content: only reading it tells.
            (kept, aside) = round(Some("--checksum"))?;
        }
        Ok(PutBackProof {
            ended_at: clock::now(),
            files: self.census.files,
            bytes: self.census.bytes,
            put: self.put.get(),
            kept,
            replaced: Some(aside.join(" and ")).filter(|all| !all.is_empty()),
        })
    }

    /// Why it failed, for a person.
    fn told(&self, error: &AgentError) -> String {
        match self.placing.get() {
            true => self.job.with_place_aside(error.message()),
            false => error.message(),
        }
    }

    /// Brings what is missing, or differs, to the room beside the tree.
    fn stage(&self, option: Option<&str>) -> Result<(), AgentError> {
        self.step(RestoreStep::Copying)?;
        source::make_room(&self.machine, &self.source_path)?;
        let mut transfer = Transfer::stage(
            &self.machine,
            &self.tree,
            &self.source_path,
            self.list.path(),
            put_in::ROOM,
        );
        if let Some(option) = option {
            transfer = transfer.with(option);
        }
        self.transfer(&transfer).map(drop)
    }

    /// Moves what has arrived whole to its place.
    fn put_in(&self, program: &str) -> Result<PlacedEntries, AgentError> {
        if let Wish::Stop(reason) = self.watch(None) {
            return Err(AgentError::Interrupted(reason.into()));
        }
        let order = Order {
            existing: self.job.request.existing,
            aside: self.job.aside(),
        };
        let order = serde_json::to_string(&order).map_err(|error| AgentError::io("encode an order", error.into()))?;
        let input = format!("{}\n{program}\n{order}\n", self.source_path);
        self.placing.set(true);
        let answer = self.machine.run_once(PUT_IN, input.as_bytes())?;
        let placed = serde_json::from_slice(&answer.stdout);
        match (answer.code, placed) {
            (Some(0), Ok(placed)) => Ok(placed),
            // Over a fresh connection it would find that nothing is left to do, and say so.
            (Some(255), _) => Err(AgentError::Interrupted(format!(
                "the connection to {} broke while files were moved to their places; ask for it again",
                self.machine.shown()
            ))),
            (Some(1), _) => Err(AgentError::Unexpected(format!(
                "{}: {}",
                self.machine.shown(),
                last_words(&answer.stderr)
            ))),
            (code, _) => Err(self.without_program(&format!("it ended with exit code {code:?}"))),
        }
    }

    fn without_program(&self, words: &str) -> AgentError {
        AgentError::Unexpected(format!(
            "our program does not run on {} ({words}), and nothing else moves files to their places so that none is overwritten: fetch the path with `warmspare download GPU --path`",
            self.machine.shown()
        ))
    }

    /// Answers how many entries differ; of directories that were there the attributes may.
    fn compare(&self, placed: &PlacedEntries) -> Result<u64, AgentError> {
        self.step(RestoreStep::Verifying)?;
        let transfer = Transfer::compare_below(&self.machine, &self.tree, &self.source_path, self.list.path());
        let tally = match self.transfer(&transfer) {
            Ok(done) => done.tally,
            // rsync gives up on a file where a directory should be, and the reverse.
            Err(AgentError::Rsync(_)) if placed.kept > 0 => return Ok(placed.kept),
            Err(error) => return Err(error),
        };
        match tally.created_files {
            1.. if placed.kept == 0 => Err(AgentError::Interrupted(format!(
                "{} files on the GPU went away after they were put back, for example {}",
                tally.created_files,
                tally.first.join(", ")
            ))),
            _ => Ok(tally.differences - tally.directories_set_right),
        }
    }

    fn transfer(&self, transfer: &Transfer) -> Result<Transferred, AgentError> {
        let done = transfer.run(self.dir, &self.machine, self.lock, |progress| self.watch(progress))?;
        match done.unreadable.first() {
            None => Ok(done),
            Some(name) => Err(AgentError::Rsync(format!("cannot read {}", shown(name)))),
        }
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
        match self.dir.binding() {
            Ok(Some(binding)) if bind::check_current(self.dir, &binding, self.job.request.epoch).is_err() => {
                Wish::Stop("the GPU's data moves on to another")
            }
            Ok(_) | Err(_) => Wish::GoOn,
        }
    }
}

impl PutBackFile {
    /// Where what makes room lies, below the synced directory.
    fn aside(&self) -> String {
        format!(".warmspare/replaced/{}", RecoveryPointId::at(self.started_at))
    }

    /// Whoever hears that it failed must learn where the files are that it may have moved.
    fn with_place_aside(&self, message: String) -> String {
        match self.request.existing {
            Existing::Keep => message,
            Existing::Replace => format!(
                "{message}. What made room, if anything did, is on the GPU in {}",
                self.aside()
            ),
        }
    }
}

fn count(tree: &Path, path: &str, node: Node) -> Result<Census, AgentError> {
    if node.is_directory() {
        return tree::census_below(tree, Path::new(path))
            .map_err(|error| AgentError::io("count what is to be put back", error));
    }
    Ok(Census {
        files: u64::from(node.is_file()),
        bytes: Bytes(node.counted()),
        hard_links: false,
    })
}

const FILE: &str = "put-back.json";
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
