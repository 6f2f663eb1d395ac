//! rsync as we run it: what is asked of it, with which options.

mod run;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use crate::ssh::Machine;
use crate::tree::PARTIAL;

pub use run::{Transferred, judge_module};

/// rsync's own limit of 300 s does not see a sender that was stopped: the keep-alives of our side reset it.
const PULL_STANDS_STILL: Duration = Duration::from_secs(330);

/// Where content is compared, one side reads a file while the other has nothing to say.
const PUSH_STANDS_STILL: Duration = Duration::from_secs(3600);

// Everything a copy must keep: recursion, links, modes, times to the nanosecond (else a file rewritten within one second at the
// same size would be missed), owners by number, hard links, holes, and extended attributes that belong to users. No devices, no
// sockets: a GPU must not be able to make them here. -s: names reach the other side without its shell.
const FAITHFUL: [&str; 12] = [
    "-rlptgoHXS",
    "-s",
    "--no-devices",
    "--no-specials",
    "--numeric-ids",
    "--modify-window=-1",
    "--no-human-readable",
    "--stats",
    "--info=progress2",
    "--filter=+x user.*",
    "--filter=-x *",
    "--exclude=/.warmspare/",
];

/// One run of rsync, described.
#[derive(Debug, Clone)]
pub struct Transfer {
    arguments: Vec<OsString>,
    writes: Writes,
    /// The other machine is taken for dead when nothing moves for so long.
    stands_still_for: Duration,
}

/// Whose disk a transfer fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    Here,
    There,
}

impl Transfer {
    /// Pulls the tree at `source_path` on the machine into a local directory, which then equals it.
    #[must_use]
    pub fn pull(machine: &Machine, source_path: &str, filters: &[String], into: &Path) -> Self {
        Self::pull_from(machine.rsync_shell(), remote(machine, source_path), filters, into)
    }

    /// As [`Self::pull`], from a module of an rsync daemon at the far end of the connection.
    #[must_use]
    pub fn pull_module(machine: &Machine, place: &str, filters: &[String], into: &Path) -> Self {
        let from = format!("{}::{place}/", machine.rsync_host());
        // What a daemon says first is no part of the transfer.
        Self::pull_from(machine.module_shell(), from.into(), filters, into).with("--no-motd")
    }

    fn pull_from(shell: String, from: OsString, filters: &[String], into: &Path) -> Self {
        let mut transfer = Self::from_a_gpu(shell, filters);
        transfer.push("--delete");
        transfer.push("--delete-excluded");
        // The beginnings of broken-off files are excluded too, and needed.
        transfer.push(format!("--filter=P {PARTIAL}/"));
        transfer.ends(from, with_slash(into))
    }

    /// As [`Self::pull`], of a part of the tree; nothing is deleted.
    #[must_use]
    pub fn pull_some(machine: &Machine, source_path: &str, filters: &[String], into: &Path) -> Self {
        Self::from_a_gpu(machine.rsync_shell(), filters).ends(remote(machine, source_path), with_slash(into))
    }

    /// Deletes here what is not on the machine any more, or is left out by now, but nothing of what the machine cannot read; brings nothing.
    #[must_use]
    pub fn clear_away(machine: &Machine, source_path: &str, filters: &[String], into: &Path) -> Self {
        let mut transfer = Self::from_a_gpu(machine.rsync_shell(), filters);
        transfer.push("--delete");
        transfer.push("--delete-excluded");
        transfer.push("--no-ignore-errors");
        transfer.push(format!("--filter=P {PARTIAL}/"));
        transfer.push("--existing");
        transfer.push("--ignore-existing");
        transfer.ends(remote(machine, source_path), with_slash(into))
    }

    /// Counts the tree, and names what is missing here of the directories and of the files above `small` bytes, with kind, size and
    /// time; changes nothing.
    #[must_use]
    pub fn list_large(machine: &Machine, source_path: &str, filters: &[String], small: u64, into: &Path) -> Self {
        let mut transfer = Self::from_a_gpu(machine.rsync_shell(), filters);
        transfer.push("--dry-run");
        transfer.push(format!("--min-size={}", small + 1));
        // The last one counts. What follows the first word is taken for the name.
        transfer.push("--out-format=%i %i %l %M %n");
        transfer.ends(remote(machine, source_path), with_slash(into))
    }

    /// Pulls the listed paths, deletions included, into a local directory that equals the tree in all others. `list` is a file of
    /// paths that end in zero bytes; a directory in it means its attributes.
    #[must_use]
    pub fn pull_listed(machine: &Machine, source_path: &str, filters: &[String], list: &Path, into: &Path) -> Self {
        let mut transfer = Self::from_a_gpu(machine.rsync_shell(), filters);
        transfer.push("--no-recursive");
        transfer.push("--dirs");
        transfer.push("--delete-missing-args");
        // A directory that became something else goes with everything in it.
        transfer.push("--force");
        transfer
            .ends(remote(machine, source_path), with_slash(into))
            .listed(list)
    }

    /// Pulls the listed paths with all that is in them, as far as they are there; nothing is deleted.
    #[must_use]
    pub fn pull_first(machine: &Machine, source_path: &str, filters: &[String], list: &Path, into: &Path) -> Self {
        Self::pull_some(machine, source_path, filters, into)
            .listed(list)
            .with("--ignore-missing-args")
    }

