//! Pulls from the standby: rsync into a directory, or the tar stream that the standby sends.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::timeout;
use warmspare_domain::units::Bytes;

use super::super::words::text;
use super::place::Place;
use crate::output::READER_LEFT;
use crate::stop::{SAME_SIGNAL_WITHIN, asked_to_stop};

/// How much of what a program says is kept, the newest.
const WORDS: usize = 64 << 10;

/// How long a program that was told to stop may take: rsync moves the beginning of a file to its place.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// Why a transfer did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// By whoever runs it, or by whoever no longer reads what it writes.
    #[error("the download was stopped")]
    Stopped {
        /// As a shell reports a process that such a signal ended.
        exit_code: u8,
    },
    /// There is no room left where it goes.
    #[error("the disk is full")]
    DiskFull,
    /// Nothing came for as long as ssh or rsync waits.
    #[error("the standby does not answer")]
    Silent,
    /// The standby says why it sends nothing.
    #[error("{0}")]
    Refused(String),
    /// Something on this machine.
    #[error("{0:#}")]
    Local(#[from] anyhow::Error),
    /// Anything else, in the words of rsync, ssh or tar.
    #[error("the download broke off ({0})")]
    Other(String),
}

/// What becomes of files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// They become what is downloaded.
    Replaced,
    /// They become what is downloaded if that is newer: more of an unfinished first pass.
    Updated,
    /// They stay as they are.
    Kept,
}

/// The other end. Its programs run where the keys are, so that no option names a path, which rsync would split at spaces.
#[derive(Clone, Copy)]
pub(super) struct Standby<'a> {
    pub(super) keys: &'a Path,
    pub(super) terms: &'a Value,
}

impl Standby<'_> {
    /// Pulls everything into a directory.
    pub(super) async fn pull(&self, place: &Place, existing: Existing, total: Bytes) -> Result<(), Broken> {
        let stop = asked_to_stop()?;
        let ssh = format!("ssh {}", self.ssh_options()?.join(" "));
        let user = text(self.terms, "user");
        let source = format!("{user}@{}:recovery-point/", text(self.terms, "address"));
        let mut rsync = self.command("rsync");
        rsync.args(["-aHXS", "--info=progress2", "--no-inc-recursive"]);
        // A dead link is ssh's to notice, within seconds; this is for a standby whose disk hangs.
        rsync.arg("--timeout=300");
        match existing {
            Existing::Kept => rsync.arg("--ignore-existing"),
            Existing::Updated => rsync.arg("--update"),
            Existing::Replaced => &mut rsync,
        };
        // Under its own name the beginning of a file would be kept like a whole one.
        rsync.arg("--partial-dir").arg(place.beginnings());
        rsync.args(["-e", &ssh, "--", &source]).arg(place.path());
        let mut child = rsync.stdout(Stdio::piped()).spawn().context("cannot start rsync")?;
        let id = child.id();
        let words = tokio::spawn(last_words(child.stderr.take()));
        let bar = ProgressBar::new(total.0);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}  {binary_bytes_per_sec}  {eta} left")
        {
            bar.set_style(style);
        }
        tokio::spawn(show_progress(child.stdout.take(), bar.clone()));
        let work = async {
            let status = child.wait().await.context("rsync was lost")?;
            judge(status, &words.await.unwrap_or_default())
        };
        let outcome = unless_stopped(id, Box::pin(stop), work).await;
        bar.finish_and_clear();
        outcome
    }

    /// Has the standby send a tar stream. Nothing is made here before it does.
    pub(super) async fn stream(
        &self,
        path: Option<&str>,
        open: impl FnOnce() -> anyhow::Result<Sink> + Send + 'static,
    ) -> Result<(), Broken> {
        let stop = asked_to_stop()?;
        let order = path.map_or_else(|| "warmspare-tar".to_owned(), |path| format!("warmspare-tar {path}"));
        let (ours, theirs) = io::pipe().context("cannot make a pipe")?;
        let mut ssh = self.command("ssh");
        ssh.args(self.ssh_options()?)
            .args([
                "-l",
                text(self.terms, "user"),
                "--",
                text(self.terms, "address"),
                &order,
            ])
            .stdout(theirs);
        let mut child = ssh.spawn().context("cannot start ssh")?;
        // It holds the pipe's end that the other side waits on.
        drop(ssh);
        let id = child.id();
        let words = tokio::spawn(last_words(child.stderr.take()));
        // A thread of its own: whoever reads our output may take it as slowly as they like.
        let (tell, told) = oneshot::channel();
        thread::spawn(move || tell.send(pass_on(ours, open)));
        let work = async {
            let status = child.wait().await.context("ssh was lost")?;
            let words = words.await.unwrap_or_default();
            let passed = told.await.context("the stream was lost")?;
            judge_stream(status, &words, passed)
        };
        unless_stopped(id, Box::pin(stop), work).await
    }

    /// Options without a space in any, because rsync splits them there.
    fn ssh_options(&self) -> anyhow::Result<Vec<String>> {
        let known_hosts = format!("standby {}\n", text(self.terms, "host_key"));
        std::fs::write(self.keys.join("known_hosts"), known_hosts)?;
        let fixed = "-F none -i key -o UserKnownHostsFile=known_hosts -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes \
                     -o HostKeyAlias=standby -o ConnectTimeout=20 -o ServerAliveInterval=5 -o ServerAliveCountMax=3";
        let mut options: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
        options.extend(["-p".into(), self.terms["port"].to_string()]);
        Ok(options)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.keys)
            // What it says is read below. This leaves the encoding of names alone, as LC_ALL would not.
            .env("LANGUAGE", "C")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// Where a tar stream goes.
