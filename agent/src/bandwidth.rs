//! How much of the GPU's network a pass may take. The last-gasp pass takes all there is: what it does not fetch may be lost.

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::rsync::Transfer;

/// The limit of one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// All there is.
    None,
    /// This many KiB a second, for the pass of this number.
    Kib {
        /// KiB a second.
        per_s: u32,
        /// The request that the pass serves.
        number: u64,
    },
}

impl Limit {
    /// The transfer under this limit.
    #[must_use]
    pub fn apply(self, transfer: Transfer) -> Transfer {
        match self {
            Self::None => transfer,
            // In units of 1024 bytes. Source: rsync(1) 3.2.7, --bwlimit.
            Self::Kib { per_s, .. } => transfer.with(format!("--bwlimit={per_s}")),
        }
    }
}

/// The limit of the pass that serves the request of this number.
///
/// # Errors
/// When the requests cannot be read.
pub fn limit(dir: &DataDir, per_s: u32, number: u64) -> Result<Limit, AgentError> {
    let last_gasp = dir.requests()?.last_gasp;
    // A pass serves its own request and all before; only a last-gasp one that is still to be served lifts the limit.
    let urgent = last_gasp > dir.state()?.finished && number >= last_gasp;
    Ok(match (per_s, urgent) {
        (0, _) | (_, true) => Limit::None,
        (per_s, false) => Limit::Kib { per_s, number },
    })
}

/// Whether a last-gasp pass was asked for while this one crawls: what it fetched is taken up by the next.
#[must_use]
pub fn must_hurry(dir: &DataDir, limit: &Limit) -> bool {
    match limit {
        Limit::None => false,
        Limit::Kib { number, .. } => is_overtaken(dir, *number),
    }
}

/// Whether a last-gasp pass was asked for after the request of this number.
#[must_use]
pub fn is_overtaken(dir: &DataDir, number: u64) -> bool {
    dir.requests().is_ok_and(|requests| requests.last_gasp > number)
}
