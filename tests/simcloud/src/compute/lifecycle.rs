//! What happens to VMs over time: creation, start, stop, preemption, deletion.

use std::sync::Arc;

use serde_json::{Value, json};

use super::instances::{Vm, missing};
use super::operations::{self, Failure, Target};
use super::{Compute, Outcome, Place, catalogue, disks, error};
use crate::http::Reply;
use crate::machine::MachineError;
use crate::sshd::{self, ForcedCommand};
use crate::world::{World, now};

/// How a new VM exceeds the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaRefusal {
    /// The insert is accepted and its operation fails.
    InOperation,
    /// The insert is refused at once with 403.
    Immediate,
}

fn alter<T>(world: &World, place: &Place, change: impl FnOnce(&mut Vm) -> T) -> Option<T> {
    world.state().compute.instances.get_mut(place).map(change)
}

/// Begins a new command on a VM: delayed steps of older ones no longer apply.
fn command(world: &World, place: &Place) -> u64 {
    alter(world, place, |vm| {
        vm.change += 1;
        vm.change
    })
    .unwrap_or(0)
}

fn is_current(world: &World, place: &Place, change: u64) -> bool {
    alter(world, place, |vm| vm.change == change) == Some(true)
}

/// Enters an operation on a VM and lets it run.
fn operate(
    world: &Arc<World>,
    place: &Place,
    kind: &str,
    seconds: f64,
    work: impl FnOnce(&Arc<World>) -> Result<(), Failure> + Send + 'static,
) -> Outcome {
    let name = enter(world, place, kind, "user");
    operations::run(world, (place.0.clone(), name.clone()), seconds, work);
    operations::reply(world, &place.0, &name)
}

fn enter(world: &World, place: &Place, kind: &str, user: &str) -> String {
    let mut state = world.state();
    let id = state.compute.instances.get(place).map_or(0, |vm| vm.id);
    let target = Target {
        kind,
        zone: &place.0,
        resource: format!("instances/{}", place.1),
        id,
    };
    operations::begin(&mut state.compute, &target, user)
}

/// A short operation that changes a VM's record.
pub(super) fn short(
    world: &Arc<World>,
    place: &Place,
    kind: &str,
    change: impl FnOnce(&Arc<World>, &Place) + Send + 'static,
) -> Outcome {
    let target = place.clone();
    operate(world, place, kind, world.options.timing.compute_short, move |world| {
        change(world, &target);
        Ok(())
    })
}

/// Refuses an insert at once when the quota is set to do so.
pub(super) fn check_immediate_quota(world: &World, zone: &str) -> Result<(), Reply> {
    if world.state().compute.quota == Some(QuotaRefusal::Immediate) {
        let region = catalogue::region_of(zone);
        return Err(error(
            403,
            "quotaExceeded",
            &format!("Quota 'CPUS' exceeded.  Limit: 24.0 in region {region}."),
        ));
    }
    Ok(())
}

