//! The rescue: pulling a paused GPU's tree from its disk, through the rsync module that its host serves.
//!
//! It is a pass in all but its source: the same fidelity, the same guards, and a recovery point that is complete or does not exist. Exit
//! codes prove nothing here (Vast's own `copy` ends with 0 when it was refused), so only our marker and our own count of files do.

use std::fs::File;
use std::time::{Duration, Instant};

use warmspare_domain::decide::RESCUE_ATTEMPTS;
use warmspare_wire::agent::{Rescue, RescueActivity};

use crate::bind;
use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::module;
use crate::process;
use crate::rescue_pass::RescuePass;
use crate::ssh::Machine;
use crate::state::{self, PASS_LOCK, REQUEST_LOCK, RescueFile, RescueStage};
use crate::traffic;
use crate::worker::Worker;

/// The hidden verb of the worker.
pub const VERB: &str = "rescue-worker";

const WORKER: Worker = Worker {
    verb: VERB,
    lock: RESCUE_LOCK,
};

/// Held by the worker for all of its life; the pass lock comes later, when the last pass has let go of it.
const RESCUE_LOCK: &str = "rescue.lock";

/// A pass whose GPU just stopped notices it within 15 s (ssh's own patience) and ends.
const LAST_PASS_ENDS: Duration = Duration::from_secs(45);

/// Starts a rescue, resumes it, or reports the one under way; waits for its end, at most as long as the request says.
///
/// # Errors
/// When nothing is bound, the epoch is not the one bound, a restore under a later one was accepted, or a guard holds already.
pub fn request(dir: &DataDir, rescue: &Rescue) -> Result<(), AgentError> {
    let until = Instant::now() + Duration::from_millis(rescue.wait_ms);
    accept(dir, rescue)?;
    WORKER.see_through(dir, until, || {
        let running = |job: &RescueFile| job.request.loss == rescue.loss && job.stage == RescueStage::Running;
        Ok(!dir.rescue_file()?.as_ref().is_some_and(running))
    })
}

fn accept(dir: &DataDir, rescue: &Rescue) -> Result<(), AgentError> {
    module::check_name(&rescue.module)?;
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
    bind::check_current(dir, &binding, rescue.epoch)?;
    if let Some(halt) = dir.state()?.halt {
        return Err(AgentError::Halted {
            reason: halt.reason,
            detail: halt.detail,
        });
    }
    Machine::hosting(dir, &rescue.host, binding.association(), binding.epoch())?;
    let before = dir.rescue_file()?.filter(|job| job.request.loss == rescue.loss);
    let attempts = match before {
        Some(job) if job.attempts >= RESCUE_ATTEMPTS && !matches!(job.stage, RescueStage::Running) => return Ok(()),
        Some(job) if !matches!(job.stage, RescueStage::Failed { .. }) => return Ok(()),
        Some(job) => job.attempts,
        None => 0,
    };
    dir.save_rescue_file(&RescueFile {
        schema: state::SCHEMA,
        request: rescue.clone(),
        attempts: attempts.saturating_add(1),
        stage: RescueStage::Running,
    })
}

/// The rescue as the world is told.
///
/// # Errors
/// When its file cannot be read.
pub fn activity(dir: &DataDir) -> Result<RescueActivity, AgentError> {
    let is_running = |job: &RescueFile| job.stage == RescueStage::Running;
    let stored = WORKER.stored(dir, "rescue.json", || dir.rescue_file(), is_running)?;
    let Some((job, abandoned)) = stored else {
        return Ok(RescueActivity::Never);
    };
    let loss = job.request.loss;
    Ok(match job.stage {
        RescueStage::Running if abandoned => RescueActivity::Failed {
            loss,
            attempts: job.attempts,
            at: clock::now(),
            message: AgentError::Interrupted("the rescue was killed".into()).message(),
        },
        RescueStage::Running => RescueActivity::Running {
            loss,
            progress: dir.pass_under_way().map(|pass| pass.progress).unwrap_or_default(),
        },
        RescueStage::Complete {
            point,
            at,
            changed_files,
        } => RescueActivity::Complete {
            loss,
            point,
            at,
            changed_files,
        },
        RescueStage::Failed { at, message } => RescueActivity::Failed {
            loss,
            attempts: job.attempts,
            at,
            message,
        },
        RescueStage::Refused { at, message } => RescueActivity::Refused { loss, at, message },
    })
}

/// The worker: runs the stored rescue.
///
/// # Errors
/// When the disk fails so that not even a failure can be noted.
pub fn work(dir: &DataDir) -> Result<(), AgentError> {
    process::leave_session();
    let Some(_only) = dir.lock_to_work(RESCUE_LOCK)? else {
        return Ok(());
    };
    let Some(job) = dir.rescue_file()?.filter(|job| job.stage == RescueStage::Running) else {
        return Ok(());
    };
    let outcome = wait_for_the_last_pass(dir).and_then(|lock| run(dir, &lock, &job.request));
    let at = clock::now();
    let stage = match outcome {
        Ok(stage) => stage,
        Err(error) => {
            process::log(&format!("rescue: {}", error.message()));
            let message = error.message();
            if matches!(error, AgentError::DiskFull) {
                // So that the control plane hears of it and lets the disk grow.
                dir.update_state(Durability::OldOrNew, |state| state.note_failure(&error))?;
            }
            match error {
                AgentError::Halted { .. } | AgentError::StaleEpoch { .. } | AgentError::BadRequest(_) => {
                    RescueStage::Refused { at, message }
                }
                AgentError::ForeignAssociation { .. }
                | AgentError::NotBound
                | AgentError::Busy(_)
                | AgentError::NoRecoveryPoint { .. }
                | AgentError::Unreachable { .. }
                | AgentError::KeyRefused { .. }
                | AgentError::ProgramMissing { .. }
                | AgentError::DiskFull
                | AgentError::TargetFull { .. }
                | AgentError::Interrupted(_)
                | AgentError::Rsync(_)
                | AgentError::Unexpected(_)
                | AgentError::Io { .. } => RescueStage::Failed { at, message },
            }
        }
    };
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    match dir.rescue_file()? {
        Some(now) if now.request.loss == job.request.loss => dir.save_rescue_file(&RescueFile { stage, ..now }),
        Some(_) | None => Ok(()),
    }
}

fn run(dir: &DataDir, lock: &File, rescue: &Rescue) -> Result<RescueStage, AgentError> {
    let report = RescuePass::new(dir, lock, rescue).and_then(RescuePass::run);
    dir.forget_pass();
    let report = report?;
    traffic::add(dir, report.started_at, report.wire_bytes);
    let stage = RescueStage::Complete {
        point: report.point.clone(),
        at: report.ended_at,
        changed_files: report.changed_files,
    };
    dir.update_state(Durability::PowerLoss, |state| {
        state.last_complete = Some(report);
        state.last_failure = None;
    })?;
    Ok(stage)
}

/// Takes the lock under which one process at a time fills `incoming/`.
fn wait_for_the_last_pass(dir: &DataDir) -> Result<File, AgentError> {
    let until = Instant::now() + LAST_PASS_ENDS;
    loop {
        if let Some(lock) = dir.lock_to_work(PASS_LOCK)? {
            return Ok(lock);
        }
        if Instant::now() >= until {
            return Err(AgentError::Interrupted("a pass still holds the disk".into()));
        }
    }
}
