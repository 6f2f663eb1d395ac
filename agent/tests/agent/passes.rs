//! What a pass promises.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Bind, PassActivity, PassFailureKind, Request, Urgency};

use crate::support::{
    Machine, Standby, assert_same_tree, bound, count_files, grow_rich_tree, is_root, read_tree, run, set_xattr,
    status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

#[test]
fn a_recovery_point_equals_the_source_in_everything() {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    let status = standby.pass(FIRST);
    assert_eq!(status.points.count, 1);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    let sparse = fs::metadata(standby.newest_tree().join("sparse")).unwrap();
    assert!(
        sparse.blocks() * 512 < sparse.size() / 4,
        "holes were filled: {} blocks",
        sparse.blocks()
    );
    assert_eq!(status.last_complete.unwrap().files, count_files(&gpu.tree()));
}

#[test]
fn a_later_pass_leaves_older_recovery_points_as_they_were() {
    let (gpu, standby) = bound();
    for n in 0..30 {
        write(&gpu.tree().join(format!("d/{n}")), format!("content {n}"));
    }
    let first = standby.pass(FIRST).points.latest.unwrap();
    let before = read_tree(&standby.point_tree(&first));
    write(&gpu.tree().join("d/1"), "changed");
    fs::remove_file(gpu.tree().join("d/2")).unwrap();
    fs::set_permissions(gpu.tree().join("d/3"), fs::Permissions::from_mode(0o600)).unwrap();
    set_xattr(&gpu.tree().join("d/4"), "user.new", "attribute");
    fs::hard_link(gpu.tree().join("d/5"), gpu.tree().join("d/five")).unwrap();
    write(&gpu.tree().join("d/new"), "new");
    let status = standby.pass(FIRST);
    assert_eq!(status.points.count, 2);
    let report = status.last_complete.unwrap();
    assert_eq!((report.files, report.deleted_files), (31, 1));
    assert_eq!(before, read_tree(&standby.point_tree(&first)));
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    let inode = |point: &std::path::Path| fs::metadata(point.join("d/9")).unwrap().ino();
    let stored_once = inode(&standby.point_tree(&first)) == inode(&standby.newest_tree());
    assert!(stored_once, "an unchanged file takes its space twice");
}

#[test]
fn a_pass_that_finds_nothing_changed_confirms_the_newest_point() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    let first = standby.pass(FIRST).points.latest.unwrap();
    let status = standby.pass(FIRST);
    let again = status.points.latest.unwrap();
    assert_eq!((status.points.count, &again.id), (1, &first.id));
    assert!(again.confirmed_at > first.confirmed_at);
    assert_eq!(status.last_complete.unwrap().started_at, again.confirmed_at);
}

#[test]
fn a_deleted_empty_directory_and_a_deleted_link_are_changes() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    fs::create_dir(gpu.tree().join("empty")).unwrap();
    std::os::unix::fs::symlink("a", gpu.tree().join("link")).unwrap();
    standby.pass(FIRST);
    fs::remove_dir(gpu.tree().join("empty")).unwrap();
    assert_eq!(standby.pass(FIRST).points.count, 2);
    fs::remove_file(gpu.tree().join("link")).unwrap();
    assert_eq!(standby.pass(FIRST).points.count, 3);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_file_rewritten_within_the_same_second_at_the_same_size_is_seen() {
    let (gpu, standby) = bound();
    let path = gpu.tree().join("checkpoint");
    write(&path, "loss 1.00");
    crate::support::set_mtime(&path, 1_795_441_530, 100_000_000);
    standby.pass(FIRST);
    write(&path, "loss 0.50");
    crate::support::set_mtime(&path, 1_795_441_530, 200_000_000);
    standby.pass(FIRST);
    assert_eq!(
        fs::read_to_string(standby.newest_tree().join("checkpoint")).unwrap(),
        "loss 0.50"
    );
}

#[test]
fn nothing_is_left_out_that_the_user_did_not_exclude() {
    let (gpu, standby) = bound();
    for path in [
        ".git/HEAD",
        "a.log",
        "cache/x",
        "__pycache__/y",
        ".venv/z",
        "core",
        "x.tmp",
        "a~",
    ] {
        write(&gpu.tree().join(path), path);
    }
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    let mut bind = standby.bind_request(&gpu, FIRST);
    bind.excludes = vec!["/cache/".into(), "*.log".into()];
    status_of(standby.call(Request::Bind(bind)));
    standby.pass(FIRST);
    assert!(!standby.newest_tree().join("cache").exists() && !standby.newest_tree().join("a.log").exists());
    assert!(standby.newest_tree().join(".git/HEAD").exists());
}

#[test]
fn our_marker_is_not_part_of_a_recovery_point() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    assert!(gpu.tree().join(".warmspare/marker.json").exists());
    assert!(!standby.newest_tree().join(".warmspare").exists());
}

