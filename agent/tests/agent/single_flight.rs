//! One pass at a time, and none that was asked for is forgotten.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{PassActivity, Urgency};

use crate::support::{Machine, assert_same_tree, bound, descendants, eventually, status_of, write};

const FIRST: Epoch = Epoch::FIRST;

fn write_durably(path: &std::path::Path, content: &str) {
    write(path, content);
    fs::File::open(path).unwrap().sync_all().unwrap();
}

#[test]
fn a_last_gasp_request_during_a_pass_saves_what_was_written_before_it() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold_after_list");
    write(&gpu.tree().join("early"), "1");
    gpu.hold();
    let running = status_of(standby.try_sync(FIRST, Urgency::Due, 0));
    assert!(running.last_complete.is_none());
    gpu.wait_until_held();
    // The pass under way has read the tree and will not look again.
    write_durably(&gpu.tree().join("last-words"), "written before the notice");
    let answer = status_of(standby.try_sync(FIRST, Urgency::LastGasp, 0));
    assert!(matches!(answer.pass, PassActivity::Running { .. }), "{answer:#?}");
    gpu.release();
    let newest = eventually("the last words were saved", || {
        standby
            .status()
            .points
            .latest
            .filter(|point| standby.point_tree(point).join("last-words").exists())
    });
    assert!(standby.points().len() == 2 && newest.files == 2, "{newest:?}");
}

#[test]
fn a_due_request_during_a_pass_reports_it_and_starts_no_other() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold_after_list");
    write(&gpu.tree().join("early"), "1");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    write(&gpu.tree().join("late"), "2");
    let begun = Instant::now();
    for _ in 0..3 {
        let answer = status_of(standby.try_sync(FIRST, Urgency::Due, 0));
        assert!(matches!(answer.pass, PassActivity::Running { .. }), "{answer:#?}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "a request waited for a pass: {:?}",
        begun.elapsed()
    );
    assert_eq!(standby.workers().len(), 1);
    gpu.release();
    eventually("the pass ended", || standby.workers().is_empty().then_some(()));
    let status = standby.status();
    assert_eq!(status.points.count, 1);
    assert!(!standby.newest_tree().join("late").exists());
}

#[test]
fn a_waiting_caller_is_answered_when_the_pass_ends_and_not_later_than_it_asked() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold");
    write(&gpu.tree().join("a"), "1");
    gpu.hold();
    let begun = Instant::now();
    let early = status_of(standby.try_sync(FIRST, Urgency::Due, 700));
    let waited = begun.elapsed();
    assert!(early.last_complete.is_none());
    assert!(
        (Duration::from_millis(650)..Duration::from_secs(4)).contains(&waited),
        "{waited:?}"
    );
    gpu.release();
    assert!(standby.sync(FIRST).last_complete.is_some());
}

#[test]
fn a_last_gasp_request_outlives_the_kill_of_everybody() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold");
    write(&gpu.tree().join("a"), "1");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    write_durably(&gpu.tree().join("last-words"), "x");
    standby.try_sync(FIRST, Urgency::LastGasp, 0);
    for worker in standby.workers() {
        crate::support::kill(worker);
    }
    gpu.release();
    // Whoever comes next serves it, also with a request that alone would be content with less.
    let status = standby.sync(FIRST);
    assert!(status.last_complete.is_some(), "{status:#?}");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_bind_to_the_next_epoch_stops_the_pass_of_the_old_one() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold");
    write(&gpu.tree().join("of-the-old-gpu"), "1");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    let replacement = Machine::start(&[&standby.key()]);
    write(&replacement.tree().join("of-the-new-gpu"), "2");
    let second = FIRST.next();
    standby.bind(&replacement, second);
    let status = standby.pass(second);
    assert_eq!(status.points.latest.as_ref().map(|point| point.epoch), Some(second));
    assert_eq!(
        status.points.count, 1,
        "the superseded GPU's pass became a recovery point"
    );
    assert!(!standby.newest_tree().join("of-the-old-gpu").exists());
    gpu.release();
}

#[test]
fn a_gpu_that_stops_right_after_it_gave_everything_loses_nothing() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    // rsync still ends well, but nobody is left to look at the tree once more.
    let gone = gpu.place.path().join("gone");
    let kill = format!(
        "kill -9 $(pgrep -P $PPID -f warmspare-look) && touch {}",
        gone.display()
    );
    gpu.wrap_rsync("", &kill);
    write_durably(&gpu.tree().join("last-words"), "x");
    standby.pass(FIRST);
    assert!(gone.exists(), "the second look was there to be had");
    assert!(standby.newest_tree().join("last-words").exists());
}

#[test]
fn a_caller_that_waits_survives_the_death_of_the_worker() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold");
    write(&gpu.tree().join("a"), "1");
    gpu.hold();
    let status = std::thread::scope(|scope| {
        let caller = scope.spawn(|| standby.sync(FIRST));
        gpu.wait_until_held();
        let workers = standby.workers();
        assert_eq!(workers.len(), 1);
        workers.into_iter().for_each(crate::support::kill);
        gpu.release();
        caller.join().unwrap()
    });
    assert!(status.last_complete.is_some(), "{status:#?}");
}

/// The shells on a GPU that look at its tree.
fn looks_at(gpu: &Machine) -> Vec<u32> {
    let words = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut all = gpu.connections();
    all.retain(|pid| words(pid).contains("warmspare-look"));
    all
}

fn is_named(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim() == name)
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn what_a_guard_finds_at_a_superseded_gpu_does_not_halt_the_new_one() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("hold_after_list", "");
    write(&gpu.tree().join("a"), "1");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    // Between the transfer and the second look the old GPU is wiped, and before it answers the standby is bound to another.
    let looks = looks_at(&gpu);
    assert_eq!(looks.len(), 1);
    looks.iter().for_each(|look| signal(*look, Signal::STOP));
    gpu.release();
    let workers = standby.workers();
    eventually("the transfer ended", || {
        let mut all = workers.iter().flat_map(|worker| descendants(*worker));
        (!all.any(|pid| is_named(pid, "rsync"))).then_some(())
    });
    fs::remove_dir_all(gpu.tree()).unwrap();
    let replacement = Machine::start(&[&standby.key()]);
    write(&replacement.tree().join("a"), "1");
    standby.bind(&replacement, FIRST.next());
    looks.iter().for_each(|look| signal(*look, Signal::CONT));
    assert_eq!(standby.pass(FIRST.next()).halt, None);
}
