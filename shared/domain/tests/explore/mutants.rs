//! For each invariant a rule that is broken on purpose: the exploration must find it, by that invariant, and show the shortest way to it.

use warmspare_domain::association::{Association, Lease, Link, Loss, LossCause, Order, Phase, Target};
use warmspare_domain::decide::{Decision, Needs, decide, needs};
use warmspare_domain::effect::{Effect, StandbyRef, Urgency};
use warmspare_domain::event::{Event, Subject};
use warmspare_domain::observed::{Found, Observed, RestoreSeen};
use warmspare_domain::orphan::{Verdict, judge};
use warmspare_domain::policy::WhenDeletedAtVast;
use warmspare_domain::units::Timestamp;
use warmspare_domain::warrant::ReleaseWarrant;

use crate::calm::Calm;
use crate::rules::Rules;
use crate::scenarios;
use crate::search::{search, twice_ends_as_once};

/// Distinct states within which a broken rule must show.
const WITHIN: usize = 1_000_000;

/// Explores with broken rules and expects this invariant to be the first that fails.
fn bites(invariant: &str, scenario: &str, rules: Rules) {
    let scenario = scenarios::all()
        .into_iter()
        .find(|known| known.name == scenario)
        .expect("a known scenario");
    let (mut model, root) = scenario.build(rules, scenarios::NEAREST_STATES);
    let found = search(&mut model, &mut Calm::default(), root, WITHIN);
    let violation = found
        .violation
        .unwrap_or_else(|| panic!("{invariant} did not bite within {} states", found.states));
    println!(
        "{invariant} bites after {} states, {} steps:",
        found.states,
        violation.path.len()
    );
    for step in &violation.path {
        println!("    {step:?}");
    }
    let words: String = violation.broken.what.chars().take(160).collect();
    println!("    → {words}");
    assert_eq!(violation.broken.invariant, invariant);
}

fn with_decide(decide: fn(&Association, &Event, Timestamp) -> Decision) -> Rules {
    Rules { decide, ..Rules::REAL }
}

fn with_judge(judge: fn(Found, Option<&Association>) -> Verdict) -> Rules {
    Rules { judge, ..Rules::REAL }
}

#[test]
fn forgetting_the_epochs_given_out_is_found() {
    bites(
        "epoch_never_falls",
        "restoring onto a rented GPU",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let Phase::Holding(_) = decision.next.phase {
                decision.next.last_epoch = decision.next.epoch;
            }
            decision
        }),
    );
}

#[test]
fn trying_another_target_under_the_same_epoch_is_found() {
    bites(
        "epochs_are_never_reused",
        "restoring onto a rented GPU",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let (Phase::Restoring { job: before, .. }, Phase::Restoring { job: after, .. }) =
                (&a.phase, &mut decision.next.phase)
            {
                after.epoch = before.epoch;
                decision.next.last_epoch = a.last_epoch;
            }
            decision
        }),
    );
}

#[test]
fn reading_the_old_disk_while_its_data_is_on_its_way_elsewhere_is_found() {
    bites(
        "effects_follow_from_state",
        "restoring onto a rented GPU",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let (Event::Looked(_), Phase::Restoring { loss, .. }, Link::Up(endpoint)) =
                (event, &decision.next.phase, &decision.next.standby.link)
            {
                decision.effects.push(Effect::Rescue {
                    endpoint: endpoint.clone(),
                    gpu: a.gpu,
                    epoch: a.epoch,
                    loss: loss.since,
                });
            }
            decision
        }),
    );
}

#[test]
fn reviving_a_release_is_found() {
    bites(
        "tombstone_never_revived",
        "releasing",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let (Phase::Releasing { .. }, Event::GpuFailedReported { .. }) = (&a.phase, event) {
                decision.next.phase = Phase::Holding(Loss {
                    since: now,
                    rescue: warmspare_domain::association::Rescue::Over,
                    rescue_problem: String::new(),
                    cause: LossCause::ReportedFailed,
                });
            }
            decision
        }),
    );
}

