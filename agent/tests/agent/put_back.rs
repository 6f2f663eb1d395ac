//! Putting one path of a recovery point back onto the GPU that runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{
    Call, Existing, Outcome, PointChoice, PutBack, PutBackActivity, RecoveryPoint, RefusalKind, Request,
};

use crate::support::{
    AGENT, Machine, Standby, assert_same_tree, bound, count_files, eventually, grow_rich_tree, is_root, kill, noise,
    refusal_of, run, set_mtime, set_xattr, status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

fn of(path: &str) -> PutBack {
    PutBack {
        epoch: FIRST,
        path: path.parse().unwrap(),
        point: None,
        existing: Existing::Keep,
        wait_ms: 30_000,
    }
}

fn ask(standby: &Standby, request: PutBack) -> Outcome {
    standby.call(Request::PutBack(request))
}

fn put_back(standby: &Standby, request: PutBack) -> PutBackActivity {
    status_of(ask(standby, request)).put_back
}

/// The counts of a job that ended well: files, and what was kept; and where lies what was replaced.
fn verified(activity: PutBackActivity) -> (u64, u64, Option<String>) {
    match activity {
        PutBackActivity::Verified {
            files, kept, replaced, ..
        } => (files, kept, replaced),
        other => panic!("not verified: {other:#?}"),
    }
}

fn failed(activity: PutBackActivity) -> String {
    match activity {
        PutBackActivity::Failed { message, .. } => message,
        other => panic!("not failed: {other:#?}"),
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// A GPU with a rich tree in `runs`, copied, then lost on the GPU, which the newest recovery point shows.
fn deleted() -> (Machine, Standby, RecoveryPoint) {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree().join("runs"));
    for n in 0..60 {
        write(&gpu.tree().join(format!("else/{n}")), "as it was");
    }
    let whole = standby.pass(FIRST).points.latest.unwrap();
    run(Command::new("rm").arg("-rf").arg(gpu.tree().join("runs")), b"");
    for n in 0..30 {
        write(&gpu.tree().join(format!("else/{n}")), "went on");
    }
    standby.pass(FIRST);
    (gpu, standby, whole)
}

#[test]
fn a_deleted_directory_comes_back_whole_from_the_newest_point_that_has_it() {
    let (gpu, standby, whole) = deleted();
    let (files, kept, replaced) = verified(put_back(&standby, of("runs/")));
    assert!(files > 3, "{files}");
    assert_eq!((kept, replaced), (0, None));
    let copy = standby.point_tree(&whole).join("runs");
    assert_same_tree(&copy, &gpu.tree().join("runs"));
    assert_eq!(text(&gpu.tree().join("else/1")), "went on");
    let put = match standby.status().put_back {
        PutBackActivity::Verified { point, .. } => point,
        other => panic!("{other:?}"),
    };
    assert_eq!(put, whole.id);
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_single_file_comes_back_into_a_directory_that_is_gone() {
    let (gpu, standby) = bound();
    let model = noise(3 << 20);
    write(&gpu.tree().join("a/b/model.pt"), &model);
    write(&gpu.tree().join("a/b/other"), "x");
    write(&gpu.tree().join("rest"), "x");
    standby.pass(FIRST);
    run(Command::new("rm").arg("-rf").arg(gpu.tree().join("a")), b"");
    assert_eq!(verified(put_back(&standby, of("a/b/model.pt"))), (1, 0, None));
    assert!(fs::read(gpu.tree().join("a/b/model.pt")).unwrap() == model);
    assert!(!gpu.tree().join("a/b/other").exists());
    assert!(!gpu.tree().join(".warmspare/put-back").exists());
}

#[test]
fn what_is_there_and_differs_stays_unless_it_is_to_make_room_and_then_it_lies_aside() {
    let (gpu, standby) = bound();
    for (name, content) in [("d/mine", "old"), ("d/gone", "old"), ("d/same size", "good")] {
        write(&gpu.tree().join(name), content);
    }
    set_mtime(&gpu.tree().join("d/same size"), 1_795_441_530, 7);
    let old = standby.pass(FIRST).points.latest.unwrap();
    fs::remove_file(gpu.tree().join("d/gone")).unwrap();
    write(&gpu.tree().join("d/mine"), "written since");
    write(&gpu.tree().join("d/same size"), "evil");
    set_mtime(&gpu.tree().join("d/same size"), 1_795_441_530, 7);
    write(&gpu.tree().join("d/new"), "only here");

    let (files, kept, replaced) = verified(put_back(&standby, of("d")));
    assert_eq!((files, kept, replaced), (3, 2, None));
    let read = |name: &str| text(&gpu.tree().join("d").join(name));
    assert_eq!(
        ["mine", "gone", "same size", "new"].map(read),
        ["written since", "old", "evil", "only here"]
    );

    let (files, kept, aside) = verified(put_back(
        &standby,
        PutBack {
            point: Some(PointChoice::Id(old.id)),
            existing: Existing::Replace,
            ..of("d")
        },
    ));
    assert_eq!((files, kept), (3, 0));
    assert_eq!(
        ["mine", "gone", "same size", "new"].map(read),
        ["old", "old", "good", "only here"]
    );
    // One place, also for what only reading told, in a second round.
    let place = gpu.tree().join(aside.expect("something made room")).join("d");
    assert_eq!(text(&place.join("mine")), "written since");
    assert_eq!(text(&place.join("same size")), "evil");
    // What lies aside is the user's to look at, and no part of what is copied.
    standby.pass(FIRST);
    assert!(!standby.newest_tree().join(".warmspare").exists());
}

#[test]
fn what_is_there_already_is_said_to_have_been_there() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("d/a"), "x");
    write(&gpu.tree().join("d/b"), "x");
    let whole = standby.pass(FIRST).points.latest.unwrap();
    fs::remove_file(gpu.tree().join("d/a")).unwrap();
    standby.pass(FIRST);
    // The newest that has the directory lacks the file, too.
    let there = |request| match put_back(&standby, request) {
        PutBackActivity::Verified { put, files, .. } => (put > 0, files),
        other => panic!("{other:?}"),
    };
    assert_eq!(there(of("d")), (false, 1));
    let point = Some(PointChoice::Id(whole.id));
    assert_eq!(there(PutBack { point, ..of("d") }), (true, 2));
    assert!(gpu.tree().join("d/a").exists());
}

#[test]
fn only_what_is_in_a_recovery_point_and_below_its_root_is_put_back() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "x");
    symlink("/etc", gpu.tree().join("link")).unwrap();
    assert_eq!(standby.status().put_back, PutBackActivity::Never);
    let nothing = refusal_of(ask(&standby, of("a")));
    assert_eq!(nothing.kind, RefusalKind::NoRecoveryPoint);
    standby.pass(FIRST);
    for path in ["b", "a/b", "link/passwd"] {
        let refusal = refusal_of(ask(&standby, of(path)));
        assert_eq!(refusal.kind, RefusalKind::NoRecoveryPoint, "{path}");
        assert!(refusal.message.contains(path), "{}", refusal.message);
    }
    for path in ["", "/etc/passwd", "../a", "a/../../b", "a\0b"] {
        let mut call = serde_json::to_value(Call::new(Request::PutBack(of("a")))).unwrap();
        call["request"]["path"] = json!(path);
        let refusal = refusal_of(standby.call_with(&call));
        assert_eq!(refusal.kind, RefusalKind::BadRequest, "{path:?}");
        assert!(refusal.message.contains("below source_path"), "{}", refusal.message);
    }
    let later = PutBack {
        epoch: FIRST.next(),
        ..of("a")
    };
    assert_eq!(refusal_of(ask(&standby, later)).kind, RefusalKind::StaleEpoch);
    assert_eq!(standby.status().put_back, PutBackActivity::Never);
    // The link itself is a path like any other.
    fs::remove_file(gpu.tree().join("link")).unwrap();
    verified(put_back(&standby, of("link")));
    assert_eq!(fs::read_link(gpu.tree().join("link")).unwrap(), Path::new("/etc"));
}

