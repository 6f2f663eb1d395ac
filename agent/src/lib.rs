//! One program for three machines. On the standby it pulls the GPU's files with rsync over SSH, keeps recovery points, restores and verifies
//! them; on the GPU it watches what changes and names checkpoints; on the target of a restore it lists what is there and unpacks.
//!
//! # Guarantees
//! - A pass is complete or it did not happen: rsync fills `incoming/`, guards judge it, and only then it becomes a recovery point.
//! - Nothing that a GPU does or serves alters or removes a recovery point; only thinning and lack of space remove one, and never the newest.
//! - A kill at any instant, of any process, leaves a state that the next call reads and carries on from.

#![cfg_attr(not(test), warn(clippy::expect_used))]

// What is asked, from the control plane or a terminal.
pub mod bind;
pub mod call;
pub mod data_dir;
pub mod live;
pub mod state;
pub mod status;
pub mod sync;
pub mod terminal;
pub mod worker;

// A pass.
pub mod bandwidth;
pub mod before_pass;
pub mod changes;
pub mod fetched;
pub mod guard;
pub mod in_motion;
pub mod incoming;
pub mod link;
pub mod marker;
pub mod pass;
pub mod source;
pub mod traffic;

// What the watcher on the GPU tells, and what a training script names there.
pub mod attributes;
pub mod checkpoint;
pub mod checkpoints;
pub mod observer;
pub mod watch;
pub mod watching;

// Recovery points, and the disk that they fill.
pub mod compare;
pub mod download;
pub mod recovery_points;
pub mod reserve;
pub mod space;
pub mod thin;

// A restore, on both ends.
pub mod bundle;
pub mod inventory;
pub mod progress;
pub mod put_back;
pub mod put_in;
pub mod restore;
pub mod streams;
pub mod survey;
pub mod unpack;
pub mod verify;

// A rescue.
pub mod module;
pub mod rescue;
pub mod rescue_pass;

// The other machine.
pub mod identity;
pub mod program;
pub mod rsync;
pub mod rsync_output;
pub mod session;
pub mod ssh;

// Foundations.
pub mod bell;
pub mod clock;
pub mod error;
pub mod frame;
pub mod name_list;
pub mod names;
pub mod process;
pub mod tree;
pub mod wish;
