//! Whether long work is still wanted.

use std::time::Duration;

/// How often somebody who works asks.
pub const GLANCE: Duration = Duration::from_millis(100);

/// Whether the work is still wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    GoOn,
    /// Stop, for this reason.
    Stop(&'static str),
}
