//! Rescues: the disk of a stopped GPU, through the rsync module of its host.

use std::fs;
use std::path::Path;

use warmspare_domain::ids::Epoch;
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{Outcome, RefusalKind, Request, Rescue, RescueActivity, Urgency};

use super::support::{Disk, Machine, Standby, eventually, is_root, noise, refusal_of, status_of, write};

const LOSS: Timestamp = Timestamp::from_millis(1_795_441_530_250);

/// The host's own machine: whoever logs in meets an rsync daemon that serves a container's disk.
fn host_of(container: &Path, key: &str) -> Machine {
    let mut host = Machine::start(&[key]);
    let conf = host.place.path().join("rsyncd.conf");
    let owner = if is_root() { "  uid = root\n  gid = *\n" } else { "" };
    let text = format!(
        "use chroot = no\nread only = yes\nlist = no\n[C.7]\n  path = {}\n{owner}",
        container.display()
    );
    write(&conf, text);
    host.halt();
    host.boot_with(
        &format!("ForceCommand rsync --server --daemon --config={} .", conf.display()),
        &[],
    );
    host
}

fn request(host: &Machine, loss: Timestamp, epoch: Epoch) -> Request {
    Request::Rescue(Rescue {
        epoch,
        loss,
        host: host.host(),
        module: "C.7".into(),
        wait_ms: 30_000,
    })
}

struct Scene {
    standby: Standby,
    gpu: Machine,
    host: Machine,
}

/// A GPU with thirty files and one recovery point of them.
fn scene() -> Scene {
    scene_with(Standby::new())
}

fn scene_with(standby: Standby) -> Scene {
    let key = standby.key();
    let gpu = Machine::start(&[&key]);
    for number in 0..30 {
        write(&gpu.tree().join(format!("{number}.txt")), format!("result {number}\n"));
    }
    standby.bind(&gpu, Epoch::FIRST);
    standby.pass(Epoch::FIRST);
    let host = host_of(Path::new("/"), &key);
    Scene { standby, gpu, host }
}

impl Scene {
    fn rescue(&self, loss: Timestamp) -> RescueActivity {
        status_of(self.standby.call(request(&self.host, loss, Epoch::FIRST))).rescue
    }

    fn count(&self) -> usize {
        self.standby.points().len()
    }
}

#[test]
fn what_was_written_after_the_last_pass_is_fetched_from_the_stopped_gpus_disk() {
    let mut scene = scene();
    write(&scene.gpu.tree().join("epoch 41/model'.pt"), "weights");
    write(&scene.gpu.tree().join("3.txt"), "changed");
    fs::remove_file(scene.gpu.tree().join("4.txt")).unwrap();
    scene.gpu.halt();
    let before = scene.standby.status().traffic;
    assert!(before.today.0 > 0, "the first pass is not counted");
    let RescueActivity::Complete { changed_files, .. } = scene.rescue(LOSS) else {
        panic!("{:?}", scene.standby.status().rescue);
    };
    assert_eq!(changed_files, 2);
    let after = scene.standby.status().traffic;
    assert!(
        after.today > before.today && after.last_30_days == after.today,
        "{after:?}"
    );
    let tree = scene.standby.newest_tree();
    assert_eq!(fs::read(tree.join("epoch 41/model'.pt")).unwrap(), b"weights");
    assert_eq!(fs::read(tree.join("3.txt")).unwrap(), b"changed");
    assert!(!tree.join("4.txt").exists() && !tree.join(".warmspare").exists());
    assert_eq!(scene.count(), 2);
    // Asked again for the same loss it tells, and does nothing.
    assert!(matches!(scene.rescue(LOSS), RescueActivity::Complete { .. }));
    assert_eq!(scene.count(), 2);
    // The GPU comes back, and passes go on from there.
    scene.gpu.boot();
    write(&scene.gpu.tree().join("later.txt"), "later");
    scene.standby.pass(Epoch::FIRST);
    assert!(scene.standby.newest_tree().join("later.txt").is_file());
}

#[test]
fn old_recovery_points_make_room_for_what_is_rescued() {
    let Some(disk) = Disk::make("btrfs", 400) else {
        return;
    };
    let mut scene = scene_with(disk.standby());
    for _ in 0..5 {
        write(&scene.gpu.tree().join("checkpoint"), noise(40 << 20));
        scene.standby.pass(Epoch::FIRST);
        eventually("the worker is done", || {
            scene.standby.workers().is_empty().then_some(())
        });
    }
    let points = scene.count();
    let needed = 130 << 20;
    assert!(scene.standby.status().disk.free.0 < needed);
    let last = noise(needed);
    write(&scene.gpu.tree().join("last.pt"), &last);
    scene.gpu.halt();
    let rescued = scene.rescue(LOSS);
    assert!(matches!(rescued, RescueActivity::Complete { .. }), "{rescued:?}");
    assert!(
        (2..points).contains(&scene.count()),
        "{} recovery points",
        scene.count()
    );
    assert!(fs::read(scene.standby.newest_tree().join("last.pt")).unwrap() == last);
}

