//! Live mode: between two calls the standby goes on by itself, and never longer than it may.

use std::fs;
use std::time::{Duration, Instant};

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Accept, Live, PassScope, Request, RestoreActivity, Sync, Urgency};

use crate::support::{
    Disk, Machine, Standby, assert_same_tree, bound, descendants, eventually, kill, read_tree, set_mtime, status_of,
    write,
};

const FIRST: Epoch = Epoch::FIRST;

fn live(standby: &Standby, urgency: Urgency) -> warmspare_wire::agent::Status {
    status_of(standby.call(Request::Sync(Sync {
        epoch: FIRST,
        urgency,
        wait_ms: 30_000,
        live: Live::On,
    })))
}

/// A standby that goes on by itself.
fn going() -> Option<(Disk, Machine, Standby)> {
    let (disk, gpu, standby) = Disk::bound("btrfs", 400)?;
    for n in 0..40 {
        write(&gpu.tree().join(format!("work/{n}")), format!("work {n}"));
    }
    let status = live(&standby, Urgency::Due);
    assert!(
        status.last_failure.is_none() && status.live_until.is_some(),
        "{status:#?}"
    );
    Some((disk, gpu, standby))
}

/// Waits until the newest recovery point has this content.
fn arrives(standby: &Standby, name: &str, content: &str) {
    eventually("the change arrived by itself", || {
        let found = fs::read_to_string(standby.newest_tree().join(name)).ok()?;
        (found == content).then_some(())
    });
}

fn stops(standby: &Standby) {
    eventually("the worker stopped", || standby.workers().is_empty().then_some(()));
}

/// Makes the lease end now, as if no call had come for two minutes.
fn end_lease(standby: &Standby) {
    let lease = serde_json::json!({"until": "2020-01-01T00:00:00.000Z"});
    let lease_file = standby.data.join("live.json");
    fs::write(standby.data.join("live.json.new"), lease.to_string()).unwrap();
    fs::rename(standby.data.join("live.json.new"), lease_file).unwrap();
}

