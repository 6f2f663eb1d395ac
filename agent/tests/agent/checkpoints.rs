//! What naming a checkpoint promises, and what runs before a pass.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Bind, PointChoice, RecoveryPoint, Request, Restore, RestoreActivity, Urgency, Watcher};

use crate::support::{AGENT, Machine, Standby, assert_same_tree, bound, eventually, read_tree, status_of, write};

const FIRST: Epoch = Epoch::FIRST;

fn checkpoint(tree: &Path, name: &str, paths: &[&str]) -> Command {
    let mut command = Command::new(AGENT);
    command.current_dir(tree).args(["checkpoint", name]).args(paths);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ask(tree: &Path, name: &str, paths: &[&str]) {
    let output = checkpoint(tree, name, paths).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Asks, runs a pass, and answers what the waiting script heard.
fn ask_and_pass(gpu: &Machine, standby: &Standby, name: &str, paths: &[&str]) -> Output {
    let waiting = checkpoint(&gpu.tree(), name, paths).arg("--wait=30").spawn().unwrap();
    eventually("the checkpoint was asked for", || {
        (!wanted(&gpu.tree()).is_empty()).then_some(())
    });
    standby.pass(FIRST);
    waiting.wait_with_output().unwrap()
}

fn wanted(tree: &Path) -> Vec<std::path::PathBuf> {
    let listing = fs::read_dir(tree.join(".warmspare/checkpoints")).into_iter().flatten();
    let mut found: Vec<_> = listing.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|end| end == "wanted"));
    found
}

fn bind_command(gpu: &Machine, standby: &Standby, command: &str) {
    let bind = Bind {
        before_pass: command.into(),
        ..standby.bind_request(gpu, FIRST)
    };
    status_of(standby.call(Request::Bind(bind)));
}

fn names(points: &[RecoveryPoint]) -> Vec<Vec<&str>> {
    points
        .iter()
        .map(|point| point.checkpoints.iter().map(|name| name.as_str()).collect())
        .collect()
}

/// Where our program would lie there is a directory from now on, so it cannot be put there.
fn without_watcher(gpu: &Machine, standby: &Standby) {
    standby.pass(FIRST);
    gpu.kill_watchers();
    for entry in fs::read_dir(gpu.tree().join(".warmspare")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("agent-") {
            fs::remove_file(entry.path()).unwrap();
            fs::create_dir(entry.path()).unwrap();
        }
    }
    let status = standby.pass(FIRST);
    assert!(
        matches!(status.watcher, Watcher::Missing { .. }),
        "{:?}",
        status.watcher
    );
}

#[test]
fn a_named_checkpoint_can_be_restored_after_it_was_overwritten() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("train.py"), "code");
    standby.pass(FIRST);
    write(&gpu.tree().join("runs/model.pt"), "epoch 1");
    write(&gpu.tree().join("runs/optimizer.pt"), "state 1");
    let heard = ask_and_pass(&gpu, &standby, "epoch-1", &["runs"]);
    let words = String::from_utf8_lossy(&heard.stdout).into_owned();
    assert!(
        heard.status.success() && words.contains("is in recovery point"),
        "{heard:?}"
    );
    let before = read_tree(&gpu.tree());
    assert!(
        wanted(&gpu.tree()).is_empty(),
        "it is asked for again although it was answered"
    );
    write(&gpu.tree().join("runs/model.pt"), "epoch 2");
    standby.pass(FIRST);
    assert_eq!(names(&standby.points()), [vec![], vec!["epoch-1"], vec![]]);

    let target = Machine::start(&[&standby.key()]);
    let restore = Restore {
        point: PointChoice::Checkpoint("epoch-1".parse().unwrap()),
        ..standby.restore_request(&target, FIRST.next(), 60_000)
    };
    let status = status_of(standby.call(Request::Restore(restore)));
    assert!(
        matches!(status.restore, RestoreActivity::Verified { .. }),
        "{:?}",
        status.restore
    );
    let got = read_tree(&target.tree());
    let contents =
        |tree: &std::collections::BTreeMap<Vec<u8>, crate::support::Entry>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(contents(&got), contents(&before));
    assert_eq!(
        fs::read_to_string(target.tree().join("runs/model.pt")).unwrap(),
        "epoch 1"
    );
}

