//! What lies on this machine: the agent and the operator key. Nothing is made.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use super::Finding;
use crate::adapters::ssh::{KeyLook, look_at_key};
use crate::assemble;
use crate::config::Config;

/// The start of an ELF file that holds its program headers. Linkers put them right behind the header.
const HEAD: u64 = 64 << 10;

pub(super) fn operator_key(config: &Config) -> Finding {
    let path = assemble::operator_key_path(config);
    let Ok(metadata) = std::fs::metadata(&path) else {
        return Finding::fine("operator_key", format!("{} is made at the first start", path.display()));
    };
    let mode = metadata.permissions().mode() & 0o777;
    let shown = path.display();
    match look_at_key(&path) {
        Err(error) => Finding::broken(
            "operator_key",
            format!(
                "{error}; give another with: ssh-keygen -t ed25519 -N '' -f {shown}.new, and name it in operator_key"
            ),
        ),
        Ok(KeyLook::Ed25519) if mode & 0o077 != 0 => Finding::broken(
            "operator_key",
            format!("others can read {shown} (mode {mode:o}), which logs in to every standby: chmod 600 {shown}"),
        ),
        Ok(KeyLook::Ed25519) => Finding::fine("operator_key", format!("{shown} is an ed25519 key of its owner alone")),
        Ok(KeyLook::Other(algorithm)) => Finding::note(
            "operator_key",
            format!(
                "{shown} is {algorithm}; standbys are tested with ed25519: ssh-keygen -t ed25519 -N '' -f {shown}.new"
            ),
        ),
    }
}

pub(super) fn agent(config: &Config) -> Finding {
    let path = match assemble::agent_binary(config.machines.agent_binary.as_deref()) {
        Ok(path) => path,
        Err(error) => return Finding::broken("agent", error.to_string()),
    };
    let shown = path.display();
    let head = std::fs::File::open(&path).and_then(|file| {
        let mut head = Vec::new();
        file.take(HEAD).read_to_end(&mut head).map(|_| head)
    });
    let head = match head {
        Ok(head) => head,
        Err(error) => {
            return Finding::broken(
                "agent",
                format!("{shown} cannot be read ({error}); make release builds it"),
            );
        }
    };
    match linking(&head) {
        None => Finding::broken(
            "agent",
            format!("{shown} is no x86-64 program for Linux; make release builds the agent"),
        ),
        Some(Linking::Dynamic) => Finding::note(
            "agent",
            format!(
                "{shown} needs the C library of this machine, and a standby may have an older one; make release builds a static agent"
            ),
        ),
        Some(Linking::Static) => Finding::fine("agent", format!("{shown} is a static x86-64 program")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Linking {
    Static,
    Dynamic,
}

/// How an x86-64 program for Linux is linked; `None` when it is none. Source: System V ABI, chapter 4, and `elf(5)`.
pub(super) fn linking(head: &[u8]) -> Option<Linking> {
    const INTERPRETER: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let is_ours = head.starts_with(b"\x7fELF\x02\x01") && matches!(half(16)?, 2 | 3) && half(18)? == 62;
    if !is_ours {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(head.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    for index in 0..count {
        let at = table.checked_add(index * size)?;
        let kind = u32::from_le_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind == INTERPRETER {
            return Some(Linking::Dynamic);
        }
    }
    Some(Linking::Static)
}
