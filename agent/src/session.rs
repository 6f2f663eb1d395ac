//! One command on the other machine, asked several times.

use std::io::Write;
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::AgentError;
use crate::process;
use crate::ssh::Machine;

/// A command on the other machine that answers several questions: its shell starts once.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    complaints: Receiver<Vec<u8>>,
    complained: Vec<u8>,
    heard: Vec<u8>,
}

/// An answer is short; a hostile machine may talk without end.
const LONGEST_ANSWER: usize = 1 << 20;

impl Session {
    pub(crate) fn new(machine: Machine, mut child: Child) -> Self {
        Self {
            machine,
            stdin: child.stdin.take(),
            output: process::stream(child.stdout.take()),
            complaints: process::stream(child.stderr.take()),
            complained: Vec::new(),
            heard: Vec::new(),
            child,
        }
    }

    /// Puts a question. What is wrong with the connection shows when the answer is awaited.
    pub fn ask(&mut self, question: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(question).and_then(|()| stdin.flush());
        }
    }

    /// The answer to the last question, up to its closing words; `None` when it is not complete within `patience`.
    ///
    /// # Errors
    /// When the connection broke or the machine says something else without end.
    pub fn answer(&mut self, closing: &[u8], patience: Duration) -> Result<Option<Vec<u8>>, AgentError> {
        let until = Instant::now() + patience;
        loop {
            if let Some(at) = self.heard.windows(closing.len()).position(|window| window == closing) {
                let rest = self.heard.split_off(at + closing.len());
                let mut answer = std::mem::replace(&mut self.heard, rest);
                answer.truncate(at);
                return Ok(Some(answer));
            }
            match self
                .output
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(chunk) if self.heard.len() < LONGEST_ANSWER => self.heard.extend(chunk),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(self.failure()),
            }
        }
    }

    /// The next answer that `take` finds at the beginning of what was heard; `None` when it is not complete within `patience`.
    ///
    /// # Errors
    /// As [`Self::answer`]; also what `take` refuses.
    pub fn next<T>(
        &mut self,
        patience: Duration,
        longest: usize,
        mut take: impl FnMut(&mut Vec<u8>) -> Result<Option<T>, AgentError>,
    ) -> Result<Option<T>, AgentError> {
        let until = Instant::now() + patience;
        loop {
            if let Some(taken) = take(&mut self.heard)? {
                return Ok(Some(taken));
            }
            match self
                .output
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(chunk) if self.heard.len() < longest => self.heard.extend(chunk),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(self.failure()),
            }
        }
    }

    fn failure(&mut self) -> AgentError {
        process::stop(&mut self.child);
        while let Ok(chunk) = self.complaints.recv_timeout(Duration::from_millis(200)) {
            self.complained.extend(chunk);
        }
        self.machine.failure(&String::from_utf8_lossy(&self.complained))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
