//! The rules of warmspare, as pure functions over plain data.
//!
//! Nothing here does I/O, reads a clock or knows a provider's wire format; `clippy.toml` beside this crate keeps it so.

pub mod halt;
pub mod ids;
pub mod units;
