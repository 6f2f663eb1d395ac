//! What happens to an instance over time: starts, stops, outbids, hosts that vanish and come back.
//!
//! Timing and order: `reference/vast/live-interruptions.json` (live probe of 2026-08-27); meanings: `vast-api.md` §12.

use std::sync::Arc;
use std::time::Duration;

use super::create::Birth;
use super::instance::Instance;
use super::{copy, error, no_such_instance, success};
use crate::delivery::notify;
use crate::http::Reply;
use crate::machine::MachineError;
use crate::notices::Notice;
use crate::sshd::ForcedCommand;
use crate::world::World;

/// However fast the sim runs, the notice leaves this much before the status flips.
const NOTICE_HEAD_START: Duration = Duration::from_millis(50);

/// What the contract side reads between a destruction and the row's end.
const UNLOADED: &str = "unloaded";

/// How a new contract begins.
pub(super) enum Begin {
    Running(Option<Birth>),
    Stopped,
}

/// Changes an instance now; `None` when it does not exist.
pub(crate) fn alter<T>(world: &Arc<World>, id: u64, change: impl FnOnce(&mut Instance) -> T) -> Option<T> {
    world.state().vast.instances.get_mut(&id).map(change)
}

/// Begins a new command: delayed steps of older ones no longer apply. Answers the number to check against; `None` when
/// there is no such instance or it is being destroyed, which nothing undoes.
fn command(world: &Arc<World>, id: u64) -> Option<u64> {
    alter(world, id, |instance| {
        let alive = instance.contract != UNLOADED;
        instance.change += u64::from(alive);
        alive.then_some(instance.change)
    })
    .flatten()
}

/// Does the next step of a command later, unless a newer command came or the instance is gone.
fn step(world: &Arc<World>, id: u64, change: u64, seconds: f64, then: impl FnOnce(&Arc<World>) + Send + 'static) {
    world.after(seconds, move |world| {
        if alter(world, id, |instance| instance.change == change) == Some(true) {
            then(world);
        }
    });
}

/// Lets a new contract live.
pub(super) fn be_born(world: &Arc<World>, id: u64, begin: Begin) {
    let Begin::Running(birth) = begin else { return };
    if birth == Some(Birth::SitsStopped) {
        alter(world, id, |instance| instance.actual = Some("created"));
        return;
    }
    let Some(change) = command(world, id) else { return };
    alter(world, id, |instance| {
        (instance.intended, instance.contract) = ("running", "running")
    });
    let timing = &world.options.timing;
    let (loading, running) = (timing.vast_loading, timing.vast_running);
    step(world, id, change, loading, move |world| {
        alter(world, id, |instance| instance.actual = Some("loading"));
    });
    if birth == Some(Birth::BadImage) {
        step(world, id, change, running, move |world| {
            alter(world, id, |instance| {
                instance.status_msg = Some("Error response from daemon: manifest unknown".to_owned());
                (instance.intended, instance.contract) = ("stopped", "stopped");
            });
        });
        return;
    }
    step(world, id, change, running, move |world| power_on(world, id, change));
}

/// Starts the container; the ports are listed a little later.
fn power_on(world: &Arc<World>, id: u64, change: u64) {
    let Some((machine, address)) = alter(world, id, |instance| (Arc::clone(&instance.machine), instance.address))
    else {
        return;
    };
    if let Err(failure) = machine.start(address, &ForcedCommand::Client { home: machine.home() }) {
        tracing::error!(gpu.id = id, error = %failure, "the GPU's sshd did not start");
        alter(world, id, |instance| instance.status_msg = Some(failure.to_string()));
        return;
    }
    run_onstart(world, id);
    let notice = alter(world, id, |instance| {
        instance.actual = Some("running");
        (instance.intended, instance.contract) = ("running", "running");
        instance.started_at = Some(crate::world::now());
        instance.status_msg = Some(format!("success, running {}/ssh", instance.image.replace(':', "_")));
        let first = !std::mem::replace(&mut instance.start_announced, true);
        first.then(|| Notice::started(instance))
    });
    if let Some(notice) = notice.flatten() {
        notify(world, notice);
    }
    step(world, id, change, world.options.timing.vast_ports, move |world| {
        alter(world, id, |instance| instance.ports_listed = true);
    });
}

