//! How far work is that goes on in several threads, and how fast it has been lately.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use warmspare_domain::units::Bytes;
use warmspare_wire::agent::Progress;

/// The rate is that of the last seconds: long enough to be steady, short enough to show a link that slows down.
const LATELY: Duration = Duration::from_secs(5);

/// Files and bytes done, counted by several threads.
#[derive(Debug, Default)]
pub struct Done {
    /// Regular files.
    pub files: AtomicU64,
    /// Bytes.
    pub bytes: AtomicU64,
}

impl Done {
    /// Counts more files and bytes.
    pub fn add(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Turns what is done, looked at again and again, into progress.
#[derive(Debug)]
pub struct Meter {
    files_total: u64,
    bytes_total: u64,
    seen: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// A meter for so much work.
    #[must_use]
    pub fn new(files_total: u64, bytes_total: u64) -> Self {
        Self {
            files_total,
            bytes_total,
            seen: VecDeque::new(),
        }
    }

    /// The progress at this instant.
    pub fn read(&mut self, done: &Done, now: Instant) -> Progress {
        let bytes = done.bytes.load(Ordering::Relaxed);
        self.seen.push_back((now, bytes));
        while self.seen.len() > 2 && self.seen.front().is_some_and(|(then, _)| now - *then > LATELY) {
            self.seen.pop_front();
        }
        let (then, before) = self.seen.front().copied().unwrap_or((now, bytes));
        let millis = u64::try_from((now - then).as_millis()).unwrap_or(u64::MAX);
        Progress {
            bytes_done: Bytes(bytes),
            bytes_total: Bytes(self.bytes_total),
            files_done: done.files.load(Ordering::Relaxed),
            files_total: self.files_total,
            bytes_per_second: (bytes.saturating_sub(before).saturating_mul(1000))
                .checked_div(millis)
                .unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (done, begun) = (Done::default(), Instant::now());
        let mut meter = Meter::new(10, 1_000_000);
        assert_eq!(meter.read(&done, begun).bytes_per_second, 0);
        for second in 1..=20_u64 {
            done.add(0, if second <= 10 { 1000 } else { 10 });
            meter.read(&done, begun + Duration::from_secs(second));
        }
        let progress = meter.read(&done, begun + Duration::from_secs(20));
        assert_eq!((progress.bytes_per_second, progress.bytes_done), (10, Bytes(10_100)));
        assert_eq!((progress.files_total, progress.bytes_total), (10, Bytes(1_000_000)));
    }
}