#[test]
fn acting_on_a_notice_itself_is_found() {
    bites(
        "only_a_look_makes_effects",
        "protected, anything happens",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let (Event::OutbidAnnounced { .. }, Link::Up(endpoint)) = (event, &a.standby.link) {
                decision.effects.push(Effect::Sync {
                    endpoint: endpoint.clone(),
                    epoch: a.epoch,
                    urgency: Urgency::LastGasp,
                });
            }
            decision
        }),
    );
}

#[test]
fn pulling_while_holding_is_found() {
    bites(
        "effects_follow_from_state",
        "lost, held, restored by the user",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let (Event::Looked(_), Phase::Holding(_), Link::Up(endpoint)) = (event, &a.phase, &a.standby.link) {
                decision.effects.push(Effect::Sync {
                    endpoint: endpoint.clone(),
                    epoch: a.epoch,
                    urgency: Urgency::Due,
                });
            }
            decision
        }),
    );
}

#[test]
fn taking_silence_for_absence_is_found() {
    bites(
        "silence_is_not_absence",
        "protected, anything happens",
        with_decide(|a, event, now| {
            let mut event = event.clone();
            if let Event::Looked(seen) = &mut event
                && seen.gpu == Observed::Unknown
            {
                seen.gpu = Observed::Absent;
            }
            decide(a, &event, now)
        }),
    );
}

#[test]
fn releasing_what_vanished_at_vast_without_a_policy_is_found() {
    bites(
        "released_only_on_a_ground",
        "protected, anything happens",
        with_decide(|a, event, now| {
            let mut eager = a.clone();
            eager.policy.when_deleted_at_vast = WhenDeletedAtVast::Release;
            let mut decision = decide(&eager, event, now);
            decision.next.policy.when_deleted_at_vast = a.policy.when_deleted_at_vast;
            decision
        }),
    );
}

#[test]
fn leaving_a_standby_with_data_for_another_zone_is_found() {
    bites(
        "a_standby_with_data_is_pinned",
        "protected, anything happens",
        with_decide(|a, event, now| {
            let mut unpinned = a.clone();
            if let Event::StandbyRefused { .. } = event {
                unpinned.standby.order = Order::Sent { at: now };
            }
            decide(&unpinned, event, now)
        }),
    );
}

#[test]
fn forgetting_the_lease_is_found() {
    bites(
        "rent_calls_never_overlap",
        "restoring onto a rented GPU",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let Phase::Restoring { job, .. } = &mut decision.next.phase
                && let Target::ToRent { lease, .. } = &mut job.target
            {
                *lease = Lease::Free;
            }
            decision
        }),
    );
}

#[test]
fn moving_to_a_gpu_that_was_not_verified_is_found() {
    bites(
        "moves_only_when_verified",
        "restoring onto a GPU of the user's",
        with_decide(|a, event, now| {
            let mut event = event.clone();
            if let Event::AgentReported(report) = &mut event
                && let RestoreSeen::Running(epoch) = report.restore
            {
                report.restore = RestoreSeen::Verified(epoch);
            }
            decide(a, &event, now)
        }),
    );
}

#[test]
fn counting_a_repeated_request_is_found() {
    bites(
        "a_repeated_request_changes_nothing",
        "lost, held, restored by the user",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let (Event::RestoreRequested { .. }, Phase::Restoring { .. }) = (event, &a.phase) {
                decision.next.last_epoch = a.last_epoch.next();
            }
            decision
        }),
    );
}

#[test]
fn taking_a_vanished_machine_for_a_vanished_disk_is_found() {
    bites(
        "never_the_last_copy",
        "protected, anything happens",
        with_decide(|a, event, now| {
            let mut event = event.clone();
            if let Event::Looked(seen) = &mut event
                && seen.standby == Observed::Absent
            {
                seen.disk = Observed::Absent;
            }
            decide(a, &event, now)
        }),
    );
}

#[test]
fn an_agent_that_does_not_fence_is_found() {
    bites(
        "superseded_is_never_read",
        "a slow pass while the data moves",
        Rules {
            agent_fences: false,
            ..Rules::REAL
        },
    );
}

#[test]
fn an_agent_that_forgets_a_verified_restore_is_found() {
    bites(
        "live_gpu_is_never_overwritten",
        "restoring onto a GPU of the user's",
        Rules {
            agent_remembers: false,
            ..Rules::REAL
        },
    );
}

