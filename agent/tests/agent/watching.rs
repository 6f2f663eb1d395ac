//! Passes that cost what changed, and everything that can happen to the watcher who tells them what that is.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{InMotion, PassReport, PassScope, Request, Urgency, Watcher};

use crate::support::{
    Disk, Machine, Standby, assert_same_tree, bound, eventually, grow_rich_tree, is_root, kill, noise, odd_names,
    read_tree, remove_tree, set_mtime, set_xattr, status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;
use PassScope::{Changes, Everything, Nothing};

/// A GPU with a rich tree that was copied once to a standby with btrfs, where passes may cost what changed.
pub(crate) fn protected() -> Option<(Disk, Machine, Standby)> {
    let (disk, gpu, standby) = Disk::bound("btrfs", 400)?;
    grow_rich_tree(&gpu.tree());
    for n in 0..40 {
        let path = gpu.tree().join(format!("work/{n}"));
        write(&path, format!("work {n}"));
        // Two of one size written within a tick of the clock are the same to rsync: a renamed one would not be seen.
        set_mtime(&path, 1_795_000_000 + n, 0);
    }
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    assert!(matches!(standby.status().watcher, Watcher::Watching { directories } if directories > 5));
    Some((disk, gpu, standby))
}

/// A pass after which the copy equals the source, and was counted right.
pub(crate) fn pass(gpu: &Machine, standby: &Standby) -> PassReport {
    let report = standby.pass(FIRST).last_complete.unwrap();
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    check_counts(gpu, &report);
    report
}

fn check_counts(gpu: &Machine, report: &PassReport) {
    let tree = read_tree(&gpu.tree());
    let files = tree.values().filter(|entry| entry.kind == 'f');
    let links = tree.values().filter(|entry| entry.kind == 'l');
    let bytes: u64 =
        files.clone().map(|entry| entry.size).sum::<u64>() + links.map(|entry| entry.content.len() as u64).sum::<u64>();
    assert_eq!(
        (report.files, report.bytes.0),
        (files.count() as u64, bytes),
        "{report:?}"
    );
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_pass_looks_at_what_changed_and_an_idle_one_at_nothing() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let first = standby.status().points.latest.unwrap();
    let idle = pass(&gpu, &standby);
    assert_eq!((idle.scope, &idle.point), (Nothing, &first.id));
    assert!(idle.wire_bytes.0 < 20_000, "{}", idle.wire_bytes);
    let again = standby.status().points.latest.unwrap();
    assert!(again.confirmed_at > first.confirmed_at);
    write(&gpu.tree().join("work/1"), "changed");
    let report = pass(&gpu, &standby);
    assert_eq!((report.scope, report.changed_files), (Changes, 1));
    assert_eq!(standby.points().len(), 2);
    assert_eq!(pass(&gpu, &standby).scope, Nothing);
}

#[test]
fn an_idle_pass_costs_nothing_also_where_points_share_by_hard_links() {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    assert_eq!(pass(&gpu, &standby).scope, Nothing);
    write(&gpu.tree().join("modes/1"), "changed");
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    assert_eq!(pass(&gpu, &standby).scope, Nothing);
}

type Operation = (&'static str, fn(&Path));

/// What can be done to a tree, one kind each; none touches a file with two names.
fn operations() -> Vec<Operation> {
    vec![
        ("create", |t| write(&t.join("work/new"), "new")),
        ("append", |t| {
            let path = t.join("work/1");
            let file = fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all_at(b" and more", 0).unwrap();
        }),
        ("rewrite at the same size", |t| write(&t.join("work/2"), "wORK 2")),
        ("truncate", |t| write(&t.join("work/3"), "")),
        ("chmod a file", |t| mode(&t.join("work/4"), 0o4711)),
        ("chmod a directory", |t| mode(&t.join("work"), 0o1770)),
        ("chmod the root", |t| mode(t, 0o710)),
        ("touch", |t| set_mtime(&t.join("work/5"), 1_234_567_890, 5)),
        ("touch a directory", |t| set_mtime(&t.join("xattrs"), 1_234_567_891, 6)),
        ("extended attribute", |t| set_xattr(&t.join("work/6"), "user.a", "b")),
        ("extended attribute of a directory", |t| {
            set_xattr(&t.join("work"), "user.c", "d")
        }),
        ("delete", |t| fs::remove_file(t.join("work/7")).unwrap()),
        ("rename over", |t| {
            fs::rename(t.join("work/8"), t.join("work/9")).unwrap()
        }),
        ("rename elsewhere", |t| {
            fs::rename(t.join("work/10"), t.join("empty/10")).unwrap()
        }),
        ("link", |t| symlink("work/11", t.join("a link")).unwrap()),
        ("link changed", |t| {
            fs::remove_file(t.join("a link")).unwrap();
            symlink("/etc", t.join("a link")).unwrap();
        }),
        ("link becomes a directory", |t| {
            fs::remove_file(t.join("a link")).unwrap();
            write(&t.join("a link/passwd"), "not that one");
        }),
        ("directory becomes a link", |t| {
            fs::remove_dir_all(t.join("a link")).unwrap();
            symlink("/etc", t.join("a link")).unwrap();
        }),
        ("deep new directories", |t| {
            for n in 0..30 {
                write(&t.join(format!("new/{n}/deep/er/{n}")), format!("{n}"));
            }
        }),
        ("new file in a new directory", |t| write(&t.join("new/3/deep/x"), "x")),
        ("move a directory", |t| {
            fs::rename(t.join("new"), t.join("work/moved")).unwrap()
        }),
        ("change in a moved directory", |t| {
            write(&t.join("work/moved/4/deep/y"), "y")
        }),
        ("move a directory out and in", |t| {
            let outside = t.with_file_name("outside");
            fs::rename(t.join("work/moved"), &outside).unwrap();
            write(&outside.join("5/while-outside"), "z");
            fs::rename(&outside, t.join("back")).unwrap();
        }),
        ("change in what came back", |t| {
            write(&t.join("back/5/deep/er/5"), "changed")
        }),
        ("exchange two directories by hand", |t| {
            fs::rename(t.join("back/6"), t.join("back/tmp")).unwrap();
            fs::rename(t.join("back/7"), t.join("back/6")).unwrap();
            fs::rename(t.join("back/tmp"), t.join("back/7")).unwrap();
            write(&t.join("back/6/deep/in-six"), "6");
            write(&t.join("back/7/deep/in-seven"), "7");
        }),
        ("change in the exchanged", |t| {
            write(&t.join("back/6/deep/in-six"), "six")
        }),
        ("exchange two directories at once", |t| {
            let (a, b) = (t.join("back/6"), t.join("back/7"));
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                &a,
                rustix::fs::CWD,
                &b,
                rustix::fs::RenameFlags::EXCHANGE,
            )
            .unwrap();
            write(&b.join("deep/in-six"), "now in seven");
        }),
        ("change after the exchange", |t| {
            write(&t.join("back/6/deep/in-seven"), "now in six");
            write(&t.join("back/7/deep/in-six"), "again");
        }),
        ("delete and make again", |t| {
            fs::remove_dir_all(t.join("back/8")).unwrap();
            write(&t.join("back/8/other"), "o");
        }),
        ("change in what was made again", |t| {
            write(&t.join("back/8/other"), "changed")
        }),
        ("delete a directory", |t| fs::remove_dir_all(t.join("back")).unwrap()),
        ("file becomes a directory", |t| {
            fs::remove_file(t.join("work/12")).unwrap();
            write(&t.join("work/12/in"), "x");
        }),
        ("directory becomes a file", |t| {
            fs::remove_dir_all(t.join("work/12")).unwrap();
            write(&t.join("work/12"), "file");
        }),
        ("empty directory", |t| fs::create_dir(t.join("nothing in it")).unwrap()),
        ("odd names", |t| {
            for name in odd_names() {
                let path = t.join("names").join(std::ffi::OsStr::from_bytes(&name));
                write(&path, "changed");
                write(
                    &t.join("odd").join(std::ffi::OsStr::from_bytes(&name)).join("in"),
                    "new",
                );
            }
        }),
        ("names that rsync takes for something else", |t| {
            for name in [
                "#hash",
                ";semicolon",
                "-option",
                "+ plus",
                "!",
                "...",
                ". dot",
                "~",
                "a/./b",
            ] {
                write(&t.join("named").join(name), name);
            }
        }),
        ("delete odd names", |t| remove_tree(&t.join("odd"))),
        ("sparse", |t| {
            let file = fs::File::create(t.join("sparse 2")).unwrap();
            file.set_len(32 << 20).unwrap();
            file.write_all_at(b"island", 16 << 20).unwrap();
        }),
        ("closed directory", |t| {
            mode(&t.join("closed"), 0o755);
            write(&t.join("closed/inside"), "changed");
            mode(&t.join("closed"), 0o555);
        }),
    ]
}

#[test]
fn every_kind_of_change_arrives_with_a_pass_over_the_changes() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let first = standby.points().remove(0);
    let before = read_tree(&standby.point_tree(&first));
    for (name, change) in operations() {
        println!("{name}");
        change(&gpu.tree());
        assert_eq!(pass(&gpu, &standby).scope, Changes, "{name}");
    }
    assert_eq!(before, read_tree(&standby.point_tree(&first)));
    // Nothing is left that only a full scan would find.
    standby.age_full_scan();
    let full = pass(&gpu, &standby);
    assert_eq!((full.scope, full.missed, full.changed_files), (Everything, 0, 0));
}