#[test]
fn odd_source_paths_arrive_unharmed() {
    let standby = Standby::new();
    let gpu = Machine::start(&[&standby.key()]);
    for name in [
        "with space",
        "quote'\"s",
        "$(touch pwned);`x`",
        "colon:name",
        "ünïcödé",
        "~tilde",
        "#hash",
    ] {
        let standby = Standby::new();
        gpu.authorize(&[&standby.key()]);
        write(&gpu.tree().join(name).join("file"), name);
        let mut bind = standby.bind_request(&gpu, FIRST);
        bind.source_path = gpu.tree().join(name).to_str().unwrap().to_owned();
        status_of(standby.call(Request::Bind(bind)));
        standby.pass(FIRST);
        assert_eq!(fs::read_to_string(standby.newest_tree().join("file")).unwrap(), name);
    }
}

#[test]
fn a_relative_source_path_starts_at_the_logins_home() {
    let standby = Standby::new();
    let gpu = Machine::start(&[&standby.key()]);
    let home = std::env::home_dir().unwrap();
    let place = tempfile::Builder::new()
        .prefix(".warmspare-test-")
        .tempdir_in(&home)
        .unwrap();
    write(&place.path().join("tree/file"), "at home");
    let mut bind = standby.bind_request(&gpu, FIRST);
    bind.source_path = format!("{}/tree", place.path().file_name().unwrap().to_str().unwrap());
    status_of(standby.call(Request::Bind(bind)));
    standby.pass(FIRST);
    assert_eq!(
        fs::read_to_string(standby.newest_tree().join("file")).unwrap(),
        "at home"
    );
}

#[test]
fn a_failed_pass_does_not_count_as_a_sync() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    let before = standby.pass(FIRST).last_complete.unwrap();
    gpu.halt();
    for expected in 1..=2 {
        let status = standby.sync(FIRST);
        assert_eq!(
            status.last_complete.as_ref(),
            Some(&before),
            "a failed pass was stamped as complete"
        );
        let failure = status.last_failure.unwrap();
        assert_eq!(
            (failure.kind, failure.in_a_row),
            (PassFailureKind::GpuUnreachable, expected)
        );
    }
    gpu.boot();
    let status = standby.pass(FIRST);
    assert!(status.last_complete.unwrap().started_at > before.started_at);
}

#[test]
fn each_failure_is_named_by_its_kind() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    gpu.authorize(&["# nobody"]);
    gpu.halt();
    gpu.boot();
    let failure = standby.sync(FIRST).last_failure.unwrap();
    assert_eq!(failure.kind, PassFailureKind::KeyRefused, "{}", failure.message);
    gpu.authorize(&[&standby.key()]);
    gpu.halt();
    let empty = gpu.place.path().join("no-programs");
    fs::create_dir(&empty).unwrap();
    for program in ["sh", "head"] {
        std::os::unix::fs::symlink(format!("/bin/{program}"), empty.join(program)).unwrap();
    }
    gpu.boot_with(&format!("SetEnv SHLVL=5 PATH={}", empty.display()), &[]);
    write(&gpu.tree().join("a"), "2");
    let failure = standby.sync(FIRST).last_failure.unwrap();
    assert_eq!(failure.kind, PassFailureKind::ProgramMissing, "{}", failure.message);
    assert!(failure.message.contains("apt-get"), "{}", failure.message);
    gpu.halt();
    gpu.boot();
    standby.pass(FIRST);
}

#[test]
fn a_standby_without_rsync_does_not_blame_the_gpu() {
    let standby = Standby::new();
    let gpu = Machine::start(&[&standby.key()]);
    write(&gpu.tree().join("a"), "1");
    standby.bind(&gpu, FIRST);
    let programs = standby.place.path().join("programs");
    fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink("/usr/bin/ssh", programs.join("ssh")).unwrap();
    run(standby.command().env("PATH", &programs).arg("sync"), b"");
    let failure = standby.status().last_failure.unwrap();
    assert_eq!(failure.kind, PassFailureKind::ProgramMissing, "{}", failure.message);
    assert!(
        failure.message.contains("rsync is missing on the standby"),
        "{}",
        failure.message
    );
    standby.pass(FIRST);
}

