//! Persistent disks: directories of their own, or btrfs file systems, that outlive machines.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::operations::{self, Target};
use super::{Compute, Outcome, Place, catalogue, checks, error, filter, insert, link, not_found, schema, timestamp};
use crate::http::{Call, Reply};
use crate::machine::{Machine, MachineError};
use crate::options::DataDisks;
use crate::volume::{self, Volume};
use crate::world::{World, now};

/// One disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) size_gb: u64,
    pub(crate) kind: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) label_fingerprint: String,
    pub(crate) image: Option<String>,
    /// The name of the instance that has it attached.
    pub(crate) user: Option<String>,
    pub(crate) ready: bool,
    created: f64,
}

impl Disk {
    pub(crate) fn new(compute: &mut Compute, zone: &str, name: &str, size_gb: u64, kind: &str) -> Self {
        Self {
            id: compute.fresh_id(),
            name: name.to_owned(),
            zone: zone.to_owned(),
            size_gb,
            kind: kind.to_owned(),
            labels: BTreeMap::new(),
            label_fingerprint: super::instances::fingerprint(),
            image: None,
            user: None,
            ready: true,
            created: now(),
        }
    }

    /// Dollars per hour, used or not: $0.04 to $0.17 per GB and month (public price list, us-central1).
    pub(crate) fn hourly(&self) -> f64 {
        let monthly = match self.kind.as_str() {
            "pd-standard" => 0.04,
            "pd-balanced" => 0.10,
            _ => 0.17,
        };
        f64::from(u32::try_from(self.size_gb).unwrap_or(u32::MAX)) * monthly / 730.0
    }

    fn row(&self, world: &World) -> Value {
        let zone = &self.zone;
        let mut row = json!({
            "kind": "compute#disk", "id": self.id.to_string(), "name": self.name, "zone": link(world, &format!("zones/{zone}")),
            "sizeGb": self.size_gb.to_string(), "status": if self.ready { "READY" } else { "CREATING" },
            "type": link(world, &format!("zones/{zone}/diskTypes/{}", self.kind)), "creationTimestamp": timestamp(self.created),
            "labelFingerprint": self.label_fingerprint, "physicalBlockSizeBytes": "4096",
            "selfLink": link(world, &format!("zones/{zone}/disks/{}", self.name)),
        });
        if !self.labels.is_empty() {
            row["labels"] = json!(self.labels);
        }
        if let Some(image) = &self.image {
            row["sourceImage"] = json!(image);
        }
        if let Some(user) = &self.user {
            row["users"] = json!([link(world, &format!("zones/{zone}/instances/{user}"))]);
        }
        row
    }

    pub(crate) fn place(&self) -> Place {
        (self.zone.clone(), self.name.clone())
    }
}

