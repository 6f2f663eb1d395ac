//! Logs, commands, and the rsync daemon of the host agent, which serves a container's disk even while it is stopped (`vast-api.md` §9).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{error, lifecycle, no_such_instance};
use crate::http::{Call, Reply};
use crate::machine::{self, Machine, MachineError};
use crate::sshd::{self, ForcedCommand};
use crate::world::World;

/// The host agent: one sshd whose sessions all end in an rsync daemon with a module per instance.
#[derive(Debug, Clone)]
pub(crate) struct HostAgent {
    pub(crate) machine: Arc<Machine>,
    address: SocketAddr,
}

/// `PUT /api/v0/commands/…`
pub(super) fn command(world: &Arc<World>, call: &Call, command: &str) -> Reply {
    match (call.method.as_str(), command) {
        ("PUT" | "POST", "rsync") => rsync(world, call),
        ("PUT" | "POST", "copy_direct") => copy_direct(world, call),
        ("DELETE", "rsync" | "copy_direct") => super::success(),
        ("POST", "rclone") => Reply::json(503, json!({"success": false, "msg": "Could Not Dispatch Cloud Copy"})),
        _ => super::not_found(call),
    }
}

/// The number in `C.101`, `101` or 101.
fn contract(side: &Value) -> Option<u64> {
    match side {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.strip_prefix("C.").unwrap_or(text).parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Names the rsync module of one instance; the other side is the caller's own machine.
fn rsync(world: &Arc<World>, call: &Call) -> Reply {
    let body = call.json().unwrap_or(Value::Null);
    let (source, target) = (contract(&body["src_id"]), contract(&body["dst_id"]));
    let (side, id) = match (source, target) {
        (Some(id), None) => ("src", id),
        (None, Some(id)) => ("dst", id),
        (Some(_), Some(_)) | (None, None) => {
            return error(
                400,
                "invalid_args",
                "exactly one of src_id and dst_id must be an instance",
            );
        }
    };
    let heard = lifecycle::alter(world, id, |instance| instance.heard);
    match heard {
        None => return no_such_instance(id),
        Some(Some("offline")) => {
            return Reply::ok(
                json!({"success": false, "error": "host_offline", "msg": "The host of this instance is offline."}),
            );
        }
        Some(Some(_) | None) => {}
    }
    match host_agent(world) {
        Ok(address) => Reply::ok(json!({
            "success": true, "msg": "Remote to Local copy initiated - check instance status bar for progress updates",
            format!("{side}_addr"): address.ip().to_string(), format!("{side}_port"): address.port(),
        })),
        Err(failure) => error(500, "sim_failure", failure.to_string()),
    }
}

/// Brings the host agent up to date with the instances and keys there are.
fn host_agent(world: &Arc<World>) -> Result<SocketAddr, MachineError> {
    let known = world.state().vast.host_agent.clone();
    let agent = match known {
        Some(agent) => agent,
        None => {
            let machine = Machine::create(&world.site, "vast-host-agent")?;
            let agent = HostAgent {
                machine,
                address: sshd::free_address(sshd::random_port()),
            };
            world.state().vast.host_agent.get_or_insert(agent).clone()
        }
    };
    let configuration = agent.machine.directory().join("rsyncd.conf");
    let (modules, keys) = modules_and_keys(world);
    machine::replace(&configuration, &modules, 0o600)?;
    agent.machine.authorize(&keys)?;
    agent
        .machine
        .start(agent.address, &ForcedCommand::RsyncDaemon { configuration })?;
    Ok(agent.address)
}

/// Rewrites the modules after a host came or went; does nothing before the agent was first needed.
pub(super) fn refresh(world: &Arc<World>) {
    let known = world.state().vast.host_agent.is_some();
    if let Some(Err(failure)) = known.then(|| host_agent(world)) {
        tracing::error!(error = %failure, "the host agent's modules could not be written");
    }
}

fn modules_and_keys(world: &Arc<World>) -> (String, Vec<String>) {
    let state = world.state();
    let mut text = String::from("use chroot = no\nread only = no\nlist = no\n");
    let mut keys: Vec<String> = state.vast.keys.iter().map(|key| key.text.clone()).collect();
    for instance in state
        .vast
        .instances
        .values()
        .filter(|instance| instance.heard != Some("offline"))
    {
        let _ = write!(
            text,
            "[C.{}]\n  path = {}\n",
            instance.id,
            instance.machine.home().display()
        );
        if rustix::process::geteuid().is_root() {
            text.push_str("  uid = root\n  gid = *\n");
        }
        keys.extend(instance.usable_keys());
    }
    keys.sort_unstable();
    keys.dedup();
    (text, keys)
}

/// Instance to instance, done at once by the hosts.
fn copy_direct(world: &Arc<World>, call: &Call) -> Reply {
    let body = call.json().unwrap_or(Value::Null);
    if body["src_id"] == "local" || body["dst_id"] == "local" {
        // Vast's own command line asks here, too, when one side is its own machine.
        return rsync(world, call);
    }
    let (Some(source), Some(target)) = (contract(&body["src_id"]), contract(&body["dst_id"])) else {
        return error(400, "invalid_args", "src_id and dst_id must be instances");
    };
    let place = |id: u64, path: &Value| {
        let home =
            lifecycle::alter(world, id, |instance| instance.machine.home()).ok_or_else(|| no_such_instance(id))?;
        inside(&home, path.as_str().unwrap_or_default()).ok_or_else(|| error(400, "invalid_args", "invalid path"))
    };
    let paths = place(source, &body["src_path"]).and_then(|from| Ok((from, place(target, &body["dst_path"])?)));
    let (from, to) = match paths {
        Ok(paths) => paths,
        Err(refusal) => return refusal,
    };
    world.after(1.0, move |_| {
        let mut rsync = std::process::Command::new("rsync");
        rsync.arg("-a").arg("--").arg(from.join("")).arg(to.join(""));
        if let Err(failure) = machine::run(&mut rsync) {
            tracing::warn!(error = %failure, "a copy between instances failed");
        }
    });
    Reply::ok(
        json!({"success": true, "msg": "Remote to Remote copy initiated - check instance status bar for progress updates"}),
    )
}

/// A container path as the real directory it is kept in; `None` when it would leave the container.
fn inside(home: &Path, path: &str) -> Option<PathBuf> {
    let mut place = home.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(place)
}

/// `PUT /api/v0/instances/request_logs/{id}/`
pub(super) fn request_logs(world: &Arc<World>, call: &Call, id: u64) -> Reply {
    let body = call.json().unwrap_or(Value::Null);
    let Some(machine) = lifecycle::alter(world, id, |instance| Arc::clone(&instance.machine)) else {
        return Reply::json(404, json!({"error": "invalid_id", "msg": "Invalid instance id."}));
    };
    let text = std::fs::read_to_string(machine.directory().join("exec.log")).unwrap_or_default();
    let tail = body["tail"]
        .as_str()
        .and_then(|tail| tail.parse::<usize>().ok())
        .unwrap_or(1000);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| body["filter"].as_str().is_none_or(|filter| line.contains(filter)))
        .collect();
    let text = lines[lines.len().saturating_sub(tail)..].join("\n") + "\n";
    Reply::ok(json!({"success": true, "result_url": store(world, text), "msg": null}))
}

fn store(world: &Arc<World>, text: String) -> String {
    let token = hex::encode(rand::random::<[u8; 16]>());
    world.state().vast.logs.insert(token.clone(), text);
    format!("{}/logs/{token}", world.base_url())
}

/// `GET` on a result URL: no key needed, as with the real one's signed links.
pub(super) fn log_text(world: &Arc<World>, token: &str) -> Reply {
    match world.state().vast.logs.get(token) {
        Some(text) => Reply::text(200, text.clone()),
        None => Reply::text(404, "no such key"),
    }
}

/// `PUT /api/v0/instances/command/{id}/`: `ls`, `du` and `rm`, on stopped instances only.
pub(super) fn execute(world: &Arc<World>, call: &Call, id: u64) -> Reply {
    let Ok(body) = call.json() else {
        return Reply::json(483, json!({"success": false, "msg": "malformed JSON"}));
    };
    let Some((machine, running)) = lifecycle::alter(world, id, |one| (Arc::clone(&one.machine), one.machine.is_on()))
    else {
        return no_such_instance(id);
    };
    if running {
        return error(
            400,
            "invalid_args",
            "Execute is only available on stopped instances. Use ssh for running instances.",
        );
    }
    let text = body["command"].as_str().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some((program, rest)) = words
        .split_first()
        .filter(|(program, _)| ["ls", "du", "rm"].contains(program) && text.len() <= 512)
    else {
        return error(400, "invalid_args", "Invalid command given");
    };
    let mut command = std::process::Command::new(program);
    command.current_dir(machine.home());
    for word in rest {
        match word
            .strip_prefix('/')
            .map_or_else(|| Some(PathBuf::from(word)), |_| inside(&machine.home(), word))
        {
            Some(argument) if !word.contains("..") => command.arg(argument),
            Some(_) | None => return error(400, "invalid_args", "Invalid command given"),
        };
    }
    let text = machine::run(&mut command).unwrap_or_else(|failure| failure.to_string());
    Reply::ok(json!({"success": true, "writeable_path": "/", "result_url": store(world, text)}))
}
