//! A stand-in for Vast.ai, Google Compute Engine, its price list and Cloud Storage that speaks their wire formats over HTTP and whose machines are real.
//!
//! Every GPU and every standby has a directory, a host key, authorized keys and an sshd of its own on a loopback address. A
//! stopped machine has no sshd and no process, a deleted one no directory. A Compute Engine data disk is a directory that
//! outlives its VM; while a VM has it, the directory is *moved* to `data` in the VM's home (so that it is a real directory
//! there, for `cd`, rsync and guards alike) and `disks/<zone>/<name>` links to it. With [`DataDisks::Btrfs`] that directory is only
//! where the disk is mounted while the VM is on, and `disks/<zone>/<name>.img` is the disk.
//!
//! Only the account that runs the sim can log in to its machines: [`Simcloud::login_user`] names it.

mod billing;
mod compute;
mod control;
mod delivery;
mod faults;
mod http;
mod inventory;
mod journal;
mod knobs;
mod machine;
mod notices;
mod options;
mod processes;
mod rights;
mod server;
mod simcloud;
mod sshd;
mod storage;
mod token;
mod vast;
mod volume;
mod watchdog;
mod webhooks;
mod world;

pub use compute::QuotaRefusal;
pub use delivery::{Attempt, signature};
pub use faults::{Fault, FaultAction};
pub use inventory::{Left, LeftDisk};
pub use journal::Recorded;
pub use knobs::{Knobs, NoSuchMachine};
pub use machine::{MachineError, login_user};
pub use options::{DataDisks, Options, RateLimits, Timing};
pub use simcloud::{Simcloud, StartError, check_btrfs_disks};
pub use vast::Birth;
pub use webhooks::Delivery;