#[test]
fn many_changes_at_once_arrive_with_one_pass() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    for (_, change) in operations() {
        change(&gpu.tree());
    }
    assert_eq!(pass(&gpu, &standby).scope, Changes);
}

#[test]
fn excludes_hold_for_passes_over_changes_too() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let mut bind = standby.bind_request(&gpu, FIRST);
    bind.excludes = ["/cache/", "*.tmp", "logs/deep/", "+ /keep/this/", "/keep/*"]
        .map(str::to_owned)
        .into();
    status_of(standby.call(Request::Bind(bind)));
    let at = |name: &str| gpu.tree().join(name);
    write(&at("cache/a"), "1");
    assert_eq!(standby.pass(FIRST).last_complete.unwrap().scope, Everything);
    let excluded = [
        "cache/a",
        "cache/new/deep/b",
        "d.tmp/c",
        "work/d.tmp",
        "work/logs/deep/e",
        "keep/f",
    ];
    let included = [
        "cachet/a",
        "work/logs/f",
        "keep/this/g",
        "work/cache/h",
        "new/cache/deep/i",
    ];
    for round in ["1", "2"] {
        for name in excluded.into_iter().chain(included) {
            write(&at(name), format!("round {round}"));
        }
        let report = standby.pass(FIRST).last_complete.unwrap();
        assert_eq!((report.scope, report.changed_files), (Changes, included.len() as u64));
        let copy = standby.newest_tree();
        for name in excluded {
            assert!(!copy.join(name).exists(), "{name} was copied");
        }
        for name in included {
            assert_eq!(
                fs::read_to_string(copy.join(name)).unwrap(),
                format!("round {round}"),
                "{name}"
            );
        }
        assert!(!copy.join("cache").exists() && !copy.join("d.tmp").exists());
        write(&at("cache/only"), round);
        write(&at("cache/newer/only"), round);
        standby.pass(FIRST);
        assert!(!standby.newest_tree().join("cache").exists());
    }
    standby.age_full_scan();
    let full = standby.pass(FIRST).last_complete.unwrap();
    assert_eq!((full.scope, full.missed), (Everything, 0));
}

