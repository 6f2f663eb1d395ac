//! The rules of warmspare, as pure functions over plain data.
//!
//! [`decide::decide`] takes an association, an event and the time, and answers the next association, the effects, and why.
//! Nothing here does I/O, reads a clock or knows a provider's wire format; `clippy.toml` beside this crate keeps it so.

pub mod association;
pub mod decide;
pub mod disk_speed;
pub mod effect;
pub mod event;
pub mod halt;
pub mod health;
pub mod ids;
pub mod invariants;
pub mod observed;
pub mod orphan;
pub mod policy;
pub mod problem;
pub mod reason;
pub mod rebuild;
pub mod units;
pub mod warrant;
