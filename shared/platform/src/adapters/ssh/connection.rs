//! Connections that are kept, and commands on them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{self, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg};
use tokio::time::timeout;
use warmspare_domain::observed::Endpoint;
use warmspare_domain::policy::StandbyProvider;

use super::Limits;
use crate::ports::AgentError;

/// An answer is a few KiB; a list of a thousand recovery points a few hundred.
const OUTPUT_AT_MOST: usize = 16 << 20;

/// How much of an error is worth showing.
const TAIL: usize = 400;

/// What a command said and how it ended.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<u32>,
}

impl Output {
    pub(super) fn succeeded(&self) -> bool {
        self.status == Some(0)
    }

    /// Shells say 126 or 127; `sudo` says 1 with these words.
    pub(super) fn is_command_not_found(&self) -> bool {
        self.stdout.is_empty()
            && (matches!(self.status, Some(126 | 127))
                || String::from_utf8_lossy(&self.stderr).contains("command not found"))
    }

    pub(super) fn status_words(&self) -> String {
        self.status
            .map_or_else(|| "a signal".to_owned(), |status| format!("exit code {status}"))
    }

    /// The end of what it said, safe to show.
    pub(super) fn stderr_tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        let text = text.trim();
        let start = text.char_indices().rev().nth(TAIL).map_or(0, |(at, _)| at);
        text[start..]
            .chars()
            .flat_map(|c| {
                if c.is_control() {
                    c.escape_default().collect()
                } else {
                    vec![c]
                }
            })
            .collect()
    }
}

/// Who logs in, by who rents the standby out.
#[derive(Debug, Clone)]
pub(super) struct Logins {
    pub(super) gcp: String,
    pub(super) vastai: String,
}

impl Logins {
    fn at(&self, provider: StandbyProvider) -> &str {
        match provider {
            StandbyProvider::Gcp => &self.gcp,
            StandbyProvider::Vastai => &self.vastai,
        }
    }
}

/// Connections that are kept, one per standby.
pub(super) struct Connections {
    logins: Logins,
    key: Arc<PrivateKey>,
    limits: Limits,
    kept: Mutex<BTreeMap<Endpoint, Arc<Kept>>>,
}

/// A slot for one standby's connection. Whoever holds its lock makes it; everyone else waits for that one.
#[derive(Default)]
pub(super) struct Kept {
    handle: tokio::sync::Mutex<Option<Arc<Handle<Pinned>>>>,
    agent: Mutex<Option<String>>,
    /// Held while the agent is put there.
    pub(super) pushing: tokio::sync::Mutex<()>,
}

impl Connections {
    pub(super) fn new(logins: Logins, key: Arc<PrivateKey>, limits: Limits) -> Self {
        Self {
            logins,
            key,
            limits,
            kept: Mutex::default(),
        }
    }

    /// Whether this version of the agent was put there over the kept connection.
    pub(super) fn has_agent(&self, standby: &Endpoint, version: &str) -> bool {
        self.slot(standby)
            .agent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_deref()
            == Some(version)
    }

    /// Forgets that the agent was put there.
    pub(super) fn forget_agent(&self, standby: &Endpoint) {
        *self.slot(standby).agent.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn note_agent(&self, standby: &Endpoint, version: &str) {
        *self.slot(standby).agent.lock().unwrap_or_else(PoisonError::into_inner) = Some(version.to_owned());
    }

    /// Drops what is kept of a standby.
    pub(super) fn forget(&self, standby: &Endpoint) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(standby);
    }

