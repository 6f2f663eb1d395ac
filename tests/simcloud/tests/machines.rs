//! Machines are real: they can be logged in to, they stop, they vanish.

mod rig;

use std::path::Path;
use std::process::Command;

use rig::{Killed, Rig, ZONE, until};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_rented_gpu_takes_ssh_and_rsync_in_its_own_home() {
    let rig = Rig::start().await;
    let (id, at) = rig.gpu("gpu-a").await;
    let home = rig.sim.home(&id.to_string()).unwrap();
    assert_eq!(
        rig.ssh_text(at, "pwd; echo $HOME; cat"),
        format!("{0}\n{0}", home.display()),
        "stdin must reach the command"
    );
    assert_eq!(rig.ssh_text(at, "echo $SIM_MACHINE"), format!("gpu-{id}"));

    let source = rig.file("tree");
    std::fs::create_dir_all(source.join("deep/er")).unwrap();
    std::fs::write(source.join("deep/er/file with spaces"), "content").unwrap();
    let pushed = rig.rsync(at, &["-aHAX", &format!("{}/", source.display()), "remote:workspace/"]);
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    assert_eq!(
        std::fs::read_to_string(home.join("workspace/deep/er/file with spaces")).unwrap(),
        "content"
    );
    let back = rig.file("back");
    let pulled = rig.rsync(at, &["-a", "remote:workspace/", &format!("{}/", back.display())]);
    assert!(pulled.status.success());
    assert_eq!(
        std::fs::read_to_string(back.join("deep/er/file with spaces")).unwrap(),
        "content"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_gpu_has_no_sshd_and_no_process_but_keeps_its_files() {
    let rig = Rig::start().await;
    let (id, at) = rig.gpu("gpu-a").await;
    rig.ssh_text(at, "echo kept > workspace/file; setsid sh -c 'while :; do sleep 0.05; date +%s%N > workspace/beat; done' >/dev/null 2>&1 &");
    let sleeper = rig.sim.knobs().exec_detached(id, "sleep", &["300".to_owned()]).unwrap();
    let home = rig.sim.home(&id.to_string()).unwrap();
    until("the detached child writes", async || {
        home.join("workspace/beat").exists().then_some(())
    })
    .await;

    assert_eq!(
        rig.vast("PUT", &format!("v0/instances/{id}/"), json!({"state": "stopped"}))
            .await
            .0,
        200
    );
    rig.gpu_status(id, "exited").await;
    assert!(
        std::net::TcpStream::connect(at).is_err(),
        "a stopped machine refuses connections"
    );
    assert!(
        !Path::new(&format!("/proc/{sleeper}/cmdline")).exists()
            || std::fs::read(format!("/proc/{sleeper}/cmdline")).unwrap().is_empty()
    );
    let before = std::fs::read(home.join("workspace/beat")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(
        std::fs::read(home.join("workspace/beat")).unwrap(),
        before,
        "the detached child must be dead"
    );

    let key = rig.sim.host_key(&id.to_string()).unwrap();
    assert_eq!(
        rig.vast("PUT", &format!("v0/instances/{id}/"), json!({"state": "running"}))
            .await
            .0,
        200
    );
    let again = rig.gpu_address(id).await;
    assert_eq!(rig.ssh_text(again, "cat workspace/file"), "kept");
    assert_eq!(rig.sim.host_key(&id.to_string()).unwrap(), key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_gpu_has_no_directory_and_no_row() {
    let rig = Rig::start().await;
    let (id, at) = rig.gpu("gpu-a").await;
    let home = rig.sim.home(&id.to_string()).unwrap();
    assert_eq!(
        rig.vast("DELETE", &format!("v0/instances/{id}/"), json!({})).await.0,
        200
    );
    until("the row is gone", async || rig.row(id).await.is_null().then_some(())).await;
    until("the directory is gone", async || {
        (!home.parent().unwrap().exists()).then_some(())
    })
    .await;
    assert!(std::net::TcpStream::connect(at).is_err());
    assert!(rig.sim.machines_left().is_empty());
    assert_eq!(
        rig.vast("DELETE", &format!("v0/instances/{id}/"), json!({})).await,
        (
            404,
            json!({"success": false, "error": "no_such_instance", "msg": format!("Instance {id} not found.")})
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn preemption_changes_the_address_but_not_the_host_key_and_keeps_the_disk() {
    let rig = Rig::start().await;
    let at = rig.standby("sb-1").await;
    let key = rig.sim.host_key("sb-1").unwrap();
    let path = format!("zones/{ZONE}/instances/sb-1/getGuestAttributes?queryPath=hostkeys/");
    let published = until("the host key is published", async || {
        let (status, published) = rig.compute("GET", &path, Value::Null).await;
        (status == 200).then_some(published)
    })
    .await;
    let item = &published["queryValue"]["items"][0];
    let text = |name: &str| item[name].as_str().unwrap().to_owned();
    assert!(
        key.starts_with(&format!("{} {}", text("key"), text("value"))),
        "{published}"
    );
    rig.ssh_text(at, "cd data && mkdir x && echo kept > x/file && test ! -L ../data");

    rig.sim.knobs().preempt("sb-1").unwrap();
    assert_eq!(rig.standby_status("sb-1").await, "STOPPING");
    until("the VM is off", async || {
        (rig.standby_status("sb-1").await == "TERMINATED").then_some(())
    })
    .await;
    assert!(rig.nat_ip("sb-1").await.is_none());
    assert!(std::net::TcpStream::connect(at).is_err());
    let (_, operations) = rig
        .compute(
            "GET",
            &format!("zones/{ZONE}/operations?filter=operationType%3D%22compute.instances.preempted%22"),
            Value::Null,
        )
        .await;
    let (_, vm) = rig
        .compute("GET", &format!("zones/{ZONE}/instances/sb-1"), Value::Null)
        .await;
    assert_eq!(operations["items"][0]["targetId"], vm["id"]);
    assert_eq!(operations["items"].as_array().unwrap().len(), 1);

    let (_, started) = rig
        .compute("POST", &format!("zones/{ZONE}/instances/sb-1/start"), Value::Null)
        .await;
    assert!(rig.operation(&started).await["error"].is_null());
    let again = rig.standby_address("sb-1").await;
    assert_ne!(again.ip(), at.ip());
    assert_eq!(again.port(), at.port());
    assert_eq!(rig.sim.host_key("sb-1").unwrap(), key);
    assert_eq!(rig.ssh_text(again, "cat data/x/file"), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_disk_outlives_its_vm_and_is_attached_again_by_name() {
    let rig = Rig::start().await;
    let at = rig.standby("sb-1").await;
    rig.ssh_text(at, "echo precious > data/file");
    let disk = rig.sim.disk_directory(ZONE, "sb-1-data");

    let (status, refused) = rig
        .compute("DELETE", &format!("zones/{ZONE}/disks/sb-1-data"), Value::Null)
        .await;
    assert_eq!(
        (status, refused["error"]["errors"][0]["reason"].as_str()),
        (400, Some("resourceInUseByAnotherResource"))
    );
    let (_, deleted) = rig
        .compute("DELETE", &format!("zones/{ZONE}/instances/sb-1"), Value::Null)
        .await;
    rig.operation(&deleted).await;
    assert_eq!(
        rig.compute("GET", &format!("zones/{ZONE}/instances/sb-1"), Value::Null)
            .await
            .0,
        404
    );
    assert!(rig.sim.machines_left().is_empty());
    let left: Vec<String> = rig.sim.disks_left().into_iter().map(|disk| disk.name).collect();
    assert_eq!(left, ["sb-1-data"], "the boot disk goes, the data disk stays");
    assert_eq!(std::fs::read_to_string(disk.join("file")).unwrap(), "precious\n");

    let mut body = rig.standby_body("sb-2");
    body["disks"][1]["initializeParams"]["diskName"] = json!("sb-1-data");
    let (_, operation) = rig.compute("POST", &format!("zones/{ZONE}/instances"), body).await;
    rig.operation(&operation).await;
    let second = rig.standby_address("sb-2").await;
    assert_eq!(
        rig.ssh_text(second, "cat data/file"),
        "precious",
        "a disk of that name is attached, not made"
    );

    let (_, flipped) = rig
        .compute(
            "POST",
            &format!("zones/{ZONE}/instances/sb-2/setDiskAutoDelete?autoDelete=true&deviceName=data"),
            Value::Null,
        )
        .await;
    rig.operation(&flipped).await;
    let (_, deleted) = rig
        .compute("DELETE", &format!("zones/{ZONE}/instances/sb-2"), Value::Null)
        .await;
    rig.operation(&deleted).await;
    assert!(rig.sim.disks_left().is_empty());
    assert!(!disk.exists(), "auto-delete removes the directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sim_leaves_no_process_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut sim = Killed(
        Command::new(env!("CARGO_BIN_EXE_simcloud"))
            .args(["--time-scale", "0.005", "--dir"])
            .arg(directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(sim.0.stdout.take().unwrap()));
    let url = lines.next().unwrap().unwrap().replace("VAST_URL=", "");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = json!({"image": "x", "price": 0.5}).to_string();
    client
        .put(format!("{url}/api/v0/asks/9000/"))
        .bearer_auth("sim-vast-key")
        .body(body)
        .send()
        .await
        .unwrap();
    let gpu = until("the GPU runs", async || {
        let state: Value = serde_json::from_str(
            &client
                .get(format!("{url}/sim/state"))
                .send()
                .await
                .ok()?
                .text()
                .await
                .ok()?,
        )
        .ok()?;
        (state["machines"][0]["is_on"] == true).then(|| state["machines"][0].clone())
    })
    .await;
    let exec = json!({"command": ["sleep", "1000"]}).to_string();
    let done = client
        .post(format!("{url}/sim/gpus/{}/exec", gpu["name"].as_str().unwrap()))
        .body(exec)
        .send()
        .await
        .unwrap();
    let pid = serde_json::from_str::<Value>(&done.text().await.unwrap()).unwrap()["pid"]
        .as_u64()
        .unwrap();
    let address: std::net::SocketAddr = gpu["ssh"].as_str().unwrap().parse().unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());

    drop(sim);
    until("sshd is gone", async || {
        std::net::TcpStream::connect(address).is_err().then_some(())
    })
    .await;
    until("the program is gone", async || {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .map_or(true, |line| line.is_empty())
            .then_some(())
    })
    .await;
    assert!(
        directory.path().join("machines").exists(),
        "a directory that was given stays"
    );
}
