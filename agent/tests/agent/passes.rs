//! What a pass promises, against a real sshd and a real rsync.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::{assert_same_tree, bound, write};
use warmspare_domain::ids::Epoch;

#[test]
fn a_pass_makes_a_recovery_point_that_equals_the_source() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a/b"), "hello");
    let status = standby.pass(Epoch::FIRST);
    assert_eq!(status.points.count, 1);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_later_pass_leaves_older_recovery_points_as_they_were() {
    let (gpu, standby) = bound();
    for n in 0..30 {
        write(&gpu.tree().join(format!("d/{n}")), format!("content {n}"));
    }
    let first = standby.pass(Epoch::FIRST).points.latest.unwrap();
    let before = crate::support::read_tree(&standby.point_tree(&first));
    write(&gpu.tree().join("d/1"), "changed");
    fs::remove_file(gpu.tree().join("d/2")).unwrap();
    fs::set_permissions(
        gpu.tree().join("d/3"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    write(&gpu.tree().join("d/new"), "new");
    let status = standby.pass(Epoch::FIRST);
    assert_eq!(status.points.count, 2);
    let report = status.last_complete.unwrap();
    assert_eq!((report.files, report.deleted_files), (30, 1));
    assert_eq!(before, crate::support::read_tree(&standby.point_tree(&first)));
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    let shared = |point: &std::path::Path| fs::metadata(point.join("d/9")).unwrap().ino();
    assert_eq!(
        shared(&standby.point_tree(&first)),
        shared(&standby.newest_tree()),
        "unchanged files are stored once"
    );
}

#[test]
fn a_pass_that_finds_nothing_changed_confirms_the_newest_point() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    let first = standby.pass(Epoch::FIRST).points.latest.unwrap();
    let status = standby.pass(Epoch::FIRST);
    let again = status.points.latest.unwrap();
    assert_eq!(status.points.count, 1);
    assert_eq!(again.id, first.id);
    assert!(again.confirmed_at > first.confirmed_at);
    assert_eq!(status.last_complete.unwrap().started_at, again.confirmed_at);
}
