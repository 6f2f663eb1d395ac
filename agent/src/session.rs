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

/// A machine that takes no question for this long is gone.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

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
            stdin: child
                .stdin
                .take()
                .filter(|stdin| rustix::io::ioctl_fionbio(stdin, true).is_ok()),
            complained: Vec::new(),
            heard: Vec::new(),
            child,
        }
    }

    /// Puts a question. What is wrong with the connection shows when the answer is awaited.
    pub fn ask(&mut self, question: &[u8]) {
        if let Some(stdin) = &mut self.stdin
            && !write_within(TAKEN_WITHIN, stdin, question)
        {
            // Half a question is worse than none.
            self.stdin = None;
            process::stop(&mut self.child);
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
                // A machine that talks without a pause must not hold us.
                Listened::Heard if self.heard.len() < longest && Instant::now() < until => {}
                Listened::Heard if self.heard.len() < longest => return take(&mut self.heard),
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

/// Writes all of it. Answers whether it was taken, as far as time tells.
fn write_within(patience: Duration, pipe: &mut ChildStdin, mut question: &[u8]) -> bool {
    let until = Instant::now() + patience;
    while !question.is_empty() {
        match pipe.write(question) {
            Ok(written) => question = question.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if !process::wait_for_any(&mut [PollFd::new(&*pipe, PollFlags::OUT)], until) {
                    return false;
                }
            }
            // Shows when the answer is awaited, with what the machine said last.
            Err(_) => return true,
        }
    }
    true
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

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::ssh::tests::machine;

    fn session(script: &str) -> Session {
        let machine = machine("127.0.0.1", "nobody").unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = shell.stderr(Stdio::piped()).spawn().unwrap();
        Session::new(machine, child)
    }

    #[test]
    fn answers_are_taken_one_by_one_and_an_end_is_one() {
        let mut session = session("while read -r n; do printf 'answer %s;' $n; done; echo gone >&2; sleep 0.1");
        for n in ["1", "2"] {
            session.ask(format!("{n}\n").as_bytes());
            let answer = session.answer(b";", Duration::from_secs(10)).unwrap();
            assert_eq!(answer.unwrap(), format!("answer {n}").into_bytes());
        }
        assert!(session.answer(b";", Duration::from_millis(1)).unwrap().is_none());
        session.stdin = None;
        assert!(session.answer(b";", Duration::from_secs(10)).is_err());
        assert_eq!(session.complained, b"gone\n");
    }

    #[test]
    fn a_machine_that_talks_without_a_pause_holds_nobody() {
        let mut session = session("yes noise");
        let forget = |heard: &mut Vec<u8>| {
            heard.clear();
            Ok(None::<()>)
        };
        assert!(
            session
                .next(Duration::from_millis(200), None, 1 << 20, forget)
                .unwrap()
                .is_none()
        );
        assert!(
            session.answer(b";", Duration::from_secs(60)).is_err(),
            "beyond the longest answer"
        );
    }

    #[test]
    fn complaints_without_end_hold_nobody_and_fill_nothing() {
        let mut session = session("yes noise >&2");
        assert!(session.answer(b";", Duration::from_millis(200)).unwrap().is_none());
        assert!(session.complained.len() < MOST_COMPLAINTS + (1 << 14));
    }

    #[test]
    fn a_question_that_nobody_takes_is_given_up() {
        let mut session = session("sleep 60");
        let stdin = session.stdin.as_mut().unwrap();
        assert!(write_within(Duration::from_millis(100), stdin, b"short"));
        assert!(!write_within(Duration::from_millis(100), stdin, &[b'x'; 1 << 20]));
    }
}