#[test]
fn files_that_cannot_be_read_keep_their_last_good_version() {
    let standby = Standby::new();
    let mut gpu = Machine::start(&[&standby.key()]);
    if is_root() {
        // Root without its power over permissions: what an ordinary login is to files it may not read.
        gpu.halt();
        gpu.boot_with("", &["setpriv", "--bounding-set=-dac_override,-dac_read_search"]);
    }
    standby.bind(&gpu, FIRST);
    let at = |name: &str| gpu.tree().join(name);
    for name in ["good", "secret", "dir/inner", "dir/deeper/x", "fresh/y", "gone"] {
        write(&at(name), format!("first {name}"));
    }
    standby.pass(FIRST);
    for name in ["good", "secret", "dir/inner"] {
        write(&at(name), format!("second {name}"));
    }
    write(&at("never-seen"), "unreadable from the start");
    fs::remove_file(at("gone")).unwrap();
    // A standby that is not root cannot hold a directory that its own login may not enter: there, files only.
    let closed: &[&str] = if is_root() {
        &["dir", "never-seen", "secret"]
    } else {
        &["never-seen", "secret"]
    };
    for name in closed {
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let status = standby.pass(FIRST);
    let mut kept = status.last_complete.unwrap().kept_back;
    kept.sort();
    assert_eq!(kept, closed);
    let copy = |name: &str| fs::read_to_string(standby.newest_tree().join(name)).ok();
    assert_eq!(copy("good").as_deref(), Some("second good"));
    assert_eq!(copy("secret").as_deref(), Some("first secret"));
    let inner = if is_root() {
        "first dir/inner"
    } else {
        "second dir/inner"
    };
    assert_eq!(copy("dir/inner").as_deref(), Some(inner));
    assert_eq!(copy("dir/deeper/x").as_deref(), Some("first dir/deeper/x"));
    assert_eq!(copy("gone"), None, "an unreadable file kept a deleted one alive");
    assert_eq!(copy("never-seen"), None);
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_tree_in_motion_is_copied_all_the_same() {
    let (gpu, standby) = bound();
    let tree = gpu.tree();
    for n in 0..200 {
        write(&tree.join(format!("d{}/f{n}", n % 10)), "x".repeat(n * 50));
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n: usize = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                let path = tree.join(format!("d{}/f{}", n % 10, n % 200));
                let _ = fs::remove_file(&path);
                write(&path, "y".repeat(n % 9000));
                let longer = fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(tree.join("log"))
                    .unwrap();
                longer.write_all_at(b"line\n", (n * 5) as u64).unwrap_or_default();
                let _ = longer.set_len((n as u64 % 7) * 100_000);
            }
        });
        for _ in 0..6 {
            let status = standby.sync(FIRST);
            assert!(status.last_failure.is_none() && status.halt.is_none(), "{status:#?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    standby.pass(FIRST);
    assert_same_tree(&tree, &standby.newest_tree());
}

#[test]
fn a_data_directory_may_be_named_relatively_and_with_spaces() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("my data; x");
    let standby = Standby::at(place, data);
    let key = {
        let call = br#"{"schema":1,"request":{"verb":"prepare"}}"#;
        let mut command = std::process::Command::new(crate::support::AGENT);
        command
            .args(["--data", "my data; x", "call"])
            .current_dir(standby.place.path());
        let output = crate::support::run(&mut command, call);
        assert!(output.status.success(), "{output:?}");
        standby.key()
    };
    let gpu = Machine::start(&[&key]);
    write(&gpu.tree().join("a"), "1");
    standby.bind(&gpu, FIRST);
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_hostile_source_writes_nothing_outside() {
    let (gpu, standby) = bound();
    let outside = standby.place.path().join("outside");
    write(&outside.join("victim"), "untouched");
    write(&gpu.tree().join("d/victim"), "attack 1");
    standby.pass(FIRST);
    // What was a directory becomes a link to a place of the standby, and back, with a file behind it.
    fs::remove_dir_all(gpu.tree().join("d")).unwrap();
    std::os::unix::fs::symlink(&outside, gpu.tree().join("d")).unwrap();
    write(&gpu.tree().join("other"), "x");
    standby.pass(FIRST);
    fs::remove_file(gpu.tree().join("d")).unwrap();
    write(&gpu.tree().join("d/victim"), "attack 2");
    standby.pass(FIRST);
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_limited_pass_keeps_to_its_limit_and_makes_way_for_the_last_gasp() {
    let (gpu, standby) = bound();
    let limited = Bind {
        bandwidth_kib_per_s: 200,
        ..standby.bind_request(&gpu, FIRST)
    };
    crate::support::status_of(standby.call(Request::Bind(limited)));
    // Some 40 s of it.
    write(&gpu.tree().join("large"), crate::support::noise(8 << 20));
    standby.try_sync(FIRST, Urgency::Due, 0);
    crate::support::eventually("the limited pass is under way", || {
        matches!(standby.status().pass, PassActivity::Running { .. }).then_some(())
    });
    let began = std::time::Instant::now();
    let status = crate::support::status_of(standby.try_sync(FIRST, Urgency::LastGasp, 30_000));
    assert!(status.last_failure.is_none() && status.points.count > 0, "{status:#?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "it crawled on");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn what_comes_slowly_is_compressed_on_its_way() {
    for (limit, slow) in [(6000, true), (0, false)] {
        let (gpu, standby) = bound();
        let limited = Bind {
            bandwidth_kib_per_s: limit,
            ..standby.bind_request(&gpu, FIRST)
        };
        crate::support::status_of(standby.call(Request::Bind(limited)));
        write(&gpu.tree().join("noise"), crate::support::noise(16 << 20));
        standby.pass(FIRST);
        write(&gpu.tree().join("log"), "loss 0.1\n".repeat(2 << 20));
        let report = standby.pass(FIRST).last_complete.unwrap();
        assert_eq!(report.wire_bytes.0 < 4 << 20, slow, "{}", report.wire_bytes);
        assert_same_tree(&gpu.tree(), &standby.newest_tree());
    }
}
