//! Checkpoints that a training script names: what it leaves in the tree, and when a recovery point may carry the name.
//!
//! # Guarantees
//! - A recovery point carries a name only when it holds every file of the checkpoint with the size and the modification time, to
//!   the nanosecond, that it had when it was named, and when no such file changed on the GPU until it was copied.
//! - Whoever waits hears of it only after that recovery point is durable. Who is cut off hears it from the next pass.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use warmspare_domain::ids::{CheckpointName, RecoveryPointId};
use warmspare_domain::units::Timestamp;

use crate::error::AgentError;
use crate::marker::MARKER_DIRECTORY;
use crate::ssh::Machine;
use crate::tree::{self, Finder};

/// The version of [`Wanted`].
pub const SCHEMA: u32 = 1;

/// Where they lie, below our directory in the tree.
pub const PLACE: &str = "checkpoints";

/// How a file ends that asks for one.
pub const WANTED: &str = "wanted";
/// How a file ends that says in which recovery point it is.
pub const KEPT: &str = "kept";
/// How a file ends that says why it is in none.
pub const MISSED: &str = "missed";

/// No more are looked at in one pass.
pub const MOST: usize = 16;

/// The longest [`Wanted`] in bytes, so that [`MOST`] of them fit into one answer.
pub const LONGEST: usize = 60_000;

/// A checkpoint that a training script wants kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its own: the same name may be given again.
    pub id: String,
    /// Its name.
    pub name: CheckpointName,
    /// When it was named, by the GPU's clock.
    pub at: Timestamp,
    /// Its files as they were then; none for the whole tree as it is from then on.
    pub files: Vec<NamedFile>,
}

/// A file of a checkpoint, as it was when it was named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFile {
    /// Below the tree.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Seconds and nanoseconds of its modification.
    pub modified: (i64, i64),
}

/// A checkpoint that a recovery point holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// See [`Wanted::id`].
    pub id: String,
    /// See [`Wanted::name`].
    pub name: CheckpointName,
}

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is in this recovery point.
    Kept(RecoveryPointId),
    /// It is in none, for a person.
    Missed(String),
}

impl Wanted {
    /// Understands one; nothing that any GPU writes can name what lies outside the tree.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(Self::is_sound)
    }

    /// Whether it is one that this version understands, and names nothing outside the tree.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let id = self.id.len() == 32 && self.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.schema <= SCHEMA
            && id
            && self
                .files
                .iter()
                .all(|file| is_plain(&file.path) && file.path.len() < 4096)
    }

    /// Why this tree does not hold it as it was.
    #[must_use]
    pub fn differs(&self, tree: &Path) -> Option<String> {
        let mut tree = Finder::below(tree).ok();
        let mut is_in = |file: &&NamedFile| tree.as_mut().is_some_and(|tree| file.is_in(tree));
        let differs = self.files.iter().find(|file| !is_in(file))?;
        Some(format!(
            "{} is not in the copy as it was when the checkpoint was named: it changed since, cannot be read, or is excluded",
            differs.path
        ))
    }
}

impl NamedFile {
    fn is_in(&self, tree: &mut Finder) -> bool {
        let found = tree.node(Path::new(&self.path)).ok().flatten();
        found.is_some_and(|found| found.is_file() && found.size() == self.size && found.modified() == self.modified)
    }
}

/// Whether a path is plain components only, in one line.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    tree::below(path.as_bytes(), &[]).is_some() && !path.contains(['\n', '\0'])
}

/// Every checkpoint that is wanted in a tree of this machine, at most [`MOST`].
#[must_use]
pub fn wanted_in(tree: &Path) -> Vec<Wanted> {
    let mut found: Vec<PathBuf> = fs::read_dir(tree.join(MARKER_DIRECTORY).join(PLACE))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == WANTED))
        .collect();
    found.sort();
    // Reading a pipe would never end.
    let small = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= LONGEST as u64);
    let read = |path: PathBuf| fs::read(path).ok().and_then(|bytes| Wanted::read(&bytes));
    found.into_iter().filter(small).filter_map(read).take(MOST).collect()
}

