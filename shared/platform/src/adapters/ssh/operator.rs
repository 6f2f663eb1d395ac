//! The operator's key pair, with which the control plane logs in to standbys.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Why there is no operator key.
#[derive(Debug, thiserror::Error)]
pub enum OperatorKeyError {
    /// It could not be made.
    #[error("no key pair could be made at {path}: {detail}")]
    NotMade {
        /// Where.
        path: PathBuf,
        /// What `ssh-keygen` said.
        detail: String,
    },
    /// It is there and cannot be read.
    #[error("the key {path} is no OpenSSH private key without a passphrase")]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: russh::keys::Error,
    },
}

/// The public line of the operator key, which is made first unless it exists.
///
/// # Errors
/// When it can neither be read nor made.
pub fn operator_key(path: &Path) -> Result<String, OperatorKeyError> {
    if !path.exists() {
        make(path)?;
    }
    let unreadable = |source| OperatorKeyError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let key = russh::keys::load_secret_key(path, None).map_err(unreadable)?;
    let line = key
        .public_key()
        .to_openssh()
        .map_err(|error| unreadable(error.into()))?;
    // The comment may be anything; the provider's metadata wants it plain.
    Ok(line
        .split_whitespace()
        .take(2)
        .chain(["warmspare-operator"])
        .collect::<Vec<_>>()
        .join(" "))
}

/// What kind of key there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyLook {
    Ed25519,
    Other(String),
}

/// Reads a key and makes none.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn look_at_key(path: &Path) -> Result<KeyLook, OperatorKeyError> {
    let key = russh::keys::load_secret_key(path, None).map_err(|source| OperatorKeyError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let algorithm = key.algorithm();
    Ok(if algorithm == russh::keys::Algorithm::Ed25519 {
        KeyLook::Ed25519
    } else {
        KeyLook::Other(algorithm.to_string())
    })
}

fn make(path: &Path) -> Result<(), OperatorKeyError> {
    let not_made = |detail: String| OperatorKeyError::NotMade {
        path: path.to_owned(),
        detail,
    };
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "warmspare-operator", "-f"])
        .arg(path)
        .output();
    let made = made.map_err(|error| not_made(format!("ssh-keygen cannot be run ({error}); install openssh-client")))?;
    if made.status.success() {
        Ok(())
    } else {
        Err(not_made(String::from_utf8_lossy(&made.stderr).trim().to_owned()))
    }
}
