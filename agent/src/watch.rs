//! `watch`, on the GPU: remembers which paths changed, so that a pass costs what changed and not what exists.
//!
//! # Guarantees
//! - A change that inotify reports is told until it was acknowledged. What cannot be followed (an overflow, a root that went away, a
//!   mount that came) ends this watcher's life; the next one has another name, and the standby scans everything once.
//! - It costs the training next to nothing: lowest priority, bounded memory, and it leaves when nobody asks any more.
//!
//! # Assumptions
//! inotify does not see what is written through a memory map, through a second name outside the tree, or by another machine on a
//! shared file system. The full scan every 15 minutes is there for these.

mod caller;
pub mod directories;
pub mod dirty;
pub mod hand_over;
pub mod protocol;
pub mod relay;
mod surroundings;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::checkpoints::{Wanted, wanted_in};
use crate::frame::write_frame;
use crate::marker::MARKER_DIRECTORY;
use crate::names::hex;
use crate::process::wait_for_any;
use caller::Caller;
use directories::{Directories, Lost};
use dirty::{Change, Dirty, Settled, Since, settle};
use protocol::{Changes, Cursor, Hello, Question, Reply};
use surroundings::{Identity, identity, look, mounts};

/// The verb.
pub const WATCH: &str = "watch";

/// Where a watcher listens, in the tree's [`MARKER_DIRECTORY`].
const SOCKET: &str = "watch.sock";
/// Held by the one watcher of a tree.
const LOCK: &str = "watch.lock";

/// Nobody was connected for this long: the standby is gone or has another GPU.
const ALONE: Duration = Duration::from_secs(600);

/// How often a watcher that nobody asks looks whether its tree is still there, and whether a newer one took its place.
const CHECK: Duration = Duration::from_secs(5);

/// Events that come one by one are taken in by the handful.
const BATCH: Duration = Duration::from_millis(50);

/// How long one stretch of listing directories may take before questions are heard again.
const STRETCH: Duration = Duration::from_millis(20);

/// A machine whose limits are used up is tried again.
const BLIND_FOR: Duration = Duration::from_secs(15 * 60);

/// More callers at once are none of ours.
const MOST_CALLERS: usize = 8;

/// Watches a tree until it is told to leave, nobody asks any more, or there is nothing left to watch.
///
/// # Errors
/// When another watcher is there, or the tree's own directory cannot be used.
pub fn watch(tree: &Path) -> io::Result<()> {
    let ours = tree.join(MARKER_DIRECTORY);
    let _only = only_one(&ours)?;
    // A socket's path may have some 100 bytes only, so its directory is entered for a moment; staying would keep it busy.
    std::env::set_current_dir(&ours)?;
    let _ = fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    std::env::set_current_dir("/")?;
    listener.set_nonblocking(true)?;
    // Whatever trains on this machine comes first.
    let _ = rustix::process::nice(19);
    let mut watcher = Watcher::new(tree)?;
    watcher.serve(&listener)
}

fn only_one(place: &Path) -> io::Result<File> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(place.join(LOCK))?;
    lock.try_lock().map_err(io::Error::from)?;
    Ok(lock)
}

struct Watcher {
    tree: PathBuf,
    root: Identity,
    program: Identity,
    life: String,
    sight: Sight,
    mounts: Vec<u8>,
    dirty: Dirty,
    callers: Vec<Caller>,
    called: Instant,
    checked: Instant,
}

enum Sight {
    Watching(Directories),
    Blind { words: String, since: Instant },
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

impl Watcher {
    fn new(tree: &Path) -> io::Result<Self> {
        let now = Instant::now();
        let mut watcher = Self {
            tree: tree.to_owned(),
            root: identity(tree)?,
            program: identity(Path::new(crate::process::SELF))?,
            life: String::new(),
            sight: Sight::Blind {
                words: String::new(),
                since: now,
            },
            mounts: Vec::new(),
            dirty: Dirty::default(),
            callers: Vec::new(),
            called: now,
            checked: now,
        };
        watcher.begin()?;
        Ok(watcher)
    }

