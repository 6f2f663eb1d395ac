//! Bringing the data to a new machine, and proving it.

use std::fs;

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{PointChoice, RefusalKind, Request, RestoreActivity, Urgency};

use crate::support::{
    Machine, Standby, assert_same_tree, bound, eventually, grow_rich_tree, refusal_of, run, set_mtime, status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

fn verified(activity: &RestoreActivity) -> (u64, u64) {
    match activity {
        RestoreActivity::Verified { files, bytes, .. } => (*files, bytes.0),
        other => panic!("not verified: {other:#?}"),
    }
}

#[test]
fn a_restored_tree_equals_the_source_in_everything() {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    let (files, bytes) = verified(&standby.restore(&target, FIRST.next()));
    let latest = standby.status().points.latest.unwrap();
    assert_eq!((files, bytes), (latest.files, latest.bytes.0));
    assert_same_tree(&gpu.tree(), &target.tree());
}

#[test]
fn a_restored_machine_becomes_the_next_source_without_a_halt() {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    let second = FIRST.next();
    verified(&standby.restore(&target, second));
    assert_eq!(standby.bind(&target, second).halt, None);
    let status = standby.pass(second);
    assert_eq!(status.last_complete.unwrap().deleted_files, 0);
    let superseded = refusal_of(standby.try_sync(FIRST, Urgency::Due, 0));
    assert_eq!(superseded.kind, RefusalKind::StaleEpoch);
}

#[test]
fn what_is_already_on_the_target_and_not_in_the_point_stays() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("ours"), "from the standby");
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    write(&target.tree().join("theirs"), "was here before");
    verified(&standby.restore(&target, FIRST.next()));
    assert_eq!(
        fs::read_to_string(target.tree().join("theirs")).unwrap(),
        "was here before"
    );
    assert_eq!(
        fs::read_to_string(target.tree().join("ours")).unwrap(),
        "from the standby"
    );
}

#[test]
fn other_content_of_the_same_size_and_time_on_the_target_is_found_and_replaced() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("weights"), "good");
    set_mtime(&gpu.tree().join("weights"), 1_795_441_530, 7);
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    write(&target.tree().join("weights"), "evil");
    set_mtime(&target.tree().join("weights"), 1_795_441_530, 7);
    fs::set_permissions(
        target.tree().join("weights"),
        fs::metadata(gpu.tree().join("weights")).unwrap().permissions(),
    )
    .unwrap();
    verified(&standby.restore(&target, FIRST.next()));
    assert_eq!(fs::read_to_string(target.tree().join("weights")).unwrap(), "good");
}

#[test]
fn an_older_point_can_be_restored_and_a_higher_epoch_replaces_the_job() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "old");
    let old = standby.pass(FIRST).points.latest.unwrap();
    write(&gpu.tree().join("a"), "newer");
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    let second = FIRST.next();
    let mut request = standby.restore_request(&target, second, 30_000);
    request.point = PointChoice::Id(old.id.clone());
    verified(&status_of(standby.call(Request::Restore(request.clone()))).restore);
    assert_eq!(fs::read_to_string(target.tree().join("a")).unwrap(), "old");
    let third = second.next();
    verified(&standby.restore(&target, third));
    assert_eq!(fs::read_to_string(target.tree().join("a")).unwrap(), "newer");
    let stale = refusal_of(standby.call(Request::Restore(request.clone())));
    assert_eq!(stale.kind, RefusalKind::StaleEpoch);
    request.epoch = third.next();
    request.point = PointChoice::Id("20200101T000000.000Z".parse().unwrap());
    let none = refusal_of(standby.call(Request::Restore(request)));
    assert_eq!(none.kind, RefusalKind::NoRecoveryPoint);
}

#[test]
fn nothing_is_restored_from_a_pass_that_did_not_complete() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "hold");
    write(&gpu.tree().join("a"), "1");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    let target = Machine::start(&[&standby.key()]);
    let request = standby.restore_request(&target, FIRST.next(), 5000);
    let refusal = refusal_of(standby.call(Request::Restore(request)));
    assert_eq!(refusal.kind, RefusalKind::NoRecoveryPoint);
    gpu.release();
}

