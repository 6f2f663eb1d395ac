//! Running rsync: its fixed options, its life, and what its end means.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use warmspare_wire::agent::Progress;

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::process::{self, cannot_start, last_words};
use crate::rsync_output::{Complaint, Line, Tally, read_complaint};
use crate::ssh::Machine;
use crate::tree::PARTIAL;
use crate::wish::{GLANCE, Wish};

/// rsync's own limit of 300 s does not see a sender that was stopped: the keep-alives of our side reset it.
const PULL_STANDS_STILL: Duration = Duration::from_secs(330);

/// Where content is compared, one side reads a file while the other has nothing to say.
const PUSH_STANDS_STILL: Duration = Duration::from_secs(3600);

/// Keep-alives and progress move less than this in all that time.
const HARDLY_ANYTHING: u64 = 64 << 10;

/// How often is looked whether anything moves.
const LOOK_AT_MOTION: Duration = Duration::from_secs(5);

/// A process that ended may leave its streams open: over a kept connection they end with the other machine's end.
const STREAMS_END_WITHIN: Duration = Duration::from_secs(5);

/// Every one of them may name a file that is remembered.
const COMPLAINTS_AT_MOST: u64 = 200_000;

// Everything a copy must keep: recursion, links, modes, times to the nanosecond (else a file rewritten within one second at the
// same size would be missed), owners by number, hard links, holes, and extended attributes that belong to users. No devices, no
// sockets: a GPU must not be able to make them here. -s: names reach the other side without its shell.
const FAITHFUL: [&str; 12] = [
    "-rlptgoHXS",
    "-s",
    "--no-devices",
    "--no-specials",
    "--numeric-ids",
    "--modify-window=-1",
    "--no-human-readable",
    "--stats",
    "--info=progress2",
    "--filter=+x user.*",
    "--filter=-x *",
    "--exclude=/.warmspare/",
];

/// One run of rsync, described.
#[derive(Debug, Clone)]
pub struct Transfer {
    arguments: Vec<OsString>,
    writes: Writes,
    /// The other machine is taken for dead when nothing moves for so long.
    stands_still_for: Duration,
}

/// Whose disk a transfer fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    Here,
    There,
}