/// Runs the container's start-up commands, as the real one does at every start; what they say is in its log. Machines here share one file
/// system, so the one path of a container's that such commands read, sshd's key, is put in place of theirs.
fn run_onstart(world: &Arc<World>, id: u64) {
    const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key.pub";
    let found = alter(world, id, |instance| {
        instance
            .onstart
            .clone()
            .map(|text| (Arc::clone(&instance.machine), text))
    });
    let Some(Some((machine, text))) = found else { return };
    let key = machine.directory().join("host_key.pub");
    let text = text.replace(HOST_KEY, &key.display().to_string());
    if let Err(failure) = machine.exec_detached("/bin/sh", &["-c".to_owned(), text]) {
        tracing::error!(gpu.id = id, error = %failure, "a container's start-up commands did not start");
    }
}

/// Kills the container; the disk stays.
fn power_off(world: &Arc<World>, id: u64) {
    let Some(machine) = alter(world, id, |instance| Arc::clone(&instance.machine)) else {
        return;
    };
    machine.stop();
    alter(world, id, |instance| {
        instance.actual = Some("exited");
        instance.ports_listed = false;
        instance.started_at = None;
    });
}

/// The user's own start.
pub(crate) fn start(world: &Arc<World>, id: u64) -> Reply {
    if world.state().vast.credit <= 0.0 {
        return error(400, "missing_billing", "You lack credit, see the billing page.");
    }
    let verdict = alter(world, id, |instance| {
        if instance.is_expired() {
            return Err(error(
                400,
                "invalid_request",
                "The contract of this instance has expired.",
            ));
        }
        if instance.taken || instance.start_refused {
            instance.queued = true;
            let msg = "Required resources are currently unavailable, state change queued.";
            let body = serde_json::json!({"success": false, "error": "resources_unavailable", "msg": msg});
            return Err(Reply::ok(body));
        }
        Ok(instance.intended == "running")
    });
    match verdict {
        None => no_such_instance(id),
        Some(Err(refusal)) => refusal,
        Some(Ok(true)) => success(),
        Some(Ok(false)) => {
            let timing = &world.options.timing;
            come_back(world, id, timing.start_accepted, timing.start_running);
            success()
        }
    }
}

fn come_back(world: &Arc<World>, id: u64, accepted: f64, running: f64) {
    let Some(change) = command(world, id) else { return };
    step(world, id, change, accepted, move |world| {
        alter(world, id, |instance| {
            (instance.intended, instance.contract) = ("running", "running");
            instance.queued = false;
        });
        step(world, id, change, running, move |world| power_on(world, id, change));
    });
}

/// The user's own stop. No notification was seen for it live.
pub(crate) fn stop(world: &Arc<World>, id: u64) -> Reply {
    let Some(change) = command(world, id) else {
        return no_such_instance(id);
    };
    alter(world, id, |instance| {
        (instance.intended, instance.contract) = ("stopped", "stopped")
    });
    step(world, id, change, world.options.timing.vast_stop, move |world| {
        power_off(world, id)
    });
    success()
}

/// The container is restarted; its data stays.
pub(super) fn reboot(world: &Arc<World>, id: u64) -> Reply {
    let Some(change) = command(world, id) else {
        return unknown_to_reboot();
    };
    let has_gpu = begin_restart(world, id, "rebooting");
    step(world, id, change, 0.0, move |world| {
        if let Some(machine) = alter(world, id, |instance| Arc::clone(&instance.machine)) {
            machine.stop();
        }
        step(world, id, change, world.options.timing.vast_reboot, move |world| {
            end_restart(world, id, change, has_gpu)
        });
    });
    success()
}

