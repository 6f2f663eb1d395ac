//! What exists and what it would cost.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use crate::world::World;

/// A machine that exists: it has a directory and bills at least its storage.
#[derive(Debug, Clone, Serialize)]
pub struct Left {
    /// `vast` or `compute`.
    pub provider: &'static str,
    /// The Vast contract number, or the VM's name.
    pub name: String,
    /// The VM's zone.
    pub zone: Option<String>,
    /// The provider's own word for its state; `None` while a GPU is being provisioned.
    pub status: Option<&'static str>,
    /// Dollars per hour right now.
    pub usd_per_hour: f64,
    /// Whether its sshd runs.
    pub is_on: bool,
    /// Where its sshd listens.
    pub ssh: Option<String>,
    /// The directory in which sessions start.
    pub home: PathBuf,
}

/// A disk that exists.
#[derive(Debug, Clone, Serialize)]
pub struct LeftDisk {
    /// The disk's name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// The VM that has it.
    pub user: Option<String>,
    /// Whether it was created from an image, as boot disks are.
    pub is_boot: bool,
    /// Dollars per hour, used or not.
    pub usd_per_hour: f64,
    /// Where its files are.
    pub directory: PathBuf,
}

pub(crate) fn machines(world: &World) -> Vec<Left> {
    let state = world.state();
    let gpus = state.vast.instances.values().map(|gpu| Left {
        provider: "vast",
        name: gpu.id.to_string(),
        zone: None,
        status: gpu.heard.or(gpu.actual),
        usd_per_hour: gpu.billed_hourly(),
        is_on: gpu.machine.is_on(),
        ssh: gpu.machine.address().map(|address| address.to_string()),
        home: gpu.machine.home(),
    });
    let vms = state.compute.instances.values().map(|vm| Left {
        provider: "compute",
        name: vm.name.clone(),
        zone: Some(vm.zone.clone()),
        status: Some(vm.status),
        usd_per_hour: vm.billed_hourly(),
        is_on: vm.machine.is_on(),
        ssh: vm.machine.address().map(|address| address.to_string()),
        home: vm.machine.home(),
    });
    gpus.chain(vms).collect()
}

pub(crate) fn disks(world: &World) -> Vec<LeftDisk> {
    let state = world.state();
    let one = |disk: &crate::compute::disks::Disk| LeftDisk {
        name: disk.name.clone(),
        zone: disk.zone.clone(),
        user: disk.user.clone(),
        is_boot: disk.image.is_some(),
        usd_per_hour: disk.hourly(),
        directory: crate::compute::disks::directory(world, &disk.place()),
    };
    state.compute.disks.values().map(one).collect()
}

/// Everything, as `GET /sim/state` shows it.
pub(crate) fn state(world: &World) -> Value {
    let (machines, disks) = (machines(world), disks(world));
    // Adding to zero, because an empty sum of floats is -0.0.
    let total: f64 = 0.0
        + machines.iter().map(|one| one.usd_per_hour).sum::<f64>()
        + disks.iter().map(|one| one.usd_per_hour).sum::<f64>();
    let state = world.state();
    json!({
        "machines": machines, "disks": disks, "usd_per_hour": total, "vast_credit": state.vast.credit,
        "zones_without_capacity": state.compute.exhausted, "faults_waiting": world.faults.waiting(),
        "notification_attempts": state.vast.webhooks.attempts, "requests": world.journal.all().len(),
    })
}
