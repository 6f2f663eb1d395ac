//! The agents on the standbys, over SSH with russh.
//!
//! A standby is known by the host key that it published through its provider; whoever else answers at its address learns nothing. Connections are
//! kept: a call on a kept one takes 1.8 ms, on a fresh one 88 ms (`reference/rust/dependencies.md` §5).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use russh::keys::PrivateKey;
use sha2::{Digest, Sha256};
use warmspare_domain::observed::Endpoint;
use warmspare_domain::policy::StandbyProvider;
use warmspare_wire::agent::{Answer, Call, Outcome, Request, SCHEMA};

use crate::adapters::READY;
use crate::ports::{AgentError, Agents};

mod connection;
mod operator;
mod push;

use connection::{Connections, Logins, Output};
pub(crate) use operator::{KeyLook, look_at_key};
pub use operator::{OperatorKeyError, operator_key};

/// How standbys are reached.
#[derive(Debug, Clone)]
pub struct SshSettings {
    /// The login on standbys.
    pub user: String,
    /// The login on standbys at Vast: containers, whose only login is root's.
    pub vast_user: String,
    /// The operator's private key, OpenSSH format, without a passphrase.
    pub key: PathBuf,
    /// The agent's binary.
    pub agent: PathBuf,
    /// Where the agent keeps its data; checked against `[A-Za-z0-9._/-]`, since it is part of a command.
    pub data_dir: String,
    /// Whether the agent runs as root.
    pub run_as: RunAs,
    /// Time limits of the steps before a command runs.
    pub limits: Limits,
}

/// Whether the agent runs as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAs {
    /// As the login.
    Login,
    /// As root through `sudo -n`, so that owners of files are kept; only once the data directory is a mounted disk.
    Root,
}

/// Time limits of the steps before a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// TCP and key exchange.
    pub connect: Duration,
    /// Authentication.
    pub authenticate: Duration,
    /// From asking for a channel to the command's start.
    pub start: Duration,
    /// The push of a new agent.
    pub push: Duration,
}

impl SshSettings {
    /// The usual limits; the login `warmspare`, which becomes root.
    #[must_use]
    pub fn new(key: PathBuf, agent: PathBuf, data_dir: String) -> Self {
        let seconds = Duration::from_secs;
        let limits = Limits {
            connect: seconds(10),
            authenticate: seconds(10),
            start: seconds(10),
            push: seconds(120),
        };
        Self {
            user: "warmspare".to_owned(),
            vast_user: "root".to_owned(),
            key,
            agent,
            data_dir,
            run_as: RunAs::Root,
            limits,
        }
    }
}

/// Why the SSH side cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SshSetupError {
    /// The operator key cannot be read.
    #[error("the operator key {path} cannot be used; it must be an OpenSSH private key without a passphrase")]
    Key {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: russh::keys::Error,
    },
    /// The agent's binary cannot be read.
    #[error("the agent {path} cannot be read")]
    Agent {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The data directory cannot be part of a command.
    #[error("the agent's data directory `{}` cannot be used: letters, digits, `.`, `_`, `-` and `/` only", .0.escape_default())]
    DataDir(String),
}

/// The agents on the standbys.
pub struct SshAgents {
    settings: SshSettings,
    connections: Connections,
    binary: Arc<[u8]>,
    /// The first 16 hex digits of the binary's SHA-256.
    version: String,
}

