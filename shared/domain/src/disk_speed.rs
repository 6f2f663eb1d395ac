//! What the cheap disk can do, and whether a load is too much for it. Its speed grows with its size, and many small files ask more of it than many bytes.

use std::time::Duration;

use crate::units::Bytes;

/// The cheap disk, on spinning platters.
pub const CHEAP: &str = "pd-standard";

/// The one that keeps up with many small files.
pub const FAST: &str = "pd-balanced";

/// A new file costs about two writes: its content, and its share of the metadata.
const WRITES_PER_FILE: u64 = 2;

/// A scan finds the metadata of some 50 files in one read: btrfs packs it into nodes of 16 KiB.
const FILES_PER_READ: u64 = 50;

/// What passes ask of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Files that are looked at.
    pub scanned_files: u64,
    /// Files that are written.
    pub changed_files: u64,
    /// What is written.
    pub bytes: Bytes,
}

/// How long a [`CHEAP`] disk of this size is busy with a load at the least.
///
/// A GB has 1.5 writes, 0.75 reads and 0.12 MiB a second. Source: Google, Persistent Disk performance limits, read 2026-11.
#[must_use]
pub fn cheap_disk_needs(disk_gb: u32, load: &Load) -> Duration {
    let gb = u64::from(disk_gb.max(1));
    let millis = |work: u64, per_1000_s_and_gb: u64| work.saturating_mul(1_000_000) / (gb * per_1000_s_and_gb);
    let writes = millis(load.changed_files.saturating_mul(WRITES_PER_FILE), 1500);
    let reads = millis(load.scanned_files / FILES_PER_READ, 750);
    let throughput = load.bytes.0.saturating_mul(1000) / (gb * 125_829);
    Duration::from_millis(writes.saturating_add(reads).max(throughput))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(disk_gb: u32, scanned_files: u64, changed_files: u64, gib: u64) -> u64 {
        let load = Load {
            scanned_files,
            changed_files,
            bytes: Bytes(gib << 30),
        };
        cheap_disk_needs(disk_gb, &load).as_secs()
    }

    #[test]
    fn a_hundred_gigabytes_write_150_times_and_12_mib_a_second() {
        assert_eq!(seconds(100, 0, 7500, 0), 100);
        assert_eq!(seconds(100, 0, 0, 100), 8533, "more than two hours");
        assert_eq!(seconds(100, 375_000, 0, 0), 100);
        assert_eq!(seconds(200, 0, 7500, 0), 50, "twice the size, twice the speed");
    }

    #[test]
    fn no_load_overflows() {
        let most = Load {
            scanned_files: u64::MAX,
            changed_files: u64::MAX,
            bytes: Bytes(u64::MAX),
        };
        assert!(cheap_disk_needs(0, &most) > cheap_disk_needs(65_536, &most));
    }
}
