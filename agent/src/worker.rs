//! Detached workers: whoever asks for work starts one where none runs, and may wait for its end.

use std::fs::{self, File};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::process;
use crate::state::REQUEST_LOCK;

/// How often a waiting caller looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// One that dies this often while one caller waits will not live longer for a fourth try.
const STARTS_PER_CALL: u32 = 3;

/// A job this young may not have found its worker yet.
const YOUNG: Duration = Duration::from_secs(5);

/// A kind of worker.
#[derive(Debug)]
pub struct Worker {
    /// The hidden verb that it runs.
    pub verb: &'static str,
    /// The lock that it holds for all of its life.
    pub lock: &'static str,
}

impl Worker {
    /// Waits until the work is done, at most until then, and sees to it that somebody does it.
    ///
    /// # Errors
    /// When a worker cannot be started, or `is_done` cannot tell.
    pub fn see_through(
        &self,
        dir: &DataDir,
        until: Instant,
        mut is_done: impl FnMut() -> Result<bool, AgentError>,
    ) -> Result<(), AgentError> {
        let mut worker: Option<Child> = None;
        let mut started = 0;
        while !is_done()? {
            let alive = worker
                .as_mut()
                .is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            if !alive && started < STARTS_PER_CALL && !dir.is_locked(self.lock)? {
                worker = Some(process::detach(dir, self.verb)?);
                started += 1;
            }
            if Instant::now() >= until {
                break;
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Does one stored job after the other, `next` first, until none is left; nothing where another worker does.
    ///
    /// # Errors
    /// When the lock file cannot be opened; what `next` and `run` answer.
    pub fn work_off<J>(
        &self,
        dir: &DataDir,
        next: impl Fn() -> Result<Option<J>, AgentError>,
        mut run: impl FnMut(&J, &File) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        process::leave_session();
        let Some(lock) = dir.lock_to_work(self.lock)? else {
            return Ok(());
        };
        loop {
            let decision = dir.lock_briefly(REQUEST_LOCK)?;
            let Some(job) = next()? else {
                // Released together: a job stored from now on finds the lock free.
                drop(lock);
                drop(decision);
                return Ok(());
            };
            drop(decision);
            run(&job, &lock)?;
        }
    }

    /// The stored job, if there is one, and whether its worker was killed.
    ///
    /// # Errors
    /// When the lock file cannot be opened; what `load` answers.
    pub fn stored<J: PartialEq>(
        &self,
        dir: &DataDir,
        file: &str,
        load: impl Fn() -> Result<Option<J>, AgentError>,
        is_running: impl Fn(&J) -> bool,
    ) -> Result<Option<(J, bool)>, AgentError> {
        loop {
            let Some(job) = load()? else { return Ok(None) };
            if !is_running(&job) || !self.is_gone(dir, file)? {
                return Ok(Some((job, false)));
            }
            // A worker notes its end before it lets go of the lock: only what still says so now tells of a kill.
            if load()?.as_ref() == Some(&job) {
                return Ok(Some((job, true)));
            }
        }
    }

    /// Whether nobody works on the job that is noted in this file.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn is_gone(&self, dir: &DataDir, job: &str) -> Result<bool, AgentError> {
        Ok(!dir.is_locked(self.lock)? && !is_young(dir, job))
    }
}

fn is_young(dir: &DataDir, job: &str) -> bool {
    let written = fs::metadata(dir.file(job)).and_then(|found| found.modified());
    let age = written.ok().and_then(|at| at.elapsed().ok());
    age.unwrap_or_default() < YOUNG
}
