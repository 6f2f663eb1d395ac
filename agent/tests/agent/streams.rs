//! Restores over several streams: everything arrives, nothing foreign is touched, and what broke off is resumed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Request, RestoreActivity};

use crate::support::{
    AGENT, Machine, Standby, assert_same_tree, bound, descendants, eventually, grow_rich_tree, is_root, kill, noise,
    set_xattr, status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

fn grow_many(root: &Path) {
    for n in 0..300 {
        write(&root.join(format!("many/{}/{n}", n % 7)), format!("small {n}"));
    }
}

fn restore(standby: &Standby, target: &Machine) {
    match standby.restore(target, FIRST.next()) {
        RestoreActivity::Verified { .. } => {}
        other => panic!("not verified: {other:#?}"),
    }
}

fn log_of(standby: &Standby) -> String {
    fs::read_to_string(standby.data.join("logs/restore-worker.log")).unwrap()
}

/// The name of our program on other machines: a pass has brought it to the GPU.
fn program(gpu: &Machine) -> String {
    let here = fs::read_dir(gpu.tree().join(".warmspare")).unwrap().flatten();
    let mut names = here.map(|entry| entry.file_name().into_string().unwrap());
    names
        .find(|name| name.starts_with("agent-"))
        .expect("no program on the GPU")
}

/// Puts a script in the place of our program on the target. In it, `hold` waits for the test, and `$real` is our program.
fn stand_in(target: &Machine, gpu: &Machine, script: &str) {
    let path = target.tree().join(".warmspare").join(program(gpu));
    let place = target.place.path().display();
    let hold = format!("hold() {{ echo x > {place}/holding; while [ -e {place}/hold ]; do sleep 0.01; done; }}");
    let _ = fs::remove_file(&path);
    write(
        &path,
        format!("#!/bin/sh\n{hold}\nreal={AGENT}\n{script}\nexec $real \"$@\"\n"),
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn bundles_and_large_files_carry_everything_that_a_copy_could_lose() {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    grow_many(&gpu.tree());
    write(&gpu.tree().join("odd\\na me 'x'/model \u{1}.pt"), noise(65 << 20));
    write(&gpu.tree().join("line\nbreak.pt"), noise(65 << 20));
    let own = gpu.tree().join("own.pt");
    write(&own, noise(65 << 20));
    if is_root() {
        chown(&own, Some(7), Some(8)).unwrap();
    }
    fs::set_permissions(&own, fs::Permissions::from_mode(0o4750)).unwrap();
    write(&gpu.tree().join("tagged.pt"), noise(65 << 20));
    set_xattr(&gpu.tree().join("tagged.pt"), "user.step", "9000");
    standby.pass(FIRST);
    let mut target = Machine::start(&[&standby.key()]);
    let calls = target.place.path().join("calls");
    let settled = target.place.path().join("settled");
    let bin = target.place.path().join("bin");
    write(
        &bin.join("sync"),
        format!(
            "#!/bin/sh\n[ \"$1\" = --help ] && exec /bin/sync --help\n[ -e {} ] && exit 1\necho \"$@\" >> {}\n",
            calls.display(),
            settled.display()
        ),
    );
    fs::set_permissions(bin.join("sync"), fs::Permissions::from_mode(0o755)).unwrap();
    target.wrap_rsync(&format!("echo x >> {}", calls.display()), "");
    restore(&standby, &target);
    // Before anything was compared.
    assert_eq!(fs::read_to_string(settled).unwrap(), "-f .\n");
    // Two shares and the root are compared; rsync had nothing to bring.
    assert_eq!(fs::read_to_string(calls).unwrap().lines().count(), 3);
    assert_eq!(log_of(&standby), "");
    assert_same_tree(&standby.newest_tree(), &target.tree());
    let left = fs::read_dir(target.tree().join(".warmspare")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(
        !left.contains(&"restore".to_owned()),
        "parts were left behind: {left:?}"
    );
}

#[test]
fn where_our_program_cannot_be_or_run_rsync_alone_restores() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    standby.pass(FIRST);
    let mut epoch = FIRST;
    for (place, content, words) in [
        (".warmspare".to_owned(), "in the way", "cannot be put"),
        (
            format!(".warmspare/{}", program(&gpu)),
            "of another machine",
            "does not run",
        ),
    ] {
        let target = Machine::start(&[&standby.key()]);
        write(&target.tree().join(&place), content);
        epoch = epoch.next();
        let restored = standby.restore(&target, epoch);
        assert!(matches!(restored, RestoreActivity::Verified { .. }), "{restored:#?}");
        assert!(log_of(&standby).contains(words), "{}", log_of(&standby));
        assert_eq!(fs::read_to_string(target.tree().join(&place)).unwrap(), content);
        assert_same_tree(&standby.newest_tree(), &target.tree());
    }
}

/// Restores with `many/3` first while the rest is held, and answers whether it was told that it is there.
fn restore_with_the_named_first(standby: &Standby, target: &Machine, epoch: Epoch, hold: impl FnOnce()) {
    let there = |name: &str| target.tree().join(name).exists();
    let mut request = standby.restore_request(target, epoch, 0);
    request.first = ["many//3/", "not/there", "link/passwd"]
        .map(|path| path.parse().unwrap())
        .into();
    assert!(!there("many/3/3"));
    fs::write(target.place.path().join("hold"), "").unwrap();
    standby.call(Request::Restore(request));
    hold();
    let (at, started_at) = eventually("the named paths are told to be there", || {
        match standby.status().restore {
            RestoreActivity::Running {
                first_there_at: Some(at),
                started_at,
                ..
            } => Some((at, started_at)),
            _ => None,
        }
    });
    assert!(at >= started_at);
    assert!(there("many/3/3") && there("many/3/297"), "told, and not there");
    assert!(!there("many/0/0"), "everything came at once");
    fs::remove_file(target.place.path().join("hold")).unwrap();
    eventually("the restore ended", || {
        matches!(standby.status().restore, RestoreActivity::Verified { .. }).then_some(())
    });
    assert_same_tree(&standby.newest_tree(), &target.tree());
}

#[test]
fn what_a_person_named_is_there_first_over_streams_and_over_rsync() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    // Of this machine it must give nothing away.
    symlink("/etc", gpu.tree().join("link")).unwrap();
    standby.pass(FIRST);
    let streams = Machine::start(&[&standby.key()]);
    let place = streams.place.path().display().to_string();
    stand_in(
        &streams,
        &gpu,
        &format!(
            "[ $1 = restore-unpack ] && {{ all={place}/stream-$$; cat > $all; grep -q -a many/0/ $all && hold; \
             $real \"$@\" < $all; exit; }}"
        ),
    );
    restore_with_the_named_first(&standby, &streams, FIRST.next(), || {});
    let mut rsync = Machine::start(&[&standby.key()]);
    write(&rsync.tree().join(".warmspare"), "in the way");
    rsync.wrap_rsync("hold", "");
    restore_with_the_named_first(&standby, &rsync, FIRST.next().next(), || {
        rsync.wait_until_held();
        rsync.release_once();
    });
}

#[test]
fn a_stream_that_lies_or_breaks_is_made_good_by_rsync() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    write(&gpu.tree().join("model.pt"), noise(65 << 20));
    standby.pass(FIRST);
    let mut epoch = FIRST;
    for lie in [
        "[ $1 = restore-survey ] || { head -c 1000 | $real \"$@\"; cat > /dev/null; exit 0; }",
        "[ $1 = restore-survey ] || { head -c 1000000 | $real \"$@\"; exit 1; }",
        "[ $1 = restore-survey ] && { echo; echo warmspare-survey; head -c 100000 /dev/urandom; exit 0; }",
        "[ $1 = restore-survey ] && { $real \"$@\"; printf 'f 7 1.000000000 many/0/0\\0'; exit 0; }",
    ] {
        let target = Machine::start(&[&standby.key()]);
        stand_in(&target, &gpu, lie);
        epoch = epoch.next();
        let restored = standby.restore(&target, epoch);
        assert!(
            matches!(restored, RestoreActivity::Verified { .. }),
            "{lie}: {restored:#?}"
        );
        assert_same_tree(&standby.newest_tree(), &target.tree());
    }
}

#[test]
fn nothing_is_written_through_a_link_that_stands_where_the_point_has_a_directory() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    write(&gpu.tree().join("many/model.pt"), noise(65 << 20));
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    let outside = target.place.path().join("outside");
    write(&outside.join("0/0"), "foreign");
    symlink(&outside, target.tree().join("many")).unwrap();
    symlink(&outside, target.tree().join(".warmspare")).unwrap();
    restore(&standby, &target);
    assert_same_tree(&standby.newest_tree(), &target.tree());
    let left: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["0"], "something was written outside the target");
    assert_eq!(fs::read_to_string(outside.join("0/0")).unwrap(), "foreign");
    assert_eq!(fs::read_dir(outside.join("0")).unwrap().count(), 1);
}