/// The container is made anew: its files are gone and its host key is another.
pub(crate) fn recycle(world: &Arc<World>, id: u64) -> Reply {
    let Some(change) = command(world, id) else {
        return error(400, "invalid_id", "Invalid instance id.");
    };
    let has_gpu = begin_restart(world, id, "recycling");
    step(world, id, change, 0.0, move |world| {
        let Some(machine) = alter(world, id, |instance| Arc::clone(&instance.machine)) else {
            return;
        };
        machine.stop();
        if let Err(failure) = machine.empty("workspace").and_then(|()| machine.new_host_key()) {
            tracing::error!(gpu.id = id, error = %failure, "the container could not be made anew");
        }
        step(world, id, change, world.options.timing.vast_reboot, move |world| {
            end_restart(world, id, change, has_gpu)
        });
    });
    success()
}

/// Shows the restart's word; answers whether the instance has its GPU.
fn begin_restart(world: &Arc<World>, id: u64, word: &'static str) -> bool {
    alter(world, id, |instance| {
        (instance.actual, instance.ports_listed) = (Some(word), false);
        instance.intended == "running" && !instance.taken
    })
    .unwrap_or(false)
}

/// Vast promises that a restart does not lose the GPU (docs.vast.ai, read 2026-11); here it wins none back either, or it would
/// be a way around the refused start of a paused instance. What the real one does with a stopped container is not published.
fn end_restart(world: &Arc<World>, id: u64, change: u64, has_gpu: bool) {
    if has_gpu {
        return power_on(world, id, change);
    }
    alter(world, id, |instance| {
        (instance.intended, instance.contract) = ("stopped", "stopped")
    });
    power_off(world, id);
}

fn unknown_to_reboot() -> Reply {
    Reply::ok(serde_json::json!({"success": false, "error": "invalid_id", "msg": "Invalid instance id."}))
}

/// Another tenant takes the GPU: the notice first, then `intended_status`, then the container. Answers the seconds
/// (scaled, real) from the flip to the kill; `None` when there is no such instance.
pub(crate) fn outbid(world: &Arc<World>, id: u64, kill_after: Option<f64>) -> Option<Duration> {
    let change = command(world, id)?;
    alter(world, id, |instance| {
        instance.taken = true;
        instance.floor = instance.bid.unwrap_or(instance.offer.price) * 2.0;
    });
    let timing = &world.options.timing;
    let (notice, flip, kill) = (timing.outbid_notice, timing.outbid_flip, timing.outbid_kill);
    let kill = kill_after.unwrap_or_else(|| rand::random_range(kill.0..=kill.1.max(kill.0)));
    step(world, id, change, notice, move |world| {
        if let Some(notice) = alter(world, id, |instance| Notice::outbid(instance)) {
            notify(world, notice);
        }
        std::thread::sleep(NOTICE_HEAD_START);
        step(world, id, change, flip, move |world| lose(world, id, change, kill));
    });
    Some(world.scale.of(kill))
}

fn lose(world: &Arc<World>, id: u64, change: u64, kill_after: f64) {
    alter(world, id, |instance| {
        (instance.intended, instance.contract) = ("stopped", "stopped")
    });
    step(world, id, change, kill_after, move |world| power_off(world, id));
}

/// The owner's bid fell below the floor: the same stop, but nobody is told.
pub(super) fn underbid(world: &Arc<World>, id: u64) {
    let Some(change) = command(world, id) else { return };
    alter(world, id, |instance| instance.taken = true);
    let timing = &world.options.timing;
    let (flip, kill) = (timing.underbid_flip, timing.outbid_kill.0);
    step(world, id, change, flip, move |world| lose(world, id, change, kill));
}

/// The other tenant leaves: the paused instance comes back by itself, its disk intact.
pub(crate) fn outbid_clears(world: &Arc<World>, id: u64) -> Option<()> {
    alter(world, id, |instance| {
        instance.taken = false;
        instance.floor = instance.offer.min_bid;
    })?;
    let timing = &world.options.timing;
    come_back(world, id, timing.resume_accepted, timing.resume_running);
    Some(())
}

