//! Room on the data disk: old recovery points go first, and a disk that was enlarged is taken up whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{DiskSpace, PassFailureKind};

use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::process;
use crate::recovery_points;
use crate::reserve;

/// Share of the disk, in percent, that is kept free for the next pass by giving up old recovery points.
const KEPT_FREE_PERCENT: u64 = 10;

/// Recovery points that lack of space never takes: the newest, and the one before it, in case the newest holds a mistake.
const ALWAYS_KEPT: usize = 2;

/// A cheap disk takes its time over a large recovery point.
const SPACE_IS_BACK_WITHIN: Duration = Duration::from_secs(60);

/// Whoever asks how the disk is waits for it.
const SPACE_IS_COUNTED_WITHIN: Duration = Duration::from_secs(1);

/// What a file system may fall short of its device without having to grow: its own rounding.
const ROUNDING: u64 = 16 << 20;

/// btrfs answers at once; only a disk in trouble does not.
const LIMIT: Duration = Duration::from_secs(120);

/// Whether there was anything to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is more than before.
    Made,
    /// There is what there was.
    AsBefore,
}

/// Gives up the oldest recovery points until enough is free, or only the last are left. What is not back within `patience` each time is
/// left to the next call.
///
/// # Errors
/// When the disk fails. What was not moved stays.
pub fn make_room(dir: &DataDir, patience: Duration) -> Result<Room, AgentError> {
    let mut room = Room::AsBefore;
    while is_short(dir)? {
        // Space comes back late: whoever measured too soon would give up one point after the other.
        recovery_points::empty_trash(dir);
        if !recovery_points::is_space_back(dir, patience) {
            break;
        }
        if !is_short(dir)? {
            room = Room::Made;
            break;
        }
        if !recovery_points::retire_oldest(dir, clock::now(), ALWAYS_KEPT)? {
            break;
        }
        room = Room::Made;
    }
    Ok(room)
}

/// Runs a pass or a rescue, and again on the room that older recovery points make for as long as it finds the disk full. What
/// arrived is kept until it fits, so that nothing crosses the network twice. Nothing is given up for what can never fit.
///
/// # Errors
/// Those of the attempt; [`AgentError::DiskFull`] when nothing is left to give up, or it would not help: all that is copied, as
/// `size_of_source` tells, is larger than the disk.
pub fn on_a_full_disk<W, T>(
    dir: &DataDir,
    work: &mut W,
    mut attempt: impl FnMut(&mut W) -> Result<T, AgentError>,
    size_of_source: impl Fn(&W) -> Result<Option<Bytes>, AgentError>,
) -> Result<T, AgentError> {
    loop {
        match attempt(work) {
            Err(AgentError::DiskFull) => {
                // Nothing can be removed from a disk without a byte left.
                reserve::release(dir);
                let most = disk(dir)?.total;
                let may_fit = size_of_source(work)?.is_some_and(|size| size < most);
                if !may_fit || make_room(dir, SPACE_IS_BACK_WITHIN)? == Room::AsBefore {
                    return Err(AgentError::DiskFull);
                }
                process::log("the data disk is full: the oldest recovery points were given up for what arrives");
                reserve::take(dir)?;
            }
            ended => return ended,
        }
    }
}

/// The data disk, as the world is told.
///
/// # Errors
/// When it cannot be measured, or the recovery points cannot be read.
pub fn report(dir: &DataDir) -> Result<DiskSpace, AgentError> {
    let found = disk(dir)?;
    // A pass under way uses room for a recovery point more, and when it is complete an older one can go for it.
    let is_all = || -> Result<bool, AgentError> {
        let at_rest = dir.pass_under_way().is_none();
        Ok(at_rest && recovery_points::is_all_retired(dir, clock::now(), ALWAYS_KEPT)?)
    };
    if !is_low(found) || !is_all()? || !recovery_points::is_space_back(dir, SPACE_IS_COUNTED_WITHIN) {
        return Ok(found);
    }
    // Measured after the wait: for what was only late a larger disk would be bought, and no disk shrinks.
    let found = disk(dir)?;
    Ok(DiskSpace {
        exhausted: is_low(found) && is_all()?,
        ..found
    })
}

