//! `instances.insert`: what the real one checks before it accepts, and what may still fail after it did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::disks::{self, Disk};
use super::instances::{Attachment, Vm, fingerprint};
use super::operations::{self, Target};
use super::{Outcome, Place, checks, error, invalid, lifecycle, schema};
use crate::http::{Call, Reply};
use crate::machine::{Machine, MachineError};
use crate::world::{World, now};

/// A disk that the insert names.
struct WantedDisk {
    name: String,
    device: String,
    boot: bool,
    auto_delete: bool,
    size_gb: u64,
    kind: String,
    labels: BTreeMap<String, String>,
    image: Option<String>,
    must_exist: bool,
}

/// `POST …/instances`
pub(super) fn insert(world: &Arc<World>, call: &Call, zone: &str) -> Outcome {
    let body = super::body(call)?;
    schema::check_body("Instance", &body)?;
    let name = checks::checked_name("resource.name", &body["name"])?;
    let labels = checks::checked_labels(&body["labels"])?;
    let machine_type = checks::checked_machine_type(&body["machineType"], zone)?;
    checks::check_scheduling(&body["scheduling"])?;
    checks::check_metadata(&body["metadata"])?;
    if body["networkInterfaces"].as_array().is_none_or(Vec::is_empty) {
        return Err(invalid(
            "resource.networkInterfaces",
            "",
            "At least one network interface is required.",
        ));
    }
    let wanted = wanted_disks(&body, &name)?;
    let place = (zone.to_owned(), name);
    check_free(world, &place, &wanted)?;
    lifecycle::check_immediate_quota(world, zone)?;
    let new_disks = build(world, &place, &body, labels, &machine_type, &wanted).map_err(sim_failure)?;
    accept(world, &place, new_disks)
}

fn accept(world: &Arc<World>, place: &Place, new_disks: Vec<Place>) -> Outcome {
    let name = {
        let mut state = world.state();
        let id = state.compute.instances.get(place).map_or(0, |vm| vm.id);
        let target = Target {
            kind: "insert",
            zone: &place.0,
            resource: format!("instances/{}", place.1),
            id,
        };
        operations::begin(&mut state.compute, &target, "user")
    };
    lifecycle::run_insert(world, place, (place.0.clone(), name.clone()), new_disks);
    operations::reply(world, &place.0, &name)
}

/// Makes the machine and its disks. Answers the disks that are new.
fn build(
    world: &Arc<World>,
    place: &Place,
    body: &Value,
    labels: BTreeMap<String, String>,
    machine_type: &str,
    wanted: &[WantedDisk],
) -> Result<Vec<Place>, MachineError> {
    let id = world.state().compute.fresh_id();
    // The number is part of the name, so that a VM made again under the same name is another machine.
    let machine = Machine::create(&world.site, &format!("{}-{}", place.1, id % 1_000_000_007))?;
    let mut new_disks = Vec::new();
    let mut attachments = Vec::new();
    let mut mounted = 0;
    for disk in wanted {
        let at = (place.0.clone(), disk.name.clone());
        if enter_disk(world, &at, disk, &place.1) {
            disks::make(world, &at)?;
            if !disk.boot {
                disks::format(world, &at, disk.size_gb)?;
            }
            new_disks.push(at.clone());
        }
        let directory = (!disk.boot).then(|| mount_name(mounted, &disk.device));
        if let Some(directory) = &directory {
            mounted += 1;
            disks::mount(world, &at, &machine, directory)?;
        }
        attachments.push(Attachment {
            disk: disk.name.clone(),
            device: disk.device.clone(),
            boot: disk.boot,
            auto_delete: disk.auto_delete,
            mounted: directory,
        });
    }
    let vm = new_vm(world, place, id, body, labels, machine_type, machine, attachments);
    world.state().compute.instances.insert(place.clone(), vm);
    lifecycle::write_keys(world, place)?;
    Ok(new_disks)
}

/// The first data disk is `data` in the machine's home, further ones go by their device name.
pub(super) fn mount_name(already: usize, device: &str) -> String {
    if already == 0 {
        "data".to_owned()
    } else {
        device.to_owned()
    }
}

/// Enters or attaches a disk; answers whether it is new. An existing disk of that name is attached as it is.
fn enter_disk(world: &World, at: &Place, wanted: &WantedDisk, user: &str) -> bool {
    let mut state = world.state();
    if let Some(disk) = state.compute.disks.get_mut(at) {
        disk.user = Some(user.to_owned());
        return false;
    }
    let mut disk = Disk::new(&mut state.compute, &at.0, &wanted.name, wanted.size_gb, &wanted.kind);
    disk.labels.clone_from(&wanted.labels);
    disk.image.clone_from(&wanted.image);
    disk.user = Some(user.to_owned());
    state.compute.disks.insert(at.clone(), disk);
    true
}