#[test]
fn a_file_with_two_names_costs_a_full_scan_and_stays_one_file() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let at = |name: &str| gpu.tree().join(name);
    // Through one name: nobody reports the others.
    let file = fs::OpenOptions::new().append(true).open(at("links/one")).unwrap();
    file.write_all_at(b" changed", 0).unwrap();
    drop(file);
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    fs::hard_link(at("work/20"), at("twin")).unwrap();
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    // One name goes its own way, by a rename over it and in place. What was written before that, it may be through another name.
    write(&at("own"), "on its own now");
    fs::rename(at("own"), at("links/two")).unwrap();
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    fs::remove_file(at("twin")).unwrap();
    write(&at("work/20"), "alone again");
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    fs::remove_file(at("links/deep/er/three")).unwrap();
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    mode(&at("links/one"), 0o640);
    assert_eq!(pass(&gpu, &standby).scope, Changes);
}

#[test]
fn a_watcher_that_dies_or_whose_machine_restarts_costs_one_full_scan() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    for restart in [false, true] {
        gpu.kill_watchers();
        write(&gpu.tree().join("work/1"), format!("while nobody watched {restart}"));
        if restart {
            gpu.halt();
            gpu.boot();
        }
        let report = pass(&gpu, &standby);
        assert_eq!((report.scope, report.missed), (Everything, 0));
        write(&gpu.tree().join("work/2"), format!("watched again {restart}"));
        assert_eq!(pass(&gpu, &standby).scope, Changes);
        assert_eq!(gpu.watchers().len(), 1);
    }
}

