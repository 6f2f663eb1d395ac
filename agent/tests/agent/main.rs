//! The agent against a real sshd and a real rsync on loopback.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by its line")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever was not expected fails the test")]

mod binding;
mod checkpoints;
mod comparing;
mod cuts;
mod downloads;
mod guards;
mod handed;
mod hostile;
mod kills;
mod live;
mod long_paths;
mod passes;
mod put_back;
mod random_trees;
mod rescues;
mod restores;
mod seeding;
mod single_flight;
mod storage;
mod streams;
mod support;
mod watching;