#[test]
fn once_another_gpu_is_restored_nothing_goes_back_to_the_old_one() {
    let (gpu, standby, _) = deleted();
    let target = Machine::start(&[&standby.key()]);
    standby.restore(&target, FIRST.next());
    assert_eq!(refusal_of(ask(&standby, of("runs"))).kind, RefusalKind::StaleEpoch);
    assert!(!gpu.tree().join("runs").exists());
}

#[test]
fn a_killed_job_says_so_and_goes_on_when_it_is_asked_for_again() {
    let (mut gpu, standby, whole) = deleted();
    gpu.wrap_rsync("hold", "");
    gpu.hold();
    let started = PutBack {
        wait_ms: 0,
        ..of("runs")
    };
    put_back(&standby, started.clone());
    gpu.wait_until_held();
    let PutBackActivity::Running { path, point, .. } = put_back(&standby, started) else {
        panic!("{:?}", standby.status().put_back);
    };
    assert_eq!((path.as_str(), &point), ("runs", &whole.id));
    standby.workers().into_iter().for_each(kill);
    let message = eventually("the kill is told", || match standby.status().put_back {
        PutBackActivity::Failed { message, .. } => Some(message),
        _ => None,
    });
    assert!(message.contains("ask for it again"), "{message}");
    write(&gpu.tree().join(".warmspare/put-back/.model.pt.Xy12ab"), "half");
    gpu.release();
    verified(put_back(&standby, of("runs")));
    assert_same_tree(&standby.point_tree(&whole).join("runs"), &gpu.tree().join("runs"));
    assert!(!gpu.tree().join(".warmspare/put-back/.model.pt.Xy12ab").exists());
}