#[test]
fn a_checkpoint_that_was_overwritten_before_it_was_copied_is_never_claimed() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("model.pt"), "epoch 1");
    standby.pass(FIRST);
    let waiting = checkpoint(&gpu.tree(), "epoch-1", &["model.pt"])
        .arg("--wait=30")
        .spawn()
        .unwrap();
    eventually("the checkpoint was asked for", || {
        (!wanted(&gpu.tree()).is_empty()).then_some(())
    });
    write(&gpu.tree().join("model.pt"), "epoch 2");
    standby.pass(FIRST);
    let heard = waiting.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&heard.stderr).into_owned();
    assert!(
        heard.status.code() == Some(1) && words.contains("model.pt"),
        "{heard:?}"
    );
    assert!(names(&standby.points()).concat().is_empty());
}

#[test]
fn a_checkpoint_that_changes_while_it_is_copied_is_never_claimed() {
    let (mut gpu, standby) = bound();
    for watched in [true, false] {
        gpu.wrap_rsync("", "hold");
        if !watched {
            without_watcher(&gpu, &standby);
        }
        write(&gpu.tree().join("model.pt"), format!("epoch 1, {watched}"));
        gpu.hold();
        let waiting = checkpoint(&gpu.tree(), "torn", &["model.pt"])
            .arg("--wait=30")
            .spawn()
            .unwrap();
        eventually("the checkpoint was asked for", || {
            (!wanted(&gpu.tree()).is_empty()).then_some(())
        });
        standby.try_sync(FIRST, Urgency::LastGasp, 0);
        gpu.wait_until_held();
        // The same size, and what rsync has copied by now carries the old time: only the GPU can tell.
        write(&gpu.tree().join("model.pt"), format!("epoch 2, {watched}"));
        gpu.release();
        let heard = waiting.wait_with_output().unwrap();
        assert_eq!(heard.status.code(), Some(1), "{watched} {heard:?}");
        eventually("the pass ended", || standby.workers().is_empty().then_some(()));
        assert!(names(&standby.points()).concat().is_empty());
    }
}

#[test]
fn a_name_for_what_is_copied_already_goes_to_the_newest_point() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("model.pt"), "epoch 1");
    standby.pass(FIRST);
    let heard = ask_and_pass(&gpu, &standby, "final", &["model.pt"]);
    assert!(heard.status.success(), "{heard:?}");
    // The whole tree, and a name that is given again: the newest counts.
    let heard = ask_and_pass(&gpu, &standby, "final", &[]);
    assert!(heard.status.success(), "{heard:?}");
    let points = standby.points();
    assert_eq!(names(&points), [vec!["final"]]);
    write(&gpu.tree().join("model.pt"), "epoch 2");
    let heard = ask_and_pass(&gpu, &standby, "final", &["model.pt"]);
    assert!(heard.status.success(), "{heard:?}");
    let points = standby.points();
    let said = String::from_utf8_lossy(&heard.stdout).into_owned();
    assert!(said.contains(points.last().unwrap().id.as_str()), "{said}");
}

#[test]
fn an_answer_that_was_lost_is_given_again_for_the_same_recovery_point() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("model.pt"), "epoch 1");
    ask(&gpu.tree(), "epoch-1", &["model.pt"]);
    let request = wanted(&gpu.tree()).pop().unwrap();
    let copy = fs::read(&request).unwrap();
    standby.pass(FIRST);
    // As if the GPU had never heard, and went on.
    fs::remove_file(request.with_extension("kept")).unwrap();
    fs::write(&request, copy).unwrap();
    write(&gpu.tree().join("model.pt"), "epoch 2");
    standby.pass(FIRST);
    let points = standby.points();
    assert_eq!(names(&points), [vec!["epoch-1"], vec![]]);
    let heard = fs::read_to_string(request.with_extension("kept")).unwrap();
    assert_eq!(heard.trim(), points[0].id.as_str());
}

#[test]
fn checkpoints_are_kept_where_no_watcher_can_be() {
    let (gpu, standby) = bound();
    without_watcher(&gpu, &standby);
    write(&gpu.tree().join("model.pt"), "epoch 1");
    let heard = ask_and_pass(&gpu, &standby, "epoch-1", &["model.pt"]);
    assert!(heard.status.success(), "{heard:?}");
    assert_eq!(names(&standby.points()).concat(), ["epoch-1"]);
}

