//! What the demo measured and checked.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use warmspare_domain::units::Bytes;

/// What the story brought to light.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) bytes_lost_after_notice: u64,
    pub(super) bytes_written_after_last_pass: u64,
    pub(super) restore_verified: bool,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) lag_max: Duration,
    pub(super) detect: Duration,
    pub(super) restore: Duration,
    pub(super) machines_left: usize,
    pub(super) disks_left: usize,
    pub(super) checks: Vec<Check>,
}

/// Something that must hold.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    /// What must hold.
    name: &'static str,
    /// Whether it does.
    holds: bool,
    /// What was found.
    found: String,
}

impl Facts {
    pub(super) fn check(&mut self, name: &'static str, holds: bool, found: impl Into<String>) {
        self.checks.push(Check {
            name,
            holds,
            found: found.into(),
        });
    }
}

/// The report that `--json` prints.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    schema: u32,
    /// Bytes that were on the GPU's disk before Vast's notice and are not on the new GPU.
    bytes_lost_after_notice: u64,
    /// Bytes that the workload still wrote between the last-gasp pass and the stop.
    bytes_written_after_last_pass: u64,
    restore_verified: bool,
    files: u64,
    bytes: u64,
    lag_max_seconds: f64,
    detect_seconds: f64,
    restore_seconds: f64,
    machines_left: usize,
    disks_left: usize,
    took_seconds: f64,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(facts: Facts, took: Duration) -> Self {
        Self {
            schema: 1,
            bytes_lost_after_notice: facts.bytes_lost_after_notice,
            bytes_written_after_last_pass: facts.bytes_written_after_last_pass,
            restore_verified: facts.restore_verified,
            files: facts.files,
            bytes: facts.bytes,
            lag_max_seconds: facts.lag_max.as_secs_f64(),
            detect_seconds: facts.detect.as_secs_f64(),
            restore_seconds: facts.restore.as_secs_f64(),
            machines_left: facts.machines_left,
            disks_left: facts.disks_left,
            took_seconds: took.as_secs_f64(),
            checks: facts.checks,
        }
    }

    pub(super) fn all_hold(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.holds)
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = String::from("\n");
        let rows = [
            (
                "lost of what was saved before the notice",
                Bytes(self.bytes_lost_after_notice).to_string(),
            ),
            (
                "written after the last pass, until the stop",
                Bytes(self.bytes_written_after_last_pass).to_string(),
            ),
            (
                "restored and verified by checksum",
                format!("{} files, {}", self.files, Bytes(self.bytes)),
            ),
            ("largest lag while protected", format!("{:.1} s", self.lag_max_seconds)),
            (
                "from the GPU's stop to our knowing",
                format!("{:.1} s", self.detect_seconds),
            ),
            (
                "from rent to verified on the new GPU",
                format!("{:.1} s", self.restore_seconds),
            ),
            (
                "machines and disks left at the end",
                format!("{} and {}", self.machines_left, self.disks_left),
            ),
        ];
        for (what, value) in rows {
            let _ = writeln!(table, "  {what:<46} {value}");
        }
        table.push('\n');
        for check in &self.checks {
            let mark = if check.holds { "ok  " } else { "FAIL" };
            let _ = writeln!(table, "  {mark} {} ({})", check.name, check.found);
        }
        let failed = self.checks.iter().filter(|check| !check.holds).count();
        let _ = writeln!(
            table,
            "\n  {} checks, {failed} failed, in {:.0} s",
            self.checks.len(),
            self.took_seconds
        );
        table
    }
}