/// A warrant as the rules make it.
fn some_warrant(a: &Association) -> ReleaseWarrant {
    let mut lively = a.clone();
    lively.phase = Phase::Protected;
    let request = Event::ReleaseRequested {
        subject: Subject::Association,
    };
    match decide(&lively, &request, a.created_at).next.phase {
        Phase::Releasing { warrant, .. } => warrant,
        other => unreachable!("a request to release releases, not {other:?}"),
    }
}

#[test]
fn a_sweep_that_takes_the_bound_gpu_for_a_left_over_is_found() {
    bites(
        "a_gpu_in_use_is_never_destroyed",
        "restoring onto a rented GPU",
        with_judge(|found, association| match (found, association) {
            (Found::Rental { gpu, .. }, Some(a)) if gpu == a.gpu => Verdict::Destroy(some_warrant(a)),
            _ => judge(found, association),
        }),
    );
}

#[test]
fn a_sweep_that_takes_a_superseded_gpu_for_a_left_over_is_found() {
    bites(
        "a_verdict_stays_true",
        "a rented GPU is lost again",
        with_judge(|found, association| match (found, association) {
            (Found::Rental { gpu, .. }, Some(a)) if gpu != a.gpu && a.superseded.contains(&gpu) => {
                Verdict::Destroy(some_warrant(a))
            }
            _ => judge(found, association),
        }),
    );
}

#[test]
fn a_sweep_that_leaves_abandoned_orders_is_found() {
    bites(
        "one_standby_paid",
        "ordering in two zones",
        with_judge(|found, association| match found {
            Found::Standby { .. } => Verdict::Keep,
            Found::Rental { .. } => judge(found, association),
        }),
    );
}

#[test]
fn a_sweep_that_leaves_rentals_of_no_use_is_found() {
    bites(
        "no_orphan",
        "restoring onto a rented GPU",
        with_judge(|found, association| match found {
            Found::Rental { .. } => Verdict::Keep,
            Found::Standby { .. } => judge(found, association),
        }),
    );
}

#[test]
fn taking_a_standby_that_did_not_answer_for_a_stopped_one_is_found() {
    bites(
        "progress_once_calm",
        "protected, anything happens",
        Rules {
            needs: |a, now| {
                let needs = needs(a, now);
                let down = !matches!(a.standby.link, Link::Up(_));
                match a.phase {
                    Phase::Holding(_) if down => Needs {
                        standby: false,
                        ..needs
                    },
                    _ => needs,
                }
            },
            ..Rules::REAL
        },
    );
}

#[test]
fn starting_what_runs_is_found() {
    bites(
        "steady_state_makes_no_effects_but_passes",
        "ordering a standby",
        with_decide(|a, event, now| {
            let mut decision = decide(a, event, now);
            if let (Event::Looked(_), Phase::Protected) = (event, &a.phase) {
                decision.effects.push(Effect::StartStandby {
                    standby: StandbyRef::of(a),
                });
            }
            decision
        }),
    );
}

#[test]
fn deciding_on_an_old_look_after_a_lost_race_is_found() {
    bites(
        "never_the_last_copy",
        "ordering in two zones",
        Rules {
            looks_again: false,
            ..Rules::REAL
        },
    );
}

#[test]
fn a_failure_that_releases_when_it_is_reported_twice_is_found() {
    let rules = with_decide(|a, event, now| {
        let mut decision = decide(a, event, now);
        if let (Event::GpuFailedReported { .. }, Phase::Holding(_)) = (event, &a.phase) {
            decision.next.phase = Phase::Releasing {
                since: now,
                warrant: some_warrant(a),
            };
        }
        decision
    });
    let scenarios = scenarios::all();
    let scenario = scenarios
        .iter()
        .find(|known| known.name == "protected, anything happens")
        .expect("a known scenario");
    let (mut model, root) = scenario.build(rules, scenarios::EVERY_STATE);
    let difference = twice_ends_as_once(&mut model, root, scenarios::TWICE_STATES_LIMIT).expect_err("the ends differ");
    assert!(difference.contains("Released"), "{difference}");
}
