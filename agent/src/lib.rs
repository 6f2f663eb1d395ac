//! The program on a standby: pulls the GPU's files with rsync over SSH, keeps recovery points, restores and verifies them.
//!
//! # Guarantees
//! - A pass is complete or it did not happen: rsync fills `incoming/`, guards judge it, and only then it becomes a recovery point.
//! - Nothing that a GPU does or serves alters or removes a recovery point; only thinning removes one, and never the newest.
//! - A kill at any instant, of any process, leaves a state that the next call reads and carries on from.

#![cfg_attr(not(test), warn(clippy::expect_used))]

pub mod attributes;
pub mod bandwidth;
pub mod before_pass;
pub mod bell;
pub mod bind;
pub mod bundle;
pub mod call;
pub mod changes;
pub mod checkpoint;
pub mod checkpoints;
pub mod clock;
pub mod compare;
pub mod data_dir;
pub mod download;
pub mod error;
pub mod fetched;
pub mod frame;
pub mod guard;
pub mod identity;
pub mod in_motion;
pub mod incoming;
pub mod inventory;
pub mod link;
pub mod live;
pub mod marker;
pub mod module;
pub mod names;
pub mod observer;
pub mod pass;
pub mod process;
pub mod program;
pub mod progress;
pub mod recovery_points;
pub mod rescue;
pub mod rescue_pass;
pub mod reserve;
pub mod restore;
pub mod rsync;
pub mod rsync_output;
pub mod session;
pub mod source;
pub mod space;
pub mod ssh;
pub mod state;
pub mod status;
pub mod streams;
pub mod survey;
pub mod sync;
pub mod terminal;
pub mod thin;
pub mod traffic;
pub mod tree;
pub mod unpack;
pub mod verify;
pub mod watch;
pub mod watching;
pub mod wish;
pub mod worker;
