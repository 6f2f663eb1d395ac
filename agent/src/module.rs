//! The rsync module of a paused GPU: where in it the synced tree lies, and whether that tree is ours.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::marker::{MARKER_DIRECTORY, MarkerFound, read_marker};
use crate::process::{self, Finished, NOT_INSTALLED};
use crate::rsync::judge_module;
use crate::ssh::Machine;

/// Fetching the marker takes a moment, unless the host is in trouble.
const PATIENCE: Duration = Duration::from_secs(40);

/// A marker is a line; whatever is longer is none of ours.
const LONGEST_MARKER: &str = "--max-size=4096";

/// Checks that a module's name is one, as in `C.48927380`.
///
/// # Errors
/// When it could be taken for a path or for something else.
pub fn check_name(module: &str) -> Result<(), AgentError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    let starts_well = module.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && module.len() <= 64 && module.chars().all(plain) {
        Ok(())
    } else {
        Err(AgentError::BadRequest(
            "the module's name has unusual characters".into(),
        ))
    }
}

/// Where the tree may lie in the module. The module begins at the container's root, so an absolute path is unambiguous. A relative one began
/// at the login's home; which directory that is nobody can ask a container that is stopped, so the likely ones are tried, and the marker
/// says which one is the tree.
#[must_use]
pub fn candidates(source_path: &str, user: &str) -> Vec<String> {
    let below = |start: &str| {
        let parts = source_path.split('/').filter(|part| !part.is_empty() && *part != ".");
        let mut place = start.to_owned();
        for part in parts {
            if !place.is_empty() {
                place.push('/');
            }
            place.push_str(part);
        }
        place
    };
    if source_path.starts_with('/') {
        return vec![below("")];
    }
    let home = if user == "root" {
        "root".to_owned()
    } else {
        format!("home/{user}")
    };
    vec![below(&home), below("")]
}

/// The marker at a place in the module; [`MarkerFound::Missing`] when there is none, or no such place.
///
/// # Errors
/// When the host does not answer, refuses the key, or does not serve the module.
pub fn marker_at(dir: &DataDir, machine: &Machine, module: &str, place: &str) -> Result<MarkerFound, AgentError> {
    let fetched = MarkerPlace::new(dir)?;
    let finished = process::run(
        process::tied("rsync")
            .args(["-t", "-s", "--no-motd", "--timeout=30", LONGEST_MARKER, "-e"])
            .arg(machine.module_shell())
            .arg("--")
            .arg(format!(
                "{}::{module}/{place}/{MARKER_DIRECTORY}/marker.json",
                machine.rsync_host()
            ))
            .arg(fetched.0.join(""))
            .current_dir(dir.root())
            .env("LC_ALL", "C")
            .env_remove("RSYNC_RSH"),
        b"",
        PATIENCE,
    )?;
    match fs::read(fetched.0.join("marker.json")) {
        Ok(bytes) => Ok(read_marker(&bytes)),
        Err(_) if is_missing(&finished) => Ok(MarkerFound::Missing),
        Err(_) => Err(judge_module(finished.code, &finished.stderr, machine)),
    }
}

fn is_missing(finished: &Finished) -> bool {
    let words = &finished.stderr;
    let absent = words.contains("No such file or directory") || words.contains("Not a directory");
    // Our own rsync may be what is absent.
    let ran = finished.code != Some(i32::from(NOT_INSTALLED));
    finished.code == Some(0) || ran && absent && !words.contains("@ERROR")
}

/// A directory for one file, gone with its owner.
struct MarkerPlace(PathBuf);

impl MarkerPlace {
    fn new(dir: &DataDir) -> Result<Self, AgentError> {
        let path = dir.file("rescue.marker");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map_err(|error| AgentError::io("make room for the marker", error))?;
        Ok(Self(path))
    }
}

impl Drop for MarkerPlace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_looked_for_in_the_logins_home_first() {
        assert_eq!(candidates("/workspace", "root"), ["workspace"]);
        assert_eq!(candidates("/workspace//runs/", "root"), ["workspace/runs"]);
        assert_eq!(candidates("work space", "root"), ["root/work space", "work space"]);
        assert_eq!(candidates("./w", "user"), ["home/user/w", "w"]);
    }

    #[test]
    fn a_module_is_named_by_plain_words_only() {
        assert!(check_name("C.48927380").is_ok());
        for name in ["", ".", "../x", "C.1/etc", "C 1", "-x", "C.1::y", "a\nb"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_marker_is_not_missing_because_our_own_rsync_is() {
        let ended = |code, words: &str| Finished {
            code: Some(code),
            stdout: Vec::new(),
            stderr: words.to_owned(),
        };
        let nowhere = "rsync: [sender] link_stat \"/marker.json\" (in C.7) failed: No such file or directory (2)";
        assert!(is_missing(&ended(23, nowhere)));
        let ours = "cannot start rsync: No such file or directory (os error 2)";
        assert!(!is_missing(&ended(i32::from(NOT_INSTALLED), ours)));
    }
}