#[test]
fn what_a_guard_halted_over_can_be_put_back() {
    let (gpu, standby) = bound();
    for n in 0..40 {
        write(&gpu.tree().join(format!("d/{n}")), "x");
    }
    standby.pass(FIRST);
    fs::remove_dir_all(gpu.tree().join("d")).unwrap();
    write(&gpu.tree().join("left"), "x");
    assert!(standby.sync(FIRST).halt.is_some());
    assert_eq!(verified(put_back(&standby, of("d"))).0, 40);
    assert!(gpu.tree().join("d/39").exists());
}

#[test]
fn a_gpu_whose_disk_is_full_is_named() {
    if !is_root() {
        eprintln!("SKIPPED: a small disk for the GPU needs root");
        return;
    }
    let (gpu, standby) = bound();
    write(&gpu.tree().join("d/large"), noise(16 << 20));
    standby.pass(FIRST);
    fs::remove_file(gpu.tree().join("d/large")).unwrap();
    // There is room for our program, and not for the file.
    let size = format!("size={}", fs::metadata(AGENT).unwrap().len() + (8 << 20));
    let small = ["-t", "tmpfs", "-o", &size, "none"];
    let mounted = run(Command::new("mount").args(small).arg(gpu.tree()), b"");
    assert!(mounted.status.success(), "{mounted:?}");
    let message = failed(put_back(&standby, of("d")));
    let waits = gpu.tree().join(".warmspare/put-back").exists();
    run(Command::new("umount").arg(gpu.tree()), b"");
    assert!(!waits, "what could not be put back still takes space there");
    let host = gpu.host();
    assert!(
        message.contains(&format!("the disk of {}:{} is full", host.address, host.port)),
        "{message}"
    );
}

/// A job that waits for the test with everything beside the tree, nothing in its place.
fn staged(gpu: &mut Machine, standby: &Standby, request: PutBack) {
    gpu.wrap_rsync("", "hold");
    begin(gpu, standby, request);
}

/// The same on a machine whose rsync is wrapped so that it can be held at its end.
fn begin(gpu: &Machine, standby: &Standby, request: PutBack) {
    gpu.hold();
    put_back(standby, PutBack { wait_ms: 0, ..request });
    gpu.wait_until_held();
}

/// Has `d` replaced, and rsync break, as the wrapper does where this file is, once everything is beside the tree.
fn replace_and_break(gpu: &Machine, standby: &Standby, breaks: &Path) -> PutBackActivity {
    let existing = Existing::Replace;
    begin(gpu, standby, PutBack { existing, ..of("d") });
    write(breaks, "");
    gpu.release();
    ended(standby)
}