#[expect(
    clippy::too_many_arguments,
    reason = "every argument is one checked part of the same request"
)]
fn new_vm(
    world: &World,
    place: &Place,
    id: u64,
    body: &Value,
    labels: BTreeMap<String, String>,
    machine_type: &str,
    machine: Arc<Machine>,
    disks: Vec<Attachment>,
) -> Vm {
    let mut scheduling = json!({"onHostMaintenance": "MIGRATE", "automaticRestart": true, "preemptible": false, "provisioningModel": "STANDARD"});
    if body["scheduling"]["provisioningModel"] == "SPOT" || body["scheduling"]["preemptible"] == true {
        scheduling = json!({"onHostMaintenance": "TERMINATE", "automaticRestart": false, "preemptible": true, "provisioningModel": "SPOT", "instanceTerminationAction": "STOP"});
    }
    if let (Value::Object(known), Value::Object(sent)) = (&mut scheduling, &body["scheduling"]) {
        known.extend(sent.clone());
    }
    let kept: serde_json::Map<String, Value> = [
        "description",
        "tags",
        "canIpForward",
        "shieldedInstanceConfig",
        "serviceAccounts",
    ]
    .into_iter()
    .filter(|name| !body[*name].is_null())
    .map(|name| (name.to_owned(), body[name].clone()))
    .collect();
    let _ = world;
    Vm {
        id,
        name: place.1.clone(),
        zone: place.0.clone(),
        body: Value::Object(kept),
        machine_type: machine_type.to_owned(),
        labels,
        label_fingerprint: fingerprint(),
        metadata: json!({"items": body["metadata"]["items"]}),
        metadata_fingerprint: fingerprint(),
        scheduling,
        status: "PROVISIONING",
        wants_address: body["networkInterfaces"][0]["accessConfigs"]
            .as_array()
            .is_some_and(|list| !list.is_empty()),
        address: None,
        disks,
        machine,
        guest: BTreeMap::new(),
        serial: String::new(),
        // Far from any other VM's numbers, so that a step of an earlier VM of this name never applies to this one.
        change: id << 20,
        created: now(),
        started: None,
        stopped: None,
    }
}

fn check_free(world: &World, place: &Place, wanted: &[WantedDisk]) -> Result<(), Reply> {
    let state = world.state();
    if state.compute.instances.contains_key(place) {
        return Err(already_exists(world, &place.0, "instances", &place.1));
    }
    for disk in wanted {
        let known = state.compute.disks.get(&(place.0.clone(), disk.name.clone()));
        match known {
            None if disk.must_exist => {
                return Err(super::not_found(&format!(
                    "projects/{}/zones/{}/disks/{}",
                    world.options.project, place.0, disk.name
                )));
            }
            Some(Disk { user: Some(user), .. }) => {
                let message = format!(
                    "The disk resource 'projects/{0}/zones/{1}/disks/{2}' is already being used by 'projects/{0}/zones/{1}/instances/{user}'",
                    world.options.project, place.0, disk.name
                );
                return Err(error(400, "resourceInUseByAnotherResource", &message));
            }
            None | Some(_) => {}
        }
    }
    Ok(())
}

pub(super) fn already_exists(world: &World, zone: &str, noun: &str, name: &str) -> Reply {
    let message = format!(
        "The resource 'projects/{}/zones/{zone}/{noun}/{name}' already exists",
        world.options.project
    );
    error(409, "alreadyExists", &message)
}

pub(super) fn sim_failure(failure: MachineError) -> Reply {
    error(500, "backendError", &format!("simcloud: {failure}"))
}

fn wanted_disks(body: &Value, instance: &str) -> Result<Vec<WantedDisk>, Reply> {
    let list = body["disks"].as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| invalid("resource.disks", "", "At least one disk is required."))?;
    let mut wanted = Vec::new();
    for (index, disk) in list.iter().enumerate() {
        wanted.push(wanted_disk(disk, index, instance)?);
    }
    if !wanted[0].boot {
        return Err(invalid(
            "resource.disks[0].boot",
            "false",
            "Boot disk must be the first disk attached to the instance.",
        ));
    }
    let names: BTreeSet<&str> = wanted.iter().map(|disk| disk.name.as_str()).collect();
    let devices: BTreeSet<&str> = wanted.iter().map(|disk| disk.device.as_str()).collect();
    if names.len() < wanted.len() || devices.len() < wanted.len() {
        return Err(invalid(
            "resource.disks",
            "",
            "Disk names and device names must be unique.",
        ));
    }
    Ok(wanted)
}

fn wanted_disk(disk: &Value, index: usize, instance: &str) -> Result<WantedDisk, Reply> {
    let boot = disk["boot"] == true;
    let initial = &disk["initializeParams"];
    let source = disk["source"].as_str();
    if source.is_some() == initial.is_object() {
        return Err(invalid(
            &format!("resource.disks[{index}]"),
            "",
            "Exactly one of source and initializeParams must be given.",
        ));
    }
    let default_name = if boot {
        instance.to_owned()
    } else {
        format!("{instance}-{index}")
    };
    let name = match (
        source.and_then(|source| source.rsplit('/').next()),
        &initial["diskName"],
    ) {
        (Some(name), _) => name.to_owned(),
        (None, Value::Null) => default_name,
        (None, name) => checks::checked_name("resource.disks[].initializeParams.diskName", name)?,
    };
    let size = checks::size_gb(&initial["diskSizeGb"])?.or(checks::size_gb(&disk["diskSizeGb"])?);
    let image = initial["sourceImage"].as_str().map(str::to_owned);
    if boot && source.is_none() && image.is_none() {
        return Err(invalid(
            "resource.disks[0].initializeParams.sourceImage",
            "",
            "A boot disk needs an image.",
        ));
    }
    if image.is_some() && size.is_some_and(|size| size < 10) {
        return Err(invalid(
            "resource.disks[].initializeParams.diskSizeGb",
            "",
            "Requested disk size cannot be smaller than the image size (10 GB).",
        ));
    }
    Ok(WantedDisk {
        name,
        device: checks::checked_device(&disk["deviceName"], index)?,
        boot,
        auto_delete: disk["autoDelete"] == true,
        size_gb: size.unwrap_or(if image.is_some() { 10 } else { 500 }),
        kind: checks::checked_disk_type(&initial["diskType"])?,
        labels: checks::checked_labels(&initial["labels"])?,
        image,
        must_exist: source.is_some(),
    })
}
