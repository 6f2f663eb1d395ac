//! Asking for passes, and the worker that runs them: one at a time, and none that was asked for is forgotten.
//!
//! Every request has a number, stored before anybody acts on it. A pass serves its own number and all before, so "a pass that
//! started before the request is not enough" is a comparison of two numbers, and a kill forgets nothing.

use std::cell::OnceCell;
use std::fs::File;
use std::time::{Duration, Instant};

use warmspare_wire::agent::{Halt, PassFailure, PassReport, Sync, Urgency};

use crate::bell::Bell;
use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::live::{self, Woken};
use crate::pass::Pass;
use crate::process;
use crate::recovery_points;
use crate::reserve;
use crate::space;
use crate::state::{PASS_LOCK, REQUEST_LOCK, Requests, State};
use crate::traffic;
use crate::watching::Watching;
use crate::worker::Worker;

/// The hidden verb of the worker.
pub const VERB: &str = "pass-worker";

/// A last gasp may be asked for while we tidy.
const A_MOMENT: Duration = Duration::from_secs(1);

/// How often live mode thins out; sooner when space is short.
const TIDY_EVERY: Duration = Duration::from_secs(30);

const WORKER: Worker = Worker {
    verb: VERB,
    lock: PASS_LOCK,
};

/// Asks for a pass and waits for it, at most as long as the request says.
///
/// # Errors
/// When nothing is bound, the epoch is not the one bound, or the disk fails.
pub fn request(dir: &DataDir, sync: &Sync) -> Result<(), AgentError> {
    let until = Instant::now() + Duration::from_millis(sync.wait_ms);
    let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
    if binding.epoch() != sync.epoch {
        return Err(AgentError::StaleEpoch {
            asked: sync.epoch,
            current: binding.epoch(),
        });
    }
    // A restore under a later epoch was accepted: the data is on its way elsewhere, and the old GPU is never read again.
    if let Some(job) = dir.restore_file()?.filter(|job| job.epoch > sync.epoch) {
        return Err(AgentError::StaleEpoch {
            asked: sync.epoch,
            current: job.epoch,
        });
    }
    if dir.state()?.halt.is_some() {
        return Ok(());
    }
    live::renew(dir, sync)?;
    let number = number_for(dir, sync)?;
    WORKER.see_through(dir, until, || Ok(dir.state()?.finished >= number))
}

fn number_for(dir: &DataDir, sync: &Sync) -> Result<u64, AgentError> {
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    let requests = dir.requests()?;
    let finished = dir.state()?.finished;
    let under_way = dir.pass_under_way().filter(|pass| pass.number > finished);
    match (sync.urgency, under_way) {
        (Urgency::Due, Some(pass)) if pass.epoch == sync.epoch => return Ok(pass.number),
        (Urgency::Due, None) if requests.last > finished => return Ok(requests.last),
        (Urgency::Due, Some(_) | None) | (Urgency::LastGasp, _) => {}
    }
    let last = requests.last.max(finished) + 1;
    let (last_gasp, durability) = match sync.urgency {
        // Counted as asked for from now on, whatever happens.
        Urgency::LastGasp => (last, Durability::PowerLoss),
        // Whoever asked asks again.
        Urgency::Due => (requests.last_gasp, Durability::OldOrNew),
    };
    dir.save_requests(&Requests { last, last_gasp }, durability)?;
    Ok(last)
}

/// The worker: runs passes until none is wanted, and under a lease also those that nobody asked for.
///
/// # Errors
/// When the disk fails so that not even a failure can be noted.
pub fn work(dir: &DataDir) -> Result<(), AgentError> {
    process::leave_session();
    let Some(lock) = dir.lock_to_work(PASS_LOCK)? else {
        return Ok(());
    };
    dir.remove_torn_writes();
    space::leave_words(dir);
    note_killed_pass(dir)?;
    recovery_points::clear_leftovers(dir)?;
    let mut watching = Watching::default();
    // Kept for as long as we live: taking it down takes the system 20 ms, which a last gasp would wait for.
    let bell = OnceCell::new();
    loop {
        match next(dir)? {
            Next::Pass(number, urgency) => {
                let started = Instant::now();
                let ended = run(dir, &lock, &mut watching, number, urgency)?;
                tidy(dir);
                if ended == Ended::Complete {
                    stay(dir, &lock, &bell, &mut watching, started)?;
                }
            }
            Next::Rest(decision) => {
                // Released together: whoever asks next either was seen here or finds the lock free.
                drop(lock);
                drop(decision);
                break;
            }
        }
    }
    recovery_points::empty_trash(dir);
    Ok(())
}

enum Next {
    Pass(u64, Urgency),
    Rest(File),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Complete,
    Failed,
}

fn next(dir: &DataDir) -> Result<Next, AgentError> {
    let decision = dir.lock_briefly(REQUEST_LOCK)?;
    let requests = dir.requests()?;
    let state = dir.state()?;
    if requests.last <= state.finished || state.halt.is_some() {
        dir.update_state(Durability::PowerLoss, |state| {
            state.finished = state.finished.max(requests.last);
        })?;
        return Ok(Next::Rest(decision));
    }
    let urgency = if requests.last_gasp > state.finished {
        Urgency::LastGasp
    } else {
        Urgency::Due
    };
    Ok(Next::Pass(requests.last, urgency))
}

