//! OpenSSH to the GPU and to restore targets: our key, our known hosts, nobody's configuration, one kept connection.

mod kept;
mod pinned;

use std::process::{Command, Stdio};
use std::time::Duration;

use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{AssociationId, Epoch};
use warmspare_wire::agent::Host;

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::process::{self, COMMAND_LIMIT, Finished, cannot_start, last_words};
use crate::session::Session;
use crate::wish::Wish;

pub use kept::{Connection, private_place};

/// Where the private half of the standby's key lies in the data directory.
pub const IDENTITY: &str = "identity/id_ed25519";

const KNOWN_HOSTS: &str = "known_hosts";
const KNOWN_MODULE_HOSTS: &str = "known_module_hosts";

/// A machine that we reach over SSH, and the name its host key is pinned under.
#[derive(Debug, Clone)]
pub struct Machine {
    dir: DataDir,
    host: Host,
    alias: String,
    lane: usize,
}

impl Machine {
    /// The machine that is, or becomes, this association's GPU under this epoch.
    ///
    /// # Errors
    /// When address or login name could be taken for something else than that.
    pub fn new(dir: &DataDir, host: &Host, association: AssociationId, epoch: Epoch) -> Result<Self, AgentError> {
        let plain = |text: &str, extra: &str| {
            !text.is_empty()
                && text.len() <= 253
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        if !plain(&host.address, ".:-_") {
            return Err(AgentError::BadRequest(
                "the address is not a host name or IP address".into(),
            ));
        }
        if !plain(&host.user, "._-") {
            return Err(AgentError::BadRequest("the login name has unusual characters".into()));
        }
        if host.port == 0 {
            return Err(AgentError::BadRequest("the SSH port is 0".into()));
        }
        Ok(Self {
            dir: dir.clone(),
            host: host.clone(),
            alias: format!("{association}-e{epoch}"),
            lane: 0,
        })
    }

    /// The same machine over another connection: one connection is one stream and one thread that encrypts.
    #[must_use]
    pub fn lane(&self, lane: usize) -> Self {
        Self { lane, ..self.clone() }
    }

    /// One of our fixed commands over the kept connection, to be started with pipes; it dies with this process.
    #[must_use]
    pub fn pipe(&self, fixed_command: &'static str) -> Command {
        let mut command = process::tied("ssh");
        command
            .current_dir(self.dir.root())
            .args(self.options(KNOWN_HOSTS, "yes"))
            .args(self.mux_options("no"))
            .args(["--", &self.host.address, fixed_command]);
        command
    }

    /// The machine that hosts this association's GPU: not its container, so it has a name and a pinned key of its own. Its key is pinned at
    /// first contact by whatever first connects; it has no kept connection.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn hosting(dir: &DataDir, host: &Host, association: AssociationId, epoch: Epoch) -> Result<Self, AgentError> {
        let mut machine = Self::new(dir, host, association, epoch)?;
        machine.alias.push_str("-host");
        Ok(machine)
    }

    /// The remote shell for `rsync -e` to a machine that serves modules: nobody can be asked for its key before, so the first is pinned
    /// in a file of its own, and another one later is refused.
    #[must_use]
    pub fn module_shell(&self) -> String {
        let mut words = vec!["ssh".to_owned()];
        words.extend(self.options(KNOWN_MODULE_HOSTS, "accept-new"));
        words.extend(["-o", "ControlPath=none"].map(str::to_owned));
        words.join(" ")
    }

