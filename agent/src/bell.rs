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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::Durability;

    /// Longer than anything here takes, and shorter than a bell that does not ring.
    const LONG: Duration = Duration::from_secs(20);

    fn rings(bell: &Bell) -> bool {
        let started = Instant::now();
        bell.wait(LONG);
        started.elapsed() < LONG / 2
    }

    #[test]
    fn a_file_that_is_replaced_written_or_removed_rings_once() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let bell = Bell::hang(&dir);
        let file = dir.file("live.json");
        let replace = || dir.replace(&file, b"1", Durability::Kill).unwrap();
        let write = || std::fs::write(&file, "2").unwrap();
        let remove = || std::fs::remove_file(&file).unwrap();
        let changes: [&dyn Fn(); 3] = [&replace, &write, &remove];
        for change in changes {
            bell.silence();
            change();
            assert!(rings(&bell));
            assert!(rings(&bell), "it fell silent by itself");
            bell.silence();
            let started = Instant::now();
            bell.wait(Duration::from_millis(30));
            assert!(
                started.elapsed() >= Duration::from_millis(30),
                "it rang again by itself"
            );
        }
    }

    #[test]
    fn what_rings_before_anybody_waits_is_heard() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let bell = Bell::hang(&dir);
        // More than one read of the bell takes.
        for round in 0..1000 {
            std::fs::write(dir.file(&format!("{round}.json")), "x").unwrap();
        }
        assert!(rings(&bell));
        bell.silence();
        let started = Instant::now();
        bell.wait(Duration::from_millis(30));
        assert!(
            started.elapsed() >= Duration::from_millis(30),
            "it was not silenced whole"
        );
    }

    #[test]
    fn without_a_bell_we_look_again_and_again() {
        let none = Bell(None);
        assert_eq!(none.patience(LONG), GLANCE);
        assert!(none.source().is_none());
        assert!(rings(&none));
        let place = tempfile::tempdir().unwrap();
        let hung = Bell::hang(&DataDir::open(place.path()).unwrap());
        assert_eq!(hung.patience(LONG), LONG);
    }
}