#[test]
fn a_change_through_a_name_that_then_goes_reaches_the_names_that_stay() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let at = |name: &str| gpu.tree().join(name);
    fs::hard_link(at("work/30"), at("twin")).unwrap();
    pass(&gpu, &standby);
    let file = fs::OpenOptions::new().append(true).open(at("work/30")).unwrap();
    file.write_all_at(b"through the first", 0).unwrap();
    drop(file);
    fs::remove_file(at("work/30")).unwrap();
    pass(&gpu, &standby);
    let twin = fs::read_to_string(standby.newest_tree().join("twin")).unwrap();
    assert!(twin.contains("through the first"), "{twin}");
}

#[test]
fn more_events_than_the_kernel_keeps_cost_one_full_scan() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let signal = |signal| {
        for pid in gpu.watchers() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, signal).unwrap();
        }
    };
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if limit > 100_000 {
        eprintln!("SKIPPED: this machine keeps {limit} events, too many to overflow in a test");
        return;
    }
    signal(rustix::process::Signal::STOP);
    for n in 0..limit + 1000 {
        set_mtime(&gpu.tree().join(format!("work/{}", n % 40)), n as i64, 1);
    }
    write(&gpu.tree().join("late/directory/file"), "its creation was not heard");
    signal(rustix::process::Signal::CONT);
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    write(&gpu.tree().join("late/directory/file"), "changed");
    assert_eq!(pass(&gpu, &standby).scope, Changes);
}

#[test]
fn what_the_watcher_cannot_see_is_found_by_the_full_scan_and_counted() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    // Through a name outside the tree, as also a memory map would do: no event names the one inside.
    let outside = gpu.place.path().join("outside");
    fs::hard_link(gpu.tree().join("work/30"), &outside).unwrap();
    pass(&gpu, &standby);
    write(&outside, "changed behind the watcher's back");
    write(&gpu.tree().join("work/1"), "told");
    fs::remove_dir_all(gpu.tree().join("names")).unwrap();
    assert_eq!(standby.pass(FIRST).last_complete.unwrap().scope, Changes);
    write(&gpu.tree().join("work/2"), "told, too");
    fs::remove_dir_all(gpu.tree().join("times")).unwrap();
    standby.age_full_scan();
    let report = pass(&gpu, &standby);
    assert_eq!((report.scope, report.missed), (Everything, 1));
    // It is still told after the next pass.
    pass(&gpu, &standby);
    let missed = standby.status().missed;
    assert_eq!((missed.changes, missed.last_at), (1, Some(report.started_at)));
    assert_eq!(pass(&gpu, &standby).scope, Nothing);
}

#[test]
fn a_new_file_with_holes_keeps_them_and_what_fills_them_arrives() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let name = "work/holes.bin";
    let size_on_disk = |tree: &Path| fs::metadata(tree.join(name)).unwrap().blocks() * 512;
    let file = fs::File::create(gpu.tree().join(name)).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"data", 32 << 20).unwrap();
    assert_eq!(pass(&gpu, &standby).scope, Changes);
    assert!(size_on_disk(&standby.newest_tree()) < 8 << 20);
    // Now without holes, and beside one that never had any.
    file.write_all_at(&noise(64 << 20), 0).unwrap();
    write(&gpu.tree().join("work/1"), "dense");
    assert_eq!(pass(&gpu, &standby).scope, Changes);
    assert!(size_on_disk(&standby.newest_tree()) >= 64 << 20);
}

/// Words that make a file too long to be handed over.
fn long(words: &str) -> String {
    words.to_owned() + &" ".repeat(40 << 10)
}