/// Takes up a disk that was enlarged, and thins out.
fn tidy(dir: &DataDir) {
    let tidied = space::follow_device(dir)
        .and_then(|()| recovery_points::thin_out(dir, clock::now()))
        .and_then(|()| space::make_room(dir, A_MOMENT));
    if let Err(error) = tidied {
        process::log(&error.message());
    }
}

fn run(
    dir: &DataDir,
    lock: &File,
    watching: &mut Watching,
    number: u64,
    urgency: Urgency,
) -> Result<Ended, AgentError> {
    let revision = dir.binding()?.map(|binding| binding.revision);
    let outcome = Pass::new(dir, lock, number, urgency).and_then(|pass| pass.run(watching));
    let ended = if outcome.is_ok() {
        Ended::Complete
    } else {
        Ended::Failed
    };
    note(dir, number, revision, outcome)?;
    dir.forget_pass();
    Ok(ended)
}

/// Goes on by itself for as long as the lease lasts, nobody asks for a pass, and passes complete.
fn stay(
    dir: &DataDir,
    lock: &File,
    bell: &OnceCell<Bell>,
    watching: &mut Watching,
    mut started: Instant,
) -> Result<(), AgentError> {
    if live::leased_until(dir).is_none() {
        return Ok(());
    }
    recovery_points::empty_trash(dir);
    let bell = bell.get_or_init(|| Bell::hang(dir));
    let mut tidied = Instant::now();
    while live::wait(dir, bell, watching, started)? == Woken::ByChange {
        let Some(number) = number_of_our_own(dir)? else {
            break;
        };
        started = Instant::now();
        if run(dir, lock, watching, number, Urgency::Due)? == Ended::Failed {
            break;
        }
        // Beats may find our own passes under way for hours, and never ask for one.
        if tidied.elapsed() >= TIDY_EVERY || space::is_short(dir)? {
            tidy(dir);
            recovery_points::empty_trash(dir);
            tidied = Instant::now();
        }
    }
    Ok(())
}

/// A number for a pass that nobody asked for; none when somebody just did.
fn number_of_our_own(dir: &DataDir) -> Result<Option<u64>, AgentError> {
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    let requests = dir.requests()?;
    let finished = dir.state()?.finished;
    if requests.last > finished {
        return Ok(None);
    }
    let last = finished + 1;
    dir.save_requests(&Requests { last, ..requests }, Durability::OldOrNew)?;
    Ok(Some(last))
}

/// The pass whose worker was killed, if that is what is left of it.
#[must_use]
pub fn killed_pass(dir: &DataDir, state: &State) -> Option<PassFailure> {
    let killed = dir.pass_under_way().filter(|pass| pass.number > state.finished)?;
    let mut noted = state.clone();
    noted.note_failure(&AgentError::Interrupted(format!(
        "the pass of {} was killed",
        killed.started_at
    )));
    noted.last_failure
}

fn note_killed_pass(dir: &DataDir) -> Result<(), AgentError> {
    if let Some(failure) = killed_pass(dir, &dir.state()?) {
        if let Some(pass) = dir.pass_under_way() {
            traffic::add(dir, pass.started_at, pass.fetched);
        }
        // Its request stays unfinished: the next pass serves it.
        dir.update_state(Durability::PowerLoss, |state| state.last_failure = Some(failure))?;
    }
    dir.forget_pass();
    Ok(())
}

fn note(
    dir: &DataDir,
    number: u64,
    revision: Option<u64>,
    outcome: Result<PassReport, AgentError>,
) -> Result<(), AgentError> {
    let report = match outcome {
        Ok(report) => report,
        Err(error) => return note_failure(dir, number, revision, error),
    };
    traffic::add(dir, report.started_at, report.wire_bytes);
    let durability = if dir.state()?.deletions_accepted {
        // A person's leave for deletions is for one pass: that it was used must not be forgotten.
        Durability::PowerLoss
    } else {
        // Losing the last one costs a pass and no more.
        Durability::OldOrNew
    };
    dir.update_state(durability, |state| {
        state.finished = number;
        state.last_complete = Some(report);
        state.last_failure = None;
        state.deletions_accepted = false;
    })
}

fn note_failure(dir: &DataDir, number: u64, revision: Option<u64>, error: AgentError) -> Result<(), AgentError> {
    process::log(&format!("pass {number}: {}", error.message()));
    if matches!(error, AgentError::DiskFull) {
        reserve::release(dir);
    }
    // What a guard found at a source that is no longer bound must not halt the one that is.
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    let bound = dir.binding()?.map(|binding| binding.revision);
    let superseded = matches!(error, AgentError::Halted { .. }) && bound != revision;
    let error = if superseded {
        AgentError::Interrupted("the standby was bound anew meanwhile".into())
    } else {
        error
    };
    dir.update_state(Durability::PowerLoss, |state| fail(state, number, &error))
}

fn fail(state: &mut State, number: u64, error: &AgentError) {
    state.note_failure(error);
    if let AgentError::Halted { reason, detail } = error {
        state.halt = Some(Halt {
            at: clock::now(),
            reason: *reason,
            detail: detail.clone(),
        });
    }
    state.finished = number;
}
