//! Against a real OpenSSH server on loopback; a shell script stands for the agent.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;
use warmspare_wire::agent::Outcome;

use super::*;

/// A standby: an sshd of its own with its own home.
struct Sshd {
    directory: TempDir,
    process: Child,
    port: u16,
    host_key: String,
}

impl Sshd {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("ws-ssh-").tempdir().unwrap();
        let path = directory.path();
        for name in ["host_key", "operator"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(path.join(name))
                .status()
                .unwrap();
            assert!(made.success());
        }
        std::fs::copy(path.join("operator.pub"), path.join("authorized_keys")).unwrap();
        std::fs::create_dir(path.join("home")).unwrap();
        let host_key = std::fs::read_to_string(path.join("host_key.pub")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = spawn(path, port);
        let sshd = Self {
            directory,
            process,
            port,
            host_key,
        };
        sshd.await_listening();
        sshd
    }

    fn await_listening(&self) {
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "sshd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn restart(&mut self) {
        self.stop();
        self.process = spawn(self.directory.path(), self.port);
        self.await_listening();
    }

    /// Ends the listener and every session, as a machine that goes down does.
    fn stop(&mut self) {
        let children = Command::new("pkill")
            .args(["-KILL", "-P", &self.process.id().to_string()])
            .status();
        drop(children);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            provider: StandbyProvider::Gcp,
            instance: 1,
            address: "127.0.0.1".to_owned(),
            port: self.port,
            host_key: self.host_key.trim().to_owned(),
        }
    }

    fn home(&self) -> std::path::PathBuf {
        self.directory.path().join("home")
    }

    /// Agents with this script as their binary.
    fn agents(&self, script: &str) -> SshAgents {
        SshAgents::new(self.settings(script)).unwrap()
    }

    fn settings(&self, script: &str) -> SshSettings {
        let agent = self.directory.path().join("agent.sh");
        std::fs::write(&agent, script).unwrap();
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned();
        SshSettings {
            user,
            run_as: RunAs::Login,
            ..SshSettings::new(self.directory.path().join("operator"), agent, "data".to_owned())
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(path: &Path, port: u16) -> Child {
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let home = path.join("home");
    let session = path.join("session");
    std::fs::write(
        &session,
        format!(
            "#!/bin/sh\ncd '{}' && exec sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
            home.display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&session, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = path.join("sshd_config");
    let text = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host_key\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\n\
         PermitRootLogin yes\nPasswordAuthentication no\nMaxSessions 100\nMaxStartups 100\nForceCommand {0}/session\nSetEnv SHLVL=5 HOME={0}/home\n",
        path.display()
    );
    std::fs::write(&config, text).unwrap();
    let sshd = if Path::new("/usr/sbin/sshd").exists() {
        "/usr/sbin/sshd"
    } else {
        "sshd"
    };
    let log = std::fs::File::create(path.join("log")).unwrap();
    Command::new(sshd)
        .args(["-D", "-e", "-f"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

const PREPARED: &str = "#!/bin/sh\ncat > last-call\necho \"$@\" > last-arguments\necho '{\"schema\":1,\"outcome\":{\"prepared\":{\"public_key\":\"ssh-ed25519 AAAA\"}}}'\n";
const LIMIT: Duration = Duration::from_secs(20);

async fn prepare(agents: &SshAgents, endpoint: &Endpoint) -> Result<Outcome, AgentError> {
    agents.call(endpoint, Request::Prepare, LIMIT).await
}

#[tokio::test]
async fn a_call_pushes_the_agent_and_travels_on_standard_input_only() {
    let sshd = Sshd::start();
    let outcome = prepare(&sshd.agents(PREPARED), &sshd.endpoint()).await.unwrap();
    assert_eq!(
        outcome,
        Outcome::Prepared {
            public_key: "ssh-ed25519 AAAA".to_owned()
        }
    );
    let read = |name: &str| std::fs::read_to_string(sshd.home().join(name)).unwrap();
    assert_eq!(read("last-arguments"), "--data data call\n");
    assert_eq!(read("last-call"), "{\"schema\":1,\"request\":{\"verb\":\"prepare\"}}");
}

#[tokio::test]
async fn whoever_has_another_host_key_gets_nothing() {
    let (sshd, other) = (Sshd::start(), Sshd::start());
    let impostor = Endpoint {
        provider: StandbyProvider::Gcp,
        host_key: other.endpoint().host_key,
        ..sshd.endpoint()
    };
    let error = prepare(&sshd.agents(PREPARED), &impostor).await.unwrap_err();
    assert!(matches!(error, AgentError::HostKeyMismatch { .. }), "{error}");
    assert_eq!(std::fs::read_dir(sshd.home()).unwrap().count(), 0, "something was sent");
}

#[tokio::test]
async fn a_refused_operator_key_is_said() {
    let sshd = Sshd::start();
    std::fs::write(sshd.directory.path().join("authorized_keys"), "").unwrap();
    let error = prepare(&sshd.agents(PREPARED), &sshd.endpoint()).await.unwrap_err();
    assert!(matches!(error, AgentError::KeyRefused { .. }), "{error}");
}

#[tokio::test]
async fn fifty_calls_share_one_connection_and_a_dead_one_is_made_anew() {
    let mut sshd = Sshd::start();
    let agents = sshd.agents(PREPARED);
    for _ in 0..50 {
        prepare(&agents, &sshd.endpoint()).await.unwrap();
    }
    let log = std::fs::read_to_string(sshd.directory.path().join("log")).unwrap();
    assert_eq!(log.matches("Accepted publickey").count(), 1);
    sshd.restart();
    prepare(&agents, &sshd.endpoint()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_calls_at_once_are_all_answered() {
    let sshd = Sshd::start();
    let agents = Arc::new(sshd.agents(PREPARED));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (agents, endpoint) = (Arc::clone(&agents), sshd.endpoint());
        calls.spawn(async move { prepare(&agents, &endpoint).await.is_ok() });
    }
    assert!(calls.join_all().await.into_iter().all(|answered| answered));
}

#[tokio::test]
async fn another_agent_replaces_the_one_that_is_there_and_a_lost_one_is_pushed_again() {
    let sshd = Sshd::start();
    prepare(&sshd.agents(PREPARED), &sshd.endpoint()).await.unwrap();
    let newer = PREPARED.replace("AAAA", "BBBB");
    let agents = sshd.agents(&newer);
    let expected = Outcome::Prepared {
        public_key: "ssh-ed25519 BBBB".to_owned(),
    };
    assert_eq!(prepare(&agents, &sshd.endpoint()).await.unwrap(), expected);
    std::fs::remove_dir_all(sshd.home().join(".warmspare")).unwrap();
    assert_eq!(prepare(&agents, &sshd.endpoint()).await.unwrap(), expected);
}

#[tokio::test]
async fn a_push_that_arrives_torn_or_changed_leaves_no_agent_of_that_name() {
    let sshd = Sshd::start();
    let sound = sshd.agents(PREPARED);
    // The same length with another content, and a part: what is sent is not what the name promises.
    for sent in [
        PREPARED.replace("AAAA", "BBBB").into_bytes(),
        PREPARED.as_bytes()[..20].to_vec(),
    ] {
        let mut torn = sshd.agents(PREPARED);
        torn.binary = sent.into();
        let error = prepare(&torn, &sshd.endpoint()).await.unwrap_err();
        assert!(error.to_string().contains("could not be put there"), "{error}");
        let left: Vec<_> = std::fs::read_dir(sshd.home().join(".warmspare")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    prepare(&sound, &sshd.endpoint()).await.unwrap();
    assert!(sshd.home().join(push::remote_path(&sound.version)).exists());
}

#[tokio::test]
async fn a_push_that_the_connection_does_not_survive_leaves_no_agent_of_that_name() {
    let mut sshd = Sshd::start();
    let agents = sshd.agents(&format!("{PREPARED}#{}", "x".repeat(64 << 20)));
    let path = sshd.home().join(push::remote_path(&agents.version));
    let endpoint = sshd.endpoint();
    let call = prepare(&agents, &endpoint);
    tokio::pin!(call);
    let uploading =
        || std::fs::read_dir(sshd.home().join(".warmspare")).is_ok_and(|mut entries| entries.next().is_some());
    while !uploading() {
        tokio::select! {
            outcome = &mut call => panic!("64 MiB were there before a file was: {outcome:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    sshd.stop();
    sshd.process = Command::new("true").spawn().unwrap();
    assert!(call.await.is_err(), "the server was gone");
    assert!(!path.exists(), "a torn agent has the agent's name");
}

#[tokio::test]
async fn garbage_failure_and_endless_talk_are_told_apart_and_end() {
    let sshd = Sshd::start();
    let cases = [
        ("#!/bin/sh\necho no json\n", "said:"),
        (
            "#!/bin/sh\necho 'disk on \u{1b}[31mfire' >&2; exit 3\n",
            "exit code 3 and said: disk on",
        ),
        ("#!/bin/sh\nyes | head -c 20000000\n", "more than 16 MiB"),
        (
            "#!/bin/sh\necho '{\"schema\":99,\"outcome\":{\"prepared\":{\"public_key\":\"\"}}}'\n",
            "schema 99",
        ),
    ];
    for (script, expected) in cases {
        let error = prepare(&sshd.agents(script), &sshd.endpoint())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains('\u{1b}'), "control characters reach the terminal");
    }
}

#[tokio::test]
async fn silence_at_any_step_ends_in_time() {
    let sshd = Sshd::start();
    let agents = sshd.agents("#!/bin/sh\nsleep 600\n");
    let error = agents
        .call(&sshd.endpoint(), Request::Prepare, Duration::from_secs(2))
        .await
        .unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error}");
    // A server that accepts and never speaks.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = Limits {
        connect: Duration::from_millis(300),
        ..sshd.settings(PREPARED).limits
    };
    let agents = SshAgents::new(SshSettings {
        limits,
        ..sshd.settings(PREPARED)
    })
    .unwrap();
    let endpoint = Endpoint {
        provider: StandbyProvider::Gcp,
        port: mute.local_addr().unwrap().port(),
        ..sshd.endpoint()
    };
    let error = prepare(&agents, &endpoint).await.unwrap_err();
    assert!(error.to_string().contains("no handshake"), "{error}");
}

#[tokio::test]
async fn before_the_data_disk_is_mounted_nothing_runs() {
    let sshd = Sshd::start();
    let agents = SshAgents::new(SshSettings {
        run_as: RunAs::Root,
        ..sshd.settings(PREPARED)
    })
    .unwrap();
    let error = prepare(&agents, &sshd.endpoint()).await.unwrap_err().to_string();
    assert!(error.contains("the data disk is not mounted yet"), "{error}");
    assert!(!sshd.home().join("last-call").exists(), "the agent ran");
}

#[test]
fn a_data_directory_that_could_be_a_command_is_refused() {
    let settings = |data_dir: &str| SshSettings::new("/nonexistent".into(), "/nonexistent".into(), data_dir.to_owned());
    for data_dir in ["", "a b", "$(reboot)", "a;b", "-rf", "a'b"] {
        assert!(
            matches!(SshAgents::new(settings(data_dir)), Err(SshSetupError::DataDir(_))),
            "{data_dir}"
        );
    }
}

#[test]
fn the_operator_key_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("operator");
    let line = operator_key(&path).unwrap();
    assert!(
        line.starts_with("ssh-ed25519 AAAA") && line.ends_with(" warmspare-operator"),
        "{line}"
    );
    assert_eq!(operator_key(&path).unwrap(), line);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "no key").unwrap();
    assert!(operator_key(&path).is_err());
}
