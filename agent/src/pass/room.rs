//! Room for a first pass that found the disk full: what arrived and is not wanted any more makes way for what is.
//!
//! Only then: as long as there is room, what the GPU deleted meanwhile may be the last copy.

use std::collections::HashSet;
use std::path::PathBuf;

use warmspare_wire::agent::PassFailureKind;

use super::Pass;
use crate::error::AgentError;
use crate::incoming::{Incoming, Start};
use crate::rsync::Transfer;
use crate::tree;

impl Pass<'_> {
    /// Whether this is a first pass that found the disk full.
    pub(super) fn waits_for_room(&self) -> Result<bool, AgentError> {
        if self.base.is_some() {
            return Ok(false);
        }
        let failure = self.dir.state()?.last_failure;
        Ok(failure.is_some_and(|failure| failure.kind == PassFailureKind::DiskFull))
    }

    /// Gives up what is not on the GPU any more, or is excluded by now.
    pub(super) fn give_up_what_is_gone(&self, incoming: &Incoming) -> Result<(), AgentError> {
        if incoming.start == Start::Fresh {
            return Ok(());
        }
        let path = &self.binding.bind.source_path;
        let gone = Transfer::clear_away(&self.machine, path, &self.binding.filters(), &incoming.path);
        self.pull(&gone, |_| Ok(())).map(drop)
    }
}

/// Gives up the beginnings of files that are not among those to come; the others need not cross the network again.
pub(super) fn give_up_beginnings(incoming: &Incoming, to_come: &HashSet<PathBuf>) -> Result<(), AgentError> {
    tree::retain_partials(&incoming.path, &|of| to_come.contains(of))
        .map_err(|error| AgentError::io("give up what broke off", error))
}
