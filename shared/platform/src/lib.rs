//! What stands between the rules and the world.
//!
//! [`ports`] names what the reconciler needs of the world; `adapters` fulfil it with the real thing.

pub mod adapters;
pub mod config;
pub mod ports;
pub mod pulse;
pub mod reconcile;
pub mod report;