fn ended(standby: &Standby) -> PutBackActivity {
    eventually("the job ended", || match standby.status().put_back {
        PutBackActivity::Never | PutBackActivity::Running { .. } => None,
        ended => Some(ended),
    })
}

#[test]
fn what_is_written_while_a_path_is_put_back_stays() {
    let (mut gpu, standby, whole) = deleted();
    staged(&mut gpu, &standby, of("runs"));
    let copy = standby.point_tree(&whole).join("runs");
    let name = fs::read_dir(&copy)
        .unwrap()
        .flatten()
        .find(|entry| entry.path().is_file());
    let name = name.expect("a file").file_name();
    let late = gpu.tree().join("runs").join(&name);
    assert!(!late.exists(), "nothing is in its place before everything has arrived");
    write(&late, "the training went on");
    gpu.release();
    let (_, kept, replaced) = verified(ended(&standby));
    assert_eq!((kept, replaced), (1, None));
    assert_eq!(text(&late), "the training went on");
    fs::remove_file(&late).unwrap();
    fs::copy(copy.join(&name), &late).unwrap();
    assert_eq!(count_files(&gpu.tree().join("runs")), count_files(&copy));
}

#[test]
fn directories_that_are_there_keep_their_attributes_and_those_that_are_not_get_the_points() {
    use std::os::unix::fs::PermissionsExt;
    let (gpu, standby) = bound();
    let mode = |name: &str, mode| {
        fs::set_permissions(gpu.tree().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write(&gpu.tree().join("there/sub/f"), "x");
    write(&gpu.tree().join("secret/keys/key"), "x");
    write(&gpu.tree().join("rest"), "x");
    mode("secret", 0o700);
    standby.pass(FIRST);
    mode("there/sub", 0o750);
    set_xattr(&gpu.tree().join("there/sub"), "user.note", "mine");
    fs::remove_file(gpu.tree().join("there/sub/f")).unwrap();
    run(Command::new("rm").arg("-rf").arg(gpu.tree().join("secret")), b"");
    assert_eq!(verified(put_back(&standby, of("there"))), (1, 0, None));
    assert_eq!(verified(put_back(&standby, of("secret/keys/key"))), (1, 0, None));
    let found = |name: &str| fs::metadata(gpu.tree().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((found("there/sub"), found("secret")), (0o750, 0o700));
    let note = run(
        Command::new("getfattr")
            .args(["-n", "user.note"])
            .arg(gpu.tree().join("there/sub")),
        b"",
    );
    assert!(String::from_utf8_lossy(&note.stdout).contains("mine"), "{note:?}");
}

#[test]
fn a_file_where_the_point_has_a_directory_stays_or_lies_aside() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("d/a/1"), "x");
    write(&gpu.tree().join("d/b"), "x");
    write(&gpu.tree().join("d/c"), "x");
    let point = standby.pass(FIRST).points.latest.unwrap();
    fs::remove_dir_all(gpu.tree().join("d")).unwrap();
    write(&gpu.tree().join("d/a"), "a file now");
    write(&gpu.tree().join("d/b/mine"), "a directory now");
    let request = |existing| PutBack {
        existing,
        point: Some(PointChoice::Id(point.id.clone())),
        ..of("d")
    };
    let (_, kept, _) = verified(put_back(&standby, request(Existing::Keep)));
    assert_eq!(kept, 2);
    assert_eq!(text(&gpu.tree().join("d/c")), "x");
    assert_eq!(text(&gpu.tree().join("d/b/mine")), "a directory now");
    let (_, kept, aside) = verified(put_back(&standby, request(Existing::Replace)));
    assert_eq!(kept, 0);
    for name in ["d/a/1", "d/b", "d/c"] {
        assert_eq!(text(&gpu.tree().join(name)), "x", "{name}");
    }
    let aside = gpu.tree().join(aside.expect("two made room")).join("d");
    assert_eq!(text(&aside.join("a")), "a file now");
    assert_eq!(text(&aside.join("b/mine")), "a directory now");
}

#[test]
fn a_job_that_fails_after_something_made_room_says_where_that_is() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("d/f"), "saved");
    standby.pass(FIRST);
    write(&gpu.tree().join("d/f"), "written since");
    let breaks = gpu.place.path().join("breaks");
    gpu.wrap_rsync(&format!("if [ -e {} ]; then exit 5; fi", breaks.display()), "hold");
    let message = failed(replace_and_break(&gpu, &standby, &breaks));
    assert_eq!(text(&gpu.tree().join("d/f")), "saved");
    assert_eq!(text(&place_told(&gpu, &message).join("d/f")), "written since");
}

