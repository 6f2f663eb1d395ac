//! kill -9 at any moment: what is left is readable, older recovery points are whole, and the next call carries on.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Bind, PassActivity, PassFailureKind, RecoveryPoint, Request, RestoreActivity, Urgency};

use crate::support::{
    Dice, Machine, Standby, assert_same_tree, bound, descendants, eventually, kill, read_tree, status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

fn kill_after(standby: &Standby, delay: Duration, dice: &mut Dice) {
    let until = Instant::now() + delay;
    while Instant::now() < until {
        std::thread::yield_now();
    }
    for worker in standby.workers() {
        // Sometimes the worker alone, sometimes rsync and ssh alone, sometimes all.
        let choice = dice.below(3);
        let children = descendants(worker);
        if choice != 1 {
            kill(worker);
        }
        if choice != 0 {
            children.into_iter().for_each(kill);
        }
    }
}

pub(crate) fn change_something(gpu: &Machine, dice: &mut Dice, round: u64) {
    for _ in 0..10 {
        let path = gpu.tree().join(format!("d{}/{}", dice.below(5), dice.below(40)));
        match dice.below(4) {
            0 => drop(fs::remove_file(&path)),
            1 if path.exists() => {
                let mode = if dice.below(2) == 0 { 0o600 } else { 0o640 };
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            }
            _ => write(
                &path,
                format!("{round} {}", "x".repeat(usize::try_from(dice.below(200_000)).unwrap())),
            ),
        }
    }
}

pub(crate) type Kept = BTreeMap<String, (RecoveryPoint, BTreeMap<Vec<u8>, crate::support::Entry>)>;

/// Every recovery point ever seen is still what it was.
pub(crate) fn check_points(standby: &Standby, seen: &mut Kept) {
    let points = standby.points();
    for point in &points {
        let tree = read_tree(&standby.point_tree(point));
        let files = tree.values().filter(|entry| entry.kind == 'f').count() as u64;
        assert_eq!(files, point.files, "recovery point {} is not whole", point.id);
        assert!(
            tree.keys()
                .all(|name| !String::from_utf8_lossy(name).contains(".warmspare-partial"))
        );
        let (_, before) = seen
            .entry(point.id.to_string())
            .or_insert_with(|| (point.clone(), tree.clone()));
        assert_eq!(*before, tree, "recovery point {} changed", point.id);
    }
    assert_eq!(points.len(), seen.len(), "a recovery point went away");
}

#[test]
fn passes_killed_at_random_moments_converge_and_leave_every_point_whole() {
    let (gpu, standby) = bound();
    let mut dice = Dice::new();
    let mut seen = Kept::new();
    for n in 0..200 {
        write(&gpu.tree().join(format!("d{}/{}", n % 5, n / 5)), format!("start {n}"));
    }
    for round in 0..25 {
        change_something(&gpu, &mut dice, round);
        let urgency = if dice.below(2) == 0 {
            Urgency::Due
        } else {
            Urgency::LastGasp
        };
        standby.try_sync(FIRST, urgency, 0);
        kill_after(&standby, Duration::from_micros(dice.below(400_000)), &mut dice);
        let status = standby.status();
        assert!(status.halt.is_none(), "a kill was taken for a halt: {status:#?}");
        if round % 5 == 4 {
            check_points(&standby, &mut seen);
        } else {
            for point in standby.points() {
                let tree = read_tree(&standby.point_tree(&point));
                seen.entry(point.id.to_string()).or_insert((point, tree));
            }
        }
    }
    eventually("the last worker ended", || standby.workers().is_empty().then_some(()));
    let status = status_of(standby.try_sync(FIRST, Urgency::LastGasp, 30_000));
    assert!(status.last_failure.is_none(), "{status:#?}");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    check_points(&standby, &mut seen);
}

#[test]
fn a_killed_pass_is_reported_and_not_counted() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold");
    write(&gpu.tree().join("a"), "1");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    standby.workers().into_iter().for_each(kill);
    let status = eventually("the kill was noticed", || {
        Some(standby.status()).filter(|status| status.last_failure.is_some())
    });
    assert_eq!(status.last_failure.unwrap().kind, PassFailureKind::Interrupted);
    assert!(status.last_complete.is_none());
    assert_eq!(status.points.count, 0);
    gpu.release();
    standby.pass(FIRST);
}

