//! Starting programs: with a deadline, tied to our life, or detached from it.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::wish::{GLANCE, Wish};

/// This program, also after a newer one was put in its place.
pub const SELF: &str = "/proc/self/exe";

/// The hidden verb that ties a program's life to its parent's.
pub const TIED: &str = "tied";

/// The exit code of a tied program that is not installed. Neither rsync nor ssh nor a shell ends with it.
pub const NOT_INSTALLED: u8 = 119;

/// The exit code of a tied program that cannot be started for another reason.
pub const NOT_STARTED: u8 = 118;

/// How long a fixed command may take: it answers at once or the machine is in trouble.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(40);

/// How long after a program its output may end.
const OUTPUT_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// What a program that ended left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Its standard output, if it succeeded at `doing` something on our disk.
    ///
    /// # Errors
    /// What its last words say; [`AgentError::DiskFull`] when they say that.
    pub fn success(self, doing: &str) -> Result<Vec<u8>, AgentError> {
        match self.code {
            Some(0) => Ok(self.stdout),
            _ if self.stderr.contains("No space left") => Err(AgentError::DiskFull),
            _ => Err(AgentError::io(doing, io::Error::other(last_words(&self.stderr)))),
        }
    }
}

/// Runs a program to its end, or kills it at the deadline.
///
/// # Errors
/// When it cannot be started, or does not end in time.
pub fn run(command: &mut Command, input: &[u8], deadline: Duration) -> Result<Finished, AgentError> {
    run_while(command, input, deadline, &|| Wish::GoOn)
}

/// As [`run`], for as long as it is wanted.
///
/// # Errors
/// As [`run`]; also when it is no longer wanted.
pub fn run_while(
    command: &mut Command,
    input: &[u8],
    deadline: Duration,
    wish: &dyn Fn() -> Wish,
) -> Result<Finished, AgentError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(&name, error))?;
    let stdin = child.stdin.take();
    let input = input.to_vec();
    let writer = thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&input)));
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let until = Instant::now() + deadline;
    let (mut status, mut wanted) = (None, Wish::GoOn);
    while status.is_none() && wanted == Wish::GoOn && Instant::now() < until {
        status = wait_until(&mut child, until.min(Instant::now() + GLANCE))?;
        wanted = wish();
    }
    let Some(status) = status else {
        let _ = child.kill();
        let _ = child.wait();
        // Its pipes are not waited for: over a kept connection the master holds them until the other machine's end has ended, too.
        return Err(AgentError::Interrupted(match wanted {
            Wish::Stop(reason) => reason.to_owned(),
            Wish::GoOn => format!("{name} did not end within {} s", deadline.as_secs()),
        }));
    };
    drop(writer);
    // Over a kept connection they may stay open although ssh was killed.
    let open = |_| AgentError::Interrupted(format!("{name} ended and left its output open"));
    let stdout = stdout.recv_timeout(OUTPUT_ENDS_WITHIN).map_err(open)?;
    let stderr = stderr.recv_timeout(OUTPUT_ENDS_WITHIN).map_err(open)?;
    Ok(Finished {
        code: status.code(),
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// Leaves a quarter of the machine's memory to everybody else: a hostile machine may send lists without end, and what it fills must not be the standby.
pub fn limit_memory(child: &Child) {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kibibytes: u64 = text
            .strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        Some(kibibytes << 10)
    });
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(total), Some(pid)) = (total, pid) {
        let current = rustix::process::getrlimit(Resource::As);
        let most = current.maximum.unwrap_or(u64::MAX).min(total / 4 * 3);
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        // Refused only for a child that has ended already.
        let _ = rustix::process::prlimit(Some(pid), Resource::As, limit);
    }
}