fn shortage(world: &World, place: &Place, starting: Starting) -> Option<Failure> {
    let zone = &place.0;
    let state = world.state();
    if state.compute.exhausted.contains(zone) {
        return Some(exhausted(&world.options.project, &state.compute, place));
    }
    let new = starting == Starting::New;
    (new && state.compute.quota == Some(QuotaRefusal::InOperation)).then(|| quota_exceeded(zone))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Starting {
    New,
    Stopped,
}

fn exhausted(project: &str, compute: &Compute, place: &Place) -> Failure {
    let zone = &place.0;
    let kind = compute.instances.get(place).map(|vm| vm.machine_type.as_str());
    let region = catalogue::region_of(zone);
    let others: Vec<&str> = catalogue::zones()
        .filter(|other| catalogue::region_of(other) == region && !compute.exhausted.contains(*other))
        .collect();
    let metadatas = json!({"vmType": kind, "zone": zone, "zonesAvailable": others.join(","), "attachment": ""});
    Failure {
        code: "ZONE_RESOURCE_POOL_EXHAUSTED",
        message: format!(
            "The zone 'projects/{project}/zones/{zone}' does not have enough resources available to fulfill the request. Try a different zone, or try again later."
        ),
        details: json!([{"errorInfo": {"reason": "resource_availability", "domain": "compute.googleapis.com", "metadatas": metadatas}},
            {"localizedMessage": {"locale": "en-US", "message": "A VM instance is currently unavailable in the zone. Consider trying your request in other zones."}}]),
        http: (503, "SERVICE UNAVAILABLE"),
    }
}

fn quota_exceeded(zone: &str) -> Failure {
    let region = catalogue::region_of(zone);
    Failure {
        code: "QUOTA_EXCEEDED",
        message: format!("Quota 'CPUS' exceeded.  Limit: 24.0 in region {region}."),
        details: json!([{"quotaInfo": {"metricName": "compute.googleapis.com/cpus", "limitName": "CPUS-per-project-region",
            "dimensions": {"region": region}, "limit": 24.0}}]),
        http: (403, "FORBIDDEN"),
    }
}

/// Runs the rest of an accepted insert.
pub(super) fn run_insert(world: &Arc<World>, place: &Place, operation: Place, new_disks: Vec<Place>) {
    let change = command(world, place);
    let timing = &world.options.timing;
    let (seconds, target) = (timing.compute_insert, place.clone());
    let staging = place.clone();
    world.after(seconds * 0.5, move |world| {
        alter(world, &staging, |vm| {
            if vm.change == change {
                vm.status = "STAGING";
            }
        });
    });
    operations::run(world, operation, seconds, move |world| {
        if let Some(failure) = shortage(world, &target, Starting::New) {
            if is_current(world, &target, change) {
                discard(world, &target, &new_disks);
            }
            return Err(failure);
        }
        boot(world, &target, change);
        Ok(())
    });
}

/// A failed insert leaves neither the VM nor the disks it made.
fn discard(world: &Arc<World>, place: &Place, new_disks: &[Place]) {
    take_apart(world, place, |_, disk| new_disks.contains(disk));
}

/// RUNNING now; sshd and the guest attributes follow when the guest has booted.
fn boot(world: &Arc<World>, place: &Place, change: u64) {
    if !is_current(world, place, change) {
        return;
    }
    let std::net::IpAddr::V4(address) = sshd::free_address(world.standby_port).ip() else {
        return;
    };
    alter(world, place, |vm| {
        vm.status = "RUNNING";
        vm.started = Some(now());
        vm.address = vm.wants_address.then_some(address);
    });
    let place = place.clone();
    world.after(world.options.timing.compute_boot, move |world| {
        if is_current(world, &place, change) {
            guest_up(world, &place);
        }
    });
}

fn guest_up(world: &Arc<World>, place: &Place) {
    let Some((machine, address)) = alter(world, place, |vm| (Arc::clone(&vm.machine), vm.address)) else {
        return;
    };
    let Some(address) = address else { return };
    let listening = machine.start(
        (address, world.standby_port).into(),
        &ForcedCommand::Client { home: machine.home() },
    );
    let key = listening.and_then(|()| machine.host_key());
    match key {
        Ok(key) => {
            alter(world, place, |vm| publish_host_key(vm, &key));
        }
        Err(failure) => tracing::error!(standby.name = place.1, error = %failure, "the standby's sshd did not start"),
    }
}

/// On first boot only, and only if guest attributes were already allowed (`compute.md` §3).
fn publish_host_key(vm: &mut Vm, key: &str) {
    let mut words = key.split_whitespace();
    let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let first_boot = vm.serial.is_empty();
    vm.serial.push_str(&format!(
        "Debian GNU/Linux 12 {} ttyS0\n-----BEGIN SSH HOST KEY KEYS-----\n{kind} {blob} root@{}\n-----END SSH HOST KEY KEYS-----\n",
        vm.name, vm.name
    ));
    let allowed = vm
        .metadata_value("enable-guest-attributes")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if first_boot && allowed {
        vm.guest
            .insert(("hostkeys".to_owned(), kind.to_owned()), blob.to_owned());
    }
}

/// `POST …/start`
pub(super) fn start(world: &Arc<World>, place: &Place) -> Outcome {
    let status = alter(world, place, |vm| vm.status).ok_or_else(|| missing(world, &place.0, &place.1))?;
    if status == "STOPPING" {
        return Err(not_ready(world, place));
    }
    if status != "TERMINATED" {
        return short(world, place, "start", |_, _| ());
    }
    let change = command(world, place);
    let target = place.clone();
    let staging = place.clone();
    let seconds = world.options.timing.compute_start;
    world.after(seconds * 0.2, move |world| {
        alter(world, &staging, |vm| {
            if vm.change == change && vm.status == "TERMINATED" {
                vm.status = "STAGING";
            }
        });
    });
    operate(world, place, "start", seconds, move |world| {
        if let Some(failure) = shortage(world, &target, Starting::Stopped) {
            if is_current(world, &target, change) {
                alter(world, &target, |vm| vm.status = "TERMINATED");
            }
            return Err(failure);
        }
        boot(world, &target, change);
        Ok(())
    })
}

fn not_ready(world: &World, place: &Place) -> Reply {
    let message = format!(
        "The resource 'projects/{}/zones/{}/instances/{}' is not ready",
        world.options.project, place.0, place.1
    );
    error(400, "resourceNotReady", &message)
}

/// `POST …/stop`
pub(crate) fn stop(world: &Arc<World>, place: &Place) -> Outcome {
    let status = alter(world, place, |vm| vm.status).ok_or_else(|| missing(world, &place.0, &place.1))?;
    match status {
        "TERMINATED" | "STOPPING" => return short(world, place, "stop", |_, _| ()),
        "PROVISIONING" | "STAGING" => return Err(not_ready(world, place)),
        _ => {}
    }
    let change = command(world, place);
    alter(world, place, |vm| vm.status = "STOPPING");
    let target = place.clone();
    operate(world, place, "stop", world.options.timing.compute_stop, move |world| {
        if is_current(world, &target, change) {
            power_off(world, &target);
        }
        Ok(())
    })
}

fn power_off(world: &Arc<World>, place: &Place) {
    let Some(machine) = alter(world, place, |vm| Arc::clone(&vm.machine)) else {
        return;
    };
    machine.stop();
    alter(world, place, |vm| {
        vm.status = "TERMINATED";
        vm.address = None;
        vm.stopped = Some(now());
    });
}

/// `POST …/reset`: power off and on again, on the same address.
pub(super) fn reset(world: &Arc<World>, place: &Place) -> Outcome {
    if alter(world, place, |vm| vm.status) != Some("RUNNING") {
        return Err(not_ready(world, place));
    }
    let change = command(world, place);
    short(world, place, "reset", move |world, place| {
        if let Some(machine) = alter(world, place, |vm| Arc::clone(&vm.machine)) {
            machine.stop();
        }
        let place = place.clone();
        world.after(world.options.timing.compute_boot, move |world| {
            if is_current(world, &place, change) {
                guest_up(world, &place);
            }
        });
    })
}

/// Takes a Spot VM back: a system operation, a short notice in the guest, then the power.
pub(crate) fn preempt(world: &Arc<World>, place: &Place) -> Outcome {
    let seen = alter(world, place, |vm| {
        (
            vm.status,
            vm.is_spot(),
            vm.scheduling["instanceTerminationAction"] == "DELETE",
        )
    });
    let (status, spot, delete) = seen.ok_or_else(|| missing(world, &place.0, &place.1))?;
    if status != "RUNNING" {
        return Err(not_ready(world, place));
    }
    let drill = if spot {
        "compute.instances.preempted"
    } else {
        "compute.instances.migrateOnHostMaintenance"
    };
    let name = enter(world, place, drill, "system");
    let at = (place.0.clone(), name.clone());
    operations::finish(&mut world.state().compute, &at, Ok(()));
    if spot {
        let change = command(world, place);
        alter(world, place, |vm| vm.status = "STOPPING");
        let target = place.clone();
        world.after(world.options.timing.preempt_off, move |world| {
            if !is_current(world, &target, change) {
                return;
            }
            if delete {
                take_apart(world, &target, |auto_delete, _| auto_delete);
            } else {
                power_off(world, &target);
            }
        });
    }
    operations::reply(world, &place.0, &name)
}

/// `DELETE …/instances/{i}`
pub(super) fn delete(world: &Arc<World>, place: &Place) -> Outcome {
    let status = alter(world, place, |vm| vm.status).ok_or_else(|| missing(world, &place.0, &place.1))?;
    let change = command(world, place);
    let timing = &world.options.timing;
    let seconds = if status == "TERMINATED" {
        timing.compute_short
    } else {
        timing.compute_stop
    };
    alter(world, place, |vm| vm.status = "STOPPING");
    let target = place.clone();
    operate(world, place, "delete", seconds, move |world| {
        if is_current(world, &target, change) {
            take_apart(world, &target, |auto_delete, _| auto_delete);
        }
        Ok(())
    })
}

/// Removes a VM, and those of its disks that `goes` names by their auto-delete flag and place; the others are detached.
fn take_apart(world: &Arc<World>, place: &Place, goes: impl Fn(bool, &Place) -> bool) {
    let Some(vm) = world.state().compute.instances.remove(place) else {
        return;
    };
    vm.machine.stop();
    for disk in &vm.disks {
        let at = (place.0.clone(), disk.disk.clone());
        let moved = match &disk.mounted {
            Some(directory) => disks::unmount(world, &at, &vm.machine, directory),
            None => Ok(()),
        };
        if let Some(record) = world.state().compute.disks.get_mut(&at) {
            record.user = None;
        }
        let removed = if goes(disk.auto_delete, &at) {
            disks::remove(world, &at)
        } else {
            Ok(())
        };
        if let Err(failure) = moved.and(removed) {
            tracing::error!(error = %failure, "a disk could not be detached");
        }
    }
    if let Err(failure) = vm.machine.delete() {
        tracing::error!(standby.name = vm.name, error = %failure, "the standby's directory could not be removed");
    }
}

/// Writes the keys from the metadata (`USER:KEY` a line) that belong to the account which can log in here.
pub(super) fn write_keys(world: &World, place: &Place) -> Result<(), MachineError> {
    let found = alter(world, place, |vm| {
        let text = vm.metadata_value("ssh-keys").unwrap_or_default().to_owned();
        (Arc::clone(&vm.machine), text)
    });
    let Some((machine, text)) = found else { return Ok(()) };
    let mine = |line: &str| {
        let (user, key) = line.trim().split_once(':')?;
        (user == world.login_user).then(|| key.to_owned())
    };
    let keys: Vec<String> = text.lines().filter_map(mine).collect();
    if keys.is_empty() && !text.trim().is_empty() {
        tracing::warn!(
            standby.name = place.1,
            "no ssh-keys line is for {}, the only account that can log in here",
            world.login_user
        );
    }
    machine.authorize(&keys)
}

/// The metadata value of a key, for tests of what was sent.
pub(super) fn sent_items(body: &Value) -> Value {
    json!({"items": body["items"]})
}
