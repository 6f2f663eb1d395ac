//! Random changes, random kills, and then: the copy equals the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use warmspare_domain::ids::{Epoch, RecoveryPointId};
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{Live, PassScope, Request, Sync, Urgency};

use crate::cuts::Cable;
use crate::support::{
    Dice, Disk, Machine, Standby, assert_same_tree, count_files, descendants, eventually, kill, odd_names, status_of,
};

const FIRST: Epoch = Epoch::FIRST;

/// A few names, so that operations meet each other.
fn random_path(root: &Path, dice: &mut Dice) -> PathBuf {
    let odd = odd_names();
    let mut path = root.to_owned();
    for _ in 0..=dice.below(3) {
        if dice.below(8) == 0 {
            let name = &odd[usize::try_from(dice.below(odd.len() as u64)).unwrap()];
            path.push(std::ffi::OsStr::from_bytes(name));
        } else {
            path.push(format!("n{}", dice.below(5)));
        }
    }
    path
}

fn content(dice: &mut Dice) -> Vec<u8> {
    let length = match dice.below(10) {
        0 => 0,
        1 => dice.below(300_000),
        _ => dice.below(300),
    };
    let byte = u8::try_from(dice.below(256)).unwrap();
    vec![byte; usize::try_from(length).unwrap()]
}

/// Does one thing to the tree; what the tree does not allow does not happen.
fn operate(root: &Path, dice: &mut Dice, twins: Twins) {
    let path = random_path(root, dice);
    let other = random_path(root, dice);
    let kind = fs::symlink_metadata(&path).map(|found| found.file_type());
    let is_file = kind.as_ref().is_ok_and(fs::FileType::is_file);
    match dice.below(16) {
        0..=3 => {
            let _ = fs::create_dir_all(path.parent().unwrap());
            if !kind.is_ok_and(|kind| kind.is_symlink()) {
                let _ = fs::write(&path, content(dice));
            }
        }
        4 if is_file => {
            let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all_at(&content(dice), 0).unwrap();
        }
        5 if is_file => {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(dice.below(5000)).unwrap();
        }
        6 | 7 => drop(fs::rename(&path, &other)),
        8 => drop(renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE)),
        9 if is_file && twins == Twins::Some => drop(fs::hard_link(&path, &other)),
        10 => drop(symlink(&path, &other)),
        11 if kind.is_ok_and(|kind| !kind.is_symlink()) => {
            let modes = [0o700, 0o755, 0o711, 0o1777, 0o4755];
            let mode = modes[usize::try_from(dice.below(5)).unwrap()];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        12 if is_file => {
            let value = format!("{}", dice.below(100));
            let _ = rustix::fs::lsetxattr(&path, "user.x", value.as_bytes(), rustix::fs::XattrFlags::empty());
        }
        13 if is_file => {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"island", dice.below(1 << 20)).unwrap();
        }
        14 => {
            // Seldom a whole directory, or the deletion guard would have its say.
            if is_file || dice.below(6) == 0 {
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            }
        }
        _ => drop(fs::create_dir_all(&path)),
    }
}

/// Changes a few files that always are there, and nothing else: what the watcher hands over.
fn change_little(root: &Path, dice: &mut Dice) {
    for _ in 0..=dice.below(5) {
        let path = root.join(format!("keep/{}", dice.below(30)));
        match dice.below(4) {
            0 => fs::write(&path, content(dice)).unwrap(),
            1 => {
                let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all_at(&content(dice), 0).unwrap();
            }
            2 => {
                fs::write(root.join("keep/tmp"), content(dice)).unwrap();
                fs::rename(root.join("keep/tmp"), &path).unwrap();
            }
            _ => {
                let value = format!("{}", dice.below(100));
                let _ = rustix::fs::lsetxattr(&path, "user.x", value.as_bytes(), rustix::fs::XattrFlags::empty());
            }
        }
    }
}

/// What each file below `keep/` was, and when it became so.
#[derive(Default)]
struct Diary {
    files: BTreeMap<PathBuf, Vec<Entry>>,
    checked: BTreeSet<RecoveryPointId>,
}

