//! The standby's own key pair. Its private half never leaves the standby.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::process::Command;

use crate::data_dir::{DataDir, make_private};
use crate::error::AgentError;
use crate::process::{self, COMMAND_LIMIT};
use crate::ssh::IDENTITY;

/// Makes the standby's key pair unless it exists, and reads its public half.
///
/// # Errors
/// When ssh-keygen is missing or the disk fails.
pub fn identity(dir: &DataDir) -> Result<String, AgentError> {
    let _once = dir.lock_briefly("identity.lock")?;
    let public = dir.file(IDENTITY).with_extension("pub");
    if !public.exists() {
        make_identity(dir)?;
    }
    let line = fs::read_to_string(&public).map_err(|error| AgentError::io("read the standby's public key", error))?;
    Ok(line.trim().to_owned())
}

fn make_identity(dir: &DataDir) -> Result<(), AgentError> {
    let fresh = dir.file("identity.new");
    const DOING: &str = "make the standby's key pair";
    let io = |error| AgentError::io(DOING, error);
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(io)?;
    }
    DirBuilder::new().mode(0o700).create(&fresh).map_err(io)?;
    let finished = process::run(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "warmspare-standby", "-f"])
            .arg(fresh.join("id_ed25519")),
        b"",
        COMMAND_LIMIT,
    )?;
    finished.success(DOING)?;
    make_private(&fresh.join("id_ed25519"), 0o600).map_err(io)?;
    fs::rename(&fresh, dir.file("identity")).map_err(io)
}