#[test]
fn a_rescue_takes_up_what_a_pass_left_that_was_cut_off() {
    let mut scene = scene();
    scene.gpu.wrap_rsync("hold", "");
    write(&scene.gpu.tree().join("new.bin"), vec![7_u8; 200_000]);
    scene.gpu.hold();
    scene.standby.try_sync(Epoch::FIRST, Urgency::LastGasp, 0);
    scene.gpu.wait_until_held();
    scene.gpu.halt();
    let rescue = scene.rescue(LOSS);
    assert!(matches!(rescue, RescueActivity::Complete { .. }), "{rescue:?}");
    assert_eq!(
        fs::read(scene.standby.newest_tree().join("new.bin")).unwrap().len(),
        200_000
    );
}

#[test]
fn a_disk_that_is_not_ours_or_was_emptied_is_refused_and_every_point_stays() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 3] = [
        ("another's marker", |tree| {
            let marker = tree.join(".warmspare/marker.json");
            let text = fs::read_to_string(&marker).unwrap().replace("vast-7", "vast-8");
            fs::write(marker, text).unwrap();
        }),
        ("no marker", |tree| {
            fs::remove_file(tree.join(".warmspare/marker.json")).unwrap()
        }),
        ("emptied", |tree| {
            for number in 0..30 {
                fs::remove_file(tree.join(format!("{number}.txt"))).unwrap();
            }
        }),
    ];
    for (name, change) in changes {
        let mut scene = scene();
        scene.gpu.halt();
        change(&scene.gpu.tree());
        let rescue = scene.rescue(LOSS);
        assert!(matches!(rescue, RescueActivity::Refused { .. }), "{name}: {rescue:?}");
        assert_eq!(scene.count(), 1, "{name}");
        let status = scene.standby.status();
        assert!(status.halt.is_none(), "{name}: the lost GPU's disk halts nothing");
        assert!(scene.standby.newest_tree().join("29.txt").is_file(), "{name}");
    }
}

#[test]
fn a_host_that_is_silent_or_refuses_the_key_is_tried_again() {
    let mut scene = scene();
    scene.gpu.halt();
    scene.host.authorize(&[]);
    let RescueActivity::Failed {
        attempts: 1, message, ..
    } = scene.rescue(LOSS)
    else {
        panic!("{:?}", scene.standby.status().rescue);
    };
    assert!(message.contains("refuses the standby's key"), "{message}");
    scene.host.halt();
    assert!(matches!(scene.rescue(LOSS), RescueActivity::Failed { attempts: 2, .. }));
    scene.host.authorize(&[&scene.standby.key()]);
    let conf = scene.host.place.path().join("rsyncd.conf");
    let daemon = format!("ForceCommand rsync --server --daemon --config={} .", conf.display());
    scene.host.boot_with(&daemon, &[]);
    assert!(matches!(scene.rescue(LOSS), RescueActivity::Complete { .. }));
}

#[test]
fn a_host_with_another_key_than_at_first_contact_is_not_read() {
    let mut scene = scene();
    scene.gpu.halt();
    assert!(matches!(scene.rescue(LOSS), RescueActivity::Complete { .. }));
    let conf = scene.host.place.path().join("rsyncd.conf");
    scene.host.halt();
    scene.host.new_host_key();
    let daemon = format!("ForceCommand rsync --server --daemon --config={} .", conf.display());
    scene.host.boot_with(&daemon, &[]);
    let next = LOSS + std::time::Duration::from_secs(60);
    let rescue = scene.rescue(next);
    assert!(matches!(rescue, RescueActivity::Refused { .. }), "{rescue:?}");
}

#[test]
fn a_gpu_whose_data_is_on_its_way_elsewhere_is_never_read() {
    let mut scene = scene();
    let target = Machine::start(&[&scene.standby.key()]);
    scene.standby.restore(&target, Epoch::FIRST.next());
    write(&scene.gpu.tree().join("from the past.txt"), "old");
    scene.gpu.halt();
    let refusal = refusal_of(scene.standby.call(request(&scene.host, LOSS, Epoch::FIRST)));
    assert_eq!(refusal.kind, RefusalKind::StaleEpoch);
    assert_eq!(scene.count(), 1);
}

#[test]
fn a_rescue_that_was_killed_is_taken_up() {
    let scene = scene();
    let Outcome::Status(_) = scene.standby.call(Request::Rescue(Rescue {
        wait_ms: 0,
        ..match request(&scene.host, LOSS, Epoch::FIRST) {
            Request::Rescue(rescue) => rescue,
            _ => panic!("a rescue"),
        }
    })) else {
        panic!("refused");
    };
    for worker in scene.standby.workers() {
        super::support::kill(worker);
    }
    let rescue = scene.rescue(LOSS);
    assert!(matches!(rescue, RescueActivity::Complete { .. }), "{rescue:?}");
}
