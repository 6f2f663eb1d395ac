//! How a machine's sshd is set up, and the loopback addresses it may listen on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::processes::{CLOUD_VARIABLE, MACHINE_VARIABLE, Marks};

/// The configuration of the sshd that keeps its files in `directory`.
pub(crate) fn configuration(address: SocketAddr, directory: &Path, marks: &Marks) -> String {
    let directory = directory.display();
    let environment = format!("{MACHINE_VARIABLE}={} {CLOUD_VARIABLE}={}", marks.machine, marks.cloud);
    // SHLVL=5: bash reads the account's own start-up files only at the first shell level of a session (260 ms saved).
    format!(
        "ListenAddress {address}\nHostKey {directory}/host_key\nPidFile {directory}/sshd.pid\n\
             AuthorizedKeysFile {directory}/authorized_keys {directory}/home/.ssh/authorized_keys\nExposeAuthInfo yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PubkeyAuthentication yes\nPermitRootLogin yes\nUsePAM no\nStrictModes no\nUseDNS no\nPrintMotd no\nPrintLastLog no\n\
             AllowTcpForwarding yes\nMaxStartups 500:30:1000\nMaxSessions 500\nLoginGraceTime 60\nLogLevel INFO\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\nSetEnv SHLVL=5 HOME={directory}/home {environment}\nForceCommand {directory}/session\n"
    )
}

/// What a login session runs in place of whatever the client asked for.
#[derive(Debug)]
pub(crate) enum ForcedCommand {
    /// The client's own command through `sh -c`, in the machine's home.
    Client { home: PathBuf },
    /// An rsync daemon with this configuration, as Vast's host agent serves it.
    RsyncDaemon { configuration: PathBuf },
}

impl ForcedCommand {
    pub(crate) fn script(&self) -> String {
        match self {
            // sshd lets the ForceCommand that brings us here outrank the `command=` of a key, so a key's own is honoured here.
            Self::Client { home } => format!(
                "#!/bin/sh\ncd '{home}' || exit 255\n\
                 key=$(sed -n 's/^publickey \\([^ ]* [^ ]*\\).*/\\1/p' \"$SSH_USER_AUTH\" 2>/dev/null | head -n 1)\n\
                 if [ -n \"$key\" ] && [ -f .ssh/authorized_keys ]; then\n\
                 own=$(grep -F \"$key\" .ssh/authorized_keys | sed -n 's/^command=\"\\([^\"]*\\)\".*/\\1/p' | head -n 1)\n\
                 if [ -n \"$own\" ]; then exec sh -c \"$own\"; fi\nfi\n\
                 if [ -n \"$SSH_ORIGINAL_COMMAND\" ]; then exec sh -c \"$SSH_ORIGINAL_COMMAND\"; else exec sh -i; fi\n",
                home = home.display()
            ),
            Self::RsyncDaemon { configuration } => {
                format!(
                    "#!/bin/sh\nexec rsync --server --daemon --config='{}' .\n",
                    configuration.display()
                )
            }
        }
    }
}

/// A loopback address with this port that nothing listens on.
pub(crate) fn free_address(port: u16) -> SocketAddr {
    loop {
        let octets = rand::random::<[u8; 2]>();
        // 127.0.x.x is left to everybody else; .0 and .255 look like mistakes in logs.
        let last = rand::random_range(1..=254);
        let address = SocketAddr::from((Ipv4Addr::new(127, octets[0].max(1), octets[1], last), port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// An unprivileged port below the ephemeral range, so that no outgoing connection ever takes it.
pub(crate) fn random_port() -> u16 {
    rand::random_range(20_000..32_000)
}

pub(crate) fn path() -> &'static str {
    // sshd re-executes itself and therefore insists on an absolute path.
    if Path::new("/usr/sbin/sshd").exists() {
        "/usr/sbin/sshd"
    } else {
        "/usr/local/sbin/sshd"
    }
}
