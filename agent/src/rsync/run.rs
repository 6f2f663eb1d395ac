//! The life of one rsync, and what its end means.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use warmspare_wire::agent::Progress;

use super::{Transfer, Writes};
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::process::{self, cannot_start, last_words};
use crate::rsync_output::{Complaint, Line, Tally, read_complaint};
use crate::ssh::Machine;
use crate::wish::{GLANCE, Wish};

/// Keep-alives and progress move less than this in all that time.
const HARDLY_ANYTHING: u64 = 64 << 10;

/// How often is looked whether anything moves.
const LOOK_AT_MOTION: Duration = Duration::from_secs(5);

/// A process that ended may leave its streams open: over a kept connection they end with the other machine's end.
const STREAMS_END_WITHIN: Duration = Duration::from_secs(5);

/// Every one of them may name a file that is remembered.
const COMPLAINTS_AT_MOST: u64 = 200_000;

/// How a run of rsync ended.
#[derive(Debug, Clone, Default)]
pub struct Transferred {
    /// What it changed.
    pub tally: Tally,
    /// Files of the source that could not be read whole, as rsync named them.
    pub unreadable: Vec<Vec<u8>>,
    /// Files that were gone when their turn came.
    pub vanished: u64,
}

impl Transfer {
    /// Runs it. `lock` stays locked for as long as any part of rsync lives, also when this process is killed.
    ///
    /// # Errors
    /// When anything but single files of the source stood in the way.
    pub fn run(
        &self,
        dir: &DataDir,
        machine: &Machine,
        lock: &File,
        mut watch: impl FnMut(Option<Progress>) -> Wish,
    ) -> Result<Transferred, AgentError> {
        let lock = lock
            .try_clone()
            .map_err(|error| AgentError::io("share the lock", error))?;
        let mut child = process::tied("rsync")
            .args(&self.arguments)
            .current_dir(dir.root())
            .env("LC_ALL", "C")
            .env_remove("RSYNC_RSH")
            // A group of its own: its ssh is stopped with it.
            .process_group(0)
            .stdin(Stdio::from(lock))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| cannot_start("rsync", error))?;
        process::limit_memory(&child);
        let words = listen(&mut child);
        let mut heard = Heard::default();
        let end = self.follow(&mut child, &words, &mut heard, &mut watch);
        if let End::Itself = end {
            let status = child.wait().map_err(|error| AgentError::io("wait for rsync", error))?;
            return heard.judge(status.code(), machine, self.writes);
        }
        process::stop(&mut child);
        // Its parts put away what they have begun; until the last is gone, something may still write.
        drain(&words, Instant::now() + STREAMS_END_WITHIN);
        process::end_group(&child);
        Err(match end {
            End::Stopped(reason) => AgentError::Interrupted(reason.into()),
            End::Itself | End::StoodStill => AgentError::Unreachable {
                host: machine.shown(),
                detail: format!("nothing moved for {} s", self.stands_still_for.as_secs()),
            },
        })
    }

    fn follow(
        &self,
        child: &mut Child,
        words: &Receiver<Word>,
        heard: &mut Heard,
        watch: &mut impl FnMut(Option<Progress>) -> Wish,
    ) -> End {
        let mut looked = Instant::now();
        let mut progress = None;
        let mut ended: Option<Instant> = None;
        let (mut motion, mut looked_at_motion) = ((0, looked), looked);
        loop {
            match words.recv_timeout(GLANCE) {
                Ok(Word::Out(line)) => {
                    if let Line::Progress(now) = heard.done.tally.read(&line) {
                        progress = Some(now);
                    }
                }
                Ok(Word::Err(line)) => {
                    heard.complain(&line);
                    if heard.complaints > COMPLAINTS_AT_MOST {
                        return End::Stopped(
                            "the GPU complains without end, over 200,000 files that cannot be read: exclude them, or make them readable",
                        );
                    }
                }
                Ok(Word::OutEnded) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return End::Itself,
            }
            if looked.elapsed() < GLANCE {
                continue;
            }
            looked = Instant::now();
            if let Wish::Stop(reason) = watch(progress.take()) {
                return End::Stopped(reason);
            }
            if ended.is_none() && matches!(child.try_wait(), Ok(Some(_))) {
                ended = Some(looked);
            }
            if ended.is_some_and(|at| at.elapsed() >= STREAMS_END_WITHIN) {
                process::end_group(child);
                return End::Itself;
            }
            if looked_at_motion.elapsed() >= LOOK_AT_MOTION {
                looked_at_motion = looked;
                let moved = process::moved_by_group(child);
                if moved > motion.0 + HARDLY_ANYTHING {
                    motion = (moved, looked);
                } else if motion.1.elapsed() >= self.stands_still_for {
                    return End::StoodStill;
                }
            }
        }
    }
}