#[test]
fn a_job_that_is_killed_after_something_made_room_says_where_that_is() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("d/f"), "saved");
    standby.pass(FIRST);
    write(&gpu.tree().join("d/f"), "written since");
    gpu.wrap_rsync("", "hold");
    let existing = Existing::Replace;
    begin(&gpu, &standby, PutBack { existing, ..of("d") });
    // Held again when it has been moved, and is compared.
    gpu.release_once();
    gpu.wait_until_held();
    assert_eq!(text(&gpu.tree().join("d/f")), "saved");
    standby.workers().into_iter().for_each(kill);
    gpu.release();
    let message = failed(ended(&standby));
    assert!(message.contains("was killed"), "{message}");
    assert_eq!(text(&place_told(&gpu, &message).join("d/f")), "written since");
}

/// Where what made room lies, as a job that failed says.
fn place_told(gpu: &Machine, message: &str) -> PathBuf {
    let place = message.split(" is on the GPU in ").nth(1);
    gpu.tree().join(place.unwrap_or_else(|| panic!("{message}")))
}

#[test]
fn what_was_done_over_a_connection_that_died_is_told_with_the_rest() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("d/f"), "saved");
    standby.pass(FIRST);
    let breaks = gpu.place.path().join("breaks");
    let breaks_once = format!("if [ -e {0} ]; then rm {0}; exit 12; fi", breaks.display());
    gpu.wrap_rsync(&breaks_once, "hold");
    // From now on a connection is kept: only such a one is expected to die.
    verified(put_back(&standby, of("d")));
    write(&gpu.tree().join("d/f"), "written since");
    let PutBackActivity::Verified { put, replaced, .. } = replace_and_break(&gpu, &standby, &breaks) else {
        panic!("{:?}", standby.status().put_back);
    };
    assert!(!breaks.exists(), "nothing broke");
    assert_eq!(put, 1);
    let aside = gpu.tree().join(replaced.expect("a file made room"));
    assert_eq!(text(&aside.join("d/f")), "written since");
}

#[test]
fn one_path_at_a_time_is_put_back() {
    let (mut gpu, standby, _) = deleted();
    fs::remove_file(gpu.tree().join("else/1")).unwrap();
    staged(&mut gpu, &standby, of("runs"));
    let busy = refusal_of(ask(&standby, of("else/1")));
    assert!(busy.message.contains("\"runs\" is being put back"), "{}", busy.message);
    gpu.release();
    verified(ended(&standby));
    verified(put_back(&standby, of("else/1")));
}

#[test]
fn a_job_that_died_is_begun_anew_from_the_newest_point() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("f"), "first");
    write(&gpu.tree().join("rest"), "x");
    standby.pass(FIRST);
    fs::remove_file(gpu.tree().join("f")).unwrap();
    staged(&mut gpu, &standby, of("f"));
    standby.workers().into_iter().for_each(kill);
    gpu.release();
    eventually("its worker is gone", || {
        matches!(standby.status().put_back, PutBackActivity::Failed { .. }).then_some(())
    });
    write(&gpu.tree().join("f"), "second");
    standby.pass(FIRST);
    fs::remove_file(gpu.tree().join("f")).unwrap();
    verified(put_back(&standby, of("f")));
    assert_eq!(text(&gpu.tree().join("f")), "second");
}

#[test]
fn nothing_is_put_in_its_place_once_a_restore_has_begun() {
    let (mut gpu, standby, _) = deleted();
    staged(&mut gpu, &standby, of("runs"));
    let target = Machine::start(&[&standby.key()]);
    standby.restore(&target, FIRST.next());
    gpu.release();
    let message = failed(ended(&standby));
    assert!(message.contains("moves on"), "{message}");
    assert!(!gpu.tree().join("runs").exists());
    assert!(!gpu.tree().join(".warmspare/put-back").exists());
}
