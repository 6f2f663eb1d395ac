//! Pinned host keys: one for each association and epoch, taken at first contact.

use std::fs;

use super::{KNOWN_HOSTS, Machine};
use crate::data_dir::Durability;
use crate::error::AgentError;
use crate::process::{self, COMMAND_LIMIT};

impl Machine {
    /// Pins the machine's host key, unless one is pinned under this association and epoch. Opens the kept connection with it: one
    /// handshake serves both.
    ///
    /// # Errors
    /// When the machine does not answer or refuses our key: then nothing is pinned.
    pub fn pin(&self) -> Result<(), AgentError> {
        if self.pinned_lines()?.iter().any(|line| self.is_ours(line)) {
            return Ok(());
        }
        // Whoever was kept was never pinned.
        self.disconnect();
        let name = format!(".first-contact-{}", std::process::id());
        let path = self.dir.file(&name);
        let _ = fs::remove_file(&path);
        let met = if self.socket().is_some() {
            self.open_kept(&name, "accept-new")
        } else {
            self.meet(&name)
        };
        let learned = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(&path);
        met?;
        self.repin(|lines| lines.extend(learned.lines().filter(|line| self.is_ours(line)).map(str::to_owned)))
    }

    fn meet(&self, known_hosts: &str) -> Result<(), AgentError> {
        let finished = process::run(
            self.ssh(&self.options(known_hosts, "accept-new")).args([
                "-o",
                "ControlPath=none",
                "--",
                &self.host.address,
                "exit 0",
            ]),
            b"",
            COMMAND_LIMIT,
        )?;
        match finished.code {
            Some(0) => Ok(()),
            _ => Err(self.failure(&finished.stderr)),
        }
    }

    /// Pins the host key that is pinned for another name of the same machine, unless this name has one of its own.
    ///
    /// # Errors
    /// When the known hosts cannot be read or rewritten.
    pub fn pin_like(&self, other: &Self) -> Result<(), AgentError> {
        if self.pinned_lines()?.iter().any(|line| self.is_ours(line)) {
            return Ok(());
        }
        self.repin(|lines| {
            let keys: Vec<_> = lines
                .iter()
                .filter(|line| other.is_ours(line))
                .filter_map(|line| line.split_once(' '))
                .map(|(_, key)| format!("{} {key}", self.alias))
                .collect();
            lines.extend(keys);
        })
    }

    /// Forgets the pinned host key.
    ///
    /// # Errors
    /// When the known hosts cannot be rewritten.
    pub fn unpin(&self) -> Result<(), AgentError> {
        self.repin(|lines| lines.retain(|line| !self.is_ours(line)))
    }

    fn is_ours(&self, line: &str) -> bool {
        line.split_whitespace().next() == Some(self.alias.as_str())
    }

    fn pinned_lines(&self) -> Result<Vec<String>, AgentError> {
        match fs::read_to_string(self.dir.file(KNOWN_HOSTS)) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(AgentError::io("read the known hosts", error)),
        }
    }

    /// Changes the known hosts; two processes that do so at once do not lose each other's keys.
    fn repin(&self, change: impl FnOnce(&mut Vec<String>)) -> Result<(), AgentError> {
        let _turn = self.dir.lock_briefly("known_hosts.lock")?;
        let mut lines = self.pinned_lines()?;
        change(&mut lines);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let path = self.dir.file(KNOWN_HOSTS);
        self.dir.replace(&path, text.as_bytes(), Durability::PowerLoss)
    }
}