pub(super) enum Sink {
    /// Standard output.
    Output(io::Stdout),
    /// A tar that unpacks it.
    Tar(Unpacking),
}

/// A tar at work.
pub(super) struct Unpacking {
    tar: std::process::Child,
    words: JoinHandle<String>,
}

impl Unpacking {
    /// Starts one that unpacks into this directory.
    pub(super) fn start(directory: &Path) -> anyhow::Result<Self> {
        let mut tar = std::process::Command::new("tar");
        tar.args(["--extract", "--file=-", "--directory"]).arg(directory);
        let tar = tar.env("LANGUAGE", "C").stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut tar = tar.spawn().context("cannot start tar")?;
        let (id, mut stderr) = (tar.id(), tar.stderr.take());
        let words = thread::spawn(move || {
            let mut words = Tail::default();
            let mut chunk = [0; 4096];
            while let Some(Ok(read @ 1..)) = stderr.as_mut().map(|stderr| stderr.read(&mut chunk)) {
                words.push(&chunk[..read]);
                // It would go on to the end of the stream and unpack what happens to fit.
                if is_full(&words.text()) {
                    signal_to(Some(id), Signal::TERM);
                }
            }
            words.text()
        });
        Ok(Self { tar, words })
    }

    fn finish(mut self) -> Result<(), Broken> {
        drop(self.tar.stdin.take());
        // They end when it does; until it is waited for its number is its own.
        let words = self.words.join().unwrap_or_default();
        judge(self.tar.wait().context("tar was lost")?, &words)
    }
}

/// How much of a stream there was.
#[derive(Debug, PartialEq, Eq)]
enum Passed {
    Nothing,
    All,
}

fn pass_on(mut from: io::PipeReader, open: impl FnOnce() -> anyhow::Result<Sink>) -> Result<Passed, Broken> {
    let mut first = [0; 4096];
    let read = from.read(&mut first).context("cannot read the stream")?;
    if read == 0 {
        return Ok(Passed::Nothing);
    }
    let mut all = Read::chain(&first[..read], from);
    match open()? {
        Sink::Output(mut output) => match io::copy(&mut all, &mut output).and_then(|_| output.flush()) {
            Ok(()) => Ok(Passed::All),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Broken::Stopped { exit_code: READER_LEFT }),
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                Err(Broken::DiskFull)
            }
            Err(error) => Err(Broken::Other(format!("cannot write to standard output: {error}"))),
        },
        Sink::Tar(mut unpacking) => {
            if let Some(input) = &mut unpacking.tar.stdin {
                // When it takes no more it says why.
                let _ = io::copy(&mut all, input);
            }
            // ssh ends as soon as nobody takes what it brings.
            drop(all);
            unpacking.finish().map(|()| Passed::All)
        }
    }
}

/// The first cause of two ends of a stream that broke: what this end cannot take breaks the other, and the other way round.
fn judge_stream(ssh: ExitStatus, words: &str, passed: Result<Passed, Broken>) -> Result<(), Broken> {
    const SSH_ITSELF: Option<i32> = Some(255);
    match passed {
        Ok(Passed::Nothing) if ssh.code() != SSH_ITSELF && !words.trim().is_empty() => {
            Err(Broken::Refused(short(words)))
        }
        Ok(Passed::Nothing | Passed::All) => judge(ssh, words),
        Err(Broken::Other(_)) if ssh.code() == SSH_ITSELF => judge(ssh, words),
        Err(broken) => Err(broken),
    }
}

