//! What stands between the rules and the world.
//!
//! [`ports`] names what the reconciler needs of the world; `adapters` fulfil it with the real thing.

pub mod adapters;
#[cfg(all(feature = "vast", feature = "compute", feature = "ssh"))]
pub mod assemble;
pub mod associations;
pub mod config;
#[cfg(test)]
mod contract;
pub mod disk_choice;
pub mod doctor;
pub mod estimate;
pub mod handlers;
pub mod placement;
pub mod ports;
pub mod prices;
pub mod pulse;
pub mod recalled;
pub mod reconcile;
pub mod report;
pub mod slots;
pub mod wire;
