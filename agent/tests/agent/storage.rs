//! btrfs, and a full disk: both need root for a disk of their own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use warmspare_agent::data_dir::DataDir;
use warmspare_agent::space::{self, Room};
use warmspare_agent::state::PassUnderWay;
use warmspare_domain::ids::Epoch;
use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{Bind, PassFailureKind, Progress, RecoveryPoint, Request, RestoreActivity};

use crate::support::{
    Disk, Machine, Standby, assert_same_tree, bound, grow_rich_tree, kill, read_tree, set_mtime, status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

fn is_read_only_subvolume(path: &Path) -> bool {
    let shown = Command::new("btrfs")
        .args(["property", "get", "-ts"])
        .arg(path)
        .arg("ro")
        .output()
        .unwrap();
    String::from_utf8_lossy(&shown.stdout).trim() == "ro=true"
}

#[test]
fn on_btrfs_recovery_points_are_read_only_snapshots_that_equal_the_source() {
    let Some((_disk, gpu, standby)) = Disk::bound("btrfs", 400) else {
        return;
    };
    grow_rich_tree(&gpu.tree());
    let first = standby.pass(FIRST).points.latest.unwrap();
    let before = read_tree(&standby.point_tree(&first));
    assert!(is_read_only_subvolume(&standby.point_tree(&first)));
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    // One name of a file with several is rewritten: written in place, the others would change with it.
    fs::remove_file(gpu.tree().join("links/two")).unwrap();
    write(&gpu.tree().join("links/two"), "on its own now");
    write(&gpu.tree().join("modes/1"), "changed");
    fs::remove_file(gpu.tree().join("modes/2")).unwrap();
    let status = standby.pass(FIRST);
    assert_eq!(
        (status.points.count, status.last_complete.unwrap().deleted_files),
        (2, 1)
    );
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    assert_eq!(before, read_tree(&standby.point_tree(&first)));
    assert_eq!(
        standby.pass(FIRST).points.count,
        2,
        "an unchanged tree became another recovery point"
    );
    let target = Machine::start(&[&standby.key()]);
    let restored = standby.restore(&target, FIRST.next());
    assert!(matches!(restored, RestoreActivity::Verified { .. }), "{restored:#?}");
    assert_same_tree(&gpu.tree(), &target.tree());
}

#[test]
fn on_btrfs_a_growing_log_costs_its_growth_and_a_kill_leaves_points_whole() {
    let Some((_disk, mut gpu, standby)) = Disk::bound("btrfs", 300) else {
        return;
    };
    let log = gpu.tree().join("log");
    let mut content = crate::support::noise(30 << 20);
    write(&log, &content);
    let first = standby.pass(FIRST).points.latest.unwrap();
    let free = standby.status().disk.free.0;
    for round in 0_u8..4 {
        content.extend(vec![round; 1000]);
        write(&log, &content);
        standby.pass(FIRST);
    }
    let used = free.saturating_sub(standby.status().disk.free.0);
    assert!(
        used < 15 << 20,
        "four small growths of a 30 MiB file took {} MiB",
        used >> 20
    );
    // A pass killed while it writes in place.
    gpu.wrap_rsync("", "hold");
    content.extend(b"more");
    write(&log, &content);
    gpu.hold();
    standby.try_sync(FIRST, warmspare_wire::agent::Urgency::Due, 0);
    gpu.wait_until_held();
    standby.workers().into_iter().for_each(kill);
    gpu.release();
    assert_eq!(
        fs::metadata(standby.point_tree(&first).join("log")).unwrap().len(),
        30 << 20
    );
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    assert_eq!(standby.points().len(), 6);
}

#[test]
fn on_btrfs_thinned_points_are_gone_for_good() {
    let Some(disk) = Disk::make("btrfs", 150) else {
        return;
    };
    thinned_points_are_gone(&disk.standby());
}

#[test]
fn thinned_points_are_gone_for_good_and_held_ones_stay() {
    thinned_points_are_gone(&Standby::new());
}

/// Ages the recovery points on disk instead of waiting for days.
fn thinned_points_are_gone(standby: &Standby) {
    let gpu = Machine::start(&[&standby.key()]);
    standby.bind(&gpu, FIRST);
    write(&gpu.tree().join("a"), "0");
    for n in 0..4 {
        write(&gpu.tree().join("a"), format!("{n}"));
        standby.pass(FIRST);
    }
    let points = standby.points();
    for point in &points[..3] {
        change_point(standby, point, |stored| {
            stored["point"]["taken_at"] = "2020-01-01T00:00:00.000Z".into();
        });
    }
    let holds = serde_json::json!({"holds": [{"point": points[1].id, "until": "2999-01-01T00:00:00.000Z"}]});
    fs::write(standby.data.join("holds.json"), holds.to_string()).unwrap();
    write(&gpu.tree().join("a"), "last");
    standby.pass(FIRST);
    let left = crate::support::eventually("two points were thinned out", || {
        let left: Vec<_> = standby.points().into_iter().map(|point| point.id).collect();
        (left.len() == 3).then_some(left)
    });
    assert!(
        left.contains(&points[1].id),
        "a recovery point that is being downloaded was removed"
    );
    assert!(left.contains(&points[3].id));
    crate::support::eventually("the trash was emptied", || {
        (fs::read_dir(standby.data.join("trash")).unwrap().count() == 0).then_some(())
    });
    assert!(!standby.point_tree(&points[0]).exists());
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_point_with_a_checkpoint_is_not_thinned_out_and_goes_last_when_space_is_short() {
    let (gpu, standby) = bound();
    for n in 0..4 {
        write(&gpu.tree().join("a"), format!("{n}"));
        standby.pass(FIRST);
    }
    let points = standby.points();
    for point in &points[..3] {
        change_point(&standby, point, |stored| {
            stored["point"]["taken_at"] = "2020-01-01T00:00:00.000Z".into();
        });
    }
    change_point(&standby, &points[0], |stored| {
        stored["kept"] = serde_json::json!([{"id": "0a", "name": "best"}]);
    });
    let left = || standby.points().into_iter().map(|point| point.id).collect::<Vec<_>>();
    write(&gpu.tree().join("a"), "last");
    standby.pass(FIRST);
    let newest = standby.status().points.latest.unwrap().id;
    crate::support::eventually("the others were thinned out", || (left().len() == 3).then_some(()));
    assert_eq!(left(), [points[0].id.clone(), points[3].id.clone(), newest.clone()]);

    let dir = DataDir::open(&standby.data).unwrap();
    let retire = || warmspare_agent::recovery_points::retire_oldest(&dir, warmspare_agent::clock::now(), 1).unwrap();
    assert!(retire());
    assert_eq!(
        left(),
        [points[0].id.clone(), newest.clone()],
        "one without a name goes first"
    );
    assert!(retire());
    assert_eq!(left(), [newest], "and with it when nothing else is left to go");
    assert!(!retire());
}

fn change_point(standby: &Standby, point: &RecoveryPoint, change: impl FnOnce(&mut serde_json::Value)) {
    let file = standby.data.join(format!("recovery-points/{}.json", point.id));
    let mut stored: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut stored);
    fs::write(&file, serde_json::to_vec(&stored).unwrap()).unwrap();
}

#[test]
fn a_disk_that_was_enlarged_is_taken_up_whole_by_the_next_pass() {
    let Some((disk, gpu, standby)) = Disk::bound("btrfs", 120) else {
        return;
    };
    write(&gpu.tree().join("small"), "1");
    let before = standby.pass(FIRST).disk.total;
    // As when the provider enlarges the disk under a mounted file system.
    let image = disk.place.path().join("image");
    fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(300 << 20)
        .unwrap();
    let found = Command::new("losetup").arg("-j").arg(&image).output().unwrap();
    let device = String::from_utf8(found.stdout).unwrap();
    let device = device.split(':').next().unwrap();
    assert!(Command::new("losetup").args(["-c", device]).status().unwrap().success());
    write(&gpu.tree().join("large"), crate::support::noise(150 << 20));
    let status = standby.pass(FIRST);
    assert_eq!((before.0 >> 20, status.disk.total.0 >> 20), (120, 300));
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn old_recovery_points_are_given_up_before_the_disk_is_full() {
    let Some((_disk, gpu, standby)) = Disk::bound("btrfs", 300) else {
        return;
    };
    for round in 0..12_u32 {
        // A checkpoint that is written anew each time: every recovery point holds its own.
        write(&gpu.tree().join("checkpoint"), crate::support::noise(20 << 20));
        write(&gpu.tree().join("round"), round.to_string());
        let status = standby.sync(FIRST);
        assert!(
            status.last_failure.is_none(),
            "round {round}: {:?}",
            status.last_failure
        );
        crate::support::eventually("the worker is done", || standby.workers().is_empty().then_some(()));
    }
    let points = standby.points().len();
    assert!((2..12).contains(&points), "{points} recovery points");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

/// Takes all of a disk but so many bytes, without writing them.
fn leave_free(disk: &Disk, bytes: u64) {
    let ballast = fs::File::options()
        .create(true)
        .append(true)
        .open(disk.at.join("ballast"))
        .unwrap();
    // btrfs counts what came and what went with the next commit.
    rustix::fs::syncfs(&ballast).unwrap();
    let found = rustix::fs::statvfs(&disk.at).unwrap();
    let more = found.f_bavail * found.f_frsize - bytes;
    let from = ballast.metadata().unwrap().len();
    rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), from, more).unwrap();
    rustix::fs::syncfs(&ballast).unwrap();
}

#[test]
fn room_costs_no_more_points_than_it_must_and_only_then_a_disk_is_exhausted() {
    let Some((disk, gpu, standby)) = Disk::bound("btrfs", 600) else {
        return;
    };
    for _ in 0..5 {
        write(&gpu.tree().join("checkpoint"), crate::support::noise(20 << 20));
        standby.pass(FIRST);
        crate::support::eventually("the worker is done", || standby.workers().is_empty().then_some(()));
    }
    let dir = DataDir::open(&standby.data).unwrap();
    let make_room = || space::make_room(&dir, Duration::from_secs(60)).unwrap();
    // Short of less than one recovery point holds.
    leave_free(&disk, space::disk(&dir).unwrap().total.0 / 10 - (10 << 20));
    assert!(space::is_short(&dir).unwrap());
    assert!(!standby.status().disk.exhausted, "there is something to give up");
    assert_eq!(make_room(), Room::Made);
    assert_eq!(standby.points().len(), 4);
    assert!(!space::is_short(&dir).unwrap());

    leave_free(&disk, 8 << 20);
    // What was given up and is not yet removed will be room, so nobody needs to buy some.
    while warmspare_agent::recovery_points::retire_oldest(&dir, warmspare_agent::clock::now(), 2).unwrap() {}
    assert_eq!(standby.points().len(), 2);
    assert!(!standby.status().disk.exhausted);
    assert_eq!(make_room(), Room::AsBefore, "the removed points were not room enough");
    assert!(space::is_short(&dir).unwrap());
    assert!(standby.status().disk.exhausted);
    // With what it is filling a pass makes one more recovery point, and an older one can go for that.
    dir.note_pass(&PassUnderWay {
        number: 99,
        started_at: warmspare_agent::clock::now(),
        epoch: FIRST,
        progress: Progress::default(),
        fetched: Bytes(0),
    })
    .unwrap();
    assert!(!standby.status().disk.exhausted);
}

#[test]
fn old_recovery_points_make_room_for_a_pass_that_needs_more_than_is_free() {
    let Some((_disk, gpu, standby)) = Disk::bound("btrfs", 400) else {
        return;
    };
    for _ in 0..5 {
        write(&gpu.tree().join("checkpoint"), crate::support::noise(40 << 20));
        standby.pass(FIRST);
        crate::support::eventually("the worker is done", || standby.workers().is_empty().then_some(()));
    }
    let before = standby.status();
    let needed = 130 << 20;
    assert!(before.points.count > 3, "{} recovery points", before.points.count);
    assert!(before.disk.free.0 < needed, "{} free", before.disk.free);
    assert!(
        before.disk.free.0 * 10 > before.disk.total.0,
        "{} free",
        before.disk.free
    );
    write(&gpu.tree().join("large"), crate::support::noise(needed));
    let after = standby.pass(FIRST);
    assert!(
        // One more was made.
        (2..=before.points.count).contains(&after.points.count),
        "{} recovery points",
        after.points.count
    );
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn what_can_never_fit_takes_no_recovery_point() {
    let Some((_disk, gpu, standby)) = Disk::bound("btrfs", 300) else {
        return;
    };
    for round in 0..5_u32 {
        write(&gpu.tree().join("round"), round.to_string());
        standby.pass(FIRST);
    }
    let points = standby.points();
    write(&gpu.tree().join("runaway.log"), crate::support::noise(320 << 20));
    let failure = standby.sync(FIRST).last_failure.unwrap();
    assert_eq!(failure.kind, PassFailureKind::DiskFull, "{}", failure.message);
    assert_eq!(standby.points(), points);
}

#[test]
fn a_first_pass_that_found_the_disk_full_fits_once_the_source_does() {
    let (some, others): (&[i64], &[i64]) = (&[3, 4], &[1, 2, 4]);
    for (kind, excludes, left) in [
        ("btrfs", None, some),
        ("ext4", Some("/runs/[12].pt"), some),
        // What broke off is in the way.
        ("btrfs", Some("/runs/3.pt"), others),
    ] {
        let Some((_disk, gpu, standby)) = Disk::bound(kind, 300) else {
            return;
        };
        // The newest come first; the third finds the disk full.
        for (n, megabytes) in [(1, 85), (2, 85), (3, 150), (4, 20)] {
            let name = gpu.tree().join(format!("runs/{n}.pt"));
            write(&name, crate::support::noise(megabytes << 20));
            set_mtime(&name, 1_795_441_530 - n, 0);
        }
        write(&gpu.tree().join("train.py"), "print()");
        let failure = standby.sync(FIRST).last_failure.unwrap();
        assert_eq!(failure.kind, PassFailureKind::DiskFull, "{}", failure.message);
        let arrived = standby.data.join("incoming/runs/1.pt");
        let before = standby.status().traffic.today;
        standby.sync(FIRST);
        assert!(arrived.exists(), "what arrived stays while it is on the GPU");
        let again = standby.status().traffic.today.0 - before.0;
        assert!(again < 8 << 20, "{kind}: {again} bytes crossed the network in vain");
        let gone = (1..=4).filter(|n| !left.contains(n));
        let name = |n| format!("runs/{n}.pt");
        let epoch = match excludes {
            None => {
                gone.clone()
                    .for_each(|n| fs::remove_file(gpu.tree().join(name(n))).unwrap());
                FIRST
            }
            Some(pattern) => {
                let bind = Bind {
                    excludes: vec![pattern.to_owned()],
                    ..standby.bind_request(&gpu, FIRST.next())
                };
                status_of(standby.call(Request::Bind(bind)));
                FIRST.next()
            }
        };
        standby.pass(epoch);
        let tree = standby.newest_tree();
        assert!(left.iter().all(|n| tree.join(name(*n)).exists()), "{kind}: {left:?}");
        assert!(
            !gone.into_iter().any(|n| tree.join(name(n)).exists()),
            "{kind}: {left:?}"
        );
    }
}

#[test]
fn a_tree_that_is_not_ours_clears_nothing_away_on_a_full_disk() {
    let Some((_disk, gpu, standby)) = Disk::bound("btrfs", 300) else {
        return;
    };
    for (name, megabytes) in [("1.pt", 85), ("2.pt", 250)] {
        write(&gpu.tree().join(name), crate::support::noise(megabytes << 20));
    }
    set_mtime(&gpu.tree().join("2.pt"), 1_795_441_530, 0);
    let failure = standby.sync(FIRST).last_failure.unwrap();
    assert_eq!(failure.kind, PassFailureKind::DiskFull, "{}", failure.message);
    // As where the tree's own disk is not mounted any more.
    fs::rename(gpu.tree(), gpu.place.path().join("unmounted")).unwrap();
    fs::create_dir(gpu.tree()).unwrap();
    assert!(standby.sync(FIRST).halt.is_some());
    let arrived = standby.data.join("incoming/1.pt");
    assert_eq!(fs::metadata(arrived).unwrap().len(), 85 << 20);
}

#[test]
fn a_full_disk_fails_the_pass_by_name_and_keeps_every_point() {
    // 120 MB: the smallest disk that mkfs.btrfs makes has 109.
    for (kind, megabytes) in [("ext4", 40), ("btrfs", 120)] {
        let Some((_disk, gpu, standby)) = Disk::bound(kind, megabytes) else {
            return;
        };
        write(&gpu.tree().join("small"), "1");
        let point = standby.pass(FIRST).points.latest.unwrap();
        write(&gpu.tree().join("large"), crate::support::noise(megabytes << 20));
        let status = standby.sync(FIRST);
        let failure = status.last_failure.unwrap();
        assert_eq!(failure.kind, PassFailureKind::DiskFull, "{kind}: {}", failure.message);
        assert!(failure.message.contains("disk is full"), "{}", failure.message);
        assert_eq!((status.points.count, status.points.latest), (1, Some(point)), "{kind}");
        let large = gpu.tree().join("large");
        fs::remove_file(&large).unwrap();
        write(&large, "fits");
        set_mtime(&large, 1_795_441_530, 0);
        crate::support::eventually("a later pass found room", || {
            standby.sync(FIRST).last_failure.is_none().then_some(())
        });
        assert_same_tree(&gpu.tree(), &standby.newest_tree());
    }
}