    /// Begins a new life: what was known before counts no more.
    fn begin(&mut self) -> io::Result<()> {
        self.life = random()?;
        self.dirty = Dirty::default();
        self.mounts = mounts(&self.tree);
        self.root = identity(&self.tree)?;
        match Directories::open(&self.tree) {
            Ok(directories) => self.sight = Sight::Watching(directories),
            Err(Lost::Limits(words)) => self.go_blind(words),
            Err(Lost::Root | Lost::Track) => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    fn go_blind(&mut self, words: String) {
        self.sight = Sight::Blind {
            words,
            since: Instant::now(),
        };
    }

    fn serve(&mut self, listener: &UnixListener) -> io::Result<()> {
        loop {
            self.wait(listener);
            self.hear(listener);
            if self.look_around() == Next::Leave || self.answer()? == Next::Leave {
                return Ok(());
            }
        }
    }

    fn wait(&mut self, listener: &UnixListener) {
        let mut sources = vec![PollFd::new(listener, PollFlags::IN)];
        sources.extend(
            self.callers
                .iter()
                .map(|caller| PollFd::new(&caller.stream, PollFlags::IN)),
        );
        let spoken = sources.len();
        let mut until = Instant::now() + CHECK;
        if let Sight::Watching(directories) = &self.sight {
            sources.push(PollFd::new(directories.events(), PollFlags::IN));
            if !directories.is_settled() {
                until = Instant::now();
            }
        }
        for (_, deadline) in self.callers.iter().filter_map(|caller| caller.question.as_ref()) {
            until = until.min(*deadline);
        }
        wait_for_any(&mut sources, until);
        let nobody_spoke = sources.iter().take(spoken).all(|source| source.revents().is_empty());
        let something_happened = sources.iter().skip(spoken).any(|source| !source.revents().is_empty());
        if nobody_spoke && something_happened {
            sources.truncate(spoken);
            wait_for_any(&mut sources, Instant::now() + BATCH);
        }
    }

    fn hear(&mut self, listener: &UnixListener) {
        for caller in &mut self.callers {
            caller.hear();
        }
        self.callers.retain(|caller| !caller.gone);
        while let Ok((stream, _)) = listener.accept() {
            let hello = Hello {
                program: self.program,
                tree: self.tree.as_os_str().as_bytes().to_vec(),
                root: self.root,
            };
            self.callers.extend(Caller::greet(stream, &hello));
            if self.callers.len() > MOST_CALLERS {
                // Each outage may leave a connection that nobody uses, until the system gives it up.
                let silent = (0..self.callers.len()).min_by_key(|at| self.callers.get(*at).map(|caller| caller.spoke));
                silent.map(|at| self.callers.remove(at));
            }
        }
    }

    /// Whether this watcher still has something to do here.
    fn look_around(&mut self) -> Next {
        // One whose pass takes hours asks nothing meanwhile, and asks what changed when it ends.
        if !self.callers.is_empty() {
            self.called = Instant::now();
        }
        if self.checked.elapsed() < CHECK && self.callers.iter().all(|caller| caller.question.is_none()) {
            return Next::GoOn;
        }
        self.checked = Instant::now();
        let told_to = |caller: &Caller| caller.question.as_ref().is_some_and(|(question, _)| question.leave);
        // A program that has no name any more was replaced by another version.
        let replaced = fs::metadata(crate::process::SELF).is_ok_and(|found| found.nlink() == 0);
        let moved = identity(&self.tree).ok() != Some(self.root);
        if self.callers.iter().any(told_to) || replaced || moved || self.called.elapsed() >= ALONE {
            return Next::Leave;
        }
        Next::GoOn
    }

    /// Takes in what happened, and answers the questions whose time has come.
    fn answer(&mut self) -> io::Result<Next> {
        // Before the changes, too: what is written while it is read must be among them.
        let handed: Vec<_> = self.callers.iter().map(|caller| caller.hand_over(&self.tree)).collect();
        // Before the changes: what was written before a checkpoint was named must be among them.
        let asked = self.callers.iter().any(|caller| caller.question.is_some());
        let checkpoints = if asked { wanted_in(&self.tree) } else { Vec::new() };
        match self.catch_up() {
            Ok(()) => {}
            Err(Lost::Root) => return Ok(Next::Leave),
            Err(Lost::Track) => self.begin()?,
            Err(Lost::Limits(words)) => self.go_blind(words),
        }
        let blind_for = match &self.sight {
            Sight::Watching(_) => None,
            Sight::Blind { since, .. } => Some(since.elapsed()),
        };
        if blind_for.is_some_and(|long| long >= BLIND_FOR) {
            self.begin()?;
        }
        let mut callers = std::mem::take(&mut self.callers);
        for (caller, handed) in callers.iter_mut().zip(handed) {
            if let Some((question, _)) = caller
                .question
                .take_if(|(question, until)| self.is_due(question, *until))
            {
                let (mut reply, mut bytes) = self.reply(&question, &checkpoints);
                if let Some((entries, content)) = handed {
                    reply.handed = entries;
                    bytes.extend(content);
                }
                caller.gone |= write_frame(&caller.stream, &reply, &bytes).is_err();
            }
        }
        self.callers = callers;
        Ok(Next::GoOn)
    }

    fn catch_up(&mut self) -> Result<(), Lost> {
        let Sight::Watching(directories) = &mut self.sight else {
            return Ok(());
        };
        let dirty = &mut self.dirty;
        let mut mark = |path: &[u8], change| dirty.mark(path, change);
        directories.drain(&mut mark)?;
        directories.walk(Instant::now() + STRETCH, &mut mark)?;
        // A file system that was mounted into the tree, or taken away, is no event.
        let asked = self.callers.iter().any(|caller| caller.question.is_some());
        if asked && mounts(&self.tree) != self.mounts {
            return Err(Lost::Track);
        }
        Ok(())
    }

    fn is_due(&self, question: &Question, until: Instant) -> bool {
        let Sight::Watching(directories) = &self.sight else {
            return true;
        };
        if !directories.is_settled() {
            return Instant::now() >= until;
        }
        match &question.since {
            Some(cursor) if cursor.life == self.life && question.wait_ms > 0 => {
                Instant::now() >= until || self.dirty.has_news(cursor.seq)
            }
            Some(_) | None => true,
        }
    }

    fn reply(&mut self, question: &Question, checkpoints: &[Wanted]) -> (Reply, Vec<u8>) {
        let tree = look(&self.tree);
        let mut settled = Settled::default();
        let changes = match &self.sight {
            Sight::Blind { words, .. } => Changes::Blind(words.clone()),
            Sight::Watching(directories) if !directories.is_settled() => Changes::Starting,
            Sight::Watching(directories) => {
                let ours = |cursor: &Option<Cursor>| {
                    cursor
                        .as_ref()
                        .filter(|cursor| cursor.life == self.life)
                        .map(|cursor| cursor.seq)
                };
                let told = match (ours(&question.since), ours(&question.peek)) {
                    (Some(since), _) => self.dirty.since(since),
                    (None, Some(since)) => self.dirty.peek(since),
                    (None, None) => Since::Unknown,
                };
                match told {
                    Since::Unknown => Changes::NoCursor,
                    Since::TooMany => Changes::TooMany,
                    Since::Known(changed) => {
                        settled = settle(directories.root(), &changed);
                        match settled.hard_links {
                            true => Changes::HardLinks,
                            false => Changes::Complete,
                        }
                    }
                }
            }
        };
        let (cursor, directories) = match &self.sight {
            Sight::Watching(directories) => {
                let seq = directories.is_settled().then(|| self.dirty.close());
                let cursor = seq.map(|seq| Cursor {
                    life: self.life.clone(),
                    seq,
                });
                (cursor, directories.count() as u64)
            }
            Sight::Blind { .. } => (None, 0),
        };
        let reply = Reply {
            number: question.number,
            tree,
            cursor,
            changes,
            holes: settled.holes,
            directories,
            checkpoints: checkpoints.to_vec(),
            handed: Vec::new(),
        };
        (reply, named(&settled))
    }
}

fn named(settled: &Settled) -> Vec<u8> {
    let mut paths = Vec::new();
    for (path, change) in &settled.paths {
        paths.push(match change {
            Change::Itself => protocol::ITSELF,
            Change::Replaced => protocol::REPLACED,
        });
        paths.extend(path);
        paths.push(0);
    }
    paths
}

/// 32 random hexadecimal digits.
pub(crate) fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_watcher_stays_for_a_standby_that_asks_nothing_for_long_and_leaves_when_it_is_alone() {
        let place = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new(place.path()).unwrap();
        let long_ago = Instant::now().checked_sub(2 * ALONE).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let hello = Hello {
            program: watcher.program,
            tree: Vec::new(),
            root: watcher.root,
        };
        watcher.callers.extend(Caller::greet(ours, &hello));
        (watcher.called, watcher.checked) = (long_ago, long_ago);
        assert_eq!(watcher.look_around(), Next::GoOn);
        drop(theirs);
        watcher.callers.clear();
        (watcher.called, watcher.checked) = (long_ago, long_ago);
        assert_eq!(watcher.look_around(), Next::Leave);
    }
}