struct Entry {
    begun: Timestamp,
    done: Timestamp,
    content: Vec<u8>,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap())
}

impl Diary {
    /// Does something to the files and writes down what became of them.
    fn note(&mut self, root: &Path, change: impl FnOnce()) {
        let begun = now();
        change();
        let done = now();
        for file in fs::read_dir(root.join("keep")).unwrap().flatten() {
            let content = fs::read(file.path()).unwrap();
            let entries = self.files.entry(file.file_name().into()).or_default();
            if entries.last().is_none_or(|last| last.content != content) {
                entries.push(Entry { begun, done, content });
            }
        }
    }

    /// Every new recovery point has each file as it was when its pass started, unless it changed until that pass ended.
    fn check(&mut self, standby: &Standby) -> u64 {
        let mut compared = 0;
        for (id, report) in standby.reports() {
            if !self.checked.insert(id.clone()) {
                continue;
            }
            // The clock ticks in milliseconds.
            let tick = Duration::from_millis(2);
            let (from, until) = (report.started_at - tick, report.ended_at + tick);
            for (name, entries) in &self.files {
                let before = entries.iter().rev().find(|entry| entry.done < from);
                let quiet = entries.iter().all(|entry| entry.done < from || entry.begun > until);
                let (Some(before), true) = (before, quiet) else {
                    continue;
                };
                // Thinned out meanwhile, perhaps.
                let Ok(copied) = fs::read(
                    standby
                        .data
                        .join("recovery-points")
                        .join(id.as_str())
                        .join("keep")
                        .join(name),
                ) else {
                    assert!(
                        !standby.points().iter().any(|point| point.id == id),
                        "{id} lacks keep/{}",
                        name.display()
                    );
                    continue;
                };
                assert!(
                    copied == before.content,
                    "{id}: keep/{} is not what it was",
                    name.display()
                );
                compared += 1;
            }
        }
        compared
    }
}

/// Where the walk takes place.
struct Scene {
    gpu: Machine,
    standby: Standby,
    cable: Option<Cable>,
}

impl Scene {
    /// Kills something, or cuts the network for a moment, or does nothing.
    fn disturb(&self, dice: &mut Dice) {
        let wait = Duration::from_micros(dice.below(250_000));
        let until = Instant::now() + wait;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        let Self { gpu, standby, cable } = self;
        let one_of = |pids: Vec<u32>, dice: &mut Dice| {
            let at = usize::try_from(dice.below(pids.len().max(1) as u64)).unwrap();
            pids.get(at).copied().into_iter().for_each(kill);
        };
        match (dice.below(8), cable) {
            (0, _) if dice.below(3) == 0 => gpu.watchers().into_iter().for_each(kill),
            (1, _) => standby.workers().into_iter().for_each(kill),
            (2, _) => standby.workers().into_iter().flat_map(descendants).for_each(kill),
            (3, _) => one_of(standby.workers().into_iter().flat_map(descendants).collect(), dice),
            (4, _) => one_of(gpu.connections(), dice),
            (5, _) => one_of(standby.connections(), dice),
            (6 | 7, Some(cable)) => {
                cable.pull();
                if dice.below(2) == 0 {
                    standby.workers().into_iter().for_each(kill);
                }
                std::thread::sleep(Duration::from_micros(dice.below(400_000)));
                cable.plug();
            }
            _ => {}
        }
    }

    fn check(&self) -> PassScope {
        let Self { gpu, standby, .. } = self;
        // It ends live mode, too.
        let status = status_of(standby.try_sync(FIRST, Urgency::LastGasp, 30_000));
        eventually("the last worker ended", || standby.workers().is_empty().then_some(()));
        assert!(status.last_failure.is_none() && status.halt.is_none(), "{status:#?}");
        assert_same_tree(&gpu.tree(), &standby.newest_tree());
        let report = status.last_complete.unwrap();
        assert_eq!(report.files, count_files(&gpu.tree()), "{report:?}");
        report.scope
    }
}

