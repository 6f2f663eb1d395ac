//! What the workload had safely written, held against what was restored.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::workload::{CHECKPOINTS, LOG};

/// The difference between the lost GPU's disk and the new GPU's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Bytes of log lines that were on disk before the notice and are missing.
    pub(super) lost_before_notice: u64,
    /// Bytes of log lines written after the notice that did not make it.
    pub(super) lost_after_notice: u64,
    /// Checkpoints whose content is not what the log says, or that the log names last and that are missing.
    pub(super) wrong_checkpoints: Vec<String>,
    /// Files that were restored.
    pub(super) files: u64,
    /// Their size.
    pub(super) bytes: u64,
}

/// Compares two workspaces.
pub(super) fn compare(lost: &Path, restored: &Path, notice_ms: u64) -> anyhow::Result<Difference> {
    let before = fs::read_to_string(lost.join(LOG)).context("read the lost GPU's log")?;
    let after = fs::read_to_string(restored.join(LOG)).context("read the restored log")?;
    let mut difference = Difference::default();
    // The log is append-only, so what was restored is a beginning of it.
    let common = before.bytes().zip(after.bytes()).take_while(|(a, b)| a == b).count();
    let mut position = 0;
    for line in before.split_inclusive('\n') {
        let missing = (position + line.len()).saturating_sub(common.max(position)) as u64;
        let written_ms: u64 = line
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        if written_ms <= notice_ms {
            difference.lost_before_notice += missing;
        } else {
            difference.lost_after_notice += missing;
        }
        position += line.len();
    }
    difference.wrong_checkpoints = wrong_checkpoints(restored, &after, notice_ms)?;
    count(restored, &mut difference)?;
    Ok(difference)
}

fn wrong_checkpoints(restored: &Path, log: &str, notice_ms: u64) -> anyhow::Result<Vec<String>> {
    let mut logged: BTreeMap<u64, &str> = BTreeMap::new();
    let mut newest_before_notice = None;
    for line in log.lines() {
        if let [written_ms, "checkpoint", name, hash] = line.split(' ').collect::<Vec<_>>()[..]
            && let Some(number) = checkpoint_number(name)
        {
            logged.insert(number, hash);
            if written_ms.parse::<u64>().is_ok_and(|written| written <= notice_ms) {
                newest_before_notice = Some(number);
            }
        }
    }
    let mut wrong = Vec::new();
    let mut newest_restored = None;
    for entry in fs::read_dir(restored.join(CHECKPOINTS))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(number) = checkpoint_number(&name) else {
            continue;
        };
        newest_restored = newest_restored.max(Some(number));
        // A checkpoint that was published while the pass ran may be there before its line in the log.
        if let Some(hash) = logged.get(&number)
            && hex::encode(Sha256::digest(fs::read(restored.join(CHECKPOINTS).join(&name))?)) != *hash
        {
            wrong.push(name);
        }
    }
    // Older ones may have been rotated away, but nothing older than what stood at the notice may be the newest.
    if newest_restored < newest_before_notice {
        wrong.push(format!(
            "{newest_before_notice:?} is missing, the newest is {newest_restored:?}"
        ));
    }
    Ok(wrong)
}

fn checkpoint_number(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.strip_suffix(".pt")?.parse().ok()
}

fn count(directory: &Path, difference: &mut Difference) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != ".warmspare" {
            count(&entry.path(), difference)?;
        } else if kind.is_file() {
            difference.files += 1;
            difference.bytes += entry.metadata()?.len();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(log: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(CHECKPOINTS)).unwrap();
        fs::write(directory.path().join(LOG), log).unwrap();
        directory
    }

    #[test]
    fn a_line_missing_from_before_the_notice_counts_as_lost() {
        let lost = workspace("10 a\n20 b\n30 c\n");
        let restored = workspace("10 a\n");
        let difference = compare(lost.path(), restored.path(), 20).unwrap();
        assert_eq!((difference.lost_before_notice, difference.lost_after_notice), (5, 5));
    }

    #[test]
    fn a_checkpoint_with_other_content_is_named() {
        let log = format!("10 checkpoint step-0.pt {}\n", hex::encode(Sha256::digest(b"model")));
        let restored = workspace(&log);
        fs::write(restored.path().join(CHECKPOINTS).join("step-0.pt"), "another").unwrap();
        assert_eq!(
            compare(restored.path(), restored.path(), 20).unwrap().wrong_checkpoints,
            ["step-0.pt"]
        );
    }
}