#[test]
fn a_file_that_changes_while_it_is_copied_is_named_and_its_last_whole_version_stays() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    let (file, quiet) = (gpu.tree().join("work/latest.pt"), gpu.tree().join("work/quiet"));
    write(&file, "whole");
    let whole = pass(&gpu, &standby).point;
    gpu.wrap_rsync("hold", "");
    // A pass that costs what changed, another, and a full scan: none of them has it whole.
    for (round, scope) in [Changes, Changes, Everything].into_iter().enumerate() {
        if scope == Everything {
            standby.age_full_scan();
        }
        write(&file, long(&format!("torn {round}")));
        write(&quiet, format!("quiet {round}"));
        gpu.hold();
        standby.try_sync(FIRST, Urgency::Due, 0);
        gpu.wait_until_held();
        write(&file, format!("torn {round}, and on"));
        gpu.release();
        let report = standby.settled().last_complete.unwrap();
        assert_eq!(report.scope, scope);
        let torn = InMotion {
            file: "work/latest.pt".into(),
            whole_in: Some(whole.clone()),
        };
        assert_eq!(report.in_motion, [torn]);
    }
    let kept = standby.data.join("recovery-points").join(whole.to_string());
    assert_eq!(fs::read_to_string(kept.join("work/latest.pt")).unwrap(), "whole");
    write(&quiet, "quiet at last");
    let report = pass(&gpu, &standby);
    assert_eq!((report.scope, report.in_motion), (Changes, vec![]));
}

#[test]
fn where_nobody_can_tell_what_changed_meanwhile_the_last_whole_version_stays() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    let file = gpu.tree().join("work/latest.pt");
    write(&file, "whole");
    let whole = pass(&gpu, &standby).point;
    gpu.wrap_rsync("hold", "");
    // The watcher dies while a pass copies; the full scan after that meets another one, which knows nothing of the file yet.
    for kills in [true, false] {
        write(&file, long(&format!("torn, {kills}")));
        gpu.hold();
        standby.try_sync(FIRST, Urgency::Due, 0);
        gpu.wait_until_held();
        if kills {
            gpu.kill_watchers();
        } else {
            write(&file, "torn, and on");
        }
        gpu.release();
        let torn = InMotion {
            file: "work/latest.pt".into(),
            whole_in: Some(whole.clone()),
        };
        assert_eq!(standby.settled().last_complete.unwrap().in_motion, [torn], "{kills}");
    }
    eventually("a pass has it whole", || {
        standby
            .pass(FIRST)
            .last_complete
            .unwrap()
            .in_motion
            .is_empty()
            .then_some(())
    });
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_pass_killed_at_any_step_is_told_the_same_changes_again() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    gpu.wrap_rsync("hold", "hold");
    let stopped_before = |content: &str, released: bool| {
        write(&gpu.tree().join("work/1"), content);
        fs::remove_dir_all(gpu.tree().join("work/dir")).unwrap_or_default();
        write(&gpu.tree().join(format!("work/dir/{content}")), content);
        gpu.hold();
        standby.try_sync(FIRST, Urgency::Due, 0);
        gpu.wait_until_held();
        if released {
            // Past the first hold, into the second.
            fs::remove_file(gpu.place.path().join("holding")).unwrap();
            gpu.release();
            gpu.hold();
        }
        standby.workers().into_iter().for_each(kill);
        gpu.release();
        eventually("the worker ended", || standby.workers().is_empty().then_some(()));
    };
    for (content, released) in [("before rsync", false), ("during rsync", true)] {
        stopped_before(content, released);
        let report = pass(&gpu, &standby);
        assert!(matches!(report.scope, Changes | Everything), "{report:?}");
        assert_eq!(
            fs::read_to_string(standby.newest_tree().join("work/1")).unwrap(),
            content
        );
    }
    // Killed after the recovery point and before the note of it.
    let note = standby.data.join("watch.json");
    let before = fs::read(&note).unwrap();
    write(&gpu.tree().join("work/3"), "in the point already");
    assert_eq!(pass(&gpu, &standby).scope, Changes);
    fs::write(&note, before).unwrap();
    write(&gpu.tree().join("work/4"), "afterwards");
    assert_eq!(pass(&gpu, &standby).scope, Changes);
}