#[test]
fn what_cannot_be_a_checkpoint_is_refused_with_a_reason() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("line\nbreak"), "x");
    write(&gpu.place.path().join("outside"), "x");
    write(&gpu.tree().join("model.pt"), "x");
    let rows: [(&str, &[&str], &str); 6] = [
        ("a/b", &[], "letters, digits"),
        ("latest", &[], "letters, digits"),
        ("ok", &["absent"], "absent is not there; nothing was asked for"),
        (
            "ok",
            &["model.pt", "absent"],
            "absent is not there; nothing was asked for",
        ),
        ("ok", &["line\nbreak"], "text in one line"),
        ("ok", &["../outside"], "is in no directory"),
    ];
    for (name, paths, words) in rows {
        let output = checkpoint(&gpu.tree(), name, paths).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(words),
            "{name} {paths:?}: {said}"
        );
    }
    let elsewhere = checkpoint(Path::new("/"), "ok", &[]).output().unwrap();
    assert!(!elsewhere.status.success());
    assert!(wanted(&gpu.tree()).is_empty());
    standby.pass(FIRST);
}

#[test]
fn a_script_that_nobody_answers_is_told_so() {
    let (gpu, _standby) = bound();
    let output = checkpoint(&gpu.tree(), "epoch-1", &[])
        .arg("--wait=0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(4) && said.contains("stays asked for"),
        "{output:?}"
    );
    // A standby that is away for long does not fill the GPU's disk; the newest wait, and the others hear of it.
    let oldest = wanted(&gpu.tree()).pop().unwrap();
    for n in 0..40 {
        ask(&gpu.tree(), &format!("epoch-{n}"), &[]);
    }
    assert!(wanted(&gpu.tree()).len() <= 16);
    let told = fs::read_to_string(oldest.with_extension("missed")).unwrap();
    assert!(told.contains("no longer"), "{told}");
}

#[test]
fn the_command_runs_before_every_pass_and_what_it_writes_is_copied() {
    let (gpu, standby) = bound();
    let command = "printf '%s\\n' \"it's $HOME\" > \"dump 1\"\necho ran >> runs; cat";
    bind_command(&gpu, &standby, command);
    for passes in 1..=3 {
        let status = standby.pass(FIRST);
        assert_eq!(status.last_complete.unwrap().command_failed, None);
        assert_same_tree(&gpu.tree(), &standby.newest_tree());
        let runs = fs::read_to_string(standby.newest_tree().join("runs")).unwrap();
        assert_eq!(runs.lines().count(), passes);
    }
    assert!(
        fs::read_to_string(standby.newest_tree().join("dump 1"))
            .unwrap()
            .starts_with("it's /")
    );
    // No time for it.
    write(&gpu.tree().join("last"), "words");
    status_of(standby.try_sync(FIRST, Urgency::LastGasp, 30_000));
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    let runs = fs::read_to_string(standby.newest_tree().join("runs")).unwrap();
    assert_eq!(runs.lines().count(), 3);
}

#[test]
fn a_command_that_fails_is_named_and_the_pass_goes_on() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    bind_command(&gpu, &standby, "echo no database >&2; exit 7");
    let report = standby.pass(FIRST).last_complete.unwrap();
    let reason = report.command_failed.expect("a reason");
    assert!(
        reason.contains("exit code 7") && reason.contains("no database"),
        "{reason}"
    );
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_command_may_print_without_end_and_its_last_words_are_heard() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    bind_command(
        &gpu,
        &standby,
        "seq 1000000; seq 1000000 >&2; echo the very end >&2; exit 7",
    );
    let reason = standby.pass(FIRST).last_complete.unwrap().command_failed.unwrap();
    assert!(
        reason.contains("exit code 7") && reason.contains("the very end"),
        "{reason}"
    );
}