#[test]
fn foreign_files_stay_and_files_with_other_content_are_replaced_beside_streams() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    write(&target.tree().join("many/0/theirs"), "was here");
    write(&target.tree().join("many/0/0"), "other content, other size");
    restore(&standby, &target);
    assert_eq!(
        fs::read_to_string(target.tree().join("many/0/theirs")).unwrap(),
        "was here"
    );
    assert_eq!(fs::read_to_string(target.tree().join("many/0/0")).unwrap(), "small 0");
}

#[test]
fn a_target_that_hangs_in_its_last_step_does_not_hold_up_the_move_to_another() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    standby.pass(FIRST);
    let (hanging, other) = (Machine::start(&[&standby.key()]), Machine::start(&[&standby.key()]));
    // All files are one bundle; what comes after it are the directories.
    let bundle = hanging.place.path().join("bundle");
    stand_in(
        &hanging,
        &gpu,
        &format!(
            "[ $1 = restore-unpack ] && {{ [ -e {0} ] && hold; touch {0}; }}",
            bundle.display()
        ),
    );
    hanging.hold();
    status_of(standby.call(Request::Restore(standby.restore_request(&hanging, FIRST.next(), 0))));
    hanging.wait_until_held();
    let restored = standby.restore(&other, FIRST.next().next());
    assert!(matches!(restored, RestoreActivity::Verified { .. }), "{restored:#?}");
    assert_same_tree(&standby.newest_tree(), &other.tree());
    hanging.release();
}