    pub(super) fn slot(&self, standby: &Endpoint) -> Arc<Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // An older address of the same machine will not be used again.
        kept.retain(|known, _| known == standby || known.instance != standby.instance);
        Arc::clone(kept.entry(standby.clone()).or_default())
    }

    /// Runs a command; a kept connection that turns out dead before the command started is made anew, once.
    pub(super) async fn run(&self, standby: &Endpoint, command: &str, input: &[u8]) -> Result<Output, AgentError> {
        let (handle, is_fresh) = self.handle(standby).await?;
        let channel = match self.start(&handle, standby, command).await {
            Ok(channel) => channel,
            Err(error) if is_fresh => {
                self.forget(standby);
                return Err(error);
            }
            Err(_) => {
                self.forget(standby);
                let (handle, _) = self.handle(standby).await?;
                self.start(&handle, standby, command).await?
            }
        };
        let outcome = converse(channel, input).await;
        if outcome.is_err() {
            self.forget(standby);
        }
        outcome.map_err(|detail| unreachable_at(standby, detail))
    }

    /// The kept connection, or a fresh one.
    async fn handle(&self, standby: &Endpoint) -> Result<(Arc<Handle<Pinned>>, bool), AgentError> {
        let slot = self.slot(standby);
        let mut kept = slot.handle.lock().await;
        if let Some(handle) = kept.as_ref().filter(|handle| !handle.is_closed()) {
            return Ok((Arc::clone(handle), false));
        }
        let handle = Arc::new(self.connect(standby).await?);
        *kept = Some(Arc::clone(&handle));
        Ok((handle, true))
    }

    async fn connect(&self, standby: &Endpoint) -> Result<Handle<Pinned>, AgentError> {
        let config = client::Config {
            // Nagle's algorithm doubles the time of a handshake; `reference/rust/dependencies.md` §5.
            nodelay: true,
            keepalive_interval: Some(Duration::from_secs(15)),
            keepalive_max: 3,
            ..client::Config::default()
        };
        let pinned = Pinned {
            host_key: standby.host_key.clone(),
        };
        let address = (standby.address.as_str(), standby.port);
        let connecting = timeout(self.limits.connect, client::connect(Arc::new(config), address, pinned));
        let mut handle = match connecting.await {
            Ok(Ok(handle)) => handle,
            Ok(Err(russh::Error::UnknownKey)) => {
                return Err(AgentError::HostKeyMismatch {
                    address: standby.address.clone(),
                });
            }
            Ok(Err(error)) => return Err(unreachable_at(standby, error.to_string())),
            Err(_) => {
                return Err(unreachable_at(
                    standby,
                    format!("no handshake within {} s", self.limits.connect.as_secs()),
                ));
            }
        };
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.key), None);
        match timeout(
            self.limits.authenticate,
            handle.authenticate_publickey(self.logins.at(standby.provider), key),
        )
        .await
        {
            Ok(Ok(result)) if result.success() => Ok(handle),
            Ok(Ok(_)) => Err(AgentError::KeyRefused {
                address: standby.address.clone(),
            }),
            Ok(Err(error)) => Err(unreachable_at(standby, error.to_string())),
            Err(_) => Err(unreachable_at(standby, "authentication took too long".to_owned())),
        }
    }

    async fn start(
        &self,
        handle: &Handle<Pinned>,
        standby: &Endpoint,
        command: &str,
    ) -> Result<Channel<client::Msg>, AgentError> {
        let starting = async {
            let channel = handle.channel_open_session().await.map_err(|error| error.to_string())?;
            channel.exec(true, command).await.map_err(|error| error.to_string())?;
            accepted(channel).await
        };
        match timeout(self.limits.start, starting).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(detail)) => Err(unreachable_at(standby, detail)),
            Err(_) => Err(unreachable_at(standby, "the connection is dead".to_owned())),
        }
    }
}

/// Waits until the other side says that it runs the command.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "russh may add messages; those that matter here are named"
)]
async fn accepted(mut channel: Channel<client::Msg>) -> Result<Channel<client::Msg>, String> {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(channel),
            Some(ChannelMsg::Failure) => return Err("the command was refused".to_owned()),
            Some(ChannelMsg::Close) | None => return Err("the connection broke".to_owned()),
            Some(_) => {}
        }
    }
}

/// Sends the input while reading the output: either may be larger than a window.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "russh may add messages; those that matter here are named"
)]
async fn converse(channel: Channel<client::Msg>, input: &[u8]) -> Result<Output, String> {
    let (mut reader, writer) = channel.split();
    let sending = async {
        // A command that ends early closes its input; what it said tells why.
        if writer.data(input).await.is_ok() {
            drop(writer.eof().await);
        }
    };
    let receiving = async {
        let mut output = Output::default();
        let mut closed = false;
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => append(&mut output.stdout, &data)?,
                ChannelMsg::ExtendedData { data, .. } => append(&mut output.stderr, &data)?,
                ChannelMsg::ExitStatus { exit_status } => output.status = Some(exit_status),
                ChannelMsg::Close => closed = true,
                _ => {}
            }
        }
        if output.status.is_none() && !closed {
            Err("the connection broke".to_owned())
        } else {
            Ok(output)
        }
    };
    tokio::pin!(sending, receiving);
    let mut sent = false;
    loop {
        tokio::select! {
            () = &mut sending, if !sent => sent = true,
            outcome = &mut receiving => return outcome,
        }
    }
}

fn append(output: &mut Vec<u8>, data: &[u8]) -> Result<(), String> {
    if output.len() + data.len() > OUTPUT_AT_MOST {
        return Err(format!("it said more than {} MiB", OUTPUT_AT_MOST >> 20));
    }
    output.extend_from_slice(data);
    Ok(())
}

fn unreachable_at(standby: &Endpoint, detail: String) -> AgentError {
    AgentError::Unreachable {
        address: standby.address.clone(),
        detail,
    }
}

/// Accepts one host key.
struct Pinned {
    /// `<type> <base64>`, perhaps with a comment.
    host_key: String,
}

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let Ok(offered) = offered.public_key().to_openssh() else {
            return Ok(false);
        };
        let key = |line: &str| {
            line.split_whitespace()
                .take(2)
                .map(ToOwned::to_owned)
                .collect::<Vec<_>>()
        };
        let expected = key(&self.host_key);
        Ok(expected.len() == 2 && key(&offered) == expected)
    }
}
