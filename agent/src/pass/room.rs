//! Room for a first pass that found the disk full: what arrived and is not wanted any more makes way for what is.
//!
//! Only then: as long as there is room, what the GPU deleted meanwhile may be the last copy.

use std::collections::HashSet;

use warmspare_wire::agent::PassFailureKind;

use super::Pass;
use super::seeding::words;
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::incoming::{Incoming, Start};
use crate::reserve;
use crate::rsync::{Transfer, Transferred};
use crate::rsync_output::MOST_NAMED;
use crate::tree;

/// Whether the last pass found the disk full.
pub(super) fn was_missing(dir: &DataDir) -> Result<bool, AgentError> {
    let failure = dir.state()?.last_failure;
    Ok(failure.is_some_and(|failure| failure.kind == PassFailureKind::DiskFull))
}

impl Pass<'_> {
    /// Gives up what is not on the GPU any more, or is excluded by now.
    pub(super) fn give_up_what_is_gone(&self, incoming: &Incoming) -> Result<(), AgentError> {
        if incoming.start == Start::Fresh {
            return Ok(());
        }
        let path = &self.binding.bind.source_path;
        let gone = Transfer::clear_away(&self.machine, path, &self.binding.filters(), &incoming.path);
        self.pull(&gone, |_| Ok(())).map(drop)
    }

    /// Gives up the beginnings of files that are not among those to come, and takes the reserve again; other beginnings need not cross
    /// the network again.
    pub(super) fn give_up_beginnings(&self, incoming: &Incoming, listed: &Transferred) -> Result<(), AgentError> {
        let named = &listed.tally.named;
        if named.len() < MOST_NAMED {
            let names = named.iter().filter_map(|(line, _)| words(line));
            let to_come: HashSet<_> = names.filter_map(|words| tree::below(words.name, &[])).collect();
            tree::retain_partials(&incoming.path, &|of| to_come.contains(of))
                .map_err(|error| AgentError::io("give up what broke off", error))?;
        }
        reserve::take(self.dir)
    }
}
