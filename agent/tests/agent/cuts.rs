//! The network goes away and comes back: a machine in a network namespace of its own, behind a cable that can be pulled.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{PassActivity, PassFailureKind, RestoreActivity, Urgency};

use crate::kills::{Kept, change_something, check_points};
use crate::support::{
    self, Dice, Machine, Standby, assert_same_tree, eventually, is_root, kill, noise, read_tree, status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

/// A network of two: this machine, and whoever runs in the namespace.
pub(crate) struct Cable {
    namespace: String,
    ours: String,
    address: String,
    net: String,
}

impl Cable {
    pub(crate) fn lay() -> Option<Self> {
        static LAID: AtomicU32 = AtomicU32::new(0);
        if !is_root() {
            eprintln!("SKIPPED: a network of its own needs root");
            return None;
        }
        let number = (std::process::id() * 8 + LAID.fetch_add(1, Ordering::Relaxed)) % 16_384;
        // 198.18.0.0/15 is set aside for tests of networks (RFC 2544), four addresses a cable.
        let net = |last: u32| format!("198.18.{}.{}", number / 64, number % 64 * 4 + last);
        let cable = Self {
            namespace: format!("ws-cut-{number}"),
            ours: format!("wscut{number}"),
            address: net(2),
            net: format!("{}/30", net(0)),
        };
        let (space, ours, theirs) = (&cable.namespace, &cable.ours, format!("wspeer{number}"));
        let laid = ip(&["netns", "add", space])
            && ip(&[
                "link", "add", ours, "type", "veth", "peer", "name", &theirs, "netns", space,
            ])
            && ip(&["address", "add", &format!("{}/30", net(1)), "dev", ours])
            && ip(&["-n", space, "address", "add", &format!("{}/30", net(2)), "dev", &theirs])
            && ip(&["-n", space, "link", "set", &theirs, "up"])
            && ip(&["link", "set", ours, "up"])
            // Counts only while the cable is pulled: then nothing of this network may go out to the real one, whoever answers there.
            && ip(&["route", "add", "unreachable", &cable.net, "metric", "4000"]);
        if !laid {
            eprintln!("SKIPPED: this machine cannot make network namespaces");
        }
        laid.then_some(cable)
    }

    pub(crate) fn machine(&self, authorized: &[&str]) -> Machine {
        Machine::start_at(&self.address, &["ip", "netns", "exec", &self.namespace], authorized)
    }

    pub(crate) fn pull(&self) {
        assert!(ip(&["link", "set", &self.ours, "down"]));
    }

    pub(crate) fn plug(&self) {
        assert!(ip(&["link", "set", &self.ours, "up"]));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = ip(&["route", "delete", "unreachable", &self.net]);
        let _ = ip(&["link", "delete", &self.ours]);
        let _ = ip(&["netns", "delete", &self.namespace]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

fn bound(cable: &Cable) -> (Machine, Standby) {
    let standby = Standby::new();
    let gpu = cable.machine(&[&standby.key()]);
    standby.bind(&gpu, FIRST);
    (gpu, standby)
}

fn idle(standby: &Standby) {
    eventually("the pass ended", || {
        Some(standby.status()).filter(|status| status.pass == PassActivity::Idle && standby.workers().is_empty())
    });
}

#[test]
fn a_cut_in_mid_pass_is_named_and_the_next_pass_completes() {
    let Some(cable) = Cable::lay() else { return };
    let (mut gpu, standby) = bound(&cable);
    write(&gpu.tree().join("kept"), "from before");
    standby.pass(FIRST);
    gpu.wrap_rsync("hold", "");
    write(&gpu.tree().join("large"), noise(8 << 20));
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    cable.pull();
    gpu.release();
    let failed = eventually("the cut was noticed", || standby.status().last_failure);
    assert_eq!(failed.kind, PassFailureKind::GpuUnreachable, "{failed:?}");
    assert_eq!(
        standby.points().len(),
        1,
        "a pass that was cut off is no recovery point"
    );
    idle(&standby);
    cable.plug();
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn a_moments_cut_is_waited_out() {
    let Some(cable) = Cable::lay() else { return };
    let (mut gpu, standby) = bound(&cable);
    gpu.wrap_rsync("hold", "");
    write(&gpu.tree().join("large"), noise(8 << 20));
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    cable.pull();
    gpu.release();
    // Shorter than what SSH takes for a dead connection, longer than a packet takes to be sent again.
    std::thread::sleep(Duration::from_secs(2));
    cable.plug();
    let status = eventually("the same pass completed", || {
        Some(standby.status()).filter(|status| status.last_complete.is_some())
    });
    assert!(status.last_failure.is_none(), "{status:#?}");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
}

#[test]
fn cuts_at_random_moments_leave_every_point_whole() {
    cut_at_random(2);
}

#[test]
#[ignore = "takes minutes"]
fn many_cuts_at_random_moments_leave_every_point_whole() {
    cut_at_random(12);
}

fn cut_at_random(rounds: u64) {
    let Some(cable) = Cable::lay() else { return };
    let (gpu, standby) = bound(&cable);
    let (mut dice, mut seen) = (Dice::new(), Kept::new());
    for round in 0..rounds {
        change_something(&gpu, &mut dice, round);
        write(&gpu.tree().join("large"), noise(1 << 20 << dice.below(5)));
        standby.try_sync(FIRST, Urgency::Due, 0);
        std::thread::sleep(Duration::from_micros(dice.below(400_000)));
        cable.pull();
        idle(&standby);
        check_points(&standby, &mut seen);
        assert!(
            standby.status().halt.is_none(),
            "a cut was taken for a halt: {:#?}",
            standby.status()
        );
        cable.plug();
    }
    let status = status_of(standby.try_sync(FIRST, Urgency::LastGasp, 30_000));
    assert!(status.last_failure.is_none(), "{status:#?}");
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    check_points(&standby, &mut seen);
}

#[test]
fn a_restore_that_was_cut_off_resumes_and_verifies() {
    let Some(cable) = Cable::lay() else { return };
    let standby = Standby::new();
    let gpu = Machine::start(&[&standby.key()]);
    standby.bind(&gpu, FIRST);
    for number in 0..40 {
        write(&gpu.tree().join(format!("file-{number}")), noise(1 << 20));
    }
    standby.pass(FIRST);
    let target = cable.machine(&[&standby.key()]);
    let second = FIRST.next();
    let mut request = standby.restore_request(&target, second, 0);
    standby.call(warmspare_wire::agent::Request::Restore(request.clone()));
    eventually("something arrived", || {
        std::fs::read_dir(target.tree()).ok()?.next().map(|_| ())
    });
    cable.pull();
    eventually("the cut was noticed", || match standby.status().restore {
        RestoreActivity::Failed { .. } => Some(()),
        RestoreActivity::Verified { .. } => panic!("it was too fast to be cut"),
        RestoreActivity::Running { .. } | RestoreActivity::Never => None,
    });
    cable.plug();
    request.wait_ms = 60_000;
    let status = status_of(standby.call(warmspare_wire::agent::Request::Restore(request)));
    assert!(
        matches!(status.restore, RestoreActivity::Verified { .. }),
        "{status:#?}"
    );
    // The other end of the connection that was cut may not have noticed yet, and still hold a temporary file.
    let (point, restored) = (read_tree(&standby.newest_tree()), read_tree(&target.tree()));
    for (name, entry) in point.iter().filter(|(name, _)| !name.is_empty()) {
        assert_eq!(restored.get(name), Some(entry), "{}", String::from_utf8_lossy(name));
    }
}

/// A GPU gives so little notice that its last pass must not fail over a connection that died before it.
#[test]
fn a_last_gasp_pass_does_not_stumble_over_a_session_whose_connection_was_lost() {
    let (mut gpu, standby) = support::bound();
    gpu.wrap_rsync("hold", "");
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    write(&gpu.tree().join("a"), "last words");
    // The next worker opens a connection of its own, and its session with the watcher outlives the pass that fails.
    standby.connections().into_iter().for_each(kill);
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    standby.try_sync(FIRST, Urgency::LastGasp, 0);
    standby.connections().into_iter().for_each(kill);
    gpu.release();
    eventually("the last worker ended", || standby.workers().is_empty().then_some(()));
    assert_eq!(standby.status().last_failure, None);
    assert_eq!(
        fs::read_to_string(standby.newest_tree().join("a")).unwrap(),
        "last words"
    );
}
