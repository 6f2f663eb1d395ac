//! The kept connection: a fresh handshake costs both ends more than most of what we ask.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{KNOWN_HOSTS, Machine, fingerprint};
use crate::error::AgentError;
use crate::process::{self, COMMAND_LIMIT, Finished, cannot_start};

/// Whether a connection is known to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It was opened now.
    Fresh,
    /// It was open before; the machine may have gone since without a word.
    Kept,
}

impl Machine {
    /// Opens the kept connection unless it is open.
    ///
    /// # Errors
    /// When the machine does not answer, refuses our key, or shows another host key than the pinned one.
    pub fn connect(&self) -> Result<Connection, AgentError> {
        if self.socket().is_none() {
            return Ok(Connection::Fresh);
        }
        if self.is_connected() {
            return Ok(Connection::Kept);
        }
        self.open_kept(KNOWN_HOSTS, "yes")?;
        Ok(Connection::Fresh)
    }

    pub(super) fn open_kept(&self, known_hosts: &str, strict: &str) -> Result<(), AgentError> {
        let log = self
            .dir
            .logs()
            .join(format!("ssh-{}-{}.err", std::process::id(), self.lane));
        let output = fs::File::create(&log).map_err(|error| AgentError::io("make a log for ssh", error))?;
        // Not a pipe: the connection lives on in the background and would hold it open.
        let mut child = self
            .ssh(&self.options(known_hosts, strict))
            .args(self.mux_options("yes"))
            .args(["-o", "ControlPersist=300", "-N", "-f", "--", &self.host.address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .map_err(|error| cannot_start("ssh", error))?;
        let status = process::wait_until(&mut child, Instant::now() + COMMAND_LIMIT)?;
        let words = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        match status {
            Some(status) if status.success() => Ok(()),
            Some(_) => Err(self.failure(&words)),
            None => {
                process::stop(&mut child);
                Err(self.failure("no connection in time"))
            }
        }
    }

    /// Closes the kept connection, if any: the machine is about to be another one, or it no longer answers.
    pub fn disconnect(&self) {
        if let Some(socket) = self.socket().filter(|socket| socket.exists()) {
            let _ = self.control("exit");
            let _ = fs::remove_file(socket);
        }
    }

    /// Whoever listens is the kept connection; whether its machine still answers shows with the first command.
    fn is_connected(&self) -> bool {
        self.socket().is_some_and(|socket| UnixStream::connect(socket).is_ok())
    }

    fn control(&self, order: &str) -> Result<Finished, AgentError> {
        process::run(
            self.ssh(&self.options(KNOWN_HOSTS, "yes"))
                .args(self.mux_options("no"))
                .args(["-O", order, "--", &self.host.address]),
            b"",
            Duration::from_secs(5),
        )
    }

    pub(super) fn mux_options(&self, master: &str) -> Vec<String> {
        let path = self
            .socket()
            .map_or("none".into(), |socket| socket.to_string_lossy().into_owned());
        vec![
            "-o".into(),
            format!("ControlPath={path}"),
            "-o".into(),
            format!("ControlMaster={master}"),
        ]
    }

    /// Where the kept connection listens: short, because a socket's path may have some 100 bytes only.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        let mut what = format!(
            "{} {} {} {}",
            self.alias, self.host.address, self.host.port, self.host.user
        );
        if self.lane > 0 {
            what.push_str(&format!(" lane {}", self.lane));
        }
        let place = private_place(self.dir.root())?;
        Some(place.join(format!("{:016x}", fingerprint(what.as_bytes()))))
    }
}

/// The directory of the kept connections of a data directory; `None` when the name in `/tmp` is not ours alone.
#[must_use]
pub fn private_place(root: &Path) -> Option<PathBuf> {
    let owner = rustix::process::geteuid().as_raw();
    let mark = fingerprint(root.as_os_str().as_encoded_bytes());
    let place = PathBuf::from(format!("/tmp/warmspare-{owner}-{mark:016x}"));
    let _ = DirBuilder::new().mode(0o700).create(&place);
    let found = fs::symlink_metadata(&place).ok()?;
    // Anybody may make a name in /tmp. If this one is not ours alone we do without a kept connection.
    let ours = found.is_dir() && found.uid() == owner && found.permissions().mode().trailing_zeros() >= 6;
    ours.then_some(place)
}

#[cfg(test)]
mod tests {
    use crate::ssh::tests::machine;

    #[test]
    fn the_control_socket_leaves_room_for_the_name_ssh_gives_it_while_it_opens() {
        let machine = machine("10.0.0.1", "root").unwrap();
        let longest = machine.socket().unwrap().as_os_str().len() + ".0123456789abcdef".len();
        assert!(longest < 104, "{longest}");
    }
}