#[test]
fn changes_arrive_without_a_call_until_the_lease_ends() {
    let Some((_disk, gpu, standby)) = going() else {
        return;
    };
    for round in 0..2 {
        write(&gpu.tree().join("work/1"), format!("by itself {round}"));
        write(&gpu.tree().join(format!("new/{round}")), "x");
        arrives(&standby, "work/1", &format!("by itself {round}"));
        let status = standby.status();
        let report = status.last_complete.unwrap();
        assert_eq!((report.scope, report.files), (PassScope::Changes, 41 + round));
        assert_eq!(report.point, status.points.latest.unwrap().id);
    }
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    let count = standby.points().len();
    end_lease(&standby);
    // The worker still waits at the watcher, and hears of it.
    write(&gpu.tree().join("work/1"), "nobody asks any more");
    assert!(standby.status().live_until.is_none());
    stops(&standby);
    assert_eq!(standby.points().len(), count, "a pass ran without a lease");
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_quiet_tree_is_confirmed_and_makes_no_points() {
    let Some((_disk, _gpu, standby)) = going() else {
        return;
    };
    let first = standby.status().last_complete.unwrap();
    let mut seen = first.started_at;
    for _ in 0..2 {
        seen = eventually("the point was confirmed", || {
            let now = standby.status().last_complete.unwrap();
            assert_eq!(now.point, first.point);
            (now.started_at > seen).then_some(now.started_at)
        });
        assert!(seen <= standby.status().now);
    }
    assert_eq!(standby.points().len(), 1);
    assert_eq!(standby.workers().len(), 1);
}

#[test]
fn a_request_is_served_at_once_while_live_mode_waits() {
    let Some((_disk, gpu, standby)) = going() else {
        return;
    };
    for (round, urgency) in [Urgency::LastGasp, Urgency::Due, Urgency::LastGasp]
        .into_iter()
        .enumerate()
    {
        write(&gpu.tree().join("last-words"), format!("{round}"));
        let begun = Instant::now();
        let status = live(&standby, urgency);
        let took = begun.elapsed();
        assert!(status.last_failure.is_none());
        assert!(took < Duration::from_secs(3), "waited {took:?} for live mode");
        let saved = fs::read_to_string(standby.newest_tree().join("last-words")).unwrap();
        assert_eq!(saved, format!("{round}"));
    }
    assert_eq!(standby.workers().len(), 1);
}

#[test]
fn a_call_can_switch_it_off() {
    let Some((_disk, _gpu, standby)) = going() else {
        return;
    };
    assert!(standby.pass(FIRST).live_until.is_none());
    stops(&standby);
}

#[test]
fn a_bind_and_a_halt_end_it() {
    let Some((_disk, gpu, standby)) = going() else {
        return;
    };
    let second = FIRST.next();
    standby.bind(&gpu, second);
    stops(&standby);
    let again = |epoch| {
        let sync = Sync {
            epoch,
            urgency: Urgency::Due,
            wait_ms: 30_000,
            live: Live::On,
        };
        status_of(standby.call(Request::Sync(sync)))
    };
    assert!(again(second).last_failure.is_none());
    // The marker goes: noticed without a call, and copying halts.
    let point = standby.status().points.latest.unwrap();
    let before = read_tree(&standby.point_tree(&point));
    fs::remove_dir_all(gpu.tree().join("work")).unwrap();
    fs::remove_file(gpu.tree().join(".warmspare/marker.json")).unwrap();
    eventually("it halted", || standby.status().halt);
    stops(&standby);
    assert_eq!(before, read_tree(&standby.point_tree(&point)));
    let third = second.next();
    let mut bind = standby.bind_request(&gpu, third);
    bind.accept = Accept::SourceAsItIs;
    status_of(standby.call(Request::Bind(bind)));
    write(&gpu.tree().join("a"), "goes on");
    assert!(again(third).last_failure.is_none());
    assert_eq!(standby.workers().len(), 1);
}

#[test]
fn a_restore_under_a_later_epoch_ends_it() {
    let Some((_disk, gpu, standby)) = going() else {
        return;
    };
    let target = Machine::start(&[&standby.key()]);
    let count = standby.points().len();
    let restore = standby.restore_request(&target, FIRST.next(), 0);
    status_of(standby.call(Request::Restore(restore)));
    // The worker still waits at the watcher, and hears of it.
    write(&gpu.tree().join("work/1"), "of a GPU that is superseded");
    stops(&standby);
    assert_eq!(standby.points().len(), count, "a superseded GPU was read");
    let restored = standby.restore(&target, FIRST.next());
    assert!(matches!(restored, RestoreActivity::Verified { .. }), "{restored:#?}");
    let work = fs::read_to_string(target.tree().join("work/1")).unwrap();
    assert_eq!(work, "work 1");
}

#[test]
fn a_gpu_that_goes_away_is_noticed_without_a_call_and_the_next_one_goes_on() {
    let Some((_disk, mut gpu, standby)) = going() else {
        return;
    };
    gpu.halt();
    eventually("the loss was noticed", || standby.status().last_failure);
    stops(&standby);
    gpu.boot();
    assert!(live(&standby, Urgency::Due).last_failure.is_none());
    write(&gpu.tree().join("work/1"), "back");
    arrives(&standby, "work/1", "back");
}

#[test]
fn a_killed_worker_or_watcher_loses_nothing() {
    let Some((_disk, gpu, standby)) = going() else {
        return;
    };
    for round in 0..3 {
        write(&gpu.tree().join("work/1"), format!("round {round}"));
        match round {
            0 => gpu.kill_watchers(),
            1 => standby.workers().into_iter().for_each(kill),
            _ => {
                let workers = standby.workers();
                workers.iter().flat_map(|worker| descendants(*worker)).for_each(kill);
            }
        }
        set_mtime(&gpu.tree().join("work/2"), 1_000_000_000 + round, 7);
        let status = live(&standby, Urgency::LastGasp);
        assert!(status.last_failure.is_none(), "{status:#?}");
        assert_same_tree(&gpu.tree(), &standby.newest_tree());
    }
}

#[test]
fn where_points_share_by_hard_links_it_waits_for_calls() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    live(&standby, Urgency::Due);
    stops(&standby);
}
