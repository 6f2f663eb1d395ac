//! Why an effect did not happen.

use serde::{Deserialize, Serialize};

/// Why an effect did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// The kind, for decisions.
    pub kind: ProblemKind,
    /// For a person.
    pub detail: String,
}

/// The kinds of [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The provider has none to sell here now; another zone or offer may have.
    CapacityExhausted,
    /// The account may not have more of it.
    QuotaExceeded,
    /// The name is taken by something that is not ours.
    NameTaken,
    /// Nothing fits the wish and the price.
    NoOffer,
    /// The account has no credit.
    OutOfCredit,
    /// The provider refused our credentials or rights.
    Denied,
    /// The provider asks us to slow down.
    RateLimited,
    /// The other machine did not answer, or refused the key. Often passes: keys take 10 to 15 s to arrive on a GPU.
    Unreachable,
    /// A needed program is missing there.
    ProgramMissing,
    /// The agent refused the epoch as older than its own.
    StaleEpoch,
    /// A guard of the agent holds.
    Halted(crate::halt::HaltReason),
    /// The recovery point that was asked for does not exist; for the newest one: none does.
    NoRecoveryPoint,
    /// The request was wrong in itself; repeating it will not help.
    Invalid,
    /// No answer: it may have happened.
    OutcomeUnknown,
    /// It did not happen, for a passing reason.
    Failed,
}
