//! VMs as they are recorded and shown.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Outcome, Place, catalogue, filter, link, not_found, timestamp};
use crate::http::{Call, Reply};
use crate::machine::Machine;
use crate::world::World;

/// One VM.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) zone: String,
    /// The fields of the insert that are only shown again.
    pub(crate) body: Value,
    pub(crate) machine_type: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) label_fingerprint: String,
    pub(crate) metadata: Value,
    pub(crate) metadata_fingerprint: String,
    pub(crate) scheduling: Value,
    pub(crate) status: &'static str,
    pub(crate) wants_address: bool,
    /// The ephemeral external address: another one after every stop.
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) disks: Vec<Attachment>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) guest: BTreeMap<(String, String), String>,
    pub(crate) serial: String,
    /// Counts commands: a delayed step of an older command does nothing.
    pub(crate) change: u64,
    pub(crate) created: f64,
    pub(crate) started: Option<f64>,
    pub(crate) stopped: Option<f64>,
}

/// A disk on a VM.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) disk: String,
    pub(crate) device: String,
    pub(crate) boot: bool,
    pub(crate) auto_delete: bool,
    /// The directory's name in the machine's home; `None` for the boot disk, which is the machine itself.
    pub(crate) mounted: Option<String>,
}

/// A fresh fingerprint, as opaque as real ones.
pub(crate) fn fingerprint() -> String {
    STANDARD.encode(rand::random::<[u8; 8]>())
}

impl Vm {
    pub(crate) fn is_spot(&self) -> bool {
        self.scheduling["provisioningModel"] == "SPOT" || self.scheduling["preemptible"] == true
    }

    /// Dollars per hour right now, its disks not included.
    pub(crate) fn billed_hourly(&self) -> f64 {
        if matches!(self.status, "TERMINATED") {
            0.0
        } else {
            catalogue::hourly(&self.machine_type, self.is_spot())
        }
    }

    pub(crate) fn metadata_value(&self, key: &str) -> Option<&str> {
        let items = self.metadata["items"].as_array()?;
        items.iter().find(|item| item["key"] == key)?["value"].as_str()
    }

    fn row(&self, world: &World) -> Value {
        let (zone, name) = (&self.zone, &self.name);
        let mut row = self.body.clone();
        let shown = json!({
            "kind": "compute#instance", "id": self.id.to_string(), "name": name, "zone": link(world, &format!("zones/{zone}")),
            "machineType": link(world, &format!("zones/{zone}/machineTypes/{}", self.machine_type)), "status": self.status,
            "creationTimestamp": timestamp(self.created), "labelFingerprint": self.label_fingerprint,
            "metadata": {"kind": "compute#metadata", "fingerprint": self.metadata_fingerprint, "items": self.metadata["items"]},
            "scheduling": self.scheduling, "disks": self.disk_rows(world), "networkInterfaces": [self.network(world)],
            "cpuPlatform": "AMD Rome", "fingerprint": "AAAAAAAAAAA=", "startRestricted": false, "deletionProtection": false,
            "selfLink": link(world, &format!("zones/{zone}/instances/{name}")),
        });
        if let (Value::Object(row), Value::Object(shown)) = (&mut row, shown) {
            row.extend(shown);
        }
        if self.metadata["items"].is_null() {
            row["metadata"] = json!({"kind": "compute#metadata", "fingerprint": self.metadata_fingerprint});
        }
        if !self.labels.is_empty() {
            row["labels"] = json!(self.labels);
        }
        for (field, at) in [
            ("lastStartTimestamp", self.started),
            ("lastStopTimestamp", self.stopped),
        ] {
            if let Some(at) = at {
                row[field] = json!(timestamp(at));
            }
        }
        row
    }

    fn network(&self, world: &World) -> Value {
        let mut network = json!({"kind": "compute#networkInterface", "name": "nic0", "stackType": "IPV4_ONLY",
            "network": link(world, "global/networks/default"), "networkIP": format!("10.128.0.{}", self.id % 250 + 2)});
        if self.wants_address {
            let mut access = json!({"kind": "compute#accessConfig", "name": "External NAT", "type": "ONE_TO_ONE_NAT", "networkTier": "PREMIUM"});
            if let Some(address) = self.address {
                access["natIP"] = json!(address.to_string());
            }
            network["accessConfigs"] = json!([access]);
        }
        network
    }

    fn disk_rows(&self, world: &World) -> Vec<Value> {
        let row = |(index, disk): (usize, &Attachment)| {
            json!({"kind": "compute#attachedDisk", "index": index, "boot": disk.boot, "autoDelete": disk.auto_delete,
                "deviceName": disk.device, "mode": "READ_WRITE", "type": "PERSISTENT", "interface": "SCSI",
                "source": link(world, &format!("zones/{}/disks/{}", self.zone, disk.disk))})
        };
        self.disks.iter().enumerate().map(row).collect()
    }
}

/// The VM's zone and name, from its name or its number.
pub(super) fn find(world: &World, zone: &str, name: &str) -> Result<Place, Reply> {
    let state = world.state();
    let found = state
        .compute
        .instances
        .values()
        .find(|vm| vm.zone == zone && (vm.name == name || vm.id.to_string() == name));
    found
        .map(|vm| (vm.zone.clone(), vm.name.clone()))
        .ok_or_else(|| missing(world, zone, name))
}

pub(super) fn missing(world: &World, zone: &str, name: &str) -> Reply {
    not_found(&format!(
        "projects/{}/zones/{zone}/instances/{name}",
        world.options.project
    ))
}

pub(super) fn get(world: &World, place: &Place) -> Outcome {
    let state = world.state();
    let vm = state.compute.instances.get(place);
    vm.map(|vm| Reply::ok(vm.row(world)))
        .ok_or_else(|| missing(world, &place.0, &place.1))
}

pub(super) fn list(world: &Arc<World>, call: &Call, zone: &str) -> Outcome {
    let rows = world
        .state()
        .compute
        .instances
        .values()
        .filter(|vm| vm.zone == zone)
        .map(|vm| vm.row(world))
        .collect();
    filter::zone_list(world, call, "instance", &format!("zones/{zone}/instances"), rows)
}

pub(super) fn aggregated(world: &Arc<World>, call: &Call) -> Outcome {
    let rows = world
        .state()
        .compute
        .instances
        .values()
        .map(|vm| (vm.zone.clone(), vm.row(world)))
        .collect();
    filter::aggregated(world, call, "instance", "instances", rows)
}
