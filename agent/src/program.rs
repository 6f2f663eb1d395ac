//! Our own program on another machine: below the tree's `.warmspare/`, named by its content.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::names::hex;
use crate::process::{Finished, SELF};
use crate::ssh::Machine;

// The program arrives whole or not at all: its length is checked, and only a rename gives it its name. Scripts on the GPU call it by
// one that stays. Never through a link: a GPU may have put one there that leads elsewhere.
const PUSH: &str = "exec /bin/sh -c 'unset CDPATH; umask 077; IFS= read -r p || exit 91; IFS= read -r n || exit 91; \
    IFS= read -r s || exit 91; cd \"$p\" || exit 92; [ ! -L .warmspare ] && mkdir -p -m 755 .warmspare && cd .warmspare || exit 92; \
    rm -f .agent-*; t=.agent-$$; \
    cat > \"$t\" && [ \"$(wc -c < \"$t\")\" -eq \"$s\" ] && chmod 700 \"$t\" && mv -f \"$t\" \"$n\" || { [ -e \"$t\" ] || exit 94; \
    rm -f \"$t\"; exit 93; }; \
    ln -sf \"$n\" agent; for f in agent-*; do [ \"$f\" = \"$n\" ] || rm -f \"$f\"; done'";

const LOOK: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && IFS= read -r n && cd \"$p\" || exit 92; \
    [ ! -L .warmspare ] && [ -f \".warmspare/$n\" ] || exit 90'";

/// `program.json`: the hash of our own program, which need not be read for every pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Program {
    of: (u64, u64, u64, i64, i64),
    name: String,
}

/// The name of our program on another machine: by its content.
///
/// # Errors
/// When it cannot be read.
pub fn name(dir: &DataDir) -> Result<String, AgentError> {
    let io = |error| AgentError::io("read our own program", error);
    let found = fs::metadata(SELF).map_err(io)?;
    let of = (
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
    );
    let path = dir.file("program.json");
    let noted = dir.read_passing_json::<Program>(&path);
    if let Some(noted) = noted.filter(|noted| noted.of == of) {
        return Ok(noted.name);
    }
    let digest = Sha256::digest(fs::read(SELF).map_err(io)?);
    // Half of it tells programs apart.
    let hash = hex(&digest);
    let name = format!("agent-{}", hash.get(..32).unwrap_or(&hash));
    dir.write_json(&path, &Program { of, name: name.clone() }, Durability::Kill)?;
    Ok(name)
}

/// Why our program could not be brought to another machine.
#[derive(Debug)]
pub enum NotPushed {
    /// It does not take it, now or for a while: the words are for a person.
    Refused(String),
    /// The connection broke, or worse; the next attempt may succeed at once.
    Broken(AgentError),
}

impl From<AgentError> for NotPushed {
    fn from(error: AgentError) -> Self {
        Self::Broken(error)
    }
}

/// Sees to it that our program is below a tree on another machine.
///
/// # Errors
/// See [`NotPushed`].
pub fn bring(machine: &Machine, path: &str, name: &str) -> Result<(), NotPushed> {
    match machine.run(LOOK, format!("{path}\n{name}\n").as_bytes())?.code {
        Some(0) => Ok(()),
        _ => push(machine, path, name),
    }
}

/// Brings our program below a tree on another machine.
///
/// # Errors
/// See [`NotPushed`].
pub fn push(machine: &Machine, path: &str, name: &str) -> Result<(), NotPushed> {
    let program = fs::read(SELF).map_err(|error| AgentError::io("read our own program", error))?;
    let mut input = format!("{path}\n{name}\n{}\n", program.len()).into_bytes();
    input.extend(program);
    let pushed = match machine.run(PUSH, &input) {
        // Another attempt, whose end nobody waits for any more, cleared it away; or it was cut off there. If not, the second tells.
        Ok(Finished {
            code: Some(93 | 94), ..
        }) => machine.run(PUSH, &input),
        pushed => pushed,
    };
    match pushed {
        Ok(Finished { code: Some(0), .. }) => Ok(()),
        Ok(Finished { code: Some(code), .. }) => Err(NotPushed::Refused(format!(
            "our program cannot be put into the tree's .warmspare directory (exit code {code})"
        ))),
        // It was cut off, which says nothing about the machine.
        Ok(Finished { code: None, .. }) => Err(NotPushed::Broken(AgentError::Interrupted("ssh was stopped".into()))),
        Err(AgentError::Interrupted(words)) => Err(NotPushed::Refused(words)),
        Err(error) => Err(NotPushed::Broken(error)),
    }
}
