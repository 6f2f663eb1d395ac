//! Noticing at once that another process of ours changed something in the data directory, without looking again and again.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use crate::data_dir::DataDir;
use crate::process;

/// Where the system gives us no bell, how soon something is noticed.
const GLANCE: Duration = Duration::from_millis(50);

/// Rings when a file in the data directory is replaced, written or removed. Requests, leases and binds all are such files.
#[derive(Debug)]
pub struct Bell(Option<OwnedFd>);

impl Bell {
    /// Hangs one up.
    #[must_use]
    pub fn hang(dir: &DataDir) -> Self {
        let wanted = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
        let hung = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).and_then(|bell| {
            inotify::add_watch(&bell, dir.root(), wanted)?;
            Ok(bell)
        });
        // The system's limits may be used up; then we look again and again after all.
        Self(hung.ok())
    }

    /// What to poll for it.
    #[must_use]
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// At most how long to wait for something else beside the bell.
    #[must_use]
    pub fn patience(&self, long: Duration) -> Duration {
        match self.0 {
            Some(_) => long,
            None => long.min(GLANCE),
        }
    }

    /// Waits until it rings, and at most so long.
    pub fn wait(&self, long: Duration) {
        match &self.0 {
            Some(bell) => {
                process::wait_for_any(&mut [PollFd::new(bell, PollFlags::IN)], Instant::now() + long);
            }
            None => std::thread::sleep(self.patience(long)),
        }
    }

    /// Silences it until it rings again. What rang is to be looked at afterwards.
    pub fn silence(&self) {
        let Some(bell) = &self.0 else {
            return;
        };
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(bell, &mut space);
        while events.next().is_ok() {}
    }
}