/// What happens to files of a target that are there and differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placing {
    /// They stay.
    WhereNothingIs,
    /// They are moved to this directory.
    InPlaceOf {
        /// Below the target path.
        aside: String,
    },
}

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
    /// Pulls the tree at `source_path` on the machine into a local directory, which then equals it.
    #[must_use]
    pub fn pull(machine: &Machine, source_path: &str, filters: &[String], into: &Path) -> Self {
        Self::pull_from(machine.rsync_shell(), remote(machine, source_path), filters, into)
    }

    /// As [`Self::pull`], from a module of an rsync daemon at the far end of the connection.
    #[must_use]
    pub fn pull_module(machine: &Machine, place: &str, filters: &[String], into: &Path) -> Self {
        let from = format!("{}::{place}/", machine.rsync_host());
        // What a daemon says first is no part of the transfer.
        Self::pull_from(machine.module_shell(), from.into(), filters, into).with("--no-motd")
    }

    fn pull_from(shell: String, from: OsString, filters: &[String], into: &Path) -> Self {
        let mut transfer = Self::from_a_gpu(shell, filters);
        transfer.push("--delete");
        transfer.push("--delete-excluded");
        // The beginnings of broken-off files are excluded too, and needed.
        transfer.push(format!("--filter=P {PARTIAL}/"));
        transfer.ends(from, with_slash(into))
    }

    /// As [`Self::pull`], of a part of the tree; nothing is deleted.
    #[must_use]
    pub fn pull_some(machine: &Machine, source_path: &str, filters: &[String], into: &Path) -> Self {
        Self::from_a_gpu(machine.rsync_shell(), filters).ends(remote(machine, source_path), with_slash(into))
    }

    /// Counts the tree, and names what is missing here of the directories and of the files above `small` bytes, with kind, size and
    /// time; changes nothing.
    #[must_use]
    pub fn list_large(machine: &Machine, source_path: &str, filters: &[String], small: u64, into: &Path) -> Self {
        let mut transfer = Self::from_a_gpu(machine.rsync_shell(), filters);
        transfer.push("--dry-run");
        transfer.push(format!("--min-size={}", small + 1));
        // The last one counts. What follows the first word is taken for the name.
        transfer.push("--out-format=%i %i %l %M %n");
        transfer.ends(remote(machine, source_path), with_slash(into))
    }

    /// Pulls the listed paths, deletions included, into a local directory that equals the tree in all others. `list` is a file of
    /// paths that end in zero bytes; a directory in it means its attributes.
    #[must_use]
    pub fn pull_listed(machine: &Machine, source_path: &str, filters: &[String], list: &Path, into: &Path) -> Self {
        let mut transfer = Self::from_a_gpu(machine.rsync_shell(), filters);
        transfer.push("--no-recursive");
        transfer.push("--dirs");
        transfer.push("--from0");
        transfer.push(files_from(list));
        transfer.push("--delete-missing-args");
        // A directory that became something else goes with everything in it.
        transfer.push("--force");
        transfer.ends(remote(machine, source_path), with_slash(into))
    }

    /// Pulls the listed paths with all that is in them, as far as they are there; nothing is deleted.
    #[must_use]
    pub fn pull_first(machine: &Machine, source_path: &str, filters: &[String], list: &Path, into: &Path) -> Self {
        Self::pull_some(machine, source_path, filters, into)
            .with(files_from(list))
            .with("--from0")
            .with("--ignore-missing-args")
    }

    fn from_a_gpu(shell: String, filters: &[String]) -> Self {
        let mut transfer = Self::through(shell);
        transfer.writes = Writes::Here;
        transfer.stands_still_for = PULL_STANDS_STILL;
        transfer.push("--out-format=%i");
        // A GPU that hangs must not hold the single flight for ever; checksumming never takes place in a pass.
        transfer.push("--timeout=300");
        // A file that cannot be read is put back from the newest recovery point; it must not keep deleted files alive.
        transfer.push("--ignore-errors");
        for filter in filters {
            transfer.push(filter);
        }
        transfer
    }

    /// Pushes a local tree to a directory on the machine. Nothing there is deleted.
    #[must_use]
    pub fn push_to(machine: &Machine, from: &Path, target_path: &str) -> Self {
        let mut transfer = Self::over(machine);
        transfer.push("--out-format=%i");
        transfer.push("--whole-file");
        transfer.push(format!("--partial-dir={PARTIAL}"));
        transfer.ends(with_slash(from), remote(machine, target_path))
    }

    /// As [`Self::push_to`], of the listed paths with all that is in them. `list` is a file of paths that end in zero bytes.
    #[must_use]
    pub fn push_listed(machine: &Machine, from: &Path, target_path: &str, list: &Path) -> Self {
        Self::push_to(machine, from, target_path)
            .with(files_from(list))
            .with("--from0")
            .with("--ignore-missing-args")
    }

    /// As [`Self::push_listed`], onto a machine in use: what is there is kept or moved aside, and no half a file is seen. `room` and
    /// the place aside are directories below the target path, on its disk.
    #[must_use]
    pub fn put_back(
        machine: &Machine,
        from: &Path,
        target_path: &str,
        list: &Path,
        room: &str,
        placing: &Placing,
    ) -> Self {
        let transfer = Self::push_listed(machine, from, target_path, list)
            // What holds the path may have changed for a reason.
            .with("--no-implied-dirs")
            .with(format!("--temp-dir={room}"));
        match placing {
            Placing::WhereNothingIs => transfer.with("--ignore-existing"),
            Placing::InPlaceOf { aside } => transfer.with("--backup").with(format!("--backup-dir={aside}")),
        }
    }

    /// As [`Self::compare`], of the listed paths with all that is in them.
    #[must_use]
    pub fn compare_below(machine: &Machine, from: &Path, target_path: &str, list: &Path) -> Self {
        Self::compare(machine, from, target_path)
            .with(files_from(list))
            .with("--from0")
            .with("--no-implied-dirs")
    }

    /// As [`Self::compare`], of those entries only whose names, each closed by a zero byte, are in the file `names`.
    #[must_use]
    pub fn compare_listed(machine: &Machine, from: &Path, target_path: &str, names: &Path) -> Self {
        let mut transfer = Self::comparing(machine);
        transfer.push(files_from(names));
        transfer.push("--from0");
        // Directories stand for themselves in the list; what is in them is listed too.
        transfer.push("--no-r");
        transfer.ends(with_slash(from), remote(machine, target_path))
    }

    /// Reads both trees whole and lists what differs; changes nothing. Times of directories are left out: whoever else lives on
    /// the machine changes them.
    #[must_use]
    pub fn compare(machine: &Machine, from: &Path, target_path: &str) -> Self {
        Self::comparing(machine).ends(with_slash(from), remote(machine, target_path))
    }

    /// As [`Self::compare`], of the root directory alone.
    #[must_use]
    pub fn compare_root(machine: &Machine, from: &Path, target_path: &str) -> Self {
        let mut transfer = Self::comparing(machine);
        transfer.push("--exclude=/*");
        transfer.ends(with_slash(from), remote(machine, target_path))
    }

    fn comparing(machine: &Machine) -> Self {
        let mut transfer = Self::over(machine);
        transfer.push("--out-format=%i %n");
        transfer.push("--dry-run");
        transfer.push("--checksum");
        transfer.push("--omit-dir-times");
        transfer
    }

    /// Names what it changes.
    #[must_use]
    pub fn naming(mut self) -> Self {
        // The last one counts.
        let end = self.arguments.len().saturating_sub(3);
        self.arguments.insert(end, "--out-format=%i %n".into());
        self
    }

    /// Of files without holes. Looking for holes reads all that is there already, which may take longer than the rest.
    #[must_use]
    pub fn dense(mut self) -> Self {
        // The last one counts.
        let end = self.arguments.len().saturating_sub(3);
        self.arguments.insert(end, "--no-sparse".into());
        self
    }

    /// With one more option.
    #[must_use]
    pub fn with(mut self, option: impl Into<OsString>) -> Self {
        self.arguments.insert(0, option.into());
        self
    }

    fn over(machine: &Machine) -> Self {
        Self::through(machine.rsync_shell())
    }

    fn through(shell: String) -> Self {
        let mut arguments: Vec<OsString> = FAITHFUL.map(OsString::from).into();
        arguments.push("-e".into());
        arguments.push(shell.into());
        Self {
            arguments,
            writes: Writes::There,
            stands_still_for: PUSH_STANDS_STILL,
        }
    }

    fn push(&mut self, argument: impl Into<OsString>) {
        self.arguments.push(argument.into());
    }

    fn ends(mut self, from: OsString, to: OsString) -> Self {
        self.arguments.extend(["--".into(), from, to]);
        self
    }

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

fn remote(machine: &Machine, path: &str) -> OsString {
    // Relative paths get a dot so that none can look like a module (`::`).
    let start = if path.starts_with('/') { "" } else { "./" };
    let end = if path.ends_with('/') { "" } else { "/" };
    format!("{}:{start}{path}{end}", machine.rsync_host()).into()
}

fn files_from(list: &Path) -> OsString {
    let mut option = OsString::from("--files-from=");
    option.push(list);
    option
}

fn with_slash(path: &Path) -> OsString {
    let mut text = path.as_os_str().to_owned();
    text.push(OsStr::new("/"));
    text
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
