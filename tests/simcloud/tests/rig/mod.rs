//! What the tests share: a sim, a client, a key, a way to wait.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(unreachable_pub, reason = "a module of test binaries")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use simcloud::{Options, Simcloud};

pub const ZONE: &str = "us-central1-a";

pub struct Rig {
    pub sim: Simcloud,
    pub client: reqwest::Client,
    directory: tempfile::TempDir,
    key: PathBuf,
}

impl Rig {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Time runs a hundred times faster than live unless the options say otherwise.
    pub async fn with(options: Options) -> Self {
        let scale = if options.time_scale == 1.0 {
            0.01
        } else {
            options.time_scale
        };
        let sim = Simcloud::start(Options {
            time_scale: scale,
            ..options
        })
        .await
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .status()
            .unwrap();
        assert!(made.success());
        Self {
            sim,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            directory,
            key,
        }
    }

    pub fn public_key(&self) -> String {
        std::fs::read_to_string(self.key.with_extension("pub"))
            .unwrap()
            .trim()
            .to_owned()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sends a request; a dropped connection is an error.
    pub async fn send(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Result<(u16, Value)> {
        let url = format!("{}{path}", self.sim.base_url());
        let mut request = self.client.request(method.parse().unwrap(), url).bearer_auth(token);
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub async fn vast(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = (!body.is_null()).then_some(body);
        self.send("sim-vast-key", method, &format!("/api/{path}"), body)
            .await
            .unwrap()
    }

    pub async fn compute(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = (!body.is_null()).then_some(body);
        self.send(
            "sim-compute-token",
            method,
            &format!("/compute/v1/projects/sim-project/{path}"),
            body,
        )
        .await
        .unwrap()
    }

    /// Rents a GPU with a bid and waits until SSH to it works. Answers its contract number and its address.
    pub async fn gpu(&self, label: &str) -> (u64, SocketAddr) {
        self.vast("POST", "v0/ssh/", json!({"ssh_key": self.public_key()}))
            .await;
        let (_, found) = self
            .vast(
                "POST",
                "v0/bundles/",
                json!({"type": "bid", "order": [["min_bid", "asc"]], "limit": 1}),
            )
            .await;
        let offer = &found["offers"][0];
        let bid = offer["min_bid"].as_f64().unwrap() * 1.5;
        let wish = json!({"client_id": "me", "image": "ubuntu:22.04", "price": bid, "disk": 20.0, "label": label, "runtype": "ssh_direc ssh_proxy"});
        let (status, made) = self.vast("PUT", &format!("v0/asks/{}/", offer["id"]), wish).await;
        assert_eq!((status, &made["success"]), (200, &json!(true)), "{made}");
        let id = made["new_contract"].as_u64().unwrap();
        (id, self.gpu_address(id).await)
    }

    /// Waits until the listing shows the GPU's SSH port.
    pub async fn gpu_address(&self, id: u64) -> SocketAddr {
        until("the GPU's ports are listed", async || {
            let row = self.row(id).await;
            let port = row["ports"]["22/tcp"][0]["HostPort"].as_str()?.parse::<u16>().ok()?;
            Some(SocketAddr::new(
                row["public_ipaddr"].as_str()?.trim().parse().ok()?,
                port,
            ))
        })
        .await
    }

    pub async fn row(&self, id: u64) -> Value {
        self.vast("GET", &format!("v0/instances/{id}/?owner=me"), Value::Null)
            .await
            .1["instances"]
            .clone()
    }

    /// Waits until the GPU's status reads so.
    pub async fn gpu_status(&self, id: u64, actual: &str) {
        until(&format!("the GPU reads {actual}"), async || {
            (self.row(id).await["actual_status"] == actual).then_some(())
        })
        .await;
    }

    pub fn standby_body(&self, name: &str) -> Value {
        let user = self.sim.login_user();
        json!({"name": name, "machineType": format!("zones/{ZONE}/machineTypes/e2-medium"), "labels": {"managed-by": "standby", "gpu-id": "1"},
            "scheduling": {"provisioningModel": "SPOT", "instanceTerminationAction": "STOP", "automaticRestart": false, "onHostMaintenance": "TERMINATE"},
            "disks": [
                {"boot": true, "autoDelete": true, "deviceName": "boot",
                 "initializeParams": {"sourceImage": "projects/debian-cloud/global/images/family/debian-12", "diskSizeGb": "10"}},
                {"boot": false, "autoDelete": false, "deviceName": "data",
                 "initializeParams": {"diskName": format!("{name}-data"), "diskSizeGb": "100", "diskType": format!("zones/{ZONE}/diskTypes/pd-standard"), "labels": {"managed-by": "standby"}}}],
            "networkInterfaces": [{"network": "projects/sim-project/global/networks/default", "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]}],
            "metadata": {"items": [{"key": "enable-guest-attributes", "value": "TRUE"}, {"key": "ssh-keys", "value": format!("{user}:{}", self.public_key())}]},
            "serviceAccounts": []})
    }

    /// Creates a standby and waits until SSH to it works.
    pub async fn standby(&self, name: &str) -> SocketAddr {
        let (status, operation) = self
            .compute("POST", &format!("zones/{ZONE}/instances"), self.standby_body(name))
            .await;
        assert_eq!(status, 200, "{operation}");
        let done = self.operation(&operation).await;
        assert!(done["error"].is_null(), "{done}");
        self.standby_address(name).await
    }

    /// Waits until an operation is done.
    pub async fn operation(&self, operation: &Value) -> Value {
        let path = format!("zones/{ZONE}/operations/{}", operation["name"].as_str().unwrap());
        until("the operation is done", async || {
            let (_, seen) = self.compute("GET", &path, Value::Null).await;
            (seen["status"] == "DONE").then_some(seen)
        })
        .await
    }

    /// Waits until the standby's sshd answers.
    pub async fn standby_address(&self, name: &str) -> SocketAddr {
        until("the standby's sshd answers", async || {
            let address = SocketAddr::new(self.nat_ip(name).await?.parse().ok()?, self.sim.standby_ssh_port());
            std::net::TcpStream::connect(address).ok().map(|_| address)
        })
        .await
    }

    pub async fn nat_ip(&self, name: &str) -> Option<String> {
        let (_, vm) = self
            .compute("GET", &format!("zones/{ZONE}/instances/{name}"), Value::Null)
            .await;
        vm["networkInterfaces"][0]["accessConfigs"][0]["natIP"]
            .as_str()
            .map(str::to_owned)
    }

    pub async fn standby_status(&self, name: &str) -> Value {
        self.compute("GET", &format!("zones/{ZONE}/instances/{name}"), Value::Null)
            .await
            .1["status"]
            .clone()
    }

    fn ssh_options(&self) -> Vec<String> {
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "ConnectTimeout=5",
            "LogLevel=ERROR",
            "IdentitiesOnly=yes",
        ];
        let mut arguments = vec![
            "-F".to_owned(),
            "none".to_owned(),
            "-i".to_owned(),
            self.key.display().to_string(),
        ];
        arguments.extend(
            options
                .iter()
                .flat_map(|option| ["-o".to_owned(), (*option).to_owned()]),
        );
        arguments
    }

    /// Runs a command on a machine through a real ssh.
    pub fn ssh(&self, at: SocketAddr, command: &str) -> Output {
        let mut ssh = Command::new("ssh");
        ssh.args(self.ssh_options()).args([
            "-p",
            &at.port().to_string(),
            "-l",
            self.sim.login_user(),
            &at.ip().to_string(),
            command,
        ]);
        ssh.stdin(std::process::Stdio::null()).output().unwrap()
    }

    /// What a command prints; the command must succeed.
    pub fn ssh_text(&self, at: SocketAddr, command: &str) -> String {
        let output = self.ssh(at, command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs rsync; `remote` stands for `user@address` in the arguments.
    pub fn rsync(&self, at: SocketAddr, arguments: &[&str]) -> Output {
        let remote = format!("{}@{}", self.sim.login_user(), at.ip());
        let shell = format!("ssh {} -p {}", self.ssh_options().join(" "), at.port());
        let arguments = arguments.iter().map(|one| one.replace("remote", &remote));
        Command::new("rsync")
            .arg("-e")
            .arg(shell)
            .args(arguments)
            .output()
            .unwrap()
    }
}

/// Polls until there is an answer, for twenty seconds at most.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A child that is killed with the signal nobody can catch.
pub struct Killed(pub std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One notification as it arrived.
#[derive(Debug, Clone)]
pub struct Letter {
    pub headers: HeaderMap,
    pub raw: Bytes,
    pub body: Value,
    pub at: Instant,
}

impl Letter {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// A receiver of notifications.
#[derive(Clone)]
pub struct Mailbox {
    pub url: String,
    letters: Arc<Mutex<Vec<Letter>>>,
}

impl Mailbox {
    /// Answers the first letters with these statuses and every further one with 204.
    pub async fn open(statuses: &[u16]) -> Self {
        let letters = Arc::new(Mutex::new(Vec::new()));
        let waiting = Arc::new(Mutex::new(statuses.to_vec()));
        let kept = Arc::clone(&letters);
        let router = axum::Router::new().fallback(move |headers: HeaderMap, raw: Bytes| {
            let body = serde_json::from_slice(&raw).unwrap();
            kept.lock().unwrap().push(Letter {
                headers,
                raw,
                body,
                at: Instant::now(),
            });
            let mut waiting = waiting.lock().unwrap();
            let status = if waiting.is_empty() { 204 } else { waiting.remove(0) };
            async move { StatusCode::from_u16(status).unwrap() }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, letters }
    }

    /// Registers this mailbox for some events; answers the secret.
    pub async fn subscribe(&self, rig: &Rig, events: &[&str]) -> String {
        let (status, made) = rig
            .vast(
                "POST",
                "v0/webhooks/",
                json!({"name": "test", "webhook_url": self.url, "event_types": events}),
            )
            .await;
        assert_eq!(status, 200, "{made}");
        made["webhook"]["webhook_secret"].as_str().unwrap().to_owned()
    }

    pub fn letters(&self) -> Vec<Letter> {
        self.letters.lock().unwrap().clone()
    }

    /// Waits until so many letters of one kind are there.
    pub async fn wait_for(&self, kind: &str, count: usize) -> Vec<Letter> {
        until(&format!("{count} letters `{kind}`"), async || {
            let found: Vec<Letter> = self
                .letters()
                .into_iter()
                .filter(|letter| letter.body["notif_type"] == kind)
                .collect();
            (found.len() >= count).then_some(found)
        })
        .await
    }
}
