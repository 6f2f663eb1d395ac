//! What health says of a disk that is too slow for its load, and of a first pass that is not complete.

mod fixtures;

use std::time::Duration;

use fixtures::*;
use warmspare_domain::association::{Association, Phase, Rescue, Saved};
use warmspare_domain::decide::{RESCUE_ATTEMPTS, decide};
use warmspare_domain::effect::EffectKind;
use warmspare_domain::event::Event;
use warmspare_domain::health::{Failing, Grade, Health, Heartbeat, LastPass, health};
use warmspare_domain::problem::{Problem, ProblemKind};
use warmspare_domain::units::Bytes;

const MIB: u64 = 1 << 20;

fn after(a: &Association, took_s: u64, files: u64, changed_files: u64, wire_mib: u64) -> Health {
    let last_pass = LastPass {
        took: Duration::from_secs(took_s),
        files,
        changed_files,
        wire_bytes: Bytes(wire_mib * MIB),
    };
    told(a, |beat| beat.last_pass = Some(last_pass))
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

/// Health when the agent says this besides that all is well.
fn told(a: &Association, change: impl FnOnce(&mut Heartbeat)) -> Health {
    let mut heartbeat = Heartbeat {
        last_pass_started_at: Some(t0()),
        disk_free: Bytes(50 << 30),
        disk_total: Bytes(100 << 30),
        last_pass: None,
        pass_under_way: None,
        failing: None,
        halt_detail: None,
        command_failed: None,
        unwatched: None,
        not_rescued: None,
    };
    change(&mut heartbeat);
    health(a, Some(&heartbeat), t0())
}

#[test]
fn passes_that_fail_one_after_the_other_are_said_with_their_reason() {
    let failing = |a: &Association, in_a_row| {
        told(a, |beat| {
            beat.failing = Some(Failing {
                in_a_row,
                message: "rsync is missing on 203.0.113.7:22".to_owned(),
            });
        })
    };
    let says = |health: &Health| {
        health
            .reasons
            .iter()
            .any(|reason| reason.contains("rsync is missing on"))
    };
    assert!(
        !says(&failing(&protected(), 1)),
        "a single one may be a connection that broke"
    );
    for (a, in_a_row, grade) in [
        (protected(), 2, Grade::Degraded),
        (protected(), 5, Grade::Bad),
        (seeding(), 2, Grade::Degraded),
        (seeding(), 9, Grade::Bad),
    ] {
        let health = failing(&a, in_a_row);
        assert!(says(&health) && health.grade == grade, "{health:?}");
    }
    assert!(!says(&failing(&halted(), 9)), "a halt has words of its own");
    let numbers = told(&halted(), |beat| {
        beat.halt_detail = Some("60 of 100 files are gone".to_owned())
    });
    assert!(numbers.reasons[0].contains("(60 of 100 files are gone)"), "{numbers:?}");
}

#[test]
fn how_far_the_first_pass_is_and_what_a_rescue_could_not_fetch_are_said() {
    let far = told(&seeding(), |beat| {
        beat.pass_under_way = Some("1 GiB of 4 GiB, 9 min left".to_owned())
    });
    assert!(far.reasons[0].contains("(1 GiB of 4 GiB, 9 min left)"), "{far:?}");
    let lost = |since| {
        let mut a = holding();
        if let Phase::Holding(loss) = &mut a.phase {
            loss.rescue = Rescue::Over;
            loss.since = since;
        }
        told(&a, |beat| {
            beat.not_rescued = Some((t0(), "its disk holds no marker".to_owned()))
        })
    };
    assert!(lost(t0()).reasons[0].contains("could not be fetched from its disk: its disk holds no marker"));
    assert!(
        !lost(t0() + Duration::from_secs(1)).reasons[0].contains("marker"),
        "of another loss"
    );
    let failed = told(&protected(), |beat| {
        beat.command_failed = Some("exit code 7: no such table".to_owned())
    });
    assert!(
        failed.grade == Grade::Degraded && failed.reasons[0].contains("no such table"),
        "{failed:?}"
    );
    let unwatched = told(&protected(), |beat| beat.unwatched = Some("too few watches".to_owned()));
    assert_eq!(unwatched.grade, Grade::Good);
    assert!(unwatched.reasons[0].contains("too few watches"), "{unwatched:?}");
}

#[test]
fn a_rescue_that_never_began_is_said_with_its_reason() {
    let mut a = holding();
    if let Phase::Holding(loss) = &mut a.phase {
        loss.rescue = Rescue::Wanted {
            failures: 0,
            not_before: t0(),
            told: 0,
        };
    }
    let says = |a: &Association, after| health(a, None, t0() + after).reasons[0].clone();
    assert!(says(&a, Duration::ZERO).contains("are being fetched from its disk"));
    let hour = says(&a, Duration::from_secs(3600));
    assert!(hour.contains("could not be read in an hour"), "{hour}");
    let refused = Event::EffectFailed {
        effect: EffectKind::Rescue,
        problem: Problem {
            kind: ProblemKind::Denied,
            detail: "Vast does not hand out this disk".to_owned(),
        },
    };
    for _ in 0..RESCUE_ATTEMPTS {
        a = decide(&a, &refused, t0()).next;
    }
    let given_up = says(&a, Duration::ZERO);
    let why = "could not be fetched from its disk: Vast does not hand out this disk";
    assert!(given_up.contains(why), "{given_up}");
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
