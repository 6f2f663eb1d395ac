//! What health says of a disk that is too slow for its load, and of a first pass that is not complete.

mod fixtures;

use std::time::Duration;

use fixtures::*;
use warmspare_domain::association::{Association, Saved};
use warmspare_domain::health::{Grade, Health, Heartbeat, LastPass, health};
use warmspare_domain::units::Bytes;

const MIB: u64 = 1 << 20;

fn after(a: &Association, took_s: u64, files: u64, changed_files: u64, wire_mib: u64) -> Health {
    let last_pass = LastPass {
        took: Duration::from_secs(took_s),
        files,
        changed_files,
        wire_bytes: Bytes(wire_mib * MIB),
    };
    let heartbeat = Heartbeat {
        last_pass_started_at: Some(t0()),
        disk_free: Bytes(50 << 30),
        disk_total: Bytes(100 << 30),
        last_pass: Some(last_pass),
    };
    health(a, Some(&heartbeat), t0())
}

#[test]
fn a_disk_too_slow_for_its_load_is_named_with_the_setting_that_helps() {
    for (took_s, files, changed_files, wire_mib, why) in [
        (60, 200_000, 4_000, 100, "many small files"),
        (60, 3_000, 10, 600, "many bytes"),
        (60, 400_000, 10, 1, "many files to look at"),
    ] {
        let health = after(&protected(), took_s, files, changed_files, wire_mib);
        assert_eq!(health.grade, Grade::Degraded, "{why}");
        let text = &health.reasons[0];
        assert!(
            text.contains("took 60 s") && text.contains("gcp_disk_type = \"pd-balanced\""),
            "{why}: {text}"
        );
    }
}

#[test]
fn what_another_disk_would_not_help_is_not_blamed_on_it() {
    for (took_s, files, changed_files, wire_mib, why) in [
        (29, 200_000, 4_000, 100, "a pass within a beat"),
        (
            600,
            200_000,
            4_000,
            100,
            "ten minutes, of which the disk explains one: it is the network",
        ),
        (900, 50_000, 50_000, 4_000, "the first pass writes everything once"),
        (60, 0, 0, 0, "nothing there"),
    ] {
        assert_eq!(
            after(&protected(), took_s, files, changed_files, wire_mib).grade,
            Grade::Good,
            "{why}"
        );
    }
    let mut balanced = protected();
    balanced.policy.machine.disk_type = "pd-balanced".to_owned();
    assert_eq!(after(&balanced, 60, 200_000, 4_000, 100).grade, Grade::Good);
}

#[test]
fn before_the_first_recovery_point_health_says_what_can_be_had() {
    let halted = |saved| Association { saved, ..halted() };
    for (a, grade, says, never) in [
        (seeding(), Grade::Degraded, "as `partial`", "recovery points are safe"),
        (
            halted(Saved::Nothing),
            Grade::Bad,
            "as `partial`",
            "recovery points are safe",
        ),
        (halted(Saved::Points), Grade::Bad, "recovery points are safe", "partial"),
        (
            Association {
                saved: Saved::Nothing,
                ..holding()
            },
            Grade::Bad,
            "as `partial`",
            "the data is kept",
        ),
        (holding(), Grade::Bad, "the data is kept", "partial"),
    ] {
        let health = health(&a, None, t0());
        let text = health.reasons.join("\n");
        assert_eq!(health.grade, grade, "{text}");
        assert!(text.contains(says) && !text.contains(never), "{text}");
    }
}