#[test]
fn a_cursor_that_is_not_this_watchers_is_not_believed() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let note = standby.data.join("watch.json");
    let spoil = |change: fn(&mut serde_json::Value)| {
        let mut stored: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
        change(&mut stored["seen"]);
        fs::write(&note, stored.to_string()).unwrap();
    };
    let spoilers: [fn(&mut serde_json::Value); 5] = [
        |seen| seen["cursor"]["life"] = "another".into(),
        |seen| seen["cursor"]["seq"] = 999_999.into(),
        |seen| seen["cursor"]["seq"] = 0.into(),
        |seen| seen["revision"] = 99.into(),
        |seen| seen["point"] = "29990101T000000000Z".into(),
    ];
    for (n, spoiler) in spoilers.into_iter().enumerate() {
        // Acknowledged, so that the cursor before it is gone.
        pass(&gpu, &standby);
        spoil(spoiler);
        write(&gpu.tree().join("work/1"), format!("{n}"));
        assert_eq!(pass(&gpu, &standby).scope, Everything, "spoiler {n}");
    }
    fs::write(&note, "garbage").unwrap();
    write(&gpu.tree().join("work/1"), "after garbage");
    assert_eq!(pass(&gpu, &standby).scope, Everything);
}

#[test]
fn another_bind_costs_one_full_scan() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let second = FIRST.next();
    standby.bind(&gpu, second);
    write(&gpu.tree().join("work/1"), "under the next epoch");
    assert_eq!(standby.pass(second).last_complete.unwrap().scope, Everything);
    write(&gpu.tree().join("work/1"), "and on");
    assert_eq!(standby.pass(second).last_complete.unwrap().scope, Changes);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    assert_eq!(gpu.watchers().len(), 1);
}

#[test]
fn guards_hold_for_passes_over_changes_too() {
    type Spoiler = (&'static str, fn(&Path), HaltReason);
    let spoilers: [Spoiler; 6] = [
        (
            "most files deleted",
            |t| fs::remove_dir_all(t.join("work")).unwrap(),
            HaltReason::MassDeletion,
        ),
        (
            "emptied, marker kept",
            |t| {
                for entry in fs::read_dir(t)
                    .unwrap()
                    .flatten()
                    .filter(|entry| entry.file_name() != ".warmspare")
                {
                    let path = entry.path();
                    if entry.file_type().unwrap().is_dir() {
                        remove_tree(&path)
                    } else {
                        fs::remove_file(path).unwrap()
                    }
                }
            },
            HaltReason::SourceEmptied,
        ),
        (
            "foreign marker",
            |t| {
                write(
                    &t.join(".warmspare/marker.json"),
                    r#"{"schema":1,"association":"vast-8","epoch":1}"#,
                );
            },
            HaltReason::MarkerForeign,
        ),
        (
            "no marker",
            |t| fs::remove_file(t.join(".warmspare/marker.json")).unwrap(),
            HaltReason::MarkerMissing,
        ),
        ("gone", remove_tree, HaltReason::SourceEmptied),
        (
            "another directory",
            |t| {
                fs::rename(t, t.with_file_name("aside")).unwrap();
                fs::create_dir(t).unwrap();
            },
            HaltReason::SourceEmptied,
        ),
    ];
    for (name, spoil, expected) in spoilers {
        let Some((_disk, gpu, standby)) = protected() else {
            return;
        };
        for n in 0..60 {
            write(&gpu.tree().join(format!("work/more/{n}")), "x");
        }
        pass(&gpu, &standby);
        let point = standby.status().points.latest.unwrap();
        let before = read_tree(&standby.point_tree(&point));
        spoil(&gpu.tree());
        let status = standby.sync(FIRST);
        assert_eq!(
            status.halt.as_ref().map(|halt| halt.reason),
            Some(expected),
            "{name}: {status:#?}"
        );
        assert_eq!(status.points.latest.as_ref(), Some(&point), "{name}");
        assert_eq!(before, read_tree(&standby.point_tree(&point)), "{name}");
    }
}

#[test]
fn a_hostile_tree_writes_nothing_outside_by_a_pass_over_changes() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    // The same link leads to another place on each machine.
    let (ours, theirs) = (standby.data.join("outside"), gpu.place.path().join("outside"));
    for place in [&ours, &theirs] {
        write(&place.join("victim"), "untouched");
    }
    let at = |name: &str| gpu.tree().join(name);
    for attack in ["attack 1", "attack 2"] {
        write(&at("d/victim"), attack);
        assert_eq!(pass(&gpu, &standby).scope, Changes, "{attack}");
        fs::remove_dir_all(at("d")).unwrap();
        symlink("../outside", at("d")).unwrap();
        assert_eq!(pass(&gpu, &standby).scope, Changes, "{attack}");
        // Written through the link, on the GPU: the watcher must not name what lies behind it.
        write(&at("d/victim"), attack);
        write(&at("d/another"), attack);
        write(&at("work/1"), attack);
        let report = pass(&gpu, &standby);
        assert_eq!((report.scope, report.changed_files), (Changes, 1), "{attack}");
        fs::remove_file(at("d")).unwrap();
    }
    assert_eq!(fs::read_to_string(theirs.join("victim")).unwrap(), "attack 2");
    assert_eq!(fs::read_to_string(ours.join("victim")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&ours).unwrap().count(), 1);
}