    /// Address and port, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}:{}", self.host.address, self.host.port)
    }

    /// The address as rsync writes it before the colon.
    #[must_use]
    pub fn rsync_host(&self) -> String {
        if self.host.address.contains(':') {
            format!("[{}]", self.host.address)
        } else {
            self.host.address.clone()
        }
    }

    /// The remote shell for `rsync -e`. No part of it contains a space, so that rsync splits it where we do; relative names are
    /// found because rsync is started in the data directory.
    #[must_use]
    pub fn rsync_shell(&self) -> String {
        let mut words = vec!["ssh".to_owned()];
        words.extend(self.options(KNOWN_HOSTS, "yes"));
        words.extend(self.mux_options("no"));
        words.join(" ")
    }

    /// Runs one of our fixed commands with this standard input.
    ///
    /// # Errors
    /// As [`Self::connect`]; also when the connection breaks.
    pub fn run(&self, fixed_command: &'static str, input: &[u8]) -> Result<Finished, AgentError> {
        self.run_while(fixed_command, input, COMMAND_LIMIT, &|| Wish::GoOn)
    }

    /// As [`Self::run`], but never a second time: the first may have done all of it, and only its answer was lost. Then the exit code
    /// is ssh's own 255.
    ///
    /// # Errors
    /// When ssh cannot be started, or takes too long.
    pub fn run_once(&self, fixed_command: &'static str, input: &[u8]) -> Result<Finished, AgentError> {
        process::run(&mut self.command(fixed_command), input, COMMAND_LIMIT)
    }

    /// As [`Self::run`], with a limit of its own, and for as long as it is wanted.
    ///
    /// # Errors
    /// As [`Self::run`]; also when it is no longer wanted.
    pub fn run_while(
        &self,
        fixed_command: &'static str,
        input: &[u8],
        limit: Duration,
        wish: &dyn Fn() -> Wish,
    ) -> Result<Finished, AgentError> {
        let attempt = || process::run_while(&mut self.command(fixed_command), input, limit, wish);
        let finished = attempt()?;
        if finished.code != Some(255) {
            return Ok(finished);
        }
        // The kept connection may have died with the machine's last life: once more over a fresh one.
        self.disconnect();
        self.connect()?;
        let finished = attempt()?;
        if finished.code == Some(255) {
            return Err(self.failure(&finished.stderr));
        }
        Ok(finished)
    }

    /// Starts one of our fixed commands and leaves it open for questions.
    ///
    /// # Errors
    /// When ssh cannot be started.
    pub fn open(&self, fixed_command: &'static str) -> Result<Session, AgentError> {
        let child = self
            .command(fixed_command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| cannot_start("ssh", error))?;
        Ok(Session::new(self.clone(), child))
    }

    /// The outcome when it has no rsync.
    #[must_use]
    pub fn no_rsync(&self) -> AgentError {
        AgentError::ProgramMissing {
            program: "rsync",
            place: self.shown(),
            remedy: "apt-get update && apt-get install -y rsync",
        }
    }

    /// What ssh's last words mean.
    #[must_use]
    pub fn failure(&self, words: &str) -> AgentError {
        // Strict ssh ends with the same last line for an unpinned machine as for a changed one.
        if words.contains("host key is known for") {
            return AgentError::Interrupted(format!("no host key of {} is pinned as {}", self.shown(), self.alias));
        }
        if words.contains("Host key verification failed") || words.contains("IDENTIFICATION HAS CHANGED") {
            return AgentError::Halted {
                reason: HaltReason::HostKeyChanged,
                detail: format!(
                    "{} shows another host key than the one pinned as {}",
                    self.shown(),
                    self.alias
                ),
            };
        }
        if words.contains("Permission denied (") || words.contains("Too many authentication failures") {
            return AgentError::KeyRefused { host: self.shown() };
        }
        AgentError::Unreachable {
            host: self.shown(),
            detail: last_words(words),
        }
    }

    fn command(&self, fixed_command: &'static str) -> Command {
        let mut command = self.ssh(&self.options(KNOWN_HOSTS, "yes"));
        command
            .args(self.mux_options("no"))
            .args(["--", &self.host.address, fixed_command]);
        command
    }

    fn ssh(&self, options: &[String]) -> Command {
        let mut command = Command::new("ssh");
        command.current_dir(self.dir.root()).args(options);
        command
    }

    fn options(&self, known_hosts: &str, strict: &str) -> Vec<String> {
        let mut words: Vec<String> = ["-F", "none", "-i", IDENTITY, "-p"].map(str::to_owned).into();
        words.extend([self.host.port.to_string(), "-l".into(), self.host.user.clone()]);
        let settings = [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "PreferredAuthentications=publickey",
            "GlobalKnownHostsFile=/dev/null",
            "HashKnownHosts=no",
            "CheckHostIP=no",
            "UpdateHostKeys=no",
            "HostKeyAlgorithms=^ssh-ed25519",
            "ClearAllForwardings=yes",
            "ForwardAgent=no",
            "RequestTTY=no",
            "EscapeChar=none",
            "Compression=no",
            // The cheapest one that both ends accept: AES in hardware where there is any.
            "Ciphers=^aes128-gcm@openssh.com",
            "ConnectTimeout=10",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            "LogLevel=ERROR",
        ];
        let own = [
            format!("HostKeyAlias={}", self.alias),
            format!("UserKnownHostsFile={known_hosts}"),
            format!("StrictHostKeyChecking={strict}"),
        ];
        for setting in settings.map(str::to_owned).into_iter().chain(own) {
            words.extend(["-o".into(), setting]);
        }
        words
    }
}

/// FNV-1a: it only has to tell a few names apart, the same way in every version.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use warmspare_domain::ids::GpuId;

    /// A machine that nobody need be able to reach.
    pub(crate) fn machine(address: &str, user: &str) -> Result<Machine, AgentError> {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let host = Host {
            address: address.into(),
            port: 22,
            user: user.into(),
        };
        Machine::new(&dir, &host, AssociationId::of(GpuId::vast(7)), Epoch::FIRST)
    }

    #[test]
    fn an_address_or_login_that_could_be_an_option_or_a_command_is_refused() {
        assert!(machine("10.0.0.1", "root").is_ok());
        assert!(machine("fe80::1", "user_1").is_ok());
        for address in [
            "",
            "-oProxyCommand=reboot",
            "a b",
            "a;reboot",
            "$(reboot)",
            "a/b",
            "a\nb",
            "a@b",
        ] {
            assert!(machine(address, "root").is_err(), "{address:?} was accepted");
        }
        for user in ["", "-l", "a b", "a@b", "`reboot`"] {
            assert!(machine("10.0.0.1", user).is_err(), "{user:?} was accepted");
        }
    }

    #[test]
    fn what_ssh_says_becomes_an_outcome() {
        let machine = machine("10.0.0.1", "root").unwrap();
        let changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\r\n";
        assert!(matches!(
            machine.failure(changed),
            AgentError::Halted {
                reason: HaltReason::HostKeyChanged,
                ..
            }
        ));
        let unpinned = "No ED25519 host key is known for vast-7-e1 and you have requested strict checking.\r\n\
                        Host key verification failed.\r\n";
        assert!(matches!(machine.failure(unpinned), AgentError::Interrupted(_)));
        let refused = "root@10.0.0.1: Permission denied (publickey).";
        assert!(matches!(machine.failure(refused), AgentError::KeyRefused { .. }));
        let silent = "ssh: connect to host 10.0.0.1 port 22: Connection timed out";
        assert!(matches!(machine.failure(silent), AgentError::Unreachable { .. }));
    }
}