/// Waits for a child, but not for ever.
///
/// # Errors
/// When the system cannot tell.
pub fn wait_until(child: &mut Child, deadline: Instant) -> Result<Option<std::process::ExitStatus>, AgentError> {
    // It tells of the end at once; where there is none (before Linux 5.3) we look again and again.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let end = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut pause = Duration::from_micros(500);
    loop {
        let status = child
            .try_wait()
            .map_err(|error| AgentError::io("wait for a program", error))?;
        let left = deadline.saturating_duration_since(Instant::now());
        if status.is_some() || left.is_zero() {
            return Ok(status);
        }
        match &end {
            Some(end) => {
                wait_for_any(&mut [PollFd::new(end, PollFlags::IN)], deadline);
            }
            None => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // A hostile machine may send without end.
            let _ = pipe.take(1 << 20).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// Waits until one of them is ready, and at most until then. Answers whether one is.
pub fn wait_for_any(sources: &mut [PollFd<'_>], until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(sources, Timespec::try_from(left).ok().as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            // The system lacks memory for a moment.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
        if left.is_zero() {
            return false;
        }
    }
}

/// The last line that says something, fit for a message.
#[must_use]
pub fn last_words(words: &str) -> String {
    let line = words.lines().rev().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or("no reason given").trim();
    line.chars().take(300).flat_map(char::escape_debug).collect()
}

/// The outcome when a program cannot be started.
pub fn cannot_start(name: &str, error: io::Error) -> AgentError {
    if error.kind() != io::ErrorKind::NotFound {
        return AgentError::io(format!("start {name}"), error);
    }
    let (program, remedy) = match name {
        "ssh" | "ssh-keygen" => ("ssh", "apt-get install openssh-client"),
        "btrfs" => ("btrfs", "apt-get install btrfs-progs"),
        _ => ("rsync", "apt-get install rsync"),
    };
    AgentError::ProgramMissing {
        program,
        place: "the standby".into(),
        remedy,
    }
}

/// A command whose program dies with this process, so that a killed worker leaves no rsync that goes on writing.
pub fn tied(program: &str) -> Command {
    let mut command = Command::new(SELF);
    command.arg(TIED).arg(std::process::id().to_string()).arg(program);
    command
}

/// Becomes the program, after asking the kernel to end it when `parent` ends. Returns only when that fails.
pub fn become_tied(parent: u32, program: &OsStr, arguments: &[std::ffi::OsString]) -> io::Error {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    let alive = rustix::process::getppid().map(Pid::as_raw_nonzero);
    if alive.map(|pid| pid.get().unsigned_abs()) != Some(parent) {
        return io::Error::other("the worker is gone");
    }
    Command::new(program).args(arguments).exec()
}

/// Asks a program to end, and makes it.
pub fn stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if !matches!(wait_until(child, Instant::now() + Duration::from_secs(3)), Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Ends what is left of the process group that a program led, such as its ssh.
pub fn end_group(leader: &Child) {
    if let Some(group) = i32::try_from(leader.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// What the process group that a program led has read and written so far, in bytes. Source: proc_pid_io(5).
#[must_use]
pub fn moved_by_group(leader: &Child) -> u64 {
    let group = leader.id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = processes.map(|entry| entry.path()).filter(|process| {
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        // `pid (name) state parent group ...`; the name may hold anything.
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
        rest.is_some_and(|rest| rest.split(' ').nth(2) == Some(&group))
    });
    let count = |process: std::path::PathBuf| -> u64 {
        let io = std::fs::read_to_string(process.join("io")).unwrap_or_default();
        let both = io
            .lines()
            .take(2)
            .filter_map(|line| line.split(": ").nth(1)?.parse::<u64>().ok());
        both.sum()
    };
    ours.map(count).sum()
}

/// Starts one of our hidden verbs in a session of its own, so that it outlives the caller's connection.
///
/// # Errors
/// When the log cannot be opened or the process not started.
pub fn detach(dir: &DataDir, verb: &str) -> Result<Child, AgentError> {
    let path = dir.logs().join(format!("{verb}.log"));
    // A log that nobody reads must not fill the data disk.
    let keep = std::fs::metadata(&path).is_ok_and(|log| log.len() < 1 << 20);
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .append(keep)
        .truncate(!keep)
        .open(&path)
        .map_err(|error| AgentError::io(format!("open {}", path.display()), error))?;
    let twin = log
        .try_clone()
        .map_err(|error| AgentError::io("share the log", error))?;
    Command::new(SELF)
        .arg("--data")
        .arg(dir.root())
        .arg(verb)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(twin)
        .spawn()
        .map_err(|error| AgentError::io("start a worker", error))
}

/// Notes something in the worker's log. On a full disk the note is lost and the work goes on.
pub fn log(words: &str) {
    let _ = writeln!(io::stderr().lock(), "{} {words}", crate::clock::now());
}

/// Leaves the caller's session: its end, or its terminal's, no longer reaches this process.
pub fn leave_session() {
    // It fails only for a process that leads its group already, which then has its own session's fate anyway.
    let _ = rustix::process::setsid();
}