fn judge(status: ExitStatus, words: &str) -> Result<(), Broken> {
    /// Source: rsync(1), EXIT VALUES: a timeout in data, or in waiting for a daemon.
    const RSYNC_TIMEOUTS: [i32; 2] = [30, 35];
    if status.success() {
        eprint!("{words}");
        return Ok(());
    }
    let timed_out = status.code().is_some_and(|code| RSYNC_TIMEOUTS.contains(&code));
    Err(if is_full(words) {
        Broken::DiskFull
    } else if timed_out || words.contains("not responding") || words.contains("timed out") {
        Broken::Silent
    } else {
        Broken::Other(format!("{status}; {}", short(words)))
    })
}

fn is_full(words: &str) -> bool {
    // What tar says when the last bytes fit in part.
    const CUT_SHORT: &str = "Wrote only";
    ["No space left on device", "Disk quota exceeded", CUT_SHORT]
        .iter()
        .any(|sign| words.contains(sign))
}

/// The last lines, in one.
fn short(words: &str) -> String {
    let lines: Vec<_> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// The end of what a program says.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, more: &[u8]) {
        self.0.extend_from_slice(more);
        let over = self.0.len().saturating_sub(WORDS);
        self.0.drain(..over);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

async fn last_words(output: Option<impl AsyncRead + Unpin>) -> String {
    let mut words = Tail::default();
    let Some(mut output) = output else {
        return String::new();
    };
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = output.read(&mut chunk).await {
        words.push(&chunk[..read]);
    }
    words.text()
}

async fn show_progress(output: Option<impl AsyncRead + Unpin>, bar: ProgressBar) {
    let Some(mut output) = output else { return };
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = output.read(&mut chunk).await {
        if let Some(done) = bytes_done(&String::from_utf8_lossy(&chunk[..read])) {
            bar.set_position(done);
        }
    }
}

/// rsync writes `  1,234,567  12%  1.2MB/s  0:00:03` over and over on one line.
fn bytes_done(output: &str) -> Option<u64> {
    let last = output.rsplit(['\r', '\n']).find(|line| line.contains('%'))?;
    last.split_whitespace().next()?.replace([',', '.'], "").parse().ok()
}

async fn unless_stopped(
    child: Option<u32>,
    mut stop: Pin<Box<impl Future<Output = u8>>>,
    work: impl Future<Output = Result<(), Broken>>,
) -> Result<(), Broken> {
    let mut work = std::pin::pin!(work);
    let exit_code = tokio::select! {
        biased;
        exit_code = &mut stop => exit_code,
        outcome = &mut work => match outcome {
            Ok(()) => return Ok(()),
            Err(broken) => return Err(match timeout(SAME_SIGNAL_WITHIN, stop).await {
                Ok(exit_code) => Broken::Stopped { exit_code },
                Err(_) => broken,
            }),
        },
    };
    signal_to(child, Signal::INT);
    let _ = timeout(STOPS_WITHIN, work).await;
    Err(Broken::Stopped { exit_code })
}

fn signal_to(child: Option<u32>, signal: Signal) {
    let child = child.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // It may have ended by itself.
    let _ = child.map(|child| kill_process(child, signal));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::{Broken, bytes_done, judge};

    #[test]
    fn rsyncs_progress_line_is_read() {
        assert_eq!(
            bytes_done("\r      1,234,567  12%    1.18MB/s    0:00:03"),
            Some(1_234_567)
        );
        assert_eq!(bytes_done("sending incremental file list\n"), None);
    }

    #[test]
    fn what_rsync_and_ssh_say_becomes_an_outcome() {
        let judged = |code: i32, words: &str| judge(ExitStatus::from_raw(code << 8), words).unwrap_err();
        let full = "rsync: [receiver] write failed on \"/x/a\": No space left on device (28)\n\
                    rsync error: error in file IO (code 11) at receiver.c(380) [receiver=3.2.7]\n";
        assert!(matches!(judged(11, full), Broken::DiskFull));
        let silent = "Timeout, server 10.0.0.1 not responding.\r\n\
                      rsync: connection unexpectedly closed (96 bytes received so far) [receiver]\n";
        assert!(matches!(judged(12, silent), Broken::Silent));
        assert!(matches!(
            judged(30, "rsync error: timeout in data send/receive"),
            Broken::Silent
        ));
        let other = judged(23, "rsync: chown failed\nrsync error: some files\n").to_string();
        assert!(
            other.contains("exit status: 23; rsync: chown failed; rsync error"),
            "{other}"
        );
    }
}