#[test]
fn files_that_cannot_be_read_keep_their_last_good_version_in_a_pass_over_changes() {
    let Some(disk) = Disk::make("btrfs", 400) else {
        return;
    };
    let standby = disk.standby();
    let mut gpu = Machine::start(&[&standby.key()]);
    gpu.halt();
    gpu.boot_with("", &["setpriv", "--bounding-set=-dac_override,-dac_read_search"]);
    standby.bind(&gpu, FIRST);
    let at = |name: &str| gpu.tree().join(name);
    for name in ["good", "secret"] {
        write(&at(name), format!("first {name}"));
    }
    standby.pass(FIRST);
    for name in ["good", "secret", "never-seen"] {
        write(&at(name), format!("second {name}"));
    }
    mode(&at("secret"), 0);
    mode(&at("never-seen"), 0);
    let report = standby.pass(FIRST).last_complete.unwrap();
    assert_eq!((report.scope, report.files), (Changes, 2));
    assert_eq!(report.kept_back, ["never-seen", "secret"]);
    let copy = |name: &str| fs::read_to_string(standby.newest_tree().join(name)).ok();
    assert_eq!(copy("good").as_deref(), Some("second good"));
    assert_eq!(copy("secret").as_deref(), Some("first secret"));
    assert_eq!(copy("never-seen"), None);
    // Readable again is a change, too.
    mode(&at("secret"), 0o600);
    mode(&at("never-seen"), 0o600);
    assert_eq!(standby.pass(FIRST).last_complete.unwrap().scope, Changes);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

/// Puts a script in front of our program on the GPU.
fn wrap_agent(gpu: &Machine, script: &str) {
    let place = gpu.tree().join(".warmspare");
    let find = || {
        let names = fs::read_dir(&place).unwrap().flatten().map(|entry| entry.path());
        names
            .into_iter()
            .find(|path| path.file_name().unwrap().as_bytes().starts_with(b"agent-"))
    };
    let program = find().unwrap();
    let real = gpu.place.path().join("real-agent");
    let _ = fs::copy(&program, &real);
    fs::remove_file(&program).unwrap();
    write(&program, script.replace("REAL", real.to_str().unwrap()));
    mode(&program, 0o755);
    gpu.kill_watchers();
}

#[test]
fn a_machine_that_does_not_let_us_watch_is_scanned_and_the_status_says_why() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let scripts = [
        (
            "#!/bin/sh\nexec unshare -Ur sh -c 'echo 3 > /proc/sys/user/max_inotify_watches; exec REAL \"$@\"' sh \"$@\"\n",
            "fs.inotify.max_user_watches",
        ),
        ("#!/bin/no-such-program\n", "cannot run on the GPU"),
        ("#!/bin/sh\nexit 0\n", "cannot run on the GPU"),
    ];
    for (script, words) in scripts {
        wrap_agent(&gpu, script);
        standby.try_again();
        for round in 0..2 {
            write(&gpu.tree().join("work/1"), format!("{words} {round}"));
            assert_eq!(pass(&gpu, &standby).scope, Everything);
        }
        let Watcher::Missing { reason } = standby.status().watcher else {
            panic!("{:?}", standby.status().watcher);
        };
        assert!(reason.contains(words), "{reason}");
    }
    // Put right, it watches again.
    fs::remove_dir_all(gpu.place.path().join("real-agent")).unwrap_or_default();
    for entry in fs::read_dir(gpu.tree().join(".warmspare")).unwrap().flatten() {
        if entry.file_name().as_bytes().starts_with(b"agent-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    standby.try_again();
    assert_eq!(pass(&gpu, &standby).scope, Everything);
    write(&gpu.tree().join("work/1"), "watched");
    assert_eq!(pass(&gpu, &standby).scope, Changes);
}

#[test]
fn a_program_that_is_cut_off_on_its_way_is_brought_again_at_once() {
    let Some((_disk, mut gpu, standby)) = Disk::bound("btrfs", 400) else {
        return;
    };
    write(&gpu.tree().join("a"), "x");
    gpu.wrap_rsync("", "");
    let dies = gpu.place.path().join("dies");
    write(&dies, "");
    let cat = gpu.place.path().join("bin/cat");
    let dies_once = format!(
        "#!/bin/sh\nif [ -e {0} ]; then rm {0}; head -c 1000; exit 137; fi\nexec /bin/cat \"$@\"\n",
        dies.display()
    );
    write(&cat, dies_once);
    mode(&cat, 0o755);
    pass(&gpu, &standby);
    assert!(!dies.exists(), "nothing was cut off");
    let watcher = standby.status().watcher;
    assert!(matches!(watcher, Watcher::Watching { .. }), "{watcher:?}");
}

#[test]
fn a_watcher_leaves_when_its_tree_or_its_program_goes() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    assert_eq!(gpu.watchers().len(), 1);
    remove_tree(&gpu.tree());
    eventually("the watcher left", || gpu.watchers().is_empty().then_some(()));
    let Some((_disk, gpu, _standby)) = protected() else {
        return;
    };
    for entry in fs::read_dir(gpu.tree().join(".warmspare")).unwrap().flatten() {
        if entry.file_name().as_bytes().starts_with(b"agent-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    eventually("the watcher left", || gpu.watchers().is_empty().then_some(()));
    drop(standby);
}

#[test]
fn a_file_system_mounted_into_the_tree_is_noticed() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    assert!(is_root());
    let inside = gpu.tree().join("mnt");
    write(&inside.join("hidden by the mount"), "x");
    pass(&gpu, &standby);
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&inside));
    write(&inside.join("on the mount"), "1");
    let mounted = standby.pass(FIRST).last_complete.unwrap();
    assert_eq!(mounted.scope, Everything);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    write(&inside.join("on the mount"), "2");
    assert_eq!(pass(&gpu, &standby).scope, Changes);
    run(Command::new("umount").arg(&inside));
    assert_eq!(pass(&gpu, &standby).scope, Everything);
}

