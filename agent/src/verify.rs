//! Comparing a recovery point with a host, every byte on both sides.

use std::fs::File;

use warmspare_wire::agent::{Host, PointChoice, Progress};

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::recovery_points::{self, tree_of};
use crate::rsync::{Transfer, Wish};
use crate::source;
use crate::ssh::Machine;
use crate::state::PointFile;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Entries of the recovery point that are missing on the host or differ there.
    pub count: u64,
    /// The first of them, as rsync itemizes them.
    pub examples: String,
}

/// Compares a recovery point with a directory on a host (where the bound GPU's host key, or a restore target's, is pinned).
///
/// # Errors
/// When nothing is bound, no recovery point fits, or the host cannot be reached.
pub fn verify(
    dir: &DataDir,
    choice: &PointChoice,
    host: Option<&Host>,
    path: Option<&str>,
) -> Result<(PointFile, Differences), AgentError> {
    let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
    let point = recovery_points::choose(dir, choice)?;
    let path = path.unwrap_or(&binding.bind.source_path);
    source::check_path(path)?;
    let host = host.unwrap_or(&binding.bind.source);
    // A restore target has its key pinned under the epoch that it will have.
    let job = dir.restore_file()?.filter(|job| job.target == *host);
    let epoch = job.map_or(binding.epoch(), |job| job.epoch);
    let machine = Machine::new(dir, host, binding.association(), epoch)?;
    machine.connect()?;
    let lock = dir
        .try_lock("verify.lock")?
        .ok_or_else(|| AgentError::Interrupted("another verification is under way".into()))?;
    let transfer = Transfer::compare(&machine, &tree_of(dir, &point.point.id), path);
    let differences = run(&transfer, dir, &machine, &lock, |_| Wish::GoOn)?;
    Ok((point, differences))
}

/// Runs a comparison.
///
/// # Errors
/// When it could not read everything on both sides.
pub fn run(
    transfer: &Transfer,
    dir: &DataDir,
    machine: &Machine,
    lock: &File,
    watch: impl FnMut(Option<Progress>) -> Wish,
) -> Result<Differences, AgentError> {
    let done = transfer.run(dir, machine, lock, watch)?;
    if let Some(name) = done.kept.first() {
        return Err(AgentError::Rsync(format!(
            "cannot read {}",
            String::from_utf8_lossy(name).escape_debug()
        )));
    }
    if done.tally.totals.is_none() {
        return Err(AgentError::Rsync("the comparison did not end".into()));
    }
    Ok(Differences {
        count: done.tally.differences,
        examples: done.tally.first.join(", "),
    })
}