#[test]
fn a_first_pass_that_is_killed_keeps_what_it_fetched() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold_after_list");
    for n in 0..8 {
        write(&gpu.tree().join(format!("{n}")), vec![b'x'; 3 << 20]);
    }
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    standby.workers().into_iter().for_each(kill);
    gpu.release();
    let partial = standby.settled().points.partial;
    assert!(partial.0 >= 20 << 20, "{partial}");
    let status = standby.pass(FIRST);
    let report = status.last_complete.unwrap();
    assert!(
        report.wire_bytes.0 < 1 << 20,
        "fetched again: {} over the network",
        report.wire_bytes
    );
    assert_eq!(status.points.partial.0, 0);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn what_a_killed_pass_fetched_counts_as_traffic() {
    let (gpu, standby) = bound();
    let slow = Bind {
        bandwidth_kib_per_s: 8192,
        ..standby.bind_request(&gpu, FIRST)
    };
    status_of(standby.call(Request::Bind(slow)));
    write(&gpu.tree().join("large"), crate::support::noise(40 << 20));
    standby.try_sync(FIRST, Urgency::Due, 0);
    let arrived = 16 << 20;
    eventually("a good part has arrived", || match standby.status().pass {
        PassActivity::Running { progress, .. } => (progress.bytes_done.0 >= arrived).then_some(()),
        PassActivity::Idle => None,
    });
    standby.workers().into_iter().for_each(kill);
    let status = standby.pass(FIRST);
    let (counted, last) = (status.traffic.today, status.last_complete.unwrap().wire_bytes);
    assert!(counted.0 >= last.0 + arrived, "{counted} counted, {last} of them last");
}

#[test]
fn a_file_too_large_for_any_single_pass_arrives_in_the_end() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("small"), "1");
    standby.pass(FIRST);
    write(&gpu.tree().join("deep/large"), crate::support::noise(24 << 20));
    // 10 MB a second, and after 0.7 s the connection breaks.
    gpu.wrap_rsync(
        "(sleep 0.7; kill -9 $PPID) & /usr/bin/rsync \"$@\" --bwlimit=10000; exit $?",
        "",
    );
    let tries = (1..=12).find(|_| standby.sync(FIRST).last_failure.is_none());
    let tries = tries.expect("the file never arrived");
    assert!(tries > 2, "no pass was cut off");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn restores_killed_at_random_moments_resume_and_verify() {
    let (gpu, standby) = bound();
    let mut dice = Dice::new();
    for n in 0..60 {
        write(
            &gpu.tree().join(format!("d{}/{n}", n % 5)),
            vec![b'a' + (n % 26) as u8; 200_000],
        );
    }
    let point = standby.pass(FIRST).points.latest.unwrap();
    let before = read_tree(&standby.point_tree(&point));
    let target = Machine::start(&[&standby.key()]);
    let mut started = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let request = standby.restore_request(&target, FIRST.next(), 0);
        let activity = status_of(standby.call(Request::Restore(request))).restore;
        match activity {
            RestoreActivity::Running { started_at, .. } | RestoreActivity::Verified { started_at, .. } => {
                started.insert(started_at);
            }
            RestoreActivity::Failed { .. } => {}
            RestoreActivity::Never => panic!("the job was forgotten"),
        }
        kill_after(&standby, Duration::from_micros(dice.below(500_000)), &mut dice);
    }
    eventually("the restore verified", || {
        matches!(standby.restore(&target, FIRST.next()), RestoreActivity::Verified { .. }).then_some(())
    });
    assert_eq!(started.len(), 1, "a resumed job is one job");
    assert_same_tree(&standby.point_tree(&point), &target.tree());
    assert_eq!(before, read_tree(&standby.point_tree(&point)));
}

/// What is written without waiting for the disk; after a power failure such a file may be empty or end in zeros.
#[test]
fn small_notes_that_a_power_failure_tore_stand_for_nothing() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    let notes = [
        "traffic.json",
        "pass.json",
        "watch.json",
        "incoming.json",
        "live.json",
        "confirmed.json",
        "restore-progress.json",
    ];
    for (round, torn) in [&b""[..], b"\0\0\0\0", b"{\"2026-11"].iter().enumerate() {
        for note in notes {
            fs::write(standby.data.join(note), torn).unwrap();
        }
        let status = standby.status();
        assert!(status.last_failure.is_none(), "{status:#?}");
        write(&gpu.tree().join("a"), format!("after power failure {round}"));
        let status = standby.pass(FIRST);
        assert!(status.traffic.today.0 > 0, "{status:#?}");
        assert_same_tree(&gpu.tree(), &standby.newest_tree());
    }
}
