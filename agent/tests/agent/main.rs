//! The agent against a real sshd and a real rsync on loopback.

mod passes;
mod support;
