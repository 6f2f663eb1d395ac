//! The GPU's end of the SSH session: finds the watcher of a tree, or starts it, and passes questions and answers on.

use std::fs;
use std::io::{self, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{Hello, Question};
use super::surroundings::identity;
use super::{SOCKET, WATCH};
use crate::frame::read_frame;
use crate::process::{self, SELF};

/// The hidden verb.
pub const RELAY: &str = "watch-relay";

/// What the relay prints before it passes anything on, so that a talkative shell does not hide it.
pub const GREETING: &[u8] = b"\nwarmspare-watch ";
/// Ends the greeting.
pub const GREETING_END: &[u8] = b"\nwarmspare-watch-end\n";

/// A watcher listens within moments.
const START: Duration = Duration::from_secs(10);

const START_AGAIN: Duration = Duration::from_millis(500);

/// Connects standard input and output with the watcher of a tree, in whose own directory this runs.
///
/// # Errors
/// When there is none and none can be started: the reason is printed first.
pub fn relay(tree: &Path) -> io::Result<()> {
    let stream = match reach(tree) {
        Ok(stream) => stream,
        Err(error) => {
            greet(&format!("failed {error}"))?;
            return Err(error);
        }
    };
    greet("ok")?;
    let (mut to, mut from) = (stream.try_clone()?, stream);
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut to);
        // The standby is gone; so is our reason to be.
        std::process::exit(0);
    });
    io::copy(&mut from, &mut Unbuffered)?;
    Ok(())
}

fn greet(words: &str) -> io::Result<()> {
    let line = words.replace('\n', " ");
    let mut out = Unbuffered;
    out.write_all(&[GREETING, line.as_bytes(), GREETING_END].concat())
}

/// Standard output without Rust's buffer by lines: an answer must not wait for a line break.
struct Unbuffered;

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn reach(tree: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + START;
    let mut started: Option<Instant> = None;
    loop {
        match UnixStream::connect(SOCKET) {
            Ok(stream) => {
                if fits(&stream, tree)? {
                    stream.set_read_timeout(None)?;
                    return Ok(stream);
                }
                let leave = Question {
                    leave: true,
                    ..Question::default()
                };
                let _ = (&stream).write_all(&[serde_json::to_vec(&leave)?, b"\n".to_vec()].concat());
                started = None;
            }
            // One that is told to leave holds the lock for a moment longer.
            Err(_) if started.is_none_or(|at| at.elapsed() >= START_AGAIN) => {
                start(tree)?;
                started = Some(Instant::now());
            }
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => {}
        }
        if Instant::now() >= until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the watcher does not start"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the watcher that listens is of our version and watches what the tree is now.
fn fits(stream: &UnixStream, tree: &Path) -> io::Result<bool> {
    stream.set_read_timeout(Some(START))?;
    let Ok((hello, _)) = read_frame::<Hello>(&mut BufReader::new(stream)) else {
        return Ok(false);
    };
    Ok(hello.program == identity(Path::new(SELF))?
        && hello.tree == tree.as_os_str().as_bytes()
        && hello.root == identity(tree)?)
}

fn start(tree: &Path) -> io::Result<()> {
    let program = fs::read_link(SELF)?;
    // In two steps, so that the watcher belongs to nobody whose end could take it along.
    let status = Command::new(program)
        .arg(WATCH)
        .arg("--detach")
        .arg(tree)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("the watcher cannot be started"))
    }
}

/// Starts a watcher in a session of its own and leaves it.
///
/// # Errors
/// When it cannot be started.
pub fn detach(tree: &Path) -> io::Result<()> {
    process::leave_session();
    Command::new(fs::read_link(SELF)?)
        .arg(WATCH)
        .arg(tree)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .arg0("warmspare-agent")
        .spawn()
        .map(drop)
}
