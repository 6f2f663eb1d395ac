//! Every guard, end to end: nothing is deleted, the recovery points stay and restore, and a person decides how it goes on.

use std::fs;
use std::path::Path;

use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Accept, Bind, PassFailureKind, Request, RestoreActivity, Urgency};

use crate::support::{
    Machine, Standby, assert_same_tree, bound, grow_rich_tree, read_tree, remove_tree, status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

/// Spoils a protected GPU's tree and checks all that a halt promises.
fn halts(spoil: impl FnOnce(&Path), expected: HaltReason) -> (Machine, Standby) {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    for n in 0..60 {
        write(&gpu.tree().join(format!("work/{n}")), format!("work {n}"));
    }
    let point = standby.pass(FIRST).points.latest.unwrap();
    let before = read_tree(&standby.point_tree(&point));
    spoil(&gpu.tree());
    for urgency in [Urgency::Due, Urgency::LastGasp, Urgency::Due] {
        let status = status_of(standby.try_sync(FIRST, urgency, 30_000));
        assert_eq!(
            status.halt.as_ref().map(|halt| halt.reason),
            Some(expected),
            "{status:#?}"
        );
        assert_eq!(status.last_failure.unwrap().kind, PassFailureKind::Halted);
        assert_eq!((status.points.count, status.points.latest.as_ref()), (1, Some(&point)));
    }
    assert_eq!(before, read_tree(&standby.point_tree(&point)));
    assert!(
        !standby.data.join("incoming").exists(),
        "what a guard refused was kept for the next pass"
    );
    let target = Machine::start(&[&standby.key()]);
    let restored = standby.restore(&target, FIRST.next());
    assert!(matches!(restored, RestoreActivity::Verified { .. }), "{restored:#?}");
    assert_same_tree(&standby.point_tree(&point), &target.tree());
    (gpu, standby)
}

/// The epoch after the one that the restore in [`halts`] took: accepting the source takes a fresh one.
fn accepted() -> Epoch {
    FIRST.next().next()
}

fn accept(gpu: &Machine, standby: &Standby) {
    let mut bind = standby.bind_request(gpu, accepted());
    bind.accept = Accept::SourceAsItIs;
    status_of(standby.call(Request::Bind(bind)));
}

fn empty(tree: &Path) {
    for entry in fs::read_dir(tree).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() == ".warmspare" {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            remove_tree(&path);
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn an_emptied_source_halts_and_erases_nothing() {
    let (gpu, standby) = halts(empty, HaltReason::SourceEmptied);
    // Known failure 1 is exactly this, with the copy erased. Accepting is a person's choice, and older points stay even then.
    accept(&gpu, &standby);
    let status = standby.pass(accepted());
    assert_eq!((status.points.count, status.last_complete.unwrap().files), (2, 0));
}

#[test]
fn an_unmounted_source_halts() {
    halts(
        |tree| {
            remove_tree(tree);
            fs::create_dir(tree).unwrap();
        },
        HaltReason::SourceEmptied,
    );
}

#[test]
fn a_source_whose_directory_is_gone_halts() {
    halts(remove_tree, HaltReason::SourceEmptied);
}

#[test]
fn a_source_that_became_a_file_halts() {
    halts(
        |tree| {
            remove_tree(tree);
            fs::write(tree, "not a directory").unwrap();
        },
        HaltReason::RootChangedType,
    );
}

#[test]
fn a_source_without_our_marker_halts() {
    let (gpu, standby) = halts(
        |tree| fs::remove_dir_all(tree.join(".warmspare")).unwrap(),
        HaltReason::MarkerMissing,
    );
    accept(&gpu, &standby);
    assert_eq!(standby.pass(accepted()).halt, None);
}

#[test]
fn a_source_with_a_foreign_marker_halts() {
    halts(
        |tree| {
            write(
                &tree.join(".warmspare/marker.json"),
                r#"{"schema":1,"association":"vast-8","epoch":1}"#,
            )
        },
        HaltReason::MarkerForeign,
    );
    halts(
        |tree| {
            write(
                &tree.join(".warmspare/marker.json"),
                r#"{"schema":1,"association":"vast-7","epoch":2}"#,
            )
        },
        HaltReason::MarkerForeign,
    );
}

#[test]
fn a_source_that_lost_most_files_halts_and_may_be_accepted_once() {
    let (gpu, standby) = halts(
        |tree| {
            fs::remove_dir_all(tree.join("work")).unwrap();
            fs::remove_dir_all(tree.join("names")).unwrap();
        },
        HaltReason::MassDeletion,
    );
    accept(&gpu, &standby);
    assert_eq!(standby.pass(accepted()).points.count, 2);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    // Accepted once is not accepted for ever.
    for n in 0..60 {
        write(&gpu.tree().join(format!("again/{n}")), "x");
    }
    standby.pass(accepted());
    fs::remove_dir_all(gpu.tree().join("again")).unwrap();
    assert_eq!(standby.sync(accepted()).halt.unwrap().reason, HaltReason::MassDeletion);
}

#[test]
fn an_empty_new_gpu_under_the_next_epoch_never_empties_the_standby() {
    let (gpu, standby) = bound();
    for n in 0..5 {
        write(&gpu.tree().join(format!("{n}")), "work");
    }
    standby.pass(FIRST);
    let replacement = Machine::start(&[&standby.key()]);
    let second = FIRST.next();
    standby.bind(&replacement, second);
    let status = standby.sync(second);
    assert_eq!(status.halt.unwrap().reason, HaltReason::SourceEmptied);
    assert_eq!(status.points.count, 1);
    // With the data on it and a third epoch, all goes on.
    let third = second.next();
    let restored = standby.restore(&replacement, third);
    assert!(
        matches!(restored, RestoreActivity::Verified { files: 5, .. }),
        "{restored:#?}"
    );
    assert_eq!(standby.bind(&replacement, third).halt, None);
    standby.pass(third);
    assert_same_tree(&replacement.tree(), &standby.newest_tree());
}

#[test]
fn a_rename_of_a_few_files_and_the_deletion_of_half_pass() {
    let (gpu, standby) = bound();
    for n in 0..100 {
        write(&gpu.tree().join(format!("work/{n}")), format!("work {n}"));
    }
    standby.pass(FIRST);
    for n in 0..50 {
        fs::remove_file(gpu.tree().join(format!("work/{n}"))).unwrap();
    }
    let report = standby.pass(FIRST).last_complete.unwrap();
    assert_eq!((report.files, report.deleted_files), (50, 50));
}

#[test]
fn what_the_user_excludes_from_now_on_is_not_taken_for_a_deletion() {
    let (gpu, standby) = bound();
    for n in 0..100 {
        write(&gpu.tree().join(format!("cache/{n}")), format!("cache {n}"));
    }
    for n in 0..40 {
        write(&gpu.tree().join(format!("work/{n}")), format!("work {n}"));
    }
    standby.pass(FIRST);
    let bind = Bind {
        excludes: vec!["/cache/".into()],
        ..standby.bind_request(&gpu, FIRST.next())
    };
    status_of(standby.call(Request::Bind(bind)));
    let status = standby.pass(FIRST.next());
    assert_eq!(status.points.latest.unwrap().files, 40);
    // A deletion is one all the same.
    let bind = Bind {
        excludes: vec!["/cache/".into(), "/work/1*".into()],
        ..standby.bind_request(&gpu, FIRST.next().next())
    };
    status_of(standby.call(Request::Bind(bind)));
    for n in 0..40 {
        if !n.to_string().starts_with('1') && n != 7 {
            fs::remove_file(gpu.tree().join(format!("work/{n}"))).unwrap();
        }
    }
    let halt = standby.sync(FIRST.next().next()).halt.unwrap();
    assert_eq!(halt.reason, HaltReason::MassDeletion);
    assert!(halt.detail.contains("28 of 29 files"), "{}", halt.detail);
}
