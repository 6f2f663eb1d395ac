//! Passes over little: the watcher hands over what changed, and no rsync runs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::PassScope;

use crate::support::{Machine, Standby, assert_same_tree, eventually, noise, set_mtime, set_xattr, write};
use crate::watching::{pass, protected};

const FIRST: Epoch = Epoch::FIRST;

fn append(path: &Path, more: &[u8]) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(more).unwrap();
}

fn forbid_rsync(gpu: &mut Machine) {
    gpu.wrap_rsync("exit 12", "");
}

/// A pass over changes that arrived whole although the GPU's rsync does not work.
fn pass_without_rsync(gpu: &Machine, standby: &Standby, what: &str) -> u64 {
    let status = standby.sync(FIRST);
    assert!(status.last_failure.is_none(), "{what}: {status:#?}");
    let report = status.last_complete.unwrap();
    assert_eq!(report.scope, PassScope::Changes, "{what}");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    report.wire_bytes.0
}

type Operation = (&'static str, fn(&Path));

/// What can be done to a few files that are there already.
fn operations() -> Vec<Operation> {
    vec![
        ("append", |t| append(&t.join("work/1"), b" and more")),
        ("rewrite", |t| write(&t.join("work/2"), "other words")),
        ("rewrite at the same size and time", |t| {
            set_mtime(&t.join("work/2"), 1_234_567_890, 5);
            write(&t.join("work/2"), "OTHER WORDS");
            set_mtime(&t.join("work/2"), 1_234_567_890, 5);
        }),
        ("truncate", |t| write(&t.join("work/3"), "")),
        ("cut short", |t| {
            fs::OpenOptions::new()
                .write(true)
                .open(t.join("work/4"))
                .unwrap()
                .set_len(2)
                .unwrap();
        }),
        ("fill an empty file", |t| write(&t.join("work/3"), noise(100_000))),
        ("chmod", |t| {
            fs::set_permissions(t.join("work/5"), fs::Permissions::from_mode(0o4701)).unwrap();
        }),
        ("chmod a directory and the root", |t| {
            fs::set_permissions(t.join("work"), fs::Permissions::from_mode(0o1750)).unwrap();
            fs::set_permissions(t, fs::Permissions::from_mode(0o711)).unwrap();
        }),
        ("give away", |t| {
            std::os::unix::fs::chown(t.join("work/6"), Some(1234), Some(4321)).unwrap();
        }),
        ("touch", |t| set_mtime(&t.join("work/7"), 1_234_567_890, 123_456_789)),
        ("an extended attribute", |t| {
            set_xattr(&t.join("work/8"), "user.step", "1");
            set_xattr(&t.join("work"), "user.run", "7");
        }),
        ("other extended attributes", |t| {
            let done = Command::new("setfattr")
                .args(["-x", "user.step"])
                .arg(t.join("work/8"))
                .status();
            assert!(done.unwrap().success());
            set_xattr(&t.join("work/8"), "user.epoch", "2");
        }),
        ("replaced by a rename, as careful programs do", |t| {
            write(&t.join("work/9.tmp"), "latest");
            fs::rename(t.join("work/9.tmp"), t.join("work/9")).unwrap();
        }),
        ("a file that came and went", |t| {
            write(&t.join("work/lock"), "");
            fs::remove_file(t.join("work/lock")).unwrap();
        }),
        ("thirty at once", |t| {
            (10..40).for_each(|n| append(&t.join(format!("work/{n}")), b"!"))
        }),
    ]
}

#[test]
fn what_little_changed_arrives_without_rsync() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    forbid_rsync(&mut gpu);
    for (what, operation) in operations() {
        let before = standby.points();
        let old: Vec<_> = before.iter().map(|point| standby.point_tree(point)).collect();
        let content = |tree: &Path| fs::read(tree.join("work/1")).unwrap();
        let was: Vec<_> = old.iter().map(|tree| content(tree)).collect();
        operation(&gpu.tree());
        pass_without_rsync(&gpu, &standby, what);
        assert_eq!(standby.points().len(), before.len() + 1, "{what}");
        let is: Vec<_> = old.iter().map(|tree| content(tree)).collect();
        assert_eq!(was, is, "{what}: an older recovery point changed");
    }
}

#[test]
fn of_a_log_that_grows_only_the_end_crosses() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    let log = gpu.tree().join("work/train.log");
    write(&log, noise(4 << 20));
    pass(&gpu, &standby);
    forbid_rsync(&mut gpu);
    append(&log, b"step 1\n");
    let wire = pass_without_rsync(&gpu, &standby, "an end");
    assert!(wire < 5_000, "{wire}");
}

#[test]
fn what_is_more_than_little_takes_rsync() {
    let Some((_disk, mut gpu, standby)) = protected() else {
        return;
    };
    write(&gpu.tree().join("work/large"), noise(9 << 20));
    pass(&gpu, &standby);
    let large: [Operation; 6] = [
        ("a new file", |t| write(&t.join("work/new"), "new")),
        ("a deletion", |t| fs::remove_file(t.join("work/1")).unwrap()),
        ("a long end", |t| append(&t.join("work/2"), &noise(300 << 10))),
        ("a file of some size, rewritten", |t| {
            write(&t.join("work/3"), noise(40 << 10))
        }),
        ("the end of a large file", |t| append(&t.join("work/large"), b"end")),
        ("a hundred files", |t| {
            (0..100).for_each(|n| write(&t.join(format!("work/many-{n}")), "many"))
        }),
    ];
    for (what, operation) in large {
        forbid_rsync(&mut gpu);
        operation(&gpu.tree());
        let points = standby.points().len();
        assert!(standby.sync(FIRST).last_failure.is_some(), "{what} needed no rsync");
        assert_eq!(standby.points().len(), points);
        gpu.wrap_rsync("", "");
        pass(&gpu, &standby);
    }
}

/// Rewrites a file again and again.
struct Writer {
    rest: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    fn start(file: PathBuf) -> Self {
        let rest = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&rest);
        let write_on = move || {
            while !until.load(Ordering::Relaxed) {
                fs::write(&file, noise(1000)).unwrap();
            }
        };
        let thread = Some(thread::spawn(write_on));
        Self { rest, thread }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.rest.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

#[test]
fn a_file_that_changes_while_it_is_handed_over_is_named() {
    let Some((_disk, gpu, standby)) = protected() else {
        return;
    };
    let file = gpu.tree().join("work/1");
    let writer = Writer::start(file.clone());
    let named = || {
        let report = standby.pass(FIRST).last_complete.unwrap();
        assert_eq!(report.scope, PassScope::Changes);
        report.in_motion.iter().any(|torn| torn.file == "work/1").then_some(())
    };
    eventually("a file in motion is named", named);
    drop(writer);
    write(&file, "at rest");
    assert_eq!(pass(&gpu, &standby).in_motion, []);
}
