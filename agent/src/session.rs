//! One command on the other machine, asked several times.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::bell::Bell;
use crate::error::AgentError;
use crate::process;
use crate::ssh::Machine;

/// A command on the other machine that answers several questions: its shell starts once.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    child: Child,
    stdin: Option<ChildStdin>,
    complained: Vec<u8>,
    heard: Vec<u8>,
}

/// An answer is short; a hostile machine may talk without end.
const LONGEST_ANSWER: usize = 1 << 20;

/// Nobody reads more of what a machine complains about; it waits then.
const MOST_COMPLAINTS: usize = 1 << 16;

/// How listening ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listened {
    /// There is more.
    Heard,
    /// Nothing came in time, or the bell rang first.
    NotYet,
    /// There will be no more.
    Ended,
}

impl Session {
    pub(crate) fn new(machine: Machine, mut child: Child) -> Self {
        Self {
            machine,
            stdin: child.stdin.take(),
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
        self.next(patience, None, LONGEST_ANSWER, |heard| {
            let at = heard.windows(closing.len()).position(|window| window == closing);
            Ok(at.map(|at| {
                let rest = heard.split_off(at + closing.len());
                let mut answer = std::mem::replace(heard, rest);
                answer.truncate(at);
                answer
            }))
        })
    }

    /// The next answer that `take` finds at the beginning of what was heard; `None` when it is not complete within `patience`, or
    /// when the bell rings.
    ///
    /// # Errors
    /// As [`Self::answer`]; also what `take` refuses.
    pub fn next<T>(
        &mut self,
        patience: Duration,
        bell: Option<&Bell>,
        longest: usize,
        mut take: impl FnMut(&mut Vec<u8>) -> Result<Option<T>, AgentError>,
    ) -> Result<Option<T>, AgentError> {
        let until = Instant::now() + patience;
        loop {
            if let Some(taken) = take(&mut self.heard)? {
                return Ok(Some(taken));
            }
            match self.listen(until, bell) {
                Listened::Heard if self.heard.len() < longest => {}
                Listened::NotYet => return Ok(None),
                Listened::Heard | Listened::Ended => return Err(self.failure()),
            }
        }
    }

    fn listen(&mut self, until: Instant, bell: Option<&Bell>) -> Listened {
        loop {
            let Some(stdout) = &mut self.child.stdout else {
                return Listened::Ended;
            };
            let stderr = self
                .child
                .stderr
                .as_mut()
                .filter(|_| self.complained.len() < MOST_COMPLAINTS);
            let mut sources = vec![PollFd::new(stdout, PollFlags::IN)];
            sources.extend(stderr.as_ref().map(|stderr| PollFd::new(stderr, PollFlags::IN)));
            let of_pipes = sources.len();
            sources.extend(
                bell.and_then(Bell::source)
                    .map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN)),
            );
            let late = !process::wait_for_any(&mut sources, until);
            let spoke: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
            let spoke = |at: usize| spoke.get(at).copied().unwrap_or(false);
            drop(sources);
            if spoke(1) && of_pipes == 2 && !read_into(&mut self.complained, stderr) {
                self.child.stderr = None;
            }
            if spoke(0) {
                return match read_into(&mut self.heard, Some(stdout)) {
                    true => Listened::Heard,
                    false => Listened::Ended,
                };
            }
            if late || spoke(of_pipes) {
                return Listened::NotYet;
            }
        }
    }

    fn failure(&mut self) -> AgentError {
        process::stop(&mut self.child);
        self.child.stdout = None;
        if let Some(stderr) = &mut self.child.stderr {
            let until = Instant::now() + Duration::from_millis(200);
            let more = |stderr: &_| process::wait_for_any(&mut [PollFd::new(stderr, PollFlags::IN)], until);
            while self.complained.len() < MOST_COMPLAINTS
                && more(&*stderr)
                && read_into(&mut self.complained, Some(&mut *stderr))
            {}
        }
        self.machine.failure(&String::from_utf8_lossy(&self.complained))
    }
}

/// Reads what is there. Answers whether more may come.
fn read_into(heard: &mut Vec<u8>, pipe: Option<&mut impl Read>) -> bool {
    let mut chunk = [0; 1 << 14];
    match pipe.map(|pipe| pipe.read(&mut chunk)) {
        Some(Ok(read)) if read > 0 => {
            heard.extend(chunk.get(..read).unwrap_or_default());
            true
        }
        Some(Err(error)) => error.kind() == std::io::ErrorKind::Interrupted,
        Some(Ok(_)) | None => false,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
