//! The standby's own key pair. Its private half never leaves the standby.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;

use crate::data_dir::{DataDir, Durability, make_private, sync_parent};
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
    if !is_whole(&dir.file(IDENTITY))? {
        make_identity(dir)?;
    } else if !is_whole(&public)? {
        derive_public(dir, &public)?;
    }
    let line = fs::read_to_string(&public).map_err(|error| AgentError::io("read the standby's public key", error))?;
    Ok(line.trim().to_owned())
}

/// Makes the public half anew: GPUs may have accepted the private one, which stays whatever ssh-keygen makes of it.
fn derive_public(dir: &DataDir, public: &Path) -> Result<(), AgentError> {
    let told = process::run(
        Command::new("ssh-keygen").args(["-y", "-f"]).arg(dir.file(IDENTITY)),
        b"",
        COMMAND_LIMIT,
    )?;
    let line = told.success("read the standby's private key")?;
    dir.replace(public, &line, Durability::PowerLoss)
}

/// A power failure may leave an empty file. A disk that cannot tell must not have its keys replaced.
fn is_whole(half: &Path) -> Result<bool, AgentError> {
    match fs::metadata(half) {
        Ok(found) => Ok(found.len() > 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(AgentError::io("look at the standby's key pair", error)),
    }
}

fn make_identity(dir: &DataDir) -> Result<(), AgentError> {
    let fresh = dir.file("identity.new");
    const DOING: &str = "make the standby's key pair";
    let io = |error| AgentError::io(DOING, error);
    let place = dir.file("identity");
    for torn in [&fresh, &place] {
        if torn.exists() {
            fs::remove_dir_all(torn).map_err(io)?;
        }
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
    // Whoever hears of this key must find it after a power failure, too.
    for whole in ["id_ed25519", "id_ed25519.pub", "."] {
        File::open(fresh.join(whole))
            .and_then(|file| file.sync_all())
            .map_err(io)?;
    }
    fs::rename(&fresh, &place)
        .and_then(|()| sync_parent(&place))
        .map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_pair_is_made_anew_and_a_lone_private_half_keeps_its_key() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let made = identity(&dir).unwrap();
        let (private, public) = (dir.file(IDENTITY), dir.file(IDENTITY).with_extension("pub"));
        fs::write(&public, "").unwrap();
        let blob = |line: &str| line.split(' ').nth(1).map(str::to_owned);
        assert_eq!(blob(&identity(&dir).unwrap()), blob(&made), "GPUs have accepted it");
        fs::write(&private, "").unwrap();
        let anew = identity(&dir).unwrap();
        assert!(anew.starts_with("ssh-ed25519 ") && blob(&anew) != blob(&made), "{anew}");
        assert_eq!(identity(&dir).unwrap(), anew);
        fs::write(&private, "what ssh-keygen cannot read").unwrap();
        fs::remove_file(&public).unwrap();
        assert!(identity(&dir).is_err());
        assert_eq!(fs::read(&private).unwrap(), b"what ssh-keygen cannot read");
    }
}
