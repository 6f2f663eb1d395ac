//! What a simulated cloud is told at its start: where it lives, who may call it, how fast its time runs.

use std::path::PathBuf;
use std::time::Duration;

/// How a simulated cloud is set up. Everything has a default; tests usually change `time_scale` only.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory for machines and disks. `None`: a temporary one, removed when the sim ends.
    pub dir: Option<PathBuf>,
    /// TCP port of the HTTP server on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Factor on every simulated duration: 1.0 is as measured live, 0.05 twenty times faster.
    pub time_scale: f64,
    /// The unscaled durations.
    pub timing: Timing,
    /// The bearer key that the Vast side accepts.
    pub vast_api_key: String,
    /// A bearer token that the Compute side accepts besides those issued by `POST /token`.
    pub compute_token: String,
    /// The one Google project that exists.
    pub project: String,
    /// The one bucket that exists.
    pub bucket: String,
    /// The SSH port of every standby (Compute Engine's API has no port). `None`: a free unprivileged one.
    pub standby_ssh_port: Option<u16>,
    /// Whether the Vast side refuses calls that come faster than its published intervals.
    pub rate_limits: RateLimits,
    /// Prepaid credit of the Vast account in US dollars.
    pub vast_credit: f64,
    /// What the data disks of VMs are made of.
    pub data_disks: DataDisks,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dir: None,
            port: 0,
            time_scale: 1.0,
            timing: Timing::default(),
            vast_api_key: "sim-vast-key".to_owned(),
            compute_token: "sim-compute-token".to_owned(),
            project: "sim-project".to_owned(),
            bucket: "sim-bucket".to_owned(),
            standby_ssh_port: None,
            rate_limits: RateLimits::Off,
            vast_credit: 100.0,
            data_disks: DataDisks::Directories,
        }
    }
}

/// Whether and how the Vast side enforces its minimum intervals between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateLimits {
    /// No limit.
    Off,
    /// 429 with a plain sentence and no `Retry-After`, as the prose documentation describes.
    WithoutRetryAfter,
    /// 429 with JSON, `Retry-After` and `X-RateLimit-*`, as newer answers carry.
    WithRetryAfter,
}

/// What the data disks of VMs are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DataDisks {
    /// Plain directories, as large as the host's disk.
    #[default]
    Directories,
    /// btrfs file systems of the disk's size, each in a sparse file on a loop device: mounted while the machine is on, and full when
    /// they are full. The host must have room for what is written to them. Takes root; see [`crate::check_btrfs_disks`].
    Btrfs,
}

/// How long things take, in real seconds before `time_scale` is applied.
///
/// Vast's interruption times: `reference/vast/live-interruptions.json` (live probe of 2026-08-27). The rest is noted per field.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Vast: create accepted until `loading` shows.
    pub vast_loading: f64,
    /// Vast: create accepted until `running` shows (87 s from create to SSH: `known-failures.md`).
    pub vast_running: f64,
    /// Vast: `running` until ports are listed and sshd answers.
    pub vast_ports: f64,
    /// Vast: other tenant takes the GPU until our notification is sent.
    pub outbid_notice: f64,
    /// Vast: notification sent until `intended_status` reads `stopped`.
    pub outbid_flip: f64,
    /// Vast: shortest and longest time from that flip until the container is killed.
    pub outbid_kill: (f64, f64),
    /// Vast: own bid lowered below the floor until `intended_status` flips; no notice is sent.
    pub underbid_flip: f64,
    /// Vast: stop until the container is gone.
    pub vast_stop: f64,
    /// Vast: explicit start until `intended_status` reads `running`.
    pub start_accepted: f64,
    /// Vast: that flip until the container runs.
    pub start_running: f64,
    /// Vast: the other tenant leaves until `intended_status` reads `running` again.
    pub resume_accepted: f64,
    /// Vast: that flip until the container runs.
    pub resume_running: f64,
    /// Vast: destroy until the row is gone.
    pub vast_destroy: f64,
    /// Vast: SSH key attached until it works (10–15 s measured by third parties).
    pub key_propagation: f64,
    /// Vast: reboot and recycle.
    pub vast_reboot: f64,
    /// Vast: wait before the second delivery attempt of a notification; doubles each time.
    pub webhook_retry: f64,
    /// Compute: insert until the VM is RUNNING and the operation is done.
    pub compute_insert: f64,
    /// Compute: RUNNING until sshd answers and the guest attributes are written.
    pub compute_boot: f64,
    /// Compute: start until RUNNING.
    pub compute_start: f64,
    /// Compute: stop or delete of a running VM until the guest is off.
    pub compute_stop: f64,
    /// Compute: preemption until power is cut (about 30 s for Spot).
    pub preempt_off: f64,
    /// Compute: how long short operations (labels, disks) take.
    pub compute_short: f64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            vast_loading: 5.0,
            vast_running: 80.0,
            vast_ports: 7.0,
            outbid_notice: 0.4,
            outbid_flip: 0.6,
            outbid_kill: (10.6, 32.0),
            underbid_flip: 1.3,
            vast_stop: 10.6,
            start_accepted: 3.5,
            start_running: 42.5,
            resume_accepted: 4.0,
            resume_running: 10.6,
            vast_destroy: 1.9,
            key_propagation: 12.0,
            vast_reboot: 20.0,
            webhook_retry: 5.0,
            compute_insert: 8.0,
            compute_boot: 15.0,
            compute_start: 8.0,
            compute_stop: 20.0,
            preempt_off: 30.0,
            compute_short: 1.0,
        }
    }
}

/// A factor on simulated durations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale(pub(crate) f64);

impl Scale {
    pub(crate) fn of(self, seconds: f64) -> Duration {
        Duration::from_secs_f64((seconds * self.0).max(0.0))
    }
}