/// Whether files get second names. A change to one costs a full scan, so with them few passes are over changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twins {
    None,
    Some,
}

fn wander(disk: Option<&Disk>, cable: Option<Cable>, for_long: Duration, twins: Twins) {
    let standby = disk.map_or_else(Standby::new, Disk::standby);
    let key = standby.key();
    let gpu = cable
        .as_ref()
        .map_or_else(|| Machine::start(&[&key]), |cable| cable.machine(&[&key]));
    let scene = Scene { gpu, standby, cable };
    let Scene { gpu, standby, .. } = &scene;
    let mut bind = standby.bind_request(gpu, FIRST);
    // The deletion guard has its own tests.
    bind.max_deleted_percent = 100;
    status_of(standby.call(Request::Bind(bind)));
    let (mut dice, mut diary) = (Dice::new(), Diary::default());
    let root = gpu.tree();
    fs::create_dir(root.join("keep")).unwrap();
    diary.note(&root, || {
        for n in 0..30 {
            crate::support::write(&root.join(format!("keep/{n}")), format!("keep {n}"));
        }
    });
    let begun = Instant::now();
    let (mut rounds, mut over_changes, mut compared) = (0, 0, 0);
    // On a machine that is busy otherwise it takes longer until anything was proven.
    let proven = |over_changes: u32, compared: u64| compared > 0 && (disk.is_none() || over_changes > 0);
    while begun.elapsed() < for_long || (!proven(over_changes, compared) && begun.elapsed() < 10 * for_long) {
        let little = dice.below(2) == 0;
        let live = if dice.below(2) == 0 { Live::On } else { Live::Off };
        let change = |dice: &mut Dice, diary: &mut Diary| match little {
            true => diary.note(&root, || change_little(&root, dice)),
            false => (0..dice.below(15)).for_each(|_| operate(&root, dice, twins)),
        };
        for _ in 0..dice.below(3) {
            change(&mut dice, &mut diary);
            standby.call(Request::Sync(Sync {
                epoch: FIRST,
                urgency: Urgency::Due,
                wait_ms: 0,
                live,
            }));
            change(&mut dice, &mut diary);
            scene.disturb(&mut dice);
        }
        change(&mut dice, &mut diary);
        rounds += 1;
        over_changes += u32::from(scene.check() == PassScope::Changes);
        compared += diary.check(standby);
    }
    println!(
        "{rounds} rounds, {over_changes} of them ended with a pass over changes; {compared} files of recovery points compared with what they were"
    );
    assert!(proven(over_changes, compared));
}

#[test]
fn after_the_next_complete_pass_the_copy_equals_the_source() {
    if let Some(disk) = Disk::make("btrfs", 1000) {
        wander(Some(&disk), None, Duration::from_secs(12), Twins::None);
    }
}

#[test]
fn also_where_the_network_is_cut_now_and_then() {
    if let (Some(disk), Some(cable)) = (Disk::make("btrfs", 1000), Cable::lay()) {
        wander(Some(&disk), Some(cable), Duration::from_secs(10), Twins::None);
    }
}

#[test]
fn also_where_points_share_by_hard_links() {
    wander(None, None, Duration::from_secs(5), Twins::Some);
}

#[test]
fn also_where_files_have_second_names() {
    if let Some(disk) = Disk::make("btrfs", 1000) {
        wander(Some(&disk), None, Duration::from_secs(8), Twins::Some);
    }
}

#[test]
#[ignore = "ten minutes; SECONDS_TO_WANDER=n for another while, SEED=n to repeat a walk"]
fn for_a_long_time_the_copy_equals_the_source() {
    let seconds = std::env::var("SECONDS_TO_WANDER")
        .ok()
        .and_then(|text| text.parse().ok());
    for twins in [Twins::None, Twins::Some] {
        let disk = Disk::make("btrfs", 4000).expect("btrfs needs root");
        wander(
            Some(&disk),
            Cable::lay(),
            Duration::from_secs(seconds.unwrap_or(600) / 2),
            twins,
        );
    }
}
