//! The real things behind the ports. Each sits behind a cargo feature of its name, because each brings dependencies of its own.

#[cfg(feature = "compute")]
pub mod billing;
#[cfg(feature = "compute")]
pub mod compute;
pub mod directory;
#[cfg(test)]
#[cfg(any(feature = "compute", feature = "vast"))]
mod fake_server;
#[cfg(feature = "gcs")]
pub mod gcs;
#[cfg(feature = "compute")]
pub mod google;
#[cfg(any(feature = "compute", feature = "vast"))]
pub(crate) mod http;
pub mod memory;
pub mod price_file;
pub mod providers;
#[cfg(test)]
#[cfg(any(feature = "compute", feature = "vast"))]
pub(crate) mod published_schema;
#[cfg(feature = "ssh")]
pub mod ssh;
#[cfg(feature = "vast")]
pub mod vast;

/// The file in the data directory by which a standby at Vast says that its start-up commands are through.
#[cfg(any(feature = "ssh", feature = "vast"))]
const READY: &str = ".warmspare-ready";
