//! Paths as long as rsync takes them are longer than the system takes them from the root of the disk.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, Mode, OFlags};
use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{PassScope, RestoreActivity, Watcher};

use crate::support::{Disk, Machine, Standby, bound, write};

const FIRST: Epoch = Epoch::FIRST;

/// Names of 199 bytes, so that each takes 200 on the way.
const DIRECTORIES: usize = 20;

/// Opens the deepest directory, which lies 4,000 bytes below the root, and makes what is missing.
fn deepest(root: &Path) -> OwnedFd {
    let mut here: OwnedFd = File::open(root).unwrap().into();
    for depth in 0..DIRECTORIES {
        let name = format!("{depth:d<199}");
        let _ = rustix::fs::mkdirat(&here, &*name, Mode::RWXU);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        here = rustix::fs::openat(&here, &*name, flags, Mode::empty()).unwrap();
    }
    here
}

/// A name with which a file in the deepest directory has a path of this length below the root.
fn name_for(length: usize) -> String {
    "f".repeat(length - 200 * DIRECTORIES)
}

fn write_deep(root: &Path, length: usize, content: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::openat(deepest(root), &*name_for(length), flags, Mode::RUSR | Mode::WUSR).unwrap();
    File::from(file).write_all(content.as_bytes()).unwrap();
}

fn remove_deep(root: &Path, length: usize) {
    rustix::fs::unlinkat(deepest(root), &*name_for(length), AtFlags::empty()).unwrap();
}

/// All of a tree but what is ours, as bytes.
fn archive(root: &Path) -> Vec<u8> {
    let packed = Command::new("tar")
        .args([
            "--create",
            "--sort=name",
            "--format=posix",
            "--file=-",
            "--exclude=./.warmspare",
        ])
        .args(["--pax-option=delete=atime,delete=ctime", "--directory"])
        .arg(root)
        .arg(".")
        .output()
        .unwrap();
    assert!(packed.status.success(), "{packed:?}");
    packed.stdout
}

/// The last is the longest that rsync takes.
const LENGTHS: [usize; 4] = [4040, 4070, 4087, 4095];

fn arrive(gpu: &Machine, standby: &Standby) {
    for length in LENGTHS {
        write_deep(&gpu.tree(), length, "first");
    }
    write(&gpu.tree().join("short"), "short");
    assert_eq!(standby.pass(FIRST).points.latest.unwrap().files, 5);
    assert!(archive(&gpu.tree()) == archive(&standby.newest_tree()));
}

fn return_to_another_machine(gpu: &Machine, standby: &Standby) {
    let target = Machine::start(&[&standby.key()]);
    let restored = standby.restore(&target, FIRST.next());
    assert!(matches!(restored, RestoreActivity::Verified { .. }), "{restored:#?}");
    assert!(archive(&gpu.tree()) == archive(&target.tree()));
}

#[test]
fn the_longest_paths_go_to_the_standby_and_back() {
    let (gpu, standby) = bound();
    arrive(&gpu, &standby);
    return_to_another_machine(&gpu, &standby);
}

#[test]
fn on_btrfs_changes_at_the_longest_paths_are_followed_and_counted() {
    let Some((_disk, gpu, standby)) = Disk::bound("btrfs", 300) else {
        return;
    };
    arrive(&gpu, &standby);
    assert!(matches!(
        standby.status().watcher,
        Watcher::Watching { directories: 21 }
    ));
    let [gone, changed, ..] = LENGTHS;
    write_deep(&gpu.tree(), changed, "second, longer");
    remove_deep(&gpu.tree(), gone);
    let report = standby.pass(FIRST).last_complete.unwrap();
    assert_eq!(report.scope, PassScope::Changes);
    assert_eq!((report.files, report.changed_files, report.deleted_files), (4, 1, 1));
    assert!(archive(&gpu.tree()) == archive(&standby.newest_tree()));
    return_to_another_machine(&gpu, &standby);
}
