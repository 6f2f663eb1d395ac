//! The stories, in one program: they wait more than they work, so several run at once.

mod bad_input;
mod checkpoints;
mod crashes;
mod data_plane;
mod demo;
mod doctor;
mod downloads;
mod guards;
mod hooks;
mod losses;
mod prices;
mod rebuild;
mod restores;
mod specification;
mod vast_standby;
mod webhook;
