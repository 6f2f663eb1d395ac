//! Ends the machines when the sim itself was killed and could not.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::machine::MachineError;

/// Waits until its standard input closes, which the kernel does when the sim is gone in whatever way. Then every sshd
/// whose command line names this sim's directory, its descendants, and every process that carries the sim's mark ends; and what is mounted
/// below that directory is unmounted, which detaches its loop devices. Images go, too: nobody but the sim knew what they were.
const SCRIPT: &str = r#"
root=$1; mark=$2; temporary=$3
read -r _
parent() { read -r line <"/proc/$1/stat" 2>/dev/null || return 1; set -- ${line##*) }; echo "$2"; }
ours=
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  if tr '\0' ' ' <"$entry/cmdline" 2>/dev/null | grep -qF "sshd" && tr '\0' ' ' <"$entry/cmdline" | grep -qF "$root/machines/"; then
    ours="$ours $pid"; kill -STOP "$pid" 2>/dev/null
  fi
done
while :; do
  before=$ours
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    case " $ours " in *" $pid "*) continue ;; esac
    up=$(parent "$pid") || continue
    case " $ours " in *" $up "*) ours="$ours $pid" ;; esac
  done
  [ "$before" = "$ours" ] && break
done
for pid in $ours; do kill -KILL "$pid" 2>/dev/null; done
for round in 1 2 3; do
  for entry in /proc/[0-9]*; do
    tr '\0' '\n' <"$entry/environ" 2>/dev/null | grep -qxF "SIM_CLOUD=$mark" && kill -KILL "${entry#/proc/}" 2>/dev/null
  done
done
for at in $(while read -r _ at _; do case $at in "$root"/*) echo "$at" ;; esac; done </proc/mounts); do
  umount "$at" 2>/dev/null || umount -l "$at" 2>/dev/null
done
rm -f "$root"/disks/*/*.img
[ "$temporary" = yes ] && rm -rf "$root"
exit 0
"#;

/// Starts the watchdog of the sim that lives in `root` and marks its processes with `cloud`.
pub(crate) fn start(root: &Path, cloud: &str, directory: Directory) -> Result<Child, MachineError> {
    let temporary = match directory {
        Directory::Temporary => "yes",
        Directory::Kept => "no",
    };
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(SCRIPT)
        .arg("simcloud-watchdog")
        .arg(root)
        .arg(cloud)
        .arg(temporary);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Out of the terminal's process group: the Ctrl-C that ends the sim must not end its watchdog.
    command.process_group(0);
    command.spawn().map_err(|error| MachineError::Program {
        program: "sh".to_owned(),
        detail: error.to_string(),
    })
}

/// What becomes of the sim's directory when the sim is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directory {
    /// It is removed.
    Temporary,
    /// It belongs to the caller.
    Kept,
}