/// A raised bid wins the GPU back, as an explicit start would.
pub(super) fn win_back(world: &Arc<World>, id: u64) {
    alter(world, id, |instance| instance.taken = false);
    let timing = &world.options.timing;
    come_back(world, id, timing.start_accepted, timing.start_running);
}

/// The container goes at once and nobody says so: the row reads `exited` and `stopped`.
pub(crate) fn stop_silently(world: &Arc<World>, id: u64) -> Option<()> {
    command(world, id)?;
    alter(world, id, |instance| {
        (instance.intended, instance.contract) = ("stopped", "stopped")
    });
    power_off(world, id);
    Some(())
}

/// The host loses its network: connections hang, Vast shows `offline` and says so.
pub(crate) fn host_offline(world: &Arc<World>, id: u64) -> Option<()> {
    let (machine, notice) = alter(world, id, |instance| {
        instance.heard = Some("offline");
        (Arc::clone(&instance.machine), Notice::offline(instance))
    })?;
    machine.freeze();
    copy::refresh(world);
    notify(world, notice);
    Some(())
}

/// The host is heard from again; what ran on it goes on.
pub(crate) fn host_online(world: &Arc<World>, id: u64) -> Option<()> {
    let (machine, notice) = alter(world, id, |instance| {
        let was_offline = instance.heard.take() == Some("offline");
        (
            Arc::clone(&instance.machine),
            was_offline.then(|| Notice::online(instance)),
        )
    })?;
    machine.thaw();
    copy::refresh(world);
    if let Some(notice) = notice {
        notify(world, notice);
    }
    Some(())
}

/// The credit is used up: every instance stops at once.
pub(crate) fn credit_gone(world: &Arc<World>) {
    world.state().vast.credit = 0.0;
    notify(world, Notice::low_credit());
    let all: Vec<u64> = world.state().vast.instances.keys().copied().collect();
    for id in all {
        stop(world, id);
    }
}

/// The contract's end has come: it stops and cannot be started again.
pub(crate) fn expire(world: &Arc<World>, id: u64) -> Option<()> {
    alter(world, id, |instance| instance.end_date = crate::world::now())?;
    stop(world, id);
    Some(())
}

/// The container, its disk and its row go, whoever wanted it.
pub(crate) fn remove(world: &Arc<World>, id: u64) -> Option<()> {
    if alter(world, id, |instance| instance.contract == UNLOADED)? {
        return Some(());
    }
    let change = command(world, id)?;
    let notice = alter(world, id, |instance| {
        (instance.intended, instance.contract) = ("stopped", UNLOADED);
        instance.ports_listed = false;
        Notice::deleted(instance)
    })?;
    if let Some(machine) = alter(world, id, |instance| Arc::clone(&instance.machine)) {
        machine.stop();
    }
    notify(world, notice);
    step(world, id, change, world.options.timing.vast_destroy, move |world| {
        vanish(world, id)
    });
    Some(())
}

fn vanish(world: &Arc<World>, id: u64) {
    let gone = {
        let mut state = world.state();
        let gone = state.vast.instances.remove(&id);
        let offer = gone.as_ref().map(|instance| (instance.offer.id, instance.taken));
        if let Some(ask) = offer
            .filter(|(_, taken)| !taken)
            .and_then(|(offer, _)| state.vast.offers.get_mut(&offer))
        {
            ask.rented = false;
        }
        gone
    };
    if let Some(Err(failure)) = gone.map(|instance| instance.machine.delete()) {
        tracing::error!(gpu.id = id, error = %failure, "the GPU's directory could not be removed");
    }
}

/// Writes the keys that work into the container.
pub(super) fn write_keys(world: &Arc<World>, id: u64) -> Result<(), MachineError> {
    let found = alter(world, id, |instance| {
        (Arc::clone(&instance.machine), instance.usable_keys())
    });
    found.map_or(Ok(()), |(machine, keys)| machine.authorize(&keys))
}
