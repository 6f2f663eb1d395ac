//! Restores over several streams: everything arrives, nothing foreign is touched, and what broke off is resumed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Request, RestoreActivity};

use crate::support::{
    Machine, Standby, assert_same_tree, bound, descendants, eventually, grow_rich_tree, is_root, kill, noise,
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

/// Puts programs in front of those of the target.
fn wrap(target: &mut Machine, programs: &[(&str, &str)]) {
    let bin = target.place.path().join("bin");
    for (name, script) in programs {
        write(&bin.join(name), format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    target.halt();
    let path = format!("SetEnv SHLVL=5 PATH={}:/usr/bin:/bin", bin.display());
    target.boot_with(&path, &[]);
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
    // rsync finds everything present: it is asked whether it had to bring anything.
    let brought = target.place.path().join("packed");
    wrap(
        &mut target,
        &[(
            "tar",
            &format!(
                "[ \"$1\" = --version ] || echo x >> {}; exec /usr/bin/tar \"$@\"",
                brought.display()
            ),
        )],
    );
    restore(&standby, &target);
    assert!(
        fs::read_to_string(&brought).unwrap().lines().count() >= 2,
        "nothing went through tar"
    );
    for trouble in ["broke off", "differ"] {
        assert!(!log_of(&standby).contains(trouble), "{}", log_of(&standby));
    }
    assert_same_tree(&standby.newest_tree(), &target.tree());
    assert!(!target.tree().join(".warmspare").exists(), "parts were left behind");
}

#[test]
fn without_the_tools_on_the_target_rsync_alone_restores() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    standby.pass(FIRST);
    for program in ["tar", "find", "touch"] {
        let mut target = Machine::start(&[&standby.key()]);
        wrap(&mut target, &[(program, "echo not the program you want; exit 127")]);
        let epoch = standby.status().restore;
        let next = match epoch {
            RestoreActivity::Verified { epoch, .. } => epoch.next(),
            _ => FIRST.next(),
        };
        assert!(
            matches!(standby.restore(&target, next), RestoreActivity::Verified { .. }),
            "without {program}: {:#?}",
            standby.status().restore
        );
        assert_same_tree(&standby.newest_tree(), &target.tree());
    }
}

#[test]
fn a_stream_that_lies_or_breaks_is_made_good_by_rsync() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    write(&gpu.tree().join("model.pt"), noise(65 << 20));
    standby.pass(FIRST);
    let mut target = Machine::start(&[&standby.key()]);
    let tar = "[ \"$1\" = --version ] && exec /usr/bin/tar \"$@\"; head -c 100000 | /usr/bin/tar \"$@\"; exit 0";
    wrap(&mut target, &[("tar", tar), ("cat", "head -c 1000000; exit 0")]);
    restore(&standby, &target);
    assert_same_tree(&standby.newest_tree(), &target.tree());
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
    let mut target = Machine::start(&[&standby.key()]);
    let place = target.place.path().to_owned();
    let hold = format!(
        "head -c {first}; echo x > {0}/holding; while [ -e {0}/hold ]; do sleep 0.01; done; exit 1",
        place.display()
    );
    wrap(&mut target, &[("cat", &hold)]);
    target.hold();
    status_of(standby.call(Request::Restore(standby.restore_request(&target, FIRST.next(), 0))));
    target.wait_until_held();
    kill_workers(&standby);
    target.release();
    wrap(&mut target, &[("cat", &format!("exec tee {}/second", place.display()))]);
    restore(&standby, &target);
    let second = fs::metadata(place.join("second")).unwrap().len();
    assert_eq!(second, size - first, "the beginning was sent again");
    assert_same_tree(&standby.newest_tree(), &target.tree());
}

#[test]
fn a_kill_in_any_stage_is_resumed_and_verified() {
    let (gpu, standby) = bound();
    grow_many(&gpu.tree());
    write(&gpu.tree().join("model.pt"), noise(65 << 20));
    standby.pass(FIRST);
    let mut target = Machine::start(&[&standby.key()]);
    let place = target.place.path().to_owned();
    let hold = format!(
        "echo x > {0}/holding; while [ -e {0}/hold ]; do sleep 0.01; done",
        place.display()
    );
    // The listing, the bundles, the large file, rsync's own pass.
    for stage in ["find", "tar", "cat", "rsync"] {
        let script = format!("[ \"$1\" = --version ] || {{ {hold}; }}; exec /usr/bin/{stage} \"$@\"");
        let _ = fs::remove_dir_all(place.join("bin"));
        wrap(&mut target, &[(stage, &script)]);
        crate::support::remove_tree(&target.tree());
        fs::create_dir(target.tree()).unwrap();
        target.hold();
        status_of(standby.call(Request::Restore(standby.restore_request(&target, FIRST.next(), 0))));
        target.wait_until_held();
        kill_workers(&standby);
        target.release();
    }
    let _ = fs::remove_dir_all(place.join("bin"));
    restore(&standby, &target);
    assert_same_tree(&standby.newest_tree(), &target.tree());
}