/// What of the data disk is free now.
///
/// # Errors
/// When it cannot be measured.
pub fn disk(dir: &DataDir) -> Result<DiskSpace, AgentError> {
    let found =
        rustix::fs::statvfs(dir.root()).map_err(|error| AgentError::io("measure the data disk", error.into()))?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(found.f_frsize));
    Ok(DiskSpace {
        total: bytes(found.f_blocks),
        free: bytes(found.f_bavail),
        exhausted: false,
    })
}

/// What is free once everything that was deleted counts: btrfs gives it back with its next commit.
///
/// # Errors
/// When it cannot be measured.
pub fn settled(dir: &DataDir) -> Result<DiskSpace, AgentError> {
    dir.settle_disk()
        .map_err(|error| AgentError::io("wait for the data disk", error))?;
    disk(dir)
}

/// Whether less is free than is kept for the next pass.
///
/// # Errors
/// When the disk cannot be measured.
pub fn is_short(dir: &DataDir) -> Result<bool, AgentError> {
    disk(dir).map(is_low)
}

fn is_low(disk: DiskSpace) -> bool {
    disk.free.0.saturating_mul(100) < disk.total.0.saturating_mul(KEPT_FREE_PERCENT)
}

/// Grows the file system to its device, when that was enlarged. Nothing happens where it cannot: not root, not btrfs, no such device.
///
/// # Errors
/// When btrfs refuses.
pub fn follow_device(dir: &DataDir) -> Result<(), AgentError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(mount) = mount_of(dir.root()).filter(|mount| mount.kind == "btrfs") else {
        return Ok(());
    };
    let Some(device_size) = size_of(&mount.source) else {
        return Ok(());
    };
    if device_size <= disk(dir)?.total.0.saturating_add(ROUNDING) {
        return Ok(());
    }
    let done = process::run(
        Command::new("btrfs")
            .args(["filesystem", "resize", "max"])
            .arg(&mount.at),
        b"",
        LIMIT,
    )?;
    done.success("grow the file system to its disk")?;
    process::log("the data disk was enlarged; its file system grew to it");
    // It is not full any more: told again, one shortage would order two growths.
    dir.update_state(Durability::OldOrNew, |state| {
        state
            .last_failure
            .take_if(|failure| failure.kind == PassFailureKind::DiskFull);
    })
}

/// Sees to it that a few words can be written: takes up a device that was enlarged, and gives up the reserve on a full disk.
pub fn leave_words(dir: &DataDir) {
    if disk(dir).is_ok_and(|disk| disk.free.0 < reserve::SIZE) {
        reserve::release(dir);
    }
    if let Err(error) = follow_device(dir) {
        process::log(&error.message());
    }
}

struct Mount {
    at: PathBuf,
    kind: String,
    source: PathBuf,
}

/// The mount that a directory is on. Source: proc_pid_mountinfo(5).
fn mount_of(place: &Path) -> Option<Mount> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    table
        .lines()
        .filter_map(read_mount)
        .filter(|mount| place.starts_with(&mount.at))
        .max_by_key(|mount| mount.at.as_os_str().len())
}

fn read_mount(line: &str) -> Option<Mount> {
    let (mount, rest) = line.split_once(" - ")?;
    let at = unescape(mount.split(' ').nth(4)?);
    let mut rest = rest.split(' ');
    Some(Mount {
        at: at.into(),
        kind: rest.next()?.to_owned(),
        source: unescape(rest.next()?).into(),
    })
}

/// The kernel writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// A block device's size in bytes.
fn size_of(device: &Path) -> Option<u64> {
    let device = device.canonicalize().ok()?;
    let sectors = Path::new("/sys/class/block").join(device.file_name()?).join("size");
    // In units of 512 bytes, whatever the device's own. Source: Linux Documentation/ABI/stable/sysfs-block.
    let sectors: u64 = fs::read_to_string(sectors).ok()?.trim().parse().ok()?;
    sectors.checked_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_its_odd_names() {
        let line = "36 35 98:0 /sub /mnt/my\\040data rw,noatime shared:1 - btrfs /dev/sdb rw,compress=zstd";
        let mount = read_mount(line).unwrap();
        assert_eq!(mount.at, Path::new("/mnt/my data"));
        assert_eq!(
            (mount.kind.as_str(), mount.source),
            ("btrfs", PathBuf::from("/dev/sdb"))
        );
    }
}