fn kill_workers(standby: &Standby) {
    for worker in standby.workers() {
        let children = descendants(worker);
        kill(worker);
        children.into_iter().for_each(kill);
    }
    eventually("the last worker ended", || standby.workers().is_empty().then_some(()));
}

#[test]
fn a_large_file_that_broke_off_goes_on_where_it_stopped() {
    let (gpu, standby) = bound();
    let (size, first) = (70 << 20, 30_000_000);
    write(&gpu.tree().join("deep/model.pt"), noise(size));
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    let place = target.place.path().to_owned();
    stand_in(
        &target,
        &gpu,
        &format!("[ $1 = restore-survey ] || {{ head -c {first} | $real \"$@\"; hold; exit 1; }}"),
    );
    target.hold();
    status_of(standby.call(Request::Restore(standby.restore_request(&target, FIRST.next(), 0))));
    target.wait_until_held();
    kill_workers(&standby);
    target.release();
    let part = fs::read_dir(target.tree().join(".warmspare/restore")).unwrap().next();
    let arrived = part.unwrap().unwrap().metadata().unwrap().len();
    assert!(arrived > first - 1000, "{arrived} bytes arrived");
    let second = place.join("second");
    stand_in(
        &target,
        &gpu,
        &format!(
            "[ $1 = restore-survey ] || {{ tee -a {} | $real \"$@\"; exit $?; }}",
            second.display()
        ),
    );
    restore(&standby, &target);
    // With it went what comes before the content, and the directories.
    let sent = fs::metadata(second).unwrap().len();
    assert!(
        (size - arrived..size - arrived + 4096).contains(&sent),
        "{sent} bytes were sent for {} that were missing",
        size - arrived
    );
    assert_same_tree(&standby.newest_tree(), &target.tree());
}

#[test]
fn a_kill_in_any_stage_is_resumed_and_verified() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    write(&gpu.tree().join("model.pt"), noise(65 << 20));
    standby.pass(FIRST);
    let mut target = Machine::start(&[&standby.key()]);
    // The listing, all streams, one that is half-way, the comparison.
    for (script, before_rsync) in [
        ("[ $1 = restore-survey ] && hold", ""),
        ("[ $1 = restore-unpack ] && hold", ""),
        (
            "[ $1 = restore-unpack ] && { head -c 900 | $real \"$@\"; hold; exit 1; }",
            "",
        ),
        ("", "hold"),
    ] {
        // What still writes there does not know that its other end is gone.
        target.halt();
        crate::support::remove_tree(&target.tree());
        fs::create_dir(target.tree()).unwrap();
        stand_in(&target, &gpu, script);
        target.wrap_rsync(before_rsync, "");
        target.hold();
        status_of(standby.call(Request::Restore(standby.restore_request(&target, FIRST.next(), 0))));
        target.wait_until_held();
        kill_workers(&standby);
        target.release();
    }
    restore(&standby, &target);
    assert_same_tree(&standby.newest_tree(), &target.tree());
}
