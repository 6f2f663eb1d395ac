//! The first pass of a large tree: what is needed first arrives first, and in the end it equals the source.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::json;
use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Call, PassActivity, RefusalKind, Request, Urgency};

use crate::support::{
    Machine, Standby, assert_same_tree, bound, count_files, eventually, grow_rich_tree, kill, noise, refusal_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

/// Enough that the order matters.
fn grow_large_tree(gpu: &Machine) {
    let tree = gpu.tree();
    grow_rich_tree(&tree);
    for (n, name) in [".cache/pip/wheel", "runs/old.pt", "runs/line\nbreak.pt", "runs/new.pt"]
        .iter()
        .enumerate()
    {
        write(&tree.join(name), noise(20 << 20));
        let modified = SystemTime::now() - Duration::from_secs(3600 * (9 - n as u64));
        fs::File::open(tree.join(name)).unwrap().set_modified(modified).unwrap();
    }
    for n in 0..50 {
        write(&tree.join(format!("data/{n}.jpg")), noise(10_000));
        write(&tree.join(format!("src/{n}.py")), format!("print({n})"));
    }
    // Two names of one file that travel in different parts.
    fs::hard_link(tree.join("src/1.py"), tree.join("data/same.bin")).unwrap();
    fs::hard_link(tree.join("runs/new.pt"), tree.join(".cache/same.pt")).unwrap();
}

#[test]
fn the_first_pass_of_a_large_tree_equals_the_source_in_everything() {
    let (gpu, standby) = bound();
    grow_large_tree(&gpu);
    let status = standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    let report = status.last_complete.unwrap();
    assert_eq!((report.files, report.deleted_files), (count_files(&gpu.tree()), 0));
    assert!(
        report.wire_bytes.0 > 80 << 20,
        "parts are not counted: {}",
        report.wire_bytes
    );
    write(&gpu.tree().join("src/1.py"), "changed");
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn code_comes_first_then_the_newest_checkpoint_and_caches_last() {
    let (mut gpu, standby) = bound();
    grow_large_tree(&gpu);
    gpu.wrap_rsync("", "hold");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    let there = |name: &str| standby.data.join("incoming").join(name).exists();
    // The list, code, large files, everything but caches.
    let expected: [&[&str]; 4] = [
        &[],
        &["src/1.py"],
        &["src/1.py", "runs/new.pt", "runs/old.pt"],
        &["src/1.py", "runs/new.pt", "runs/old.pt", "data/1.jpg"],
    ];
    let all = [
        "src/1.py",
        "runs/new.pt",
        "runs/old.pt",
        "data/1.jpg",
        ".cache/pip/wheel",
    ];
    for (step, expected) in expected.iter().enumerate() {
        gpu.wait_until_held();
        for name in expected.iter() {
            eventually(&format!("step {step}: {name} arrived"), || there(name).then_some(()));
        }
        for name in all.iter().filter(|name| !expected.contains(name)) {
            assert!(!there(name), "step {step}: {name} came too early");
        }
        if step == 2 {
            let PassActivity::Running { progress, .. } = standby.status().pass else {
                panic!("no pass is under way");
            };
            assert!(
                progress.bytes_total.0 > 80 << 20 && progress.files_total > 100,
                "{progress:?}"
            );
        }
        gpu.release_once();
    }
    gpu.release();
    eventually("the pass ended", || (standby.status().points.count == 1).then_some(()));
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn what_a_person_named_comes_before_everything_else() {
    let (mut gpu, standby) = bound();
    grow_large_tree(&gpu);
    let mut bind = standby.bind_request(&gpu, FIRST);
    bind.first = ["runs/old.pt", "not/there", ".cache/pip/"]
        .map(|path| path.parse().unwrap())
        .into();
    standby.call(Request::Bind(bind));
    gpu.wrap_rsync("", "hold");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    let there = |name: &str| standby.data.join("incoming").join(name).exists();
    let named = ["runs/old.pt", ".cache/pip/wheel"];
    // The list, then each of the three.
    for arrived in [0, 1, 1, 2] {
        gpu.wait_until_held();
        for name in &named[..arrived] {
            eventually(&format!("{name} arrived"), || there(name).then_some(()));
        }
        let early = named[arrived..].iter().chain(&["src/1.py", "runs/new.pt"]);
        assert!(!early.clone().any(|name| there(name)), "{early:?}");
        gpu.release_once();
    }
    gpu.release();
    eventually("the pass ended", || (standby.status().points.count == 1).then_some(()));
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    assert_eq!(standby.status().source.unwrap().first.len(), 3);
}

#[test]
fn a_path_that_is_not_below_the_tree_cannot_be_named() {
    let (gpu, standby) = bound();
    for path in ["", "/etc", "../x"] {
        let bind = Request::Bind(standby.bind_request(&gpu, FIRST));
        let mut call = serde_json::to_value(Call::new(bind)).unwrap();
        call["request"]["first"] = json!(["src", path]);
        let refusal = refusal_of(standby.call_with(&call));
        assert_eq!(refusal.kind, RefusalKind::BadRequest);
        assert!(refusal.message.contains("below source_path"), "{}", refusal.message);
    }
}

#[test]
fn a_first_pass_that_is_killed_in_any_part_goes_on() {
    let (mut gpu, standby) = bound();
    grow_large_tree(&gpu);
    // Once the large files are there only the closing pass is left after the list.
    for part in [0, 1, 2, 1] {
        gpu.wrap_rsync("", "hold");
        gpu.hold();
        for _ in 0..part {
            held(&gpu, &standby);
            gpu.release_once();
        }
        held(&gpu, &standby);
        standby.workers().into_iter().for_each(kill);
        gpu.release();
        eventually("the last worker ended", || standby.workers().is_empty().then_some(()));
    }
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

/// Asks as the control plane does, again and again, until rsync waits: what was just killed may hold its lock for another moment.
fn held(gpu: &Machine, standby: &Standby) {
    eventually("rsync was held", || {
        standby.try_sync(FIRST, Urgency::Due, 0);
        gpu.is_held().then_some(())
    });
}
