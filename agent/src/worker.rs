//! Detached workers: whoever asks for work starts one where none runs, and may wait for its end.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::process;

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
