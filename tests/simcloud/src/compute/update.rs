//! Changes to a VM's record: labels, metadata, scheduling, disks.

use std::sync::Arc;

use serde_json::json;

use super::instances::{Attachment, fingerprint, missing};
use super::{Outcome, Place, checks, disks, error, filter, insert, invalid, lifecycle, schema};
use crate::http::Call;
use crate::world::World;

fn vm<T>(world: &World, place: &Place, look: impl FnOnce(&mut super::Vm) -> T) -> Result<T, crate::http::Reply> {
    let mut state = world.state();
    let found = state.compute.instances.get_mut(place).map(look);
    drop(state);
    found.ok_or_else(|| missing(world, &place.0, &place.1))
}

/// `POST …/setLabels`
pub(super) fn labels(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let body = super::body(call)?;
    schema::check_body("InstancesSetLabelsRequest", &body)?;
    let labels = checks::checked_labels(&body["labels"])?;
    if Some(vm(world, place, |vm| vm.label_fingerprint.clone())?.as_str()) != body["labelFingerprint"].as_str() {
        return Err(filter::stale_labels());
    }
    lifecycle::short(world, place, "setLabels", move |world, place| {
        let _ = vm(world, place, |vm| {
            vm.labels = labels;
            vm.label_fingerprint = fingerprint();
        });
    })
}

/// `POST …/setMetadata`: new keys reach a running guest too.
pub(super) fn metadata(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let body = super::body(call)?;
    schema::check_body("Metadata", &body)?;
    checks::check_metadata(&body)?;
    if Some(vm(world, place, |vm| vm.metadata_fingerprint.clone())?.as_str()) != body["fingerprint"].as_str() {
        return Err(filter::stale_metadata());
    }
    lifecycle::short(world, place, "setMetadata", move |world, place| {
        let _ = vm(world, place, |vm| {
            vm.metadata = lifecycle::sent_items(&body);
            vm.metadata_fingerprint = fingerprint();
        });
        if let Err(failure) = lifecycle::write_keys(world, place) {
            tracing::error!(error = %failure, "the standby's authorized keys could not be written");
        }
    })
}

/// `POST …/setScheduling`: Spot or standard only while the VM is off.
pub(super) fn scheduling(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let body = super::body(call)?;
    schema::check_body("Scheduling", &body)?;
    checks::check_scheduling(&body)?;
    let (status, was_spot) = vm(world, place, |vm| (vm.status, vm.is_spot()))?;
    let names_model = !body["provisioningModel"].is_null() || !body["preemptible"].is_null();
    let spot = body["provisioningModel"] == "SPOT" || body["preemptible"] == true;
    if names_model && spot != was_spot && status != "TERMINATED" {
        return Err(error(
            400,
            "invalid",
            "Scheduling preemptible and provisioningModel can only be changed while the instance is TERMINATED.",
        ));
    }
    lifecycle::short(world, place, "setScheduling", move |world, place| {
        let _ = vm(world, place, |vm| {
            if names_model {
                vm.scheduling = json!({"preemptible": spot, "provisioningModel": if spot { "SPOT" } else { "STANDARD" },
                    "automaticRestart": !spot, "onHostMaintenance": if spot { "TERMINATE" } else { "MIGRATE" }});
            }
            if let (Some(known), Some(sent)) = (vm.scheduling.as_object_mut(), body.as_object()) {
                known.extend(sent.clone());
            }
        });
    })
}

/// `POST …/setMachineType`: only while the VM is off.
pub(super) fn machine_type(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let body = super::body(call)?;
    let name = checks::checked_machine_type(&body["machineType"], &place.0)?;
    if vm(world, place, |vm| vm.status)? != "TERMINATED" {
        return Err(error(
            400,
            "resourceNotReady",
            "The instance must be stopped before its machine type can change.",
        ));
    }
    lifecycle::short(world, place, "setMachineType", move |world, place| {
        let _ = vm(world, place, |vm| vm.machine_type = name);
    })
}