/// Where a disk's files are while no machine has it, and a link to them while one does. Of a btrfs disk it is where that is mounted,
/// and empty while it is not.
pub(crate) fn directory(world: &World, place: &Place) -> PathBuf {
    world.root().join("disks").join(&place.0).join(&place.1)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MachineError {
    let path = path.to_owned();
    move |source| MachineError::File { what, path, source }
}

/// What a btrfs disk is made of.
fn image(world: &World, place: &Place) -> PathBuf {
    directory(world, place).with_added_extension("img")
}

/// Makes a disk's directory.
pub(crate) fn make(world: &World, place: &Place) -> Result<(), MachineError> {
    let path = directory(world, place);
    fs::create_dir_all(&path).map_err(failed("create", &path))
}

/// Makes a data disk's content, where it is more than a directory. The real one is blank until the start-up script formats it.
pub(crate) fn format(world: &World, place: &Place, size_gb: u64) -> Result<(), MachineError> {
    match world.options.data_disks {
        DataDisks::Directories => Ok(()),
        DataDisks::Btrfs => volume::make(&image(world, place), bytes(size_gb)),
    }
}

/// Compute Engine's GB are of 2^30 bytes.
fn bytes(size_gb: u64) -> u64 {
    size_gb << 30
}

/// Moves a disk's directory into a machine's home, so that it is a real directory there, and leaves a link behind.
pub(crate) fn mount(world: &World, place: &Place, machine: &Machine, name: &str) -> Result<(), MachineError> {
    let path = directory(world, place);
    let at = machine.home().join(name);
    fs::rename(&path, &at).map_err(failed("mount at", &at))?;
    symlink(&at, &path).map_err(failed("link", &path))?;
    match world.options.data_disks {
        DataDisks::Directories => Ok(()),
        DataDisks::Btrfs => machine.plug(Volume::new(image(world, place), at)),
    }
}

/// Moves a disk's directory back out of a machine's home.
pub(crate) fn unmount(world: &World, place: &Place, machine: &Machine, name: &str) -> Result<(), MachineError> {
    let path = directory(world, place);
    let from = machine.home().join(name);
    machine.unplug(&from)?;
    if !from.exists() {
        return Ok(());
    }
    let _ = fs::remove_file(&path);
    fs::rename(&from, &path).map_err(failed("unmount to", &path))
}

/// Removes a disk that no machine has.
pub(crate) fn remove(world: &World, place: &Place) -> Result<(), MachineError> {
    world.state().compute.disks.remove(place);
    let path = directory(world, place);
    let _ = fs::remove_file(image(world, place));
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(source)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `…/zones/{z}/disks/…`
pub(super) fn route(world: &Arc<World>, call: &Call, zone: &str, rest: &[&str]) -> Outcome {
    match (call.method.as_str(), rest) {
        ("GET", []) => {
            let rows = world
                .state()
                .compute
                .disks
                .values()
                .filter(|disk| disk.zone == zone)
                .map(|disk| disk.row(world))
                .collect();
            filter::zone_list(world, call, "disk", &format!("zones/{zone}/disks"), rows)
        }
        ("POST", []) => operations::once(world, call, zone, || create(world, call, zone)),
        (method, [name, rest @ ..]) => {
            let place = find(world, zone, name)?;
            match (method, rest) {
                ("GET", []) => row(world, &place).map(Reply::ok),
                ("DELETE", []) => operations::once(world, call, zone, || delete(world, &place)),
                ("POST", ["resize"]) => operations::once(world, call, zone, || resize(world, call, &place)),
                ("POST", ["setLabels"]) => operations::once(world, call, zone, || set_labels(world, call, &place)),
                _ => Err(error(404, "notFound", "Not Found")),
            }
        }
        _ => Err(error(404, "notFound", "Not Found")),
    }
}

/// `…/aggregated/disks`
pub(super) fn aggregated(world: &Arc<World>, call: &Call) -> Outcome {
    let rows = world
        .state()
        .compute
        .disks
        .values()
        .map(|disk| (disk.zone.clone(), disk.row(world)))
        .collect();
    filter::aggregated(world, call, "disk", "disks", rows)
}

fn find(world: &World, zone: &str, name: &str) -> Result<Place, Reply> {
    let state = world.state();
    let found = state
        .compute
        .disks
        .values()
        .find(|disk| disk.zone == zone && (disk.name == name || disk.id.to_string() == name));
    found.map(Disk::place).ok_or_else(|| missing(world, zone, name))
}

fn missing(world: &World, zone: &str, name: &str) -> Reply {
    not_found(&format!("projects/{}/zones/{zone}/disks/{name}", world.options.project))
}

fn row(world: &World, place: &Place) -> Result<Value, Reply> {
    let state = world.state();
    state
        .compute
        .disks
        .get(place)
        .map(|disk| disk.row(world))
        .ok_or_else(|| missing(world, &place.0, &place.1))
}

/// Runs a short operation on a disk.
fn short(
    world: &Arc<World>,
    place: &Place,
    kind: &str,
    work: impl FnOnce(&Arc<World>) -> Result<(), operations::Failure> + Send + 'static,
) -> Outcome {
    let name = {
        let mut state = world.state();
        let id = state.compute.disks.get(place).map_or(0, |disk| disk.id);
        let target = Target {
            kind,
            zone: &place.0,
            resource: format!("disks/{}", place.1),
            id,
        };
        operations::begin(&mut state.compute, &target, "user")
    };
    operations::run(
        world,
        (place.0.clone(), name.clone()),
        world.options.timing.compute_short,
        work,
    );
    operations::reply(world, &place.0, &name)
}

fn create(world: &Arc<World>, call: &Call, zone: &str) -> Outcome {
    let body = super::body(call)?;
    schema::check_body("Disk", &body)?;
    let name = checks::checked_name("resource.name", &body["name"])?;
    let labels = checks::checked_labels(&body["labels"])?;
    let place = (zone.to_owned(), name);
    if world.state().compute.disks.contains_key(&place) {
        return Err(insert::already_exists(world, zone, "disks", &place.1));
    }
    let size = checks::size_gb(&body["sizeGb"])?.unwrap_or(500);
    let kind = checks::checked_disk_type(&body["type"])?;
    make(world, &place)
        .and_then(|()| format(world, &place, size))
        .map_err(insert::sim_failure)?;
    {
        let mut state = world.state();
        let mut disk = Disk::new(&mut state.compute, zone, &place.1, size, &kind);
        disk.labels = labels;
        disk.ready = false;
        state.compute.disks.insert(place.clone(), disk);
    }
    let target = place.clone();
    short(world, &place, "insert", move |world| {
        if let Some(disk) = world.state().compute.disks.get_mut(&target) {
            disk.ready = true;
        }
        Ok(())
    })
}

fn delete(world: &Arc<World>, place: &Place) -> Outcome {
    let user = world
        .state()
        .compute
        .disks
        .get(place)
        .and_then(|disk| disk.user.clone());
    if let Some(user) = user {
        let project = &world.options.project;
        let message = format!(
            "The disk resource 'projects/{project}/zones/{}/disks/{}' is already being used by 'projects/{project}/zones/{}/instances/{user}'",
            place.0, place.1, place.0
        );
        return Err(error(400, "resourceInUseByAnotherResource", &message));
    }
    let target = place.clone();
    short(world, place, "delete", move |world| {
        if let Err(failure) = remove(world, &target) {
            tracing::error!(error = %failure, "a disk could not be removed");
        }
        Ok(())
    })
}

fn resize(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let body = super::body(call)?;
    schema::check_body("DisksResizeRequest", &body)?;
    let size = checks::size_gb(&body["sizeGb"])?
        .ok_or_else(|| error(400, "required", "Required field 'sizeGb' not specified"))?;
    let now_has = world.state().compute.disks.get(place).map_or(0, |disk| disk.size_gb);
    if size <= now_has {
        let why = format!("Requested disk size cannot be smaller than or equal to current size ({now_has} GB).");
        return Err(super::invalid("sizeGb", &size.to_string(), &why));
    }
    let target = place.clone();
    short(world, place, "resizeDisk", move |world| {
        if let Some(disk) = world.state().compute.disks.get_mut(&target) {
            disk.size_gb = size;
        }
        let grown = match world.options.data_disks {
            DataDisks::Directories => Ok(()),
            DataDisks::Btrfs => volume::grow(&image(world, &target), bytes(size)),
        };
        if let Err(failure) = grown {
            tracing::error!(error = %failure, "a disk could not be enlarged");
        }
        Ok(())
    })
}

fn set_labels(world: &Arc<World>, call: &Call, place: &Place) -> Outcome {
    let body = super::body(call)?;
    schema::check_body("ZoneSetLabelsRequest", &body)?;
    let labels = checks::checked_labels(&body["labels"])?;
    let current = world
        .state()
        .compute
        .disks
        .get(place)
        .map(|disk| disk.label_fingerprint.clone());
    if body["labelFingerprint"].as_str() != current.as_deref() {
        return Err(filter::stale_labels());
    }
    let target = place.clone();
    short(world, place, "setLabels", move |world| {
        if let Some(disk) = world.state().compute.disks.get_mut(&target) {
            disk.labels = labels;
            disk.label_fingerprint = super::instances::fingerprint();
        }
        Ok(())
    })
}

/// The disk type's bare name.
pub(super) fn known_type(name: &str) -> bool {
    catalogue::DISK_TYPES.contains(&name)
}