// A file that is newer than the request changed after it; so did, for all we know, one that nothing can be said of. Fixed text; tree, ids and paths come over standard input.
const CHANGED: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p || exit 91; cd \"$p\" || exit 92; d=.warmspare/checkpoints; \
    while IFS= read -r i && IFS= read -r f; do \
    n=$(find \"./$f\" -newer \"$d/$i.wanted\" 2>/dev/null) && [ -z \"$n\" ] || printf \"changed %s %s\\n\" \"$i\" \"$f\"; done; echo checked'";

// Old answers are cleared away, and nothing else that may lie there: never where a link leads.
const ANSWER: &str = "exec /bin/sh -c 'unset CDPATH; umask 077; IFS= read -r p && cd \"$p\" || exit 91; [ -L .warmspare ] && exit 92; \
    [ -L .warmspare/checkpoints ] && exit 92; cd .warmspare/checkpoints || exit 92; \
    h=????????????????????????????????; while IFS= read -r i && IFS= read -r k && IFS= read -r w; do \
    printf \"%s\\n\" \"$w\" > \".$i.new\" && mv -f \".$i.new\" \"$i.$k\" && rm -f \"$i.wanted\"; done; \
    find . -maxdepth 1 -type f -mtime +1 \\( -name \"$h.kept\" -o -name \"$h.missed\" -o -name \".$h.new\" \\) -exec rm -f {} + 2>/dev/null; exit 0'";

/// Files that changed on the GPU after they were named, with the ids of their checkpoints.
///
/// # Errors
/// When the machine cannot be reached, or answers something else.
pub fn changed_since(machine: &Machine, tree: &str, wanted: &[Wanted]) -> Result<Vec<(String, String)>, AgentError> {
    let mut input = format!("{tree}\n");
    for (wanted, file) in wanted.iter().flat_map(|w| w.files.iter().map(move |file| (w, file))) {
        input.push_str(&format!("{}\n{}\n", wanted.id, file.path));
    }
    let answer = machine.run(CHANGED, input.as_bytes())?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    if !text.lines().any(|line| line == "checked") {
        return Err(AgentError::Interrupted(
            "the GPU does not say whether checkpoints changed".into(),
        ));
    }
    let changed = text
        .lines()
        .filter_map(|line| line.strip_prefix("changed ")?.split_once(' '));
    Ok(changed.map(|(id, file)| (id.to_owned(), file.to_owned())).collect())
}

/// Tells the GPU what became of them.
///
/// # Errors
/// When the machine cannot be reached, or has no place for answers.
pub fn answer(machine: &Machine, tree: &str, fates: &[(Wanted, Fate)]) -> Result<(), AgentError> {
    let mut input = format!("{tree}\n");
    for (wanted, fate) in fates {
        let (kind, words) = match fate {
            Fate::Kept(point) => (KEPT, point.to_string()),
            Fate::Missed(reason) => (MISSED, reason.clone()),
        };
        input.push_str(&format!("{}\n{kind}\n{words}\n", wanted.id));
    }
    match machine.run(ANSWER, input.as_bytes())?.code {
        Some(0) => Ok(()),
        code => Err(AgentError::Unexpected(format!(
            "{} cannot be told of its checkpoints, exit code {code:?}",
            machine.shown()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(path: &str) -> String {
        format!(
            r#"{{"schema":1,"id":"{}","name":"epoch-1","at":"2026-11-24T00:00:00.000Z","files":[{{"path":{path:?},"size":1,"modified":[1,2]}}]}}"#,
            "0a".repeat(16)
        )
    }

    #[test]
    fn a_gpu_cannot_name_what_lies_outside_the_tree() {
        assert!(Wanted::read(wanted("runs/1/model.pt").as_bytes()).is_some());
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a\nb", "."] {
            assert_eq!(Wanted::read(wanted(bad).as_bytes()), None, "{bad:?}");
        }
        for id in ["../../../../../../../../etc/abcde", "x", ""] {
            let text = wanted("a").replace(&"0a".repeat(16), id);
            assert_eq!(Wanted::read(text.as_bytes()), None, "{id:?}");
        }
        assert_eq!(Wanted::read(wanted("a").replace("epoch-1", "a/b").as_bytes()), None);
    }
}