impl SshAgents {
    /// Reads the key and the agent; connects nowhere.
    ///
    /// # Errors
    /// When one of them cannot be read, or the data directory cannot be part of a command.
    pub fn new(settings: SshSettings) -> Result<Self, SshSetupError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-');
        if settings.data_dir.is_empty() || settings.data_dir.starts_with('-') || !settings.data_dir.bytes().all(plain) {
            return Err(SshSetupError::DataDir(settings.data_dir));
        }
        let key = read_key(&settings.key)?;
        let binary: Arc<[u8]> = std::fs::read(&settings.agent)
            .map_err(|source| SshSetupError::Agent {
                path: settings.agent.clone(),
                source,
            })?
            .into();
        let version = hex::encode(&Sha256::digest(&binary)[..8]);
        let logins = Logins {
            gcp: settings.user.clone(),
            vastai: settings.vast_user.clone(),
        };
        let connections = Connections::new(logins, Arc::new(key), settings.limits);
        Ok(Self {
            settings,
            connections,
            binary,
            version,
        })
    }

    /// Runs a fixed command on a standby. `command` must hold nothing from outside.
    async fn run(&self, standby: &Endpoint, command: &str, input: &[u8]) -> Result<Output, AgentError> {
        self.connections.run(standby, command, input).await
    }

    /// What runs an agent there. Only our own words and checked settings are part of it.
    fn command(&self, provider: StandbyProvider) -> String {
        let (agent, data_dir) = (push::remote_path(&self.version), &self.settings.data_dir);
        match (provider, self.settings.run_as) {
            // A container's disk is always there; what may still be missing is rsync, which the container installs at its start.
            (StandbyProvider::Vastai, RunAs::Login | RunAs::Root) => format!(
                "test -e {data_dir}/{READY} || {{ echo 'the container is not ready yet' >&2; exit 75; }}; \
                 exec {agent} --data {data_dir} call"
            ),
            (StandbyProvider::Gcp, RunAs::Login) => format!("{agent} --data {data_dir} call"),
            // A machine answers SSH before its start-up script has mounted the data disk: what the agent found or wrote in that moment would not be
            // the data. The login's home is kept because downloads are authorised there.
            (StandbyProvider::Gcp, RunAs::Root) => format!(
                "mountpoint -q {data_dir} || {{ echo 'the data disk is not mounted yet' >&2; exit 75; }}; \
                 exec sudo -n --preserve-env=HOME {agent} --data {data_dir} call"
            ),
        }
    }

    async fn exchange(&self, standby: &Endpoint, request: Request) -> Result<Outcome, AgentError> {
        let call = serde_json::to_vec(&Call::new(request)).map_err(|error| AgentError::Broken {
            detail: error.to_string(),
        })?;
        let command = self.command(standby.provider);
        if !self.connections.has_agent(standby, &self.version) {
            self.push(standby).await?;
        }
        let mut output = self.run(standby, &command, &call).await?;
        if output.is_command_not_found() {
            // Somebody removed it, or the home came back from an older disk.
            self.connections.forget_agent(standby);
            self.push(standby).await?;
            output = self.run(standby, &command, &call).await?;
        }
        read_answer(&output)
    }
}

#[async_trait]
impl Agents for SshAgents {
    async fn call(&self, standby: &Endpoint, request: Request, limit: Duration) -> Result<Outcome, AgentError> {
        match tokio::time::timeout(limit, self.exchange(standby, request)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // It may hang for good: the next call starts with a fresh connection.
                self.connections.forget(standby);
                let detail = format!("no answer within {} s", limit.as_secs());
                Err(AgentError::Unreachable {
                    address: standby.address.clone(),
                    detail,
                })
            }
        }
    }
}

fn read_key(path: &Path) -> Result<PrivateKey, SshSetupError> {
    russh::keys::load_secret_key(path, None).map_err(|source| SshSetupError::Key {
        path: path.to_owned(),
        source,
    })
}

fn read_answer(output: &Output) -> Result<Outcome, AgentError> {
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| AgentError::Broken {
        detail: format!(
            "it ended with {} and said: {}",
            output.status_words(),
            output.stderr_tail()
        ),
    })?;
    if answer.schema > SCHEMA {
        let detail = format!(
            "it speaks schema {}, we only know {SCHEMA}; update this program",
            answer.schema
        );
        return Err(AgentError::Broken { detail });
    }
    Ok(answer.outcome)
}

#[cfg(test)]
mod tests;