#[test]
fn a_large_file_that_breaks_off_goes_on_where_it_was() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    write(&gpu.tree().join("large"), crate::support::noise(24 << 20));
    gpu.wrap_rsync(
        "(sleep 0.7; kill -9 $PPID) & /usr/bin/rsync \"$@\" --bwlimit=10000; exit $?",
        "",
    );
    let tries = (1..=12).find(|_| standby.sync(FIRST).last_failure.is_none());
    assert!(tries.expect("the file never arrived") > 2, "no pass was cut off");
    let report = standby.status().last_complete.unwrap();
    assert_eq!(report.scope, Changes);
    check_counts(&gpu, &report);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_watcher_needs_none_of_the_rights_that_containers_lack() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    gpu.kill_watchers();
    gpu.halt();
    // What sshd itself needs, and nothing for what it starts: no CAP_SYS_ADMIN, no CAP_DAC_READ_SEARCH.
    let rights = "--bounding-set=-all,+setuid,+setgid,+sys_chroot,+kill";
    gpu.boot_with("", &["setpriv", rights]);
    assert_eq!(pass(&gpu, &standby).scope, Everything, "a new life is looked at whole");
    write(&gpu.tree().join("work/1"), "changed");
    write(&gpu.tree().join("new/1"), "new");
    assert_eq!(pass(&gpu, &standby).scope, Changes);
    let watchers = gpu.watchers();
    assert_eq!(watchers.len(), 1);
    for watcher in watchers {
        let status = fs::read_to_string(format!("/proc/{watcher}/status")).unwrap();
        let bounds = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        let bounds = u64::from_str_radix(bounds.trim(), 16).unwrap();
        assert_eq!(bounds.count_ones(), 4, "{bounds:x}");
    }
}
