//! Data disks that are btrfs file systems on loop devices: mounted while their machine is on, and never longer.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod rig;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rig::{Killed, Rig, ZONE, until};
use serde_json::{Value, json};
use simcloud::{DataDisks, Options, check_btrfs_disks};

/// A sim with such disks; none where they cannot be had.
async fn rig() -> Option<Rig> {
    if let Err(refusal) = check_btrfs_disks() {
        eprintln!("SKIPPED: {refusal}");
        return None;
    }
    let options = Options {
        data_disks: DataDisks::Btrfs,
        ..Options::default()
    };
    Some(Rig::with(options).await)
}

/// Where something is mounted below a directory.
fn mounts(below: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/mounts").unwrap();
    let places = table.lines().filter_map(|line| line.split(' ').nth(1));
    let below = format!("{}/", below.display());
    places.filter(|at| at.starts_with(&below)).map(str::to_owned).collect()
}

/// The files below a directory that are on a loop device.
fn attached(below: &Path) -> Vec<String> {
    let listed = Command::new("losetup")
        .args(["--noheadings", "--list", "--output", "BACK-FILE"])
        .output()
        .unwrap();
    let below = format!("{}/", below.display());
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|file| file.starts_with(&below))
        .collect()
}

async fn nothing_is_left(below: &Path) {
    until("nothing is mounted or attached", async || {
        (mounts(below).is_empty() && attached(below).is_empty()).then_some(())
    })
    .await;
}

/// The size of the file system in a machine's data directory, in GB, as its guest sees it.
fn size_gb(rig: &Rig, at: std::net::SocketAddr) -> u64 {
    let text = rig.ssh_text(at, "stat -f -c '%S %b' data");
    let (block, blocks) = text.split_once(' ').unwrap();
    (block.parse::<u64>().unwrap() * blocks.parse::<u64>().unwrap()) >> 30
}

async fn change(rig: &Rig, method: &str, path: &str, body: Value) {
    let (status, operation) = rig.compute(method, &format!("zones/{ZONE}/{path}"), body).await;
    assert_eq!(status, 200, "{operation}");
    let done = rig.operation(&operation).await;
    assert!(done["error"].is_null(), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_btrfs_disk_is_mounted_while_its_machine_is_on_and_keeps_its_files() {
    let Some(rig) = rig().await else { return };
    let root = rig.sim.root().to_owned();
    let at = rig.standby("sb-1").await;
    rig.ssh_text(at, "btrfs subvolume create data/points && echo kept > data/points/file");
    assert_eq!((mounts(&root).len(), attached(&root).len()), (1, 1));
    assert_eq!(
        rig.ssh_text(at, "findmnt -no FSTYPE data && stat -c %a data"),
        "btrfs\n700"
    );
    let image = rig.sim.disk_directory(ZONE, "sb-1-data").with_added_extension("img");
    let image = std::fs::metadata(image).unwrap();
    assert_eq!(image.size(), 100 << 30);
    assert!(
        image.blocks() * 512 < 100 << 20,
        "the host holds only what was written: {} blocks",
        image.blocks()
    );

    change(&rig, "POST", "instances/sb-1/stop", Value::Null).await;
    nothing_is_left(&root).await;
    change(&rig, "POST", "instances/sb-1/start", Value::Null).await;
    let at = rig.standby_address("sb-1").await;
    assert_eq!(rig.ssh_text(at, "cat data/points/file"), "kept");

    change(&rig, "DELETE", "instances/sb-1", Value::Null).await;
    nothing_is_left(&root).await;
    let mut body = rig.standby_body("sb-2");
    body["disks"][1]["initializeParams"]["diskName"] = json!("sb-1-data");
    change(&rig, "POST", "instances", body).await;
    let at = rig.standby_address("sb-2").await;
    assert_eq!(rig.ssh_text(at, "cat data/points/file"), "kept");

    change(&rig, "DELETE", "instances/sb-2", Value::Null).await;
    change(&rig, "DELETE", "disks/sb-1-data", Value::Null).await;
    let left: Vec<_> = std::fs::read_dir(root.join("disks").join(ZONE)).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resized_disk_is_a_larger_device_whose_file_system_is_the_guests_to_grow() {
    let Some(rig) = rig().await else { return };
    let at = rig.standby("sb-1").await;
    change(&rig, "POST", "disks/sb-1-data/resize", json!({"sizeGb": "150"})).await;
    assert_eq!(size_gb(&rig, at), 100);
    rig.ssh_text(at, "btrfs filesystem resize max data");
    assert_eq!(size_gb(&rig, at), 150);
    // One that was resized while its machine was off is taken up by the start-up script.
    change(&rig, "POST", "instances/sb-1/stop", Value::Null).await;
    change(&rig, "POST", "disks/sb-1-data/resize", json!({"sizeGb": "200"})).await;
    change(&rig, "POST", "instances/sb-1/start", Value::Null).await;
    let at = rig.standby_address("sb-1").await;
    assert_eq!(size_gb(&rig, at), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_mounted_when_a_sim_ends_or_its_owner_panics() {
    let Some(rig) = rig().await else { return };
    let root = rig.sim.root().to_owned();
    rig.standby("sb-1").await;
    let panicked = tokio::spawn(async move {
        let _dropped_on_the_way = rig;
        panic!("a test that fails");
    });
    assert!(panicked.await.is_err());
    // Dropping it is enough; the device may be held for another instant by whoever lists devices.
    assert_eq!(mounts(&root), Vec::<String>::new());
    assert!(!root.exists());
    nothing_is_left(&root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_mounted_when_a_sim_is_killed() {
    if let Err(refusal) = check_btrfs_disks() {
        eprintln!("SKIPPED: {refusal}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut sim = Killed(
        Command::new(env!("CARGO_BIN_EXE_simcloud"))
            .args(["--btrfs-disks", "--time-scale", "0.005", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(sim.0.stdout.take().unwrap()));
    let url = lines.next().unwrap().unwrap().replace("VAST_URL=", "");
    // Only for its client and its idea of a standby.
    let rig = Rig::start().await;
    let path = format!("{url}/compute/v1/projects/sim-project/zones/{ZONE}/instances");
    let order = rig.client.post(path).bearer_auth("sim-compute-token");
    order.body(rig.standby_body("sb-1").to_string()).send().await.unwrap();
    let at = until("the standby's sshd answers", async || {
        let state = rig.client.get(format!("{url}/sim/state")).send().await.ok()?;
        let state: Value = serde_json::from_str(&state.text().await.ok()?).ok()?;
        state["machines"][0]["ssh"].as_str()?.parse().ok()
    })
    .await;
    assert_eq!(mounts(directory.path()).len(), 1);
    // A process that is in the way of unmounting for as long as it lives.
    rig.ssh_text(at, "cd data && setsid sleep 1000 >/dev/null 2>&1 </dev/null &");
    drop(sim);
    nothing_is_left(directory.path()).await;
}