/// How a run ended.
enum End {
    Itself,
    Stopped(&'static str),
    StoodStill,
}

/// What the end of a small transfer from a module means.
#[must_use]
pub fn judge_module(code: Option<i32>, words: &str, machine: &Machine) -> AgentError {
    let mut heard = Heard::default();
    for line in words.lines() {
        heard.complain(line);
    }
    match heard.judge(code, machine, Writes::Here) {
        Err(error) => error,
        Ok(_) => AgentError::Rsync(last_words(words)),
    }
}

enum Word {
    Out(String),
    Err(String),
    /// Every part of rsync closed its standard output; its ssh may still hold the other stream.
    OutEnded,
}

fn listen(child: &mut Child) -> Receiver<Word> {
    // Bounded, so that a machine that talks faster than we listen waits for us.
    let (sender, receiver) = sync_channel(1 << 12);
    if let Some(pipe) = child.stdout.take() {
        forward(pipe, sender.clone(), Word::Out, Some(Word::OutEnded));
    }
    if let Some(pipe) = child.stderr.take() {
        forward(pipe, sender, Word::Err, None);
    }
    receiver
}

fn forward(
    mut pipe: impl Read + Send + 'static,
    sender: SyncSender<Word>,
    make: fn(String) -> Word,
    end: Option<Word>,
) {
    thread::spawn(move || {
        let mut line = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(read) = pipe.read(&mut chunk)
            && read > 0
        {
            for byte in chunk.iter().take(read) {
                // Progress ends with a carriage return only; a line that never ends is cut.
                let ends = matches!(byte, b'\r' | b'\n');
                if !ends && line.len() < 1 << 14 {
                    line.push(*byte);
                } else if ends && !line.is_empty() {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    line.clear();
                    if sender.send(make(text)).is_err() {
                        return;
                    }
                }
            }
        }
        if !line.is_empty() {
            let _ = sender.send(make(String::from_utf8_lossy(&line).into_owned()));
        }
        if let Some(end) = end {
            let _ = sender.send(end);
        }
    });
}

fn drain(words: &Receiver<Word>, until: Instant) {
    while Instant::now() < until {
        match words.recv_timeout(GLANCE) {
            Ok(Word::Out(_) | Word::Err(_)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Word::OutEnded) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[derive(Default)]
struct Heard {
    done: Transferred,
    complaints: u64,
    full: bool,
    unforgiven: Option<String>,
    words: String,
}

impl Heard {
    fn complain(&mut self, line: &str) {
        self.complaints += 1;
        if self.words.len() < 1 << 16 {
            self.words.push_str(line);
            self.words.push('\n');
        }
        match read_complaint(line) {
            Complaint::Vanished => self.done.vanished += 1,
            Complaint::Unreadable(name) => self.done.unreadable.push(name),
            Complaint::DiskFull => self.full = true,
            Complaint::Noise => {}
            Complaint::Other => {
                self.unforgiven.get_or_insert_with(|| line.to_owned());
            }
        }
    }

    // Exit codes. Source: rsync(1) 3.2.7, EXIT VALUES; 127 is the remote shell's, 255 ssh's.
    fn judge(self, code: Option<i32>, machine: &Machine, writes: Writes) -> Result<Transferred, AgentError> {
        match code {
            Some(0 | 24) => Ok(self.done),
            Some(_) if self.full => Err(match writes {
                Writes::Here => AgentError::DiskFull,
                Writes::There => AgentError::TargetFull { host: machine.shown() },
            }),
            Some(23) => match self.unforgiven {
                None if !self.done.unreadable.is_empty() || self.done.vanished > 0 => Ok(self.done),
                Some(line) => Err(AgentError::Rsync(last_words(&line))),
                None => Err(AgentError::Rsync(last_words(&self.words))),
            },
            Some(code) if code == i32::from(process::NOT_INSTALLED) => {
                Err(cannot_start("rsync", io::ErrorKind::NotFound.into()))
            }
            Some(127) => Err(machine.no_rsync()),
            Some(12 | 255)
                if self.words.contains("rsync: command not found") || self.words.contains("rsync: not found") =>
            {
                Err(machine.no_rsync())
            }
            Some(255) => Err(machine.failure(&self.words)),
            // No greeting came: ssh said why. A daemon that did greet says `@ERROR`.
            Some(5) if !self.words.contains("@ERROR") => Err(machine.failure(&self.words)),
            Some(10 | 12 | 30 | 35) => Err(AgentError::Unreachable {
                host: machine.shown(),
                detail: last_words(&self.words),
            }),
            None | Some(20) => Err(AgentError::Interrupted("rsync was stopped".into())),
            // Its parts complain in any order, so its last words may be about a pipe.
            Some(22) => Err(AgentError::Rsync(
                "out of memory over the list of files: exclude some, or take a larger machine for the standby".into(),
            )),
            Some(code) => Err(AgentError::Rsync(format!(
                "exit code {code}: {}",
                last_words(&self.words)
            ))),
        }
    }
}
