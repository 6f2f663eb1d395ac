//! How fast the GPU's link is, as the last large transfer found it: what comes slowly is compressed on its way.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use warmspare_domain::units::Bytes;

use crate::data_dir::{DataDir, Durability};
use crate::process;
use crate::rsync::Transfer;
use crate::rsync_output::Totals;

/// Below this many bytes a second a link is slow: there zstd costs less than a tenth of one core, and on a faster one the GPU's time is worth more.
const SLOW: u64 = 8 << 20;

/// Less than this says nothing about a link.
const ENOUGH: (Bytes, Duration) = (Bytes(8 << 20), Duration::from_secs(1));

/// Nor do smaller files than this on average: both ends' disks take longer for them than a link does.
const ENOUGH_A_FILE: u64 = 64 << 10;

/// Nor does one that found most of its bytes here already: both ends spend their time on comparing. One part in so many must travel.
const MOST_OF_IT: u64 = 2;

const FILE: &str = "link.json";

/// `link.json`: the last large transfer's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    bytes_per_second: u64,
}

/// The transfer as it suits the link. Both ends agree on zstd, or on what the older one has. Source: rsync(1) 3.2.7, --compress.
#[must_use]
pub fn apply(dir: &DataDir, transfer: Transfer) -> Transfer {
    if is_slow(dir) {
        transfer.with("--compress")
    } else {
        transfer
    }
}

/// Whether the last large transfer found it slow.
#[must_use]
pub fn is_slow(dir: &DataDir) -> bool {
    let link = dir.read_passing_json::<Link>(&dir.file(FILE));
    link.is_some_and(|link| link.bytes_per_second < SLOW)
}

/// Notes how fast a transfer was that looked at so many files.
pub fn note(dir: &DataDir, totals: Totals, took: Duration) {
    let wire = totals.wire_bytes;
    let small = wire.0 / totals.files.max(1) < ENOUGH_A_FILE;
    let compared = wire.0 < totals.moved.0 / MOST_OF_IT;
    if wire < ENOUGH.0 || took < ENOUGH.1 || small || compared {
        return;
    }
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let bytes_per_second = wire.0.saturating_mul(1000) / millis;
    if let Err(error) = dir.write_json(&dir.file(FILE), &Link { bytes_per_second }, Durability::Kill) {
        process::log(&error.message());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_transfer_of_large_files_tells_and_the_last_one_counts() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let rate = || {
            dir.read_passing_json::<Link>(&dir.file(FILE))
                .map(|link| link.bytes_per_second)
        };
        let moved = |mib: u64, files| Totals {
            files,
            wire_bytes: Bytes(mib << 20),
            ..Totals::default()
        };
        note(&dir, moved(1, 1), Duration::from_secs(100));
        note(&dir, moved(64, 1), Duration::from_millis(900));
        note(&dir, moved(17, 1_000_000), Duration::from_secs(6));
        note(&dir, moved(300, 1_000_000), Duration::from_secs(100));
        let rewritten = Totals {
            moved: Bytes(2 << 30),
            ..moved(21, 1)
        };
        note(&dir, rewritten, Duration::from_secs(4));
        assert_eq!(rate(), None);
        note(&dir, moved(16, 3), Duration::from_secs(4));
        assert_eq!(rate(), Some(4 << 20));
        note(&dir, moved(64, 0), Duration::from_secs(2));
        assert_eq!(rate(), Some(32 << 20));
    }
}