    fn from_a_gpu(shell: String, filters: &[String]) -> Self {
        let mut transfer = Self::through(shell);
        transfer.writes = Writes::Here;
        transfer.stands_still_for = PULL_STANDS_STILL;
        transfer.push("--out-format=%i");
        // A GPU that hangs must not hold the single flight for ever; checksumming never takes place in a pass.
        transfer.push("--timeout=300");
        // A file that cannot be read is put back from the newest recovery point; it must not keep deleted files alive.
        transfer.push("--ignore-errors");
        for filter in filters {
            transfer.push(filter);
        }
        transfer
    }

    /// Pushes a local tree to a directory on the machine. Nothing there is deleted.
    #[must_use]
    pub fn push_to(machine: &Machine, from: &Path, target_path: &str) -> Self {
        let mut transfer = Self::over(machine);
        transfer.push("--out-format=%i");
        transfer.push("--whole-file");
        transfer.push(format!("--partial-dir={PARTIAL}"));
        transfer.ends(with_slash(from), remote(machine, target_path))
    }

    /// As [`Self::push_to`], of the listed paths with all that is in them. `list` is a file of paths that end in zero bytes.
    #[must_use]
    pub fn push_listed(machine: &Machine, from: &Path, target_path: &str, list: &Path) -> Self {
        Self::push_to(machine, from, target_path)
            .listed(list)
            .with("--ignore-missing-args")
    }

    /// Pushes the listed paths, with all that is in them, into a directory two levels below the target path, except for what is as it
    /// should be at its place.
    #[must_use]
    pub fn stage(machine: &Machine, from: &Path, target_path: &str, list: &Path, room: &str) -> Self {
        let mut transfer = Self::over(machine);
        transfer.push("--out-format=%i");
        transfer.push("--whole-file");
        transfer.push("--compare-dest=../..");
        let room = format!("{}/{room}", target_path.trim_end_matches('/'));
        transfer.ends(with_slash(from), remote(machine, &room)).listed(list)
    }

    /// As [`Self::compare`], of the listed paths with all that is in them.
    #[must_use]
    pub fn compare_below(machine: &Machine, from: &Path, target_path: &str, list: &Path) -> Self {
        Self::compare(machine, from, target_path)
            .listed(list)
            .with("--no-implied-dirs")
    }

    /// As [`Self::compare`], of those entries only whose names, each closed by a zero byte, are in the file `names`.
    #[must_use]
    pub fn compare_listed(machine: &Machine, from: &Path, target_path: &str, names: &Path) -> Self {
        let mut transfer = Self::comparing(machine);
        // Directories stand for themselves in the list; what is in them is listed too.
        transfer.push("--no-r");
        transfer
            .ends(with_slash(from), remote(machine, target_path))
            .listed(names)
    }

    /// Reads both trees whole and lists what differs; changes nothing. Times of directories are left out: whoever else lives on
    /// the machine changes them.
    #[must_use]
    pub fn compare(machine: &Machine, from: &Path, target_path: &str) -> Self {
        Self::comparing(machine).ends(with_slash(from), remote(machine, target_path))
    }

    /// As [`Self::compare`], of the root directory alone.
    #[must_use]
    pub fn compare_root(machine: &Machine, from: &Path, target_path: &str) -> Self {
        let mut transfer = Self::comparing(machine);
        transfer.push("--exclude=/*");
        transfer.ends(with_slash(from), remote(machine, target_path))
    }

    fn comparing(machine: &Machine) -> Self {
        let mut transfer = Self::over(machine);
        transfer.push("--out-format=%i %n");
        transfer.push("--dry-run");
        transfer.push("--checksum");
        transfer.push("--omit-dir-times");
        transfer
    }

    /// Names what it changes.
    #[must_use]
    pub fn naming(mut self) -> Self {
        // The last one counts.
        let end = self.arguments.len().saturating_sub(3);
        self.arguments.insert(end, "--out-format=%i %n".into());
        self
    }

    /// Of files without holes. Looking for holes reads all that is there already, which may take longer than the rest.
    #[must_use]
    pub fn dense(mut self) -> Self {
        // The last one counts.
        let end = self.arguments.len().saturating_sub(3);
        self.arguments.insert(end, "--no-sparse".into());
        self
    }

    /// With one more option.
    #[must_use]
    pub fn with(mut self, option: impl Into<OsString>) -> Self {
        self.arguments.insert(0, option.into());
        self
    }

    /// Of those paths only that are in this file, each closed by a zero byte.
    fn listed(self, list: &Path) -> Self {
        let mut option = OsString::from("--files-from=");
        option.push(list);
        self.with(option).with("--from0")
    }

    fn over(machine: &Machine) -> Self {
        Self::through(machine.rsync_shell())
    }

    fn through(shell: String) -> Self {
        let mut arguments: Vec<OsString> = FAITHFUL.map(OsString::from).into();
        arguments.push("-e".into());
        arguments.push(shell.into());
        Self {
            arguments,
            writes: Writes::There,
            stands_still_for: PUSH_STANDS_STILL,
        }
    }

    fn push(&mut self, argument: impl Into<OsString>) {
        self.arguments.push(argument.into());
    }

    fn ends(mut self, from: OsString, to: OsString) -> Self {
        self.arguments.extend(["--".into(), from, to]);
        self
    }
}

fn remote(machine: &Machine, path: &str) -> OsString {
    // Relative paths get a dot so that none can look like a module (`::`).
    let start = if path.starts_with('/') { "" } else { "./" };
    let end = if path.ends_with('/') { "" } else { "/" };
    format!("{}:{start}{path}{end}", machine.rsync_host()).into()
}

fn with_slash(path: &Path) -> OsString {
    let mut text = path.as_os_str().to_owned();
    text.push(OsStr::new("/"));
    text
}