/// `POST …/setDiskAutoDelete?autoDelete=…&deviceName=…`
pub(super) fn disk_auto_delete(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let wanted = match call.query("autoDelete") {
        Some("true") => true,
        Some("false") => false,
        other => {
            return Err(invalid(
                "autoDelete",
                other.unwrap_or_default(),
                "true or false is required.",
            ));
        }
    };
    let device = call.query("deviceName").unwrap_or_default().to_owned();
    if !vm(world, place, |vm| vm.disks.iter().any(|disk| disk.device == device))? {
        return Err(invalid(
            "deviceName",
            &device,
            "No attached disk found with this device name.",
        ));
    }
    lifecycle::short(world, place, "setDiskAutoDelete", move |world, place| {
        let _ = vm(world, place, |vm| {
            vm.disks
                .iter_mut()
                .filter(|disk| disk.device == device)
                .for_each(|disk| disk.auto_delete = wanted);
        });
    })
}

/// `POST …/attachDisk`
pub(super) fn attach_disk(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let body = super::body(call)?;
    schema::check_body("AttachedDisk", &body)?;
    let name = body["source"]
        .as_str()
        .and_then(|source| source.rsplit('/').next())
        .unwrap_or_default()
        .to_owned();
    let at = (place.0.clone(), name.clone());
    let user = world.state().compute.disks.get(&at).map(|disk| disk.user.clone());
    match user {
        None => {
            return Err(super::not_found(&format!(
                "projects/{}/zones/{}/disks/{name}",
                world.options.project, place.0
            )));
        }
        Some(Some(user)) => {
            return Err(error(
                400,
                "resourceInUseByAnotherResource",
                &format!("The disk resource '{name}' is already being used by '{user}'"),
            ));
        }
        Some(None) => {}
    }
    let (machine, count, mounts) = vm(world, place, |vm| {
        (
            Arc::clone(&vm.machine),
            vm.disks.len(),
            vm.disks.iter().filter(|disk| disk.mounted.is_some()).count(),
        )
    })?;
    let device = checks::checked_device(&body["deviceName"], count)?;
    let auto_delete = body["autoDelete"] == true;
    lifecycle::short(world, place, "attachDisk", move |world, place| {
        let directory = insert::mount_name(mounts, &device);
        if let Err(failure) = disks::mount(world, &at, &machine, &directory) {
            tracing::error!(error = %failure, "a disk could not be attached");
            return;
        }
        if let Some(disk) = world.state().compute.disks.get_mut(&at) {
            disk.user = Some(place.1.clone());
        }
        let attachment = Attachment {
            disk: name,
            device,
            boot: false,
            auto_delete,
            mounted: Some(directory),
        };
        let _ = vm(world, place, |vm| vm.disks.push(attachment));
    })
}

/// `POST …/detachDisk?deviceName=…`
pub(super) fn detach_disk(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let device = call.query("deviceName").unwrap_or_default().to_owned();
    let found = vm(world, place, |vm| {
        vm.disks
            .iter()
            .find(|disk| disk.device == device && !disk.boot)
            .cloned()
    })?;
    let Some(disk) = found else {
        return Err(invalid(
            "deviceName",
            &device,
            "No attached disk found with this device name.",
        ));
    };
    let machine = vm(world, place, |vm| Arc::clone(&vm.machine))?;
    lifecycle::short(world, place, "detachDisk", move |world, place| {
        let at = (place.0.clone(), disk.disk.clone());
        let directory = disk.mounted.unwrap_or_default();
        if let Err(failure) = disks::unmount(world, &at, &machine, &directory) {
            tracing::error!(error = %failure, "a disk could not be detached");
        }
        let _ = vm(world, place, |vm| vm.disks.retain(|one| one.device != device));
        if let Some(record) = world.state().compute.disks.get_mut(&at) {
            record.user = None;
        }
    })
}
