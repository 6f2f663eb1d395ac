//! The order of a standby's machine, as `instances.insert` takes it: `reference/google/compute.md` §2.

use serde_json::{Value, json};
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::GpuId;
use warmspare_domain::policy::{MachineSpec, Provisioning};

use super::ComputeSettings;
use super::owner::Owner;

/// The data disk's name inside the machine: `/dev/disk/by-id/google-data`. The start-up script mounts it.
pub(super) const DATA_DEVICE: &str = "data";

/// Whether the data disk is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataDisk {
    /// It is, and ours: attach it as it is.
    Existing,
    /// It is to be made.
    New,
}

/// The body of the order.
pub(super) fn body(
    settings: &ComputeSettings,
    owner: &Owner,
    gpu: GpuId,
    standby: &StandbyRef,
    machine: &MachineSpec,
    disk: DataDisk,
) -> Value {
    let zone = &standby.zone;
    let labels = owner.labels(gpu);
    json!({
        "name": standby.name.as_str(),
        "description": format!("Standby of {}, kept by warmspare ({})", owner.association, owner.deployment),
        "machineType": format!("zones/{zone}/machineTypes/{}", machine.machine_type),
        "labels": labels,
        "tags": {"items": [settings.network_tag]},
        "canIpForward": false,
        "deletionProtection": false,
        "scheduling": scheduling(machine.provisioning),
        "shieldedInstanceConfig": {"enableSecureBoot": true, "enableVtpm": true, "enableIntegrityMonitoring": true},
        "disks": [
            {"boot": true, "autoDelete": true, "deviceName": "boot", "mode": "READ_WRITE", "type": "PERSISTENT", "initializeParams": {
                "sourceImage": settings.boot_image, "diskSizeGb": settings.boot_disk_gb.to_string(),
                "diskType": format!("zones/{zone}/diskTypes/pd-standard"), "labels": labels}},
            data_disk(settings, owner, gpu, standby, machine, disk),
        ],
        "networkInterfaces": [{"network": network(settings), "stackType": "IPV4_ONLY",
            "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT", "networkTier": "PREMIUM"}]}],
        "metadata": {"items": metadata(settings)},
        // No identity: whoever takes over the machine through its GPU gets no rights in the project.
        "serviceAccounts": [],
    })
}

/// Never deleted with the machine: only a warrant deletes data.
fn data_disk(
    settings: &ComputeSettings,
    owner: &Owner,
    gpu: GpuId,
    standby: &StandbyRef,
    machine: &MachineSpec,
    disk: DataDisk,
) -> Value {
    let zone = &standby.zone;
    let name = standby.name.data_disk();
    let mut data = json!({"boot": false, "autoDelete": false, "deviceName": DATA_DEVICE, "mode": "READ_WRITE", "type": "PERSISTENT"});
    match disk {
        DataDisk::Existing => {
            data["source"] = json!(format!("projects/{}/zones/{zone}/disks/{name}", settings.project))
        }
        DataDisk::New => {
            data["initializeParams"] = json!({"diskName": name, "diskSizeGb": machine.disk_gb.to_string(),
                "diskType": format!("zones/{zone}/diskTypes/{}", machine.disk_type), "labels": owner.labels(gpu)});
        }
    }
    data
}

/// How the machine is sold. A Spot machine that is taken back stops and keeps its disks.
pub(super) fn scheduling(provisioning: Provisioning) -> Value {
    match provisioning {
        Provisioning::Spot => json!({"provisioningModel": "SPOT", "instanceTerminationAction": "STOP",
            "automaticRestart": false, "onHostMaintenance": "TERMINATE"}),
        Provisioning::Standard => {
            json!({"provisioningModel": "STANDARD", "automaticRestart": true, "onHostMaintenance": "MIGRATE"})
        }
    }
}

/// Everybody with `compute.instances.get` can read metadata: nothing here is secret.
fn metadata(settings: &ComputeSettings) -> Vec<Value> {
    let mut items = vec![
        // Keys in metadata work only without OS Login, which the project may have switched on.
        ("enable-oslogin", "FALSE".to_owned()),
        ("block-project-ssh-keys", "TRUE".to_owned()),
        (
            "ssh-keys",
            format!("{}:{}", settings.ssh_user, settings.operator_public_key.trim()),
        ),
        // The machine publishes its host keys there at its first boot, and only if this was set before it.
        ("enable-guest-attributes", "TRUE".to_owned()),
        ("serial-port-enable", "FALSE".to_owned()),
    ];
    items.extend(settings.startup_script.clone().map(|script| ("startup-script", script)));
    items
        .into_iter()
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect()
}

fn network(settings: &ComputeSettings) -> String {
    if settings.network.contains('/') {
        settings.network.clone()
    } else {
        format!("projects/{}/global/networks/{}", settings.project, settings.network)
    }
}