#[test]
fn a_command_under_way_makes_way_for_the_last_gasp() {
    let (gpu, standby) = bound();
    bind_command(&gpu, &standby, "touch started; sleep 100");
    write(&gpu.tree().join("last"), "words");
    standby.try_sync(FIRST, Urgency::Due, 0);
    eventually("the command runs", || gpu.tree().join("started").exists().then_some(()));
    let status = status_of(standby.try_sync(FIRST, Urgency::LastGasp, 25_000));
    assert!(status.last_failure.is_none() && status.points.count == 1, "{status:#?}");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn an_include_wins_over_an_exclude() {
    let (gpu, standby) = bound();
    let bind = Bind {
        excludes: vec!["*.bin".into(), "/cache/*".into()],
        includes: vec!["/keep.bin".into(), "/cache/models/".into()],
        ..standby.bind_request(&gpu, FIRST)
    };
    status_of(standby.call(Request::Bind(bind)));
    for name in [
        "keep.bin",
        "drop.bin",
        "a",
        "cache/pip/x",
        "cache/models/m",
        "cache/models/m.bin",
    ] {
        write(&gpu.tree().join(name), "1");
    }
    let there = |name: &str| standby.newest_tree().join(name).exists();
    let expect = |round: &str| {
        standby.pass(FIRST);
        for name in ["keep.bin", "a", "cache/models/m"] {
            assert!(there(name), "{round}: {name} is missing");
        }
        for name in ["drop.bin", "cache/pip/x", "cache/models/m.bin"] {
            assert!(!there(name), "{round}: {name} was copied");
        }
    };
    expect("first pass");
    // A pass over changes judges the same way, also in new directories.
    write(&gpu.tree().join("keep.bin"), "changed");
    write(&gpu.tree().join("drop.bin"), "changed");
    write(&gpu.tree().join("cache/pip/y"), "new");
    write(&gpu.tree().join("cache/models/deep/n"), "new");
    expect("pass over changes");
    assert!(there("cache/models/deep/n") && !there("cache/pip/y"));
}

#[test]
fn a_command_may_end_as_ssh_does_when_it_cannot_connect() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    bind_command(&gpu, &standby, "echo ran >> runs; exit 255");
    let report = standby.pass(FIRST).last_complete.unwrap();
    assert!(report.command_failed.is_some());
    let runs = fs::read_to_string(standby.newest_tree().join("runs")).unwrap();
    assert_eq!(runs.lines().count(), 1, "it ran more than once");
}

#[test]
fn a_gpu_that_cannot_be_asked_any_more_costs_the_name_and_not_the_pass() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("", "");
    let find = gpu.place.path().join("bin/find");
    write(&find, "#!/bin/sh\nkill -9 $PPID\n");
    fs::set_permissions(&find, fs::Permissions::from_mode(0o755)).unwrap();
    write(&gpu.tree().join("model.pt"), "epoch 1");
    ask(&gpu.tree(), "epoch-1", &["model.pt"]);
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    assert!(names(&standby.points()).concat().is_empty());
    // It keeps waiting for one that can.
    fs::remove_file(&find).unwrap();
    standby.pass(FIRST);
    assert_eq!(names(&standby.points()).concat(), ["epoch-1"]);
}

fn age(path: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(5 * 24 * 3600);
    fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
}

#[test]
fn only_old_answers_of_ours_are_cleared_away() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("model.pt"), "epoch 1");
    let place = gpu.tree().join(".warmspare/checkpoints");
    let id = "0a".repeat(16);
    let rows = [
        (format!("{id}.kept"), false),
        (format!("{id}.missed"), false),
        ("notes.kept".to_owned(), true),
        ("model.pt".to_owned(), true),
        (format!("deep/{id}.kept"), true),
    ];
    for (name, _) in &rows {
        write(&place.join(name), "x");
        age(&place.join(name));
    }
    ask_and_pass(&gpu, &standby, "epoch-1", &["model.pt"]);
    for (name, stays) in &rows {
        assert_eq!(place.join(name).exists(), *stays, "{name}");
    }
}

#[test]
fn nothing_is_written_or_cleared_away_where_a_link_leads() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("model.pt"), "epoch 1");
    let elsewhere = gpu.place.path().join("elsewhere");
    let old = elsewhere.join(format!("{}.kept", "0a".repeat(16)));
    write(&old, "x");
    age(&old);
    std::os::unix::fs::symlink(&elsewhere, gpu.tree().join(".warmspare/checkpoints")).unwrap();
    ask(&gpu.tree(), "epoch-1", &["model.pt"]);
    standby.pass(FIRST);
    assert!(old.exists(), "a file behind a link was removed");
    assert!(!wanted(&gpu.tree()).is_empty(), "it was answered behind a link");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn the_whole_tree_by_its_path_is_a_checkpoint_too() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("runs/model.pt"), "epoch 1");
    standby.pass(FIRST);
    let heard = ask_and_pass(&gpu, &standby, "all", &["."]);
    assert!(heard.status.success(), "{heard:?}");
}

#[test]
fn a_pipe_among_the_requests_stops_nobody() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("model.pt"), "epoch 1");
    standby.pass(FIRST);
    let pipe = gpu.tree().join(".warmspare/checkpoints/pipe.wanted");
    fs::create_dir_all(pipe.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for watched in [true, false] {
        if !watched {
            fs::remove_file(&pipe).unwrap();
            without_watcher(&gpu, &standby);
            assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        }
        let status = standby.pass(FIRST);
        assert_eq!(matches!(status.watcher, Watcher::Missing { .. }), !watched);
    }
}
