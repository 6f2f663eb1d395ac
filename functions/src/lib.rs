//! What the functions share: start-up, the warm world, the queue and the schedule of the beat.
//!
//! Nothing is kept from one invocation to the next but clients and caches that may be stale.

pub mod costs;
pub mod http;
pub mod parameters;
pub mod queue;
pub mod schedule;
pub mod settings;
pub mod telemetry;
pub mod ticks;
pub mod warm;