#[test]
fn a_target_that_goes_away_fails_the_job_and_a_repeated_call_resumes_it() {
    let (gpu, standby) = bound();
    for n in 0..8 {
        write(&gpu.tree().join(format!("{n}")), vec![b'x'; 2 << 20]);
    }
    standby.pass(FIRST);
    let mut target = Machine::start(&[&standby.key()]);
    target.wrap_rsync("", "hold");
    target.hold();
    let second = FIRST.next();
    let running = status_of(standby.call(Request::Restore(standby.restore_request(&target, second, 0)))).restore;
    assert!(
        matches!(running, RestoreActivity::Running { progress, .. } if progress.files_total == 8),
        "{running:#?}"
    );
    target.wait_until_held();
    target.halt();
    let failed = eventually("the job failed", || match standby.status().restore {
        RestoreActivity::Failed { message, not_ready, .. } => Some((message, not_ready)),
        RestoreActivity::Never | RestoreActivity::Running { .. } | RestoreActivity::Verified { .. } => None,
    });
    assert!(failed.0.contains("cannot reach") && failed.1, "{failed:?}");
    target.release();
    target.boot();
    verified(&standby.restore(&target, second));
    assert_same_tree(&standby.newest_tree(), &target.tree());
}

#[test]
fn a_job_can_move_to_another_machine_while_it_runs() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    let mut stuck = Machine::start(&[&standby.key()]);
    stuck.wrap_rsync("hold", "");
    stuck.hold();
    let second = FIRST.next();
    status_of(standby.call(Request::Restore(standby.restore_request(&stuck, second, 0))));
    stuck.wait_until_held();
    let other = Machine::start(&[&standby.key()]);
    verified(&standby.restore(&other, second.next()));
    assert!(other.tree().join("a").exists());
    stuck.release();
}

#[test]
fn verify_tells_equal_from_different() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "same size 1");
    set_mtime(&gpu.tree().join("a"), 1_795_441_530, 0);
    standby.pass(FIRST);
    let verify = |standby: &Standby| run(standby.command().args(["verify", "--json"]), b"");
    let equal = verify(&standby);
    assert!(equal.status.success(), "{equal:?}");
    write(&gpu.tree().join("a"), "same size 2");
    set_mtime(&gpu.tree().join("a"), 1_795_441_530, 0);
    let different = verify(&standby);
    assert_eq!(different.status.code(), Some(1), "{different:?}");
    let said: serde_json::Value = serde_json::from_slice(&different.stdout).unwrap();
    assert_eq!(said["differences"], 1);
}

#[test]
fn people_get_words_and_programs_get_json_from_the_same_verbs() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    let target = Machine::start(&[&standby.key()]);
    let to = format!("{}@127.0.0.1:{}", crate::support::user(), target.port);
    let path = target.path();
    let verbs: [&[&str]; 4] = [
        &["sync"],
        &["status"],
        &["recovery-points"],
        &["restore", "--to", &to, "--path", &path],
    ];
    // Copying may halt, restoring goes on, and after a restore the old GPU is never read again: hence the order.
    for verb in verbs {
        if verb[0] == "restore" {
            fs::remove_dir_all(gpu.tree().join(".warmspare")).unwrap();
            let halted = run(standby.command().arg("sync"), b"");
            assert_eq!(halted.status.code(), Some(3), "{halted:?}");
        }
        let words = run(standby.command().args(verb), b"");
        assert!(
            words.status.success() && !words.stdout.is_empty(),
            "{verb:?}: {words:?}"
        );
        let json = run(standby.command().args(verb).arg("--json"), b"");
        let answer: warmspare_wire::agent::Answer = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(answer.schema, warmspare_wire::agent::SCHEMA);
    }
}

/// `cargo test -p warmspare-agent -- --ignored a_gibibyte`
#[test]
#[ignore = "writes 3 GiB"]
fn a_gibibyte_in_twenty_thousand_files_is_restored_in_everything() {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    let mut dice = crate::support::Dice::new();
    let noise = crate::support::noise(4 << 20);
    for n in 0..20_000_usize {
        let length = if n % 1000 == 0 { 4 << 20 } else { 50_000 };
        let from = usize::try_from(dice.below(4 << 20)).unwrap().min(noise.len() - length);
        write(
            &gpu.tree().join(format!("big/{}/{n}", n % 211)),
            &noise[from..from + length],
        );
    }
    standby.pass(FIRST);
    let begun = std::time::Instant::now();
    let target = Machine::start(&[&standby.key()]);
    let (files, bytes) = verified(&standby.restore(&target, FIRST.next()));
    println!("{files} files, {bytes} bytes in {:?}", begun.elapsed());
    assert!(files > 20_000 && bytes >= 1 << 30, "{files} files, {bytes} bytes");
    assert_same_tree(&gpu.tree(), &target.tree());
}
