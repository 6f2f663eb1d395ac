//! `instances.insert`: what the real one checks before it accepts, and what may still fail after it did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::disks::{self, Disk};
use super::instances::{Attachment, Vm, fingerprint};
use super::operations::{self, Target};
use super::{Outcome, Place, catalogue, error, invalid, lifecycle, schema};
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
    let name = checked_name("resource.name", &body["name"])?;
    let labels = checked_labels(&body["labels"])?;
    let machine_type = checked_machine_type(&body["machineType"], zone)?;
    check_scheduling(&body["scheduling"])?;
    check_metadata(&body["metadata"])?;
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
            new_disks.push(at.clone());
        }
        let directory = (!disk.boot).then(|| mount_name(mounted, &disk.device));
        if let Some(directory) = &directory {
            mounted += 1;
            disks::mount(world, &at, &machine.home().join(directory))?;
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

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes.iter().all(inner)
        && bytes[bytes.len() - 1] != b'-'
}

pub(super) fn checked_name(field: &str, value: &Value) -> Result<String, Reply> {
    let text = value.as_str().unwrap_or_default();
    if is_name(text) {
        return Ok(text.to_owned());
    }
    let why = "Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'";
    Err(invalid(field, text, why))
}

/// Labels: at most 64, keys from a lowercase letter, both of lowercase letters, digits, `_` and `-`, at most 63 characters.
pub(super) fn checked_labels(labels: &Value) -> Result<BTreeMap<String, String>, Reply> {
    let allowed = |text: &str| {
        text.chars().count() <= 63
            && text
                .chars()
                .all(|c| c.is_lowercase() || c.is_numeric() || matches!(c, '_' | '-'))
    };
    let mut checked = BTreeMap::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        if !key.starts_with(char::is_lowercase) || !allowed(key) {
            let why = "Label keys must start with a lowercase character, can only contain lowercase letters, numeric characters, underscores and dashes, and must be at most 63 characters.";
            return Err(invalid("resource.labels", key, why));
        }
        if !allowed(text) {
            let why = "Label values can only contain lowercase letters, numeric characters, underscores and dashes, and must be at most 63 characters.";
            return Err(invalid("resource.labels", text, why));
        }
        checked.insert(key.clone(), text.to_owned());
    }
    if checked.len() > 64 {
        return Err(invalid("resource.labels", "", "At most 64 labels are allowed."));
    }
    Ok(checked)
}

pub(super) fn checked_machine_type(value: &Value, zone: &str) -> Result<String, Reply> {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        return Err(error(
            400,
            "required",
            "Required field 'resource.machineType' not specified",
        ));
    }
    let wrong = |why: &str| Err(invalid("resource.machineType", text, why));
    let Some((rest, name)) = text
        .rsplit_once("/machineTypes/")
        .or_else(|| text.rsplit_once("machineTypes/"))
    else {
        return wrong("The URL is malformed.");
    };
    if rest.rsplit('/').next() != Some(zone) {
        return wrong("The machine type must be in the same zone as the instance.");
    }
    if !catalogue::is_machine_type(name) {
        return wrong(&format!(
            "Machine type with name '{name}' does not exist in zone '{zone}'."
        ));
    }
    Ok(name.to_owned())
}

/// The Spot rules: no automatic restart, no migration, a termination action only for Spot.
pub(super) fn check_scheduling(scheduling: &Value) -> Result<(), Reply> {
    let spot = scheduling["provisioningModel"] == "SPOT" || scheduling["preemptible"] == true;
    let bad = |message: &str| Err(error(400, "invalid", message));
    if spot && scheduling["automaticRestart"] == true {
        return bad("Scheduling must have preemptible be false when AutomaticRestart is true.");
    }
    if spot && scheduling["onHostMaintenance"] == "MIGRATE" {
        return bad("Scheduling must have preemptible be false when OnHostMaintenance isn't TERMINATE.");
    }
    if scheduling["provisioningModel"] == "SPOT" && scheduling["preemptible"] == false {
        return bad("Scheduling preemptible must be true for provisioning model SPOT.");
    }
    if !spot && !scheduling["instanceTerminationAction"].is_null() && scheduling["maxRunDuration"].is_null() {
        return bad(
            "You cannot specify a termination action for a VM instance that has the standard provisioning model (default). To use instance termination action, the VM instance must use the spot provisioning model.",
        );
    }
    Ok(())
}

pub(super) fn check_metadata(metadata: &Value) -> Result<(), Reply> {
    let mut seen = BTreeSet::new();
    for item in metadata["items"].as_array().into_iter().flatten() {
        let key = item["key"].as_str().unwrap_or_default();
        let fits = (1..=128).contains(&key.len())
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !fits {
            return Err(invalid(
                "resource.metadata.items[].key",
                key,
                "Must be a match of regex '[a-zA-Z0-9-_]{1,128}'",
            ));
        }
        if item["value"].as_str().is_some_and(|value| value.len() > 256 * 1024) {
            return Err(invalid(
                "resource.metadata.items[].value",
                "",
                "Value for field is too large: maximum size 262144 character(s).",
            ));
        }
        if !seen.insert(key) {
            return Err(invalid("resource.metadata", key, "Metadata has duplicate keys."));
        }
    }
    Ok(())
}

pub(super) fn size_gb(value: &Value) -> Result<Option<u64>, Reply> {
    if value.is_null() {
        return Ok(None);
    }
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let size = text.parse::<u64>().ok().filter(|size| (1..=65_536).contains(size));
    size.map(Some)
        .ok_or_else(|| invalid("sizeGb", &text, "Disk size must be between 1 GB and 65536 GB."))
}

pub(super) fn checked_disk_type(value: &Value) -> Result<String, Reply> {
    let text = value.as_str().unwrap_or("pd-standard");
    let name = text.rsplit('/').next().unwrap_or_default();
    if disks::known_type(name) {
        Ok(name.to_owned())
    } else {
        Err(invalid("diskType", text, "The referenced disk type does not exist."))
    }
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
        (None, name) => checked_name("resource.disks[].initializeParams.diskName", name)?,
    };
    let size = size_gb(&initial["diskSizeGb"])?.or(size_gb(&disk["diskSizeGb"])?);
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
        device: checked_device(&disk["deviceName"], index)?,
        boot,
        auto_delete: disk["autoDelete"] == true,
        size_gb: size.unwrap_or(if image.is_some() { 10 } else { 500 }),
        kind: checked_disk_type(&initial["diskType"])?,
        labels: checked_labels(&initial["labels"])?,
        image,
        must_exist: source.is_some(),
    })
}

/// A device name is also a directory's name here; the real one allows the same letters.
pub(super) fn checked_device(value: &Value, index: usize) -> Result<String, Reply> {
    let Some(text) = value.as_str() else {
        return Ok(format!("persistent-disk-{index}"));
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (1..=255).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with(['.', '-']);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(invalid(
            "resource.disks[].deviceName",
            text,
            "Must be a match of regex '\\w[\\w.-]{0,254}'",
        ))
    }
}
