//! What is decided, row by row. `golden/decisions.txt` adds every phase with every event.

mod fixtures;

use fixtures::*;
use warmspare_domain::association::{
    Association, Binding, Copying, Lease, Link, LossCause, Order, OutbidNotice, Phase, PhaseName, Saved, Target, Trust,
};
use warmspare_domain::decide::decide;
use warmspare_domain::effect::EffectKind as E;
use warmspare_domain::event::{Destination, Event, Subject};
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::Epoch;
use warmspare_domain::observed::{
    AgentReport, BoundTo, DiskSeen, GpuSeen, Observed, PassTrouble, PauseCause, PointsSeen, RescueSeen, RestoreSeen,
    Seen, StandbySeen,
};
use warmspare_domain::policy::{Failover, Policy, SupersededGpu, WhenDeletedAtVast};
use warmspare_domain::problem::ProblemKind;
use warmspare_domain::reason::Reason;
use warmspare_domain::warrant::Ground;

struct Row {
    name: &'static str,
    association: Association,
    event: Event,
    /// Seconds after the fixture's instant.
    at_s: u64,
    phase: PhaseName,
    effects: &'static [E],
    reason: Reason,
}

fn row(
    name: &'static str,
    association: Association,
    event: Event,
    at_s: u64,
    phase: PhaseName,
    effects: &'static [E],
    reason: Reason,
) -> Row {
    Row {
        name,
        association,
        event,
        at_s,
        phase,
        effects,
        reason,
    }
}

fn check(rows: Vec<Row>) {
    for row in rows {
        let now = t0() + std::time::Duration::from_secs(row.at_s);
        let decision = decide(&row.association, &row.event, now);
        let effects: Vec<E> = decision
            .effects
            .iter()
            .map(warmspare_domain::effect::Effect::kind)
            .collect();
        assert_eq!(
            (decision.next.phase.name(), effects.as_slice(), decision.reason),
            (row.phase, row.effects, row.reason),
            "{}",
            row.name
        );
    }
}

fn change(mut a: Association, change: impl FnOnce(&mut Association)) -> Association {
    change(&mut a);
    a
}

fn doubted(a: Association) -> Association {
    change(a, |a| a.watch.trust = Trust::Doubted)
}

fn releases(policy: &mut warmspare_domain::policy::Policy) {
    policy.when_deleted_at_vast = WhenDeletedAtVast::Release;
}

fn fails_over(policy: &mut warmspare_domain::policy::Policy) {
    policy.failover = Failover::Automatic {
        max_price_per_hour: CAP,
    };
}

fn about(subject: Subject) -> Event {
    Event::ReleaseRequested { subject }
}

const DAY: u64 = 24 * 3600;

#[test]
fn a_standby_is_ordered_booted_bound_and_seeded() {
    use PhaseName::{Protected, Provisioning, Seeding};
    let ordered = after(&provisioning(), &looked(nothing_left()));
    let up = after(&ordered, &looked(sees_standby(StandbySeen::Running(endpoint()))));
    let both = Seen {
        gpu: Observed::Present(running()),
        ..Seen::NOTHING
    };
    let unpulled = AgentReport {
        points: PointsSeen::None,
        ..pulling()
    };
    check(vec![
        row(
            "nothing exists: order",
            provisioning(),
            looked(nothing_left()),
            0,
            Provisioning,
            &[E::CreateStandby],
            Reason::Steady,
        ),
        row(
            "the provider is silent: wait",
            provisioning(),
            looked(Seen::NOTHING),
            0,
            Provisioning,
            &[],
            Reason::Steady,
        ),
        row(
            "an order that has not landed is the same order",
            ordered.clone(),
            looked(nothing_left()),
            30,
            Provisioning,
            &[E::CreateStandby],
            Reason::Steady,
        ),
        row(
            "a disk of our name is attached, not replaced",
            ordered.clone(),
            looked(only_the_disk()),
            30,
            Provisioning,
            &[E::CreateStandby],
            Reason::Steady,
        ),
        row(
            "booting: wait",
            ordered.clone(),
            looked(sees_standby(StandbySeen::Booting)),
            30,
            Provisioning,
            &[],
            Reason::Steady,
        ),
        row(
            "up, but the GPU was not seen: wait",
            ordered.clone(),
            looked(sees_standby(StandbySeen::Running(endpoint()))),
            30,
            Provisioning,
            &[],
            Reason::Steady,
        ),
        row(
            "up and the GPU runs: bind",
            up.clone(),
            looked(both),
            30,
            Provisioning,
            &[E::Bind],
            Reason::Steady,
        ),
        row(
            "up and the GPU still starts: wait",
            up.clone(),
            looked(sees_gpu(GpuSeen::Starting)),
            30,
            Provisioning,
            &[],
            Reason::Steady,
        ),
        row(
            "bound: the first pass can start",
            up,
            Event::Bound { epoch: Epoch::FIRST },
            30,
            Seeding,
            &[],
            Reason::StandbyReady,
        ),
        row(
            "seeding pulls",
            seeding(),
            looked(Seen::NOTHING),
            60,
            Seeding,
            &[E::Sync],
            Reason::Steady,
        ),
        row(
            "no recovery point yet",
            seeding(),
            reported(unpulled),
            60,
            Seeding,
            &[],
            Reason::Steady,
        ),
        row(
            "the first recovery point protects",
            seeding(),
            reported(pulling()),
            60,
            Protected,
            &[],
            Reason::FirstRecoveryPoint,
        ),
        row(
            "no capacity: the next zone",
            ordered,
            Event::StandbyRefused {
                attempt: 1,
                problem: problem(ProblemKind::CapacityExhausted),
            },
            30,
            Provisioning,
            &[],
            Reason::NextZone,
        ),
        row(
            "no capacity for a standby with a disk: wait for it",
            protected(),
            Event::StandbyRefused {
                attempt: 1,
                problem: problem(ProblemKind::CapacityExhausted),
            },
            30,
            Protected,
            &[],
            Reason::RetryLater,
        ),
    ]);
    let again = after(
        &provisioning(),
        &Event::StandbyRefused {
            attempt: 1,
            problem: problem(ProblemKind::CapacityExhausted),
        },
    );
    assert_eq!(again.standby.name.as_str(), "ws-demo-vast-48927380-2");
    assert_eq!(again.standby.zone.as_str(), "us-south1-b");
}

#[test]
fn vast_status_is_read_as_the_reference_says() {
    use PhaseName::{Holding, Protected, Releasing};
    let missed_once = change(doubted(protected()), |a| a.watch.absent_reads = 1);
    let dark_twice = change(doubted(protected()), |a| a.watch.dark_reads = 2);
    let noticed = after(&protected(), &Event::OutbidAnnounced { gpu: gpu() });
    let no_credit = GpuSeen::Paused(PauseCause::OutOfCredit);
    let ended = GpuSeen::Paused(PauseCause::ContractEnded);
    let lost = |cause| Reason::GpuLost(cause);
    check(vec![
        row(
            "§12 rule 1: exited without notice may be the user's stop",
            doubted(protected()),
            looked(sees_gpu(paused())),
            0,
            Holding,
            &[E::Rescue],
            lost(LossCause::Paused),
        ),
        row(
            "§12 rule 1: exited after a notice is an outbid",
            noticed.clone(),
            looked(sees_gpu(paused())),
            20,
            Holding,
            &[E::Rescue],
            lost(LossCause::Outbid),
        ),
        row(
            "§12: no credit stops it",
            doubted(protected()),
            looked(sees_gpu(no_credit.clone())),
            0,
            Holding,
            &[E::Rescue],
            lost(LossCause::OutOfCredit),
        ),
        row(
            "§12: no credit outranks a notice",
            noticed.clone(),
            looked(sees_gpu(no_credit)),
            0,
            Holding,
            &[E::Rescue],
            lost(LossCause::OutOfCredit),
        ),
        row(
            "§12: the contract ended",
            doubted(protected()),
            looked(sees_gpu(ended)),
            0,
            Holding,
            &[E::Rescue],
            lost(LossCause::ContractEnded),
        ),
        row(
            "§12 rule 3: one read without its row proves nothing",
            doubted(protected()),
            looked(no_such_gpu()),
            0,
            Protected,
            &[E::Sync],
            Reason::NotYetSure,
        ),
        row(
            "§12 rule 3: two complete reads do",
            missed_once.clone(),
            looked(no_such_gpu()),
            30,
            Holding,
            &[],
            lost(LossCause::Gone),
        ),
        row(
            "§12 rule 3: a failed read is no read",
            missed_once.clone(),
            looked(Seen::NOTHING),
            30,
            Protected,
            &[E::Sync],
            Reason::Steady,
        ),
        row(
            "gone, and the policy says that is the user's doing",
            with_policy(missed_once.clone(), releases),
            looked(no_such_gpu()),
            30,
            Releasing,
            &[],
            Reason::Releasing(Ground::DeletedAtVast),
        ),
        row(
            "seen once, and the policy waits for the second read too",
            with_policy(doubted(protected()), releases),
            looked(no_such_gpu()),
            30,
            Protected,
            &[E::Sync],
            Reason::NotYetSure,
        ),
        row(
            "§12 rule 4: dark once is a hiccup",
            doubted(protected()),
            looked(sees_gpu(GpuSeen::Dark)),
            0,
            Protected,
            &[E::Sync],
            Reason::NotYetSure,
        ),
        row(
            "§12 rule 4: dark three times is lost",
            dark_twice.clone(),
            looked(sees_gpu(GpuSeen::Dark)),
            0,
            Holding,
            &[],
            lost(LossCause::HostDark),
        ),
        row(
            "§12 rule 4: one good read starts the count anew",
            after(&dark_twice, &looked(sees_gpu(running()))),
            looked(sees_gpu(GpuSeen::Dark)),
            0,
            Protected,
            &[],
            Reason::NotYetSure,
        ),
        row(
            "§12: restarting is not lost",
            doubted(protected()),
            looked(sees_gpu(GpuSeen::Starting)),
            0,
            Protected,
            &[E::Sync],
            Reason::Steady,
        ),
        row(
            "§12 rule 5: it runs and yet was doubted: bind again",
            doubted(protected()),
            looked(sees_gpu(running())),
            0,
            Protected,
            &[E::Bind],
            Reason::Steady,
        ),
        row(
            "a notice is not a loss: it runs, so pull now",
            noticed,
            looked(sees_gpu(running())),
            5,
            Protected,
            &[E::Sync],
            Reason::Steady,
        ),
    ]);
}

#[test]
fn a_notice_asks_for_one_last_pass_and_expires() {
    let noticed = after(&protected(), &Event::OutbidAnnounced { gpu: gpu() });
    assert_eq!(noticed.watch.outbid, OutbidNotice::Announced);
    let asked = after(&noticed, &Event::LastGaspAccepted);
    assert_eq!(asked.watch.outbid, OutbidNotice::PassAsked { at: t0() });
    let later = decide(
        &asked,
        &looked(sees_gpu(running())),
        t0() + std::time::Duration::from_secs(180),
    );
    assert_eq!(
        later.next.watch.outbid,
        OutbidNotice::None,
        "a GPU that still runs was rescued"
    );
    let stopped = change(noticed, |a| a.copying = Copying::Off);
    let clock_runs = after(&stopped, &looked(sees_gpu(running())));
    assert_eq!(
        clock_runs.watch.outbid,
        OutbidNotice::PassAsked { at: t0() },
        "without copying it expires too"
    );
}

#[test]
fn what_is_lost_is_held_and_comes_back_or_runs_out() {
    use PhaseName::{Holding, Protected, Provisioning, Releasing, Restoring, Seeding};
    let seeded_only = change(holding(), |a| a.saved = Saved::Nothing);
    let never_came_up = change(seeded_only.clone(), |a| {
        a.standby.order = Order::Never;
        a.standby.binding = Binding::Stale;
    });
    let downloading = change(holding(), |a| {
        a.standby.wanted_until = t0() + std::time::Duration::from_secs(8 * DAY)
    });
    let stopped = change(holding(), |a| a.standby.link = Link::Lost(endpoint()));
    let wanted = after(&stopped, &Event::StandbyWanted);
    check(vec![
        row(
            "it runs again, and nothing took its place",
            holding(),
            looked(sees_gpu(running())),
            60,
            Protected,
            &[E::Bind],
            Reason::GpuCameBack,
        ),
        row(
            "it runs again before the first recovery point",
            seeded_only,
            looked(sees_gpu(running())),
            60,
            Seeding,
            &[E::Bind],
            Reason::GpuCameBack,
        ),
        row(
            "it runs again before the standby ever came up",
            never_came_up,
            looked(sees_gpu(running())),
            60,
            Provisioning,
            &[E::Bind],
            Reason::GpuCameBack,
        ),
        row(
            "what a tool declared lost does not heal by itself",
            holding_for(LossCause::ReportedFailed),
            looked(sees_gpu(running())),
            60,
            Holding,
            &[],
            Reason::Steady,
        ),
        row(
            "the user takes a declaration back",
            holding_for(LossCause::ReportedFailed),
            Event::SyncStartRequested,
            60,
            Holding,
            &[],
            Reason::UserAsked,
        ),
        row(
            "the machine stays up for a while",
            holding(),
            looked(sees_standby(StandbySeen::Running(endpoint()))),
            60,
            Holding,
            &[],
            Reason::Steady,
        ),
        row(
            "then only its disk is paid",
            holding(),
            looked(sees_standby(StandbySeen::Running(endpoint()))),
            3600,
            Holding,
            &[E::StopStandby],
            Reason::Steady,
        ),
        row(
            "a download starts it again",
            wanted,
            looked(sees_standby(StandbySeen::Stopped)),
            60,
            Holding,
            &[E::StartStandby],
            Reason::Steady,
        ),
        row(
            "six days: held",
            holding(),
            looked(Seen::NOTHING),
            6 * DAY,
            Holding,
            &[],
            Reason::Steady,
        ),
        row(
            "seven days, as announced: released",
            holding(),
            looked(Seen::NOTHING),
            7 * DAY,
            Releasing,
            &[],
            Reason::Releasing(Ground::RetentionOver),
        ),
        row(
            "nobody's download is cut off by a date",
            downloading,
            looked(Seen::NOTHING),
            7 * DAY,
            Holding,
            &[],
            Reason::Steady,
        ),
        row(
            "a late notice tells why it stopped",
            holding(),
            Event::OutbidAnnounced { gpu: gpu() },
            5,
            Holding,
            &[],
            Reason::GpuLost(LossCause::Outbid),
        ),
        row(
            "outbid, and the policy fails over",
            with_policy(holding_for(LossCause::Outbid), fails_over),
            looked(sees_gpu(paused())),
            5,
            Restoring,
            &[E::RentGpu],
            Reason::AutomaticFailover,
        ),
        row(
            "perhaps the user's own stop: never fail over",
            with_policy(holding(), fails_over),
            looked(sees_gpu(paused())),
            5,
            Holding,
            &[],
            Reason::Steady,
        ),
        row(
            "deleted at Vast while it was held: the retention counts",
            with_policy(holding(), releases),
            looked(no_such_gpu()),
            5,
            Holding,
            &[],
            Reason::Steady,
        ),
    ]);
}

#[test]
fn tools_and_users_are_taken_at_their_word_and_only_for_their_gpu() {
    use PhaseName::{Holding, Protected, Released, Releasing, Restoring};
    let failed = |subject| Event::GpuFailedReported { subject };
    let destroyed = |subject| Event::GpuDestroyedReported { subject };
    let this = Subject::Gpu(gpu());
    let old = this;
    let rent = restore_requested(Destination::Rent {
        max_price_per_hour: CAP,
    });
    let onto = restore_requested(Destination::Onto(other_gpu()));
    let back_onto_old = restore_requested(Destination::Onto(gpu()));
    let nothing_saved = change(holding(), |a| a.saved = Saved::Nothing);
    let moved_and_lost = with_policy(after(&moved(), &failed(Subject::Association)), |policy| {
        policy.superseded = SupersededGpu::Destroy;
    });
    check(vec![
        row(
            "the user destroyed it",
            protected(),
            about(this),
            0,
            Releasing,
            &[],
            Reason::Releasing(Ground::UserRequest),
        ),
        row(
            "the user lets go while it is held",
            holding(),
            about(this),
            0,
            Releasing,
            &[],
            Reason::Releasing(Ground::UserRequest),
        ),
        row(
            "the user lets go by hand in mid-restore",
            restoring(),
            about(Subject::Association),
            0,
            Releasing,
            &[],
            Reason::Releasing(Ground::UserRequest),
        ),
        row(
            "destroying the old GPU releases nothing once the data moved on",
            moved(),
            about(old),
            0,
            Protected,
            &[],
            Reason::Superseded,
        ),
        row(
            "a failure of the old GPU is about the past",
            moved(),
            failed(old),
            0,
            Protected,
            &[],
            Reason::Superseded,
        ),
        row(
            "an outbid of the old GPU is about the past",
            moved(),
            Event::OutbidAnnounced { gpu: gpu() },
            0,
            Protected,
            &[],
            Reason::Superseded,
        ),
        row(
            "a failure keeps the data",
            protected(),
            failed(this),
            0,
            Holding,
            &[],
            Reason::GpuLost(LossCause::ReportedFailed),
        ),
        row(
            "a destruction for any other reason keeps the data",
            protected(),
            destroyed(this),
            0,
            Holding,
            &[],
            Reason::GpuLost(LossCause::ReportedDestroyed),
        ),
        row(
            "a failure after a release revives nothing",
            releasing(),
            failed(this),
            0,
            Releasing,
            &[],
            Reason::AlreadyReleased,
        ),
        row(
            "a failure after the tombstone revives nothing",
            released(),
            failed(this),
            0,
            Released,
            &[],
            Reason::AlreadyReleased,
        ),
        row(
            "a restore of what is held",
            holding(),
            rent.clone(),
            0,
            Restoring,
            &[],
            Reason::UserAsked,
        ),
        row(
            "a restore onto a GPU of the user's",
            holding(),
            onto,
            0,
            Restoring,
            &[],
            Reason::UserAsked,
        ),
        row(
            "a restore out of a halt",
            halted(),
            rent.clone(),
            0,
            Restoring,
            &[],
            Reason::UserAsked,
        ),
        row(
            "nothing was saved: nothing to restore",
            nothing_saved,
            rent.clone(),
            0,
            Holding,
            &[],
            Reason::NothingSaved,
        ),
        row(
            "a restore while all is well",
            protected(),
            rent.clone(),
            0,
            Protected,
            &[],
            Reason::NotNow,
        ),
        row(
            "the same restore twice",
            restoring(),
            rent,
            0,
            Restoring,
            &[],
            Reason::AlreadySo,
        ),
        row(
            "another restore while one runs",
            restoring(),
            back_onto_old.clone(),
            0,
            Restoring,
            &[],
            Reason::NotNow,
        ),
        row(
            "a GPU that is being destroyed is no target",
            moved_and_lost,
            back_onto_old,
            0,
            Holding,
            &[],
            Reason::Superseded,
        ),
    ]);
}

#[test]
fn a_request_to_restore_announces_the_retention_anew() {
    let late = t0() + std::time::Duration::from_secs(30 * DAY);
    let asked = decide(&halted(), &restore_requested(Destination::Onto(other_gpu())), late).next;
    let paused_target = looked(sees_target(paused()));
    let given_up = decide(&asked, &paused_target, late);
    assert_eq!(given_up.reason, Reason::RestoreGivenUp);
    let next = decide(
        &given_up.next,
        &looked(Seen::NOTHING),
        late + std::time::Duration::from_secs(30),
    );
    assert_eq!(
        next.next.phase.name(),
        PhaseName::Holding,
        "a failed restore must not end in a deletion"
    );
}

#[test]
fn a_wish_that_no_offer_fits_yet_may_change() {
    let rent = |cents: u64| Destination::Rent {
        max_price_per_hour: warmspare_domain::units::MicroUsd(cents * 10_000),
    };
    let waiting = after(
        &renting(),
        &Event::RentRefused {
            epoch: Epoch::FIRST.next(),
            problem: problem(ProblemKind::NoOffer),
        },
    );
    for destination in [rent(99), Destination::Onto(other_gpu())] {
        let changed = after(&waiting, &restore_requested(destination));
        let Phase::Restoring { job, .. } = &changed.phase else {
            panic!("{changed:?}");
        };
        assert_eq!(job.epoch, Epoch::FIRST.next().next(), "nothing late passes for it");
        assert!(changed.retry.problem.is_empty(), "it is tried at once");
        match (destination, &job.target) {
            (
                Destination::Rent {
                    max_price_per_hour: wished,
                },
                Target::ToRent { max_price_per_hour, .. },
            ) => {
                assert_eq!(*max_price_per_hour, wished);
            }
            (Destination::Onto(wished), Target::Gpu { gpu, .. }) => assert_eq!(*gpu, wished),
            (_, other) => panic!("{other:?}"),
        }
    }
    let same = Destination::Rent {
        max_price_per_hour: CAP,
    };
    assert_eq!(after(&waiting, &restore_requested(same)), waiting);
    // Once a GPU may be on its way it stays as it is.
    let ordered = after(&renting(), &looked(Seen::NOTHING));
    assert_eq!(after(&ordered, &restore_requested(rent(99))), ordered);
}

#[test]
fn a_release_waits_for_nothing_that_waited_before() {
    let waiting = change(renting(), |a| {
        a.retry.failures = 9;
        a.retry.not_before = t0() + std::time::Duration::from_secs(900);
        a.retry.problem = "no offer fits".to_owned();
    });
    let released = after(
        &waiting,
        &Event::ReleaseRequested {
            subject: Subject::Gpu(gpu()),
        },
    );
    let there = Seen {
        standby: Observed::Present(StandbySeen::Stopped),
        ..Seen::NOTHING
    };
    let effects = decide(&released, &looked(there), t0()).effects;
    assert!(
        effects.iter().any(|effect| effect.kind() == E::DeleteStandby),
        "{effects:?}"
    );
}

#[test]
fn what_was_released_is_protected_again_under_another_epoch_and_name() {
    let released = Association {
        last_epoch: Epoch::FIRST.next(),
        ..released()
    };
    let again = Association::protected_again(&released, released.policy.clone(), t0()).unwrap();
    assert_eq!(again.phase.name(), PhaseName::Provisioning);
    assert!(again.epoch > released.last_epoch && again.last_epoch == again.epoch);
    assert_ne!(again.standby.name, released.standby.name);
    assert!(again.standby.attempt > released.standby.attempt);
    assert_eq!(
        again.history.last().map(|step| step.reason),
        Some(Reason::ProtectedAgain)
    );
    // Whoever knows of a GPU that came later stays as it is: a sweep would take that GPU for a leftover.
    let moved = [
        change(released.clone(), |a| a.gpu = other_gpu()),
        change(released.clone(), |a| a.superseded.extend([other_gpu()])),
    ];
    for moved in moved {
        assert_eq!(Association::protected_again(&moved, moved.policy.clone(), t0()), None);
    }
}

#[test]
fn a_restore_rents_pushes_verifies_and_moves() {
    use PhaseName::{Holding, Protected, Restoring};
    let epoch = restoring().last_epoch;
    let leased = change(renting(), |a| {
        if let Phase::Restoring { job, .. } = &mut a.phase
            && let Target::ToRent { lease, .. } = &mut job.target
        {
            *lease = Lease::Taken {
                until: t0() + std::time::Duration::from_secs(120),
            };
        }
    });
    let says = |restore| reported(AgentReport { restore, ..pulling() });
    let tried = |failures| change(restoring(), |a| a.retry.failures = failures);
    let no_point = effect_failed(E::Restore, ProblemKind::NoRecoveryPoint);
    let locked_out = effect_failed(E::Restore, ProblemKind::Unreachable);
    let dark_twice = change(restoring(), |a| a.watch.dark_reads = 2);
    let chosen = after(&holding(), &restore_requested(Destination::Onto(other_gpu())));
    let refused = |kind| Event::RentRefused {
        epoch,
        problem: problem(kind),
    };
    check(vec![
        row(
            "rent one",
            renting(),
            looked(Seen::NOTHING),
            0,
            Restoring,
            &[E::RentGpu],
            Reason::Steady,
        ),
        row(
            "a call may be under way: wait",
            leased.clone(),
            looked(Seen::NOTHING),
            119,
            Restoring,
            &[],
            Reason::Steady,
        ),
        row(
            "its time is over: look for its label, else rent",
            leased,
            looked(Seen::NOTHING),
            120,
            Restoring,
            &[E::RentGpu],
            Reason::Steady,
        ),
        row(
            "rented",
            renting(),
            Event::Rented {
                epoch,
                gpu: other_gpu(),
            },
            0,
            Restoring,
            &[],
            Reason::ReplacementRented,
        ),
        row(
            "rented for an epoch that was given up",
            renting(),
            Event::Rented {
                epoch: Epoch::FIRST,
                gpu: other_gpu(),
            },
            0,
            Restoring,
            &[],
            Reason::AlreadySo,
        ),
        row(
            "nothing on offer: later",
            renting(),
            refused(ProblemKind::NoOffer),
            0,
            Restoring,
            &[],
            Reason::RetryLater,
        ),
        row(
            "no credit: hold and say so",
            renting(),
            refused(ProblemKind::OutOfCredit),
            0,
            Holding,
            &[],
            Reason::RestoreGivenUp,
        ),
        row(
            "the target starts: wait",
            restoring(),
            looked(sees_target(GpuSeen::Starting)),
            60,
            Restoring,
            &[],
            Reason::NotYetSure,
        ),
        row(
            "the target runs: push",
            restoring(),
            looked(sees_target(running())),
            60,
            Restoring,
            &[E::Restore],
            Reason::Steady,
        ),
        row(
            "it never came up: another one",
            change(restoring(), |a| a.watch.dark_reads = 2),
            looked(sees_target(GpuSeen::Starting)),
            900,
            Restoring,
            &[E::RentGpu],
            Reason::ReplacementFailed,
        ),
        row(
            "one hiccup after an hour of pushing ends nothing",
            restoring(),
            looked(sees_target(GpuSeen::Dark)),
            3600,
            Restoring,
            &[],
            Reason::NotYetSure,
        ),
        row(
            "three do",
            dark_twice,
            looked(sees_target(GpuSeen::Dark)),
            3600,
            Restoring,
            &[E::RentGpu],
            Reason::ReplacementFailed,
        ),
        row(
            "the target was outbid: another one",
            restoring(),
            looked(sees_target(paused())),
            60,
            Restoring,
            &[E::RentGpu],
            Reason::ReplacementFailed,
        ),
        row(
            "the user's own target failed: hold",
            chosen,
            looked(sees_target(paused())),
            60,
            Holding,
            &[],
            Reason::RestoreGivenUp,
        ),
        row(
            "on its way",
            restoring(),
            says(RestoreSeen::Running(epoch)),
            60,
            Restoring,
            &[],
            Reason::Steady,
        ),
        row(
            "verified: the data lives there now",
            restoring(),
            says(RestoreSeen::Verified(epoch)),
            60,
            Protected,
            &[],
            Reason::RestoreVerified,
        ),
        row(
            "verified for another target",
            restoring(),
            says(RestoreSeen::Verified(Epoch::FIRST)),
            60,
            Restoring,
            &[],
            Reason::Steady,
        ),
        row(
            "failed once: again",
            restoring(),
            says(RestoreSeen::Failed(epoch)),
            60,
            Restoring,
            &[],
            Reason::RetryLater,
        ),
        row(
            "failed three times: another target",
            tried(2),
            says(RestoreSeen::Failed(epoch)),
            60,
            Restoring,
            &[],
            Reason::ReplacementFailed,
        ),
        row(
            "it has no rsync yet: wait",
            tried(5),
            says(RestoreSeen::NotReady(epoch)),
            60,
            Restoring,
            &[],
            Reason::RetryLater,
        ),
        row(
            "it never got one: another target",
            tried(5),
            says(RestoreSeen::NotReady(epoch)),
            900,
            Restoring,
            &[],
            Reason::ReplacementFailed,
        ),
        row(
            "what another target lacked tells nothing of this one",
            tried(5),
            says(RestoreSeen::NotReady(Epoch::FIRST)),
            900,
            Restoring,
            &[],
            Reason::Steady,
        ),
        row(
            "keys take their time",
            tried(5),
            locked_out.clone(),
            60,
            Restoring,
            &[],
            Reason::RetryLater,
        ),
        row(
            "locked out for good: another target",
            tried(5),
            locked_out,
            900,
            Restoring,
            &[],
            Reason::ReplacementFailed,
        ),
        row(
            "there is nothing to restore: no target helps",
            restoring(),
            no_point,
            60,
            Holding,
            &[],
            Reason::RestoreGivenUp,
        ),
    ]);
    let verified = after(&restoring(), &says(RestoreSeen::Verified(epoch)));
    assert_eq!((verified.gpu, verified.epoch), (other_gpu(), epoch));
    assert!(verified.superseded.contains(&gpu()) && verified.standby.binding == Binding::Stale);
}

#[test]
fn a_replacement_never_shares_an_epoch_with_the_one_before() {
    let first = restoring();
    let second = after(&first, &looked(sees_target(paused())));
    assert!(second.last_epoch > first.last_epoch);
    let back = after(
        &change(holding(), |a| a.last_epoch = first.last_epoch),
        &looked(sees_gpu(running())),
    );
    assert!(
        back.epoch > first.last_epoch,
        "a restore that was tried fences off the passes before it"
    );
}

#[test]
fn guards_halt_by_name_and_a_person_resumes() {
    use PhaseName::{Halted, Holding, Protected};
    let emptied = AgentReport {
        halt: Some(HaltReason::SourceEmptied),
        ..pulling()
    };
    let elsewhere = AgentReport {
        bound: BoundTo::Epoch(Epoch::FIRST.next()),
        ..pulling()
    };
    let unbound = AgentReport {
        bound: BoundTo::Nothing,
        ..pulling()
    };
    let dark = AgentReport {
        trouble: PassTrouble::GpuUnreachable,
        ..pulling()
    };
    check(vec![
        row(
            "an emptied source halts",
            protected(),
            reported(emptied.clone()),
            0,
            Halted,
            &[],
            Reason::Halted(HaltReason::SourceEmptied),
        ),
        row(
            "a changed host key halts",
            protected(),
            effect_failed(E::Bind, ProblemKind::Halted(HaltReason::HostKeyChanged)),
            0,
            Halted,
            &[],
            Reason::Halted(HaltReason::HostKeyChanged),
        ),
        row(
            "halted: nothing is pulled",
            halted(),
            looked(sees_gpu(running())),
            0,
            Halted,
            &[],
            Reason::Steady,
        ),
        row(
            "a restart is no answer to a halt",
            halted(),
            Event::SyncStartRequested,
            0,
            Halted,
            &[],
            Reason::NotNow,
        ),
        row(
            "a person accepts the source",
            halted(),
            Event::SourceAccepted,
            0,
            Protected,
            &[],
            Reason::SourceAccepted,
        ),
        row(
            "the same halt, told late, does not undo the acceptance",
            after(&halted(), &Event::SourceAccepted),
            reported(emptied),
            0,
            Protected,
            &[],
            Reason::Steady,
        ),
        row(
            "a bind that knew nothing of the acceptance does not count",
            after(&halted(), &Event::SourceAccepted),
            Event::Bound { epoch: Epoch::FIRST },
            0,
            Protected,
            &[],
            Reason::Fenced,
        ),
        row(
            "the GPU is lost while halted",
            halted(),
            looked(sees_gpu(paused())),
            0,
            Holding,
            &[],
            Reason::GpuLost(LossCause::Paused),
        ),
        row(
            "an agent of a newer epoch: somebody is ahead of us",
            protected(),
            reported(elsewhere),
            0,
            Protected,
            &[],
            Reason::Fenced,
        ),
        row(
            "an agent that was never bound is bound",
            protected(),
            reported(unbound),
            0,
            Protected,
            &[],
            Reason::Steady,
        ),
        row(
            "a pass that cannot reach the GPU makes us look",
            protected(),
            reported(dark),
            0,
            Protected,
            &[],
            Reason::Steady,
        ),
    ]);
}

#[test]
fn every_rule_that_the_agent_must_know_is_told_to_it_anew() {
    type Change = fn(&mut Policy);
    let rows: [(&str, Change, bool); 9] = [
        ("source_path", |p| p.source_path = "/data".to_owned(), true),
        ("excludes", |p| p.excludes.clear(), true),
        ("includes", |p| p.includes.push("keep.tmp".to_owned()), true),
        ("before_pass", |p| p.before_pass = "./dump.sh".to_owned(), true),
        ("max_deleted_percent", |p| p.max_deleted_percent = 70, true),
        ("bandwidth_kib_per_s", |p| p.bandwidth_kib_per_s = 100, true),
        (
            "retention",
            |p| p.retention = warmspare_domain::units::Seconds(60),
            false,
        ),
        ("max_disk_gb", |p| p.max_disk_gb = 500, false),
        ("first", |p| p.first.push("src".parse().unwrap()), false),
    ];
    for (name, change, told) in rows {
        let next = after(&protected(), &wish(change));
        assert_eq!(next.standby.binding == Binding::Stale, told, "{name}");
    }
}

#[test]
fn what_travels_first_is_told_anew_only_while_a_first_pass_is_to_come() {
    let mut wish = policy();
    wish.first.push("runs/best.pt".parse().unwrap());
    for (before, told) in [(seeding(), true), (protected(), false), (holding(), false)] {
        let next = after(&before, &Event::PolicyChanged(Box::new(wish.clone())));
        let phase = before.phase.name();
        assert_eq!(next.epoch != before.epoch, told, "{phase}");
        assert_eq!(next.policy.first, wish.first, "{phase}");
    }
}

#[test]
fn a_bind_under_way_does_not_pass_for_one_that_knows_the_new_wish() {
    let changed = after(&protected(), &wish(|p| p.excludes.push("checkpoints/".to_owned())));
    let late = decide(&changed, &Event::Bound { epoch: Epoch::FIRST }, t0());
    assert_eq!(
        (late.reason, late.next.standby.binding),
        (Reason::Fenced, Binding::Stale)
    );
    let mut seeding_anew = seeding();
    seeding_anew = after(&seeding_anew, &Event::PolicyChanged(Box::new(changed.policy.clone())));
    let kept = decide(&seeding_anew, &reported(pulling()), t0()).next;
    assert_eq!(
        kept.saved,
        Saved::Points,
        "what was saved before the change is still there"
    );
    let kept = after(
        &protected(),
        &wish(|p| p.retention = warmspare_domain::units::Seconds(60)),
    );
    assert_eq!(
        (kept.standby.binding, kept.epoch),
        (Binding::Bound, Epoch::FIRST),
        "the agent need not know of it"
    );
}

#[test]
fn a_preempted_standby_is_started_and_a_vanished_one_replaced() {
    use PhaseName::{Protected, Provisioning};
    let silent = after(&protected(), &Event::StandbyUnreachable);
    let gone_once = change(silent.clone(), |a| a.standby.gone_reads = 1);
    check(vec![
        row(
            "preempted: start it",
            silent.clone(),
            looked(sees_standby(StandbySeen::Stopped)),
            0,
            Protected,
            &[E::StartStandby],
            Reason::Steady,
        ),
        row(
            "going down: wait",
            silent.clone(),
            looked(sees_standby(StandbySeen::Stopping)),
            0,
            Protected,
            &[],
            Reason::Steady,
        ),
        row(
            "deleted by hand: order it anew onto its disk",
            silent.clone(),
            looked(only_the_disk()),
            0,
            Protected,
            &[E::CreateStandby],
            Reason::Steady,
        ),
        row(
            "up again: pull",
            silent.clone(),
            looked(sees_standby(StandbySeen::Running(endpoint()))),
            0,
            Protected,
            &[E::Sync],
            Reason::Steady,
        ),
        row(
            "machine and disk gone, once",
            silent,
            looked(nothing_left()),
            0,
            Protected,
            &[],
            Reason::Steady,
        ),
        row(
            "and again: a new standby",
            gone_once.clone(),
            looked(nothing_left()),
            0,
            Provisioning,
            &[E::CreateStandby],
            Reason::StandbyVanished,
        ),
        row(
            "silence is not absence",
            gone_once.clone(),
            looked(Seen::NOTHING),
            0,
            Protected,
            &[],
            Reason::Steady,
        ),
    ]);
    let mut moved_on = endpoint();
    moved_on.address = "203.0.113.99".to_owned();
    moved_on.host_key = "ssh-ed25519 EVIL".to_owned();
    let again = after(&protected(), &looked(sees_standby(StandbySeen::Running(moved_on))));
    let Link::Up(known) = &again.standby.link else {
        panic!("{:?}", again.standby.link)
    };
    assert_eq!(
        (known.address.as_str(), known.host_key.as_str()),
        ("203.0.113.99", "ssh-ed25519 AAAA")
    );
    let anew = after(&gone_once, &looked(nothing_left()));
    let late = decide(&anew, &reported(pulling()), t0()).next;
    assert_eq!(
        late.saved,
        Saved::Nothing,
        "what the vanished one had is not what the new one has"
    );
}

#[test]
fn a_release_deletes_machine_then_disk_and_waits_for_proof() {
    use PhaseName::{Released, Releasing};
    let ordered = after(&provisioning(), &looked(nothing_left()));
    let in_flight = after(&ordered, &about(Subject::Association));
    check(vec![
        row(
            "the machine first",
            releasing(),
            looked(sees_standby(StandbySeen::Running(endpoint()))),
            0,
            Releasing,
            &[E::DeleteStandby],
            Reason::Steady,
        ),
        row(
            "it is going down: wait",
            releasing(),
            looked(sees_standby(StandbySeen::Stopping)),
            0,
            Releasing,
            &[],
            Reason::Steady,
        ),
        row(
            "then the disk",
            releasing(),
            looked(only_the_disk()),
            0,
            Releasing,
            &[E::DeleteDisk],
            Reason::Steady,
        ),
        row(
            "silence proves nothing",
            releasing(),
            looked(Seen::NOTHING),
            0,
            Releasing,
            &[],
            Reason::Steady,
        ),
        row(
            "nothing is left",
            releasing(),
            looked(nothing_left()),
            0,
            Released,
            &[],
            Reason::Released(Ground::UserRequest),
        ),
        row(
            "an order may still land: wait",
            in_flight.clone(),
            looked(nothing_left()),
            119,
            Releasing,
            &[],
            Reason::Steady,
        ),
        row(
            "it did not",
            in_flight.clone(),
            looked(nothing_left()),
            120,
            Released,
            &[],
            Reason::Released(Ground::UserRequest),
        ),
        row(
            "it did: delete it",
            in_flight,
            looked(sees_standby(StandbySeen::Booting)),
            60,
            Releasing,
            &[E::DeleteStandby],
            Reason::Steady,
        ),
    ]);
}

#[test]
fn a_superseded_gpu_is_kept_unless_the_policy_lets_it_go() {
    use PhaseName::Protected;
    let destroys = with_policy(moved(), |policy| policy.superseded = SupersededGpu::Destroy);
    let unbound = change(destroys.clone(), |a| a.standby.binding = Binding::Stale);
    check(vec![
        row(
            "kept: it may hold what came after the last pass",
            moved(),
            looked(Seen::NOTHING),
            0,
            Protected,
            &[E::Sync],
            Reason::Steady,
        ),
        row(
            "destroyed by policy",
            destroys.clone(),
            looked(Seen::NOTHING),
            0,
            Protected,
            &[E::Sync, E::DestroySuperseded],
            Reason::Steady,
        ),
        row(
            "not before the new one is bound",
            unbound,
            looked(Seen::NOTHING),
            0,
            Protected,
            &[],
            Reason::Steady,
        ),
        row(
            "confirmed",
            destroys,
            Event::SupersededGone { gpu: gpu() },
            0,
            Protected,
            &[],
            Reason::Superseded,
        ),
    ]);
}

/// One event of every kind. The match keeps the list complete: another kind does not compile until it is here.
fn one_of_every_event() -> Vec<(&'static str, Event)> {
    let epoch = restoring().last_epoch;
    let events = vec![
        about(Subject::Association),
        Event::GpuFailedReported {
            subject: Subject::Association,
        },
        Event::GpuDestroyedReported {
            subject: Subject::Association,
        },
        Event::OutbidAnnounced { gpu: gpu() },
        Event::LookRequested,
        Event::SyncStopRequested,
        Event::SyncStartRequested,
        Event::SourceAccepted,
        restore_requested(Destination::Onto(other_gpu())),
        Event::StandbyWanted,
        Event::PolicyChanged(Box::new(policy())),
        looked(Seen::NOTHING),
        Event::Bound { epoch: Epoch::FIRST },
        reported(pulling()),
        Event::LastGaspAccepted,
        Event::StandbyUnreachable,
        Event::DiskGrown { attempt: 1, gb: 150 },
        Event::Rented {
            epoch,
            gpu: other_gpu(),
        },
        Event::SupersededGone { gpu: other_gpu() },
        Event::StandbyRefused {
            attempt: 1,
            problem: problem(ProblemKind::CapacityExhausted),
        },
        Event::RentRefused {
            epoch,
            problem: problem(ProblemKind::NoOffer),
        },
        effect_failed(E::Sync, ProblemKind::OutcomeUnknown),
    ];
    events.into_iter().map(|event| (kind(&event), event)).collect()
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::ReleaseRequested { .. } => "ReleaseRequested",
        Event::GpuFailedReported { .. } => "GpuFailedReported",
        Event::GpuDestroyedReported { .. } => "GpuDestroyedReported",
        Event::OutbidAnnounced { .. } => "OutbidAnnounced",
        Event::LookRequested => "LookRequested",
        Event::SyncStopRequested => "SyncStopRequested",
        Event::SyncStartRequested => "SyncStartRequested",
        Event::SourceAccepted => "SourceAccepted",
        Event::RestoreRequested { .. } => "RestoreRequested",
        Event::StandbyWanted => "StandbyWanted",
        Event::PolicyChanged(_) => "PolicyChanged",
        Event::Looked(_) => "Looked",
        Event::Bound { .. } => "Bound",
        Event::AgentReported(_) => "AgentReported",
        Event::LastGaspAccepted => "LastGaspAccepted",
        Event::StandbyUnreachable => "StandbyUnreachable",
        Event::DiskGrown { .. } => "DiskGrown",
        Event::Rented { .. } => "Rented",
        Event::SupersededGone { .. } => "SupersededGone",
        Event::StandbyRefused { .. } => "StandbyRefused",
        Event::RentRefused { .. } => "RentRefused",
        Event::EffectFailed { .. } => "EffectFailed",
    }
}

const KINDS_OF_EVENTS: usize = 22;

#[test]
fn every_phase_answers_every_event_as_the_golden_table_says() {
    let phases = [
        provisioning(),
        seeding(),
        protected(),
        holding(),
        restoring(),
        halted(),
        releasing(),
        released(),
    ];
    let names: std::collections::BTreeSet<_> = phases.iter().map(|a| a.phase.name()).collect();
    let kinds: std::collections::BTreeSet<_> = one_of_every_event().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(
        (names.len(), kinds.len()),
        (8, KINDS_OF_EVENTS),
        "a phase or an event is missing"
    );
    let mut table = String::new();
    for a in &phases {
        for (kind, event) in one_of_every_event() {
            let decision = decide(a, &event, t0());
            let effects: Vec<String> = decision
                .effects
                .iter()
                .map(|effect| effect.kind().to_string())
                .collect();
            let effects = if effects.is_empty() {
                "-".to_owned()
            } else {
                effects.join(", ")
            };
            let (from, to) = (a.phase.name(), decision.next.phase.name());
            table += &format!("{from:<13}{kind:<21}→ {to:<13}{effects:<16}{:?}\n", decision.reason);
        }
    }
    if table != include_str!("golden/decisions.txt") {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/decisions.txt");
        std::fs::write(path, &table).unwrap();
        panic!("the decisions differ from tests/golden/decisions.txt; see {path}");
    }
}

#[test]
fn a_paused_gpus_disk_is_read_before_a_replacement_is_rented_and_holds_nothing_up_for_long() {
    use PhaseName::{Holding, Restoring};
    let failing_over = with_policy(doubted(protected()), fails_over);
    let announced = after(&failing_over, &Event::OutbidAnnounced { gpu: gpu() });
    let lost = after(&announced, &looked(sees_gpu(paused())));
    let rescue = |rescue| AgentReport { rescue, ..pulling() };
    let told = |seen| reported(rescue(seen));
    let done = after(&lost, &told(RescueSeen::Complete(t0())));
    let refused = after(&lost, &told(RescueSeen::Refused(t0())));
    let stopped = change(lost.clone(), |a| a.copying = Copying::Off);
    let down = change(lost.clone(), |a| a.standby.link = Link::Lost(endpoint()));
    let manual = change(lost.clone(), |a| a.policy.failover = Failover::Manual);
    let standby_stopped = Seen {
        standby: Observed::Present(StandbySeen::Stopped),
        ..sees_gpu(paused())
    };
    let failed = effect_failed(E::Rescue, ProblemKind::OutcomeUnknown);
    let twice = after(&after(&lost, &failed), &failed);
    let first = Reason::RescueFirst;
    let renting = Reason::AutomaticFailover;
    let other = t0() + std::time::Duration::from_secs(1);
    check(vec![
        row(
            "paused: its disk first",
            lost.clone(),
            looked(sees_gpu(paused())),
            1,
            Holding,
            &[E::Rescue],
            first,
        ),
        row(
            "Vast is silent: wait",
            lost.clone(),
            looked(Seen::NOTHING),
            1,
            Holding,
            &[],
            first,
        ),
        row(
            "dark: no waiting",
            lost.clone(),
            looked(sees_gpu(GpuSeen::Dark)),
            1,
            Restoring,
            &[E::RentGpu],
            renting,
        ),
        row(
            "too long",
            lost.clone(),
            looked(sees_gpu(paused())),
            121,
            Restoring,
            &[E::RentGpu],
            renting,
        ),
        row(
            "fetched",
            lost.clone(),
            told(RescueSeen::Complete(t0())),
            1,
            Holding,
            &[],
            Reason::Rescued,
        ),
        row(
            "fetched, so on",
            done,
            looked(sees_gpu(paused())),
            1,
            Restoring,
            &[E::RentGpu],
            renting,
        ),
        row(
            "a guard refused",
            refused,
            looked(sees_gpu(paused())),
            1,
            Restoring,
            &[E::RentGpu],
            renting,
        ),
        row(
            "another loss's",
            lost.clone(),
            told(RescueSeen::Complete(other)),
            1,
            Holding,
            &[],
            Reason::Steady,
        ),
        row(
            "failed once",
            lost.clone(),
            failed.clone(),
            1,
            Holding,
            &[],
            Reason::RetryLater,
        ),
        row("failed thrice", twice, failed, 1, Holding, &[], Reason::RescueGivenUp),
        row(
            "the user stopped copying",
            stopped,
            looked(sees_gpu(paused())),
            1,
            Restoring,
            &[E::RentGpu],
            renting,
        ),
        row(
            "its standby is down",
            down,
            looked(standby_stopped),
            1,
            Holding,
            &[E::StartStandby],
            first,
        ),
        row(
            "nobody waits",
            manual.clone(),
            looked(sees_gpu(paused())),
            1800,
            Holding,
            &[E::Rescue],
            Reason::Steady,
        ),
        row(
            "not for ever",
            manual,
            looked(sees_gpu(paused())),
            3601,
            Holding,
            &[],
            Reason::Steady,
        ),
        row(
            "a halted source is not read behind a person's back",
            halted(),
            looked(sees_gpu(paused())),
            1,
            Holding,
            &[],
            Reason::GpuLost(LossCause::Paused),
        ),
    ]);
}

#[test]
fn a_disk_that_is_full_grows_for_what_is_rescued_and_then_it_is_fetched() {
    let looked_at = looked(sees_gpu(paused()));
    let failed_once = || AgentReport {
        rescue: RescueSeen::Failed {
            loss: t0(),
            attempts: 1,
        },
        disk: DiskSeen::Short { total_gb: 100 },
        ..pulling()
    };
    let lost = |cap| {
        let capped = with_policy(doubted(protected()), |policy| policy.max_disk_gb = cap);
        let announced = after(&capped, &Event::OutbidAnnounced { gpu: gpu() });
        after(&after(&announced, &looked_at), &reported(failed_once()))
    };
    let kinds = |a: &Association| kinds(a, &looked_at);
    let later =
        |a: &Association, seconds| decide(a, &looked_at, t0() + std::time::Duration::from_secs(seconds)).effects;
    assert_eq!(kinds(&lost(0)), [], "it may not grow, and nothing changed");
    assert_eq!(later(&lost(0), 900).len(), 1, "points may have aged");
    assert_eq!(kinds(&lost(200)), [E::GrowDisk]);
    let grown = after(&lost(200), &Event::DiskGrown { attempt: 1, gb: 150 });
    assert_eq!(kinds(&grown), [E::Rescue]);
    let told_again = decide(
        &lost(0),
        &reported(failed_once()),
        t0() + std::time::Duration::from_secs(600),
    )
    .next;
    assert_eq!(told_again, lost(0), "it tells of each attempt more than once");
    let allowed = after(&lost(0), &wish(|policy| policy.max_disk_gb = 200));
    assert_eq!(kinds(&allowed), [E::GrowDisk], "a person allowed it in time");
    // Nobody pays for a larger disk where nothing is fetched any more.
    let over = change(lost(200), |a| {
        if let Phase::Holding(loss) = &mut a.phase {
            loss.rescue = warmspare_domain::association::Rescue::Over;
        }
        a.standby.wanted_until = t0() + std::time::Duration::from_secs(600);
    });
    assert_eq!(kinds(&over), []);
}

fn kinds(a: &Association, looked: &Event) -> Vec<E> {
    let effects = decide(a, looked, t0()).effects;
    effects.iter().map(warmspare_domain::effect::Effect::kind).collect()
}

fn kinds_when_running(a: &Association) -> Vec<E> {
    kinds(a, &looked(sees_gpu(running())))
}

fn wish(change: fn(&mut Policy)) -> Event {
    let mut wish = policy();
    change(&mut wish);
    Event::PolicyChanged(Box::new(wish))
}

fn failed_often(a: Association, effect: E, kind: ProblemKind) -> Association {
    (0..20).fold(a, |a, _| after(&a, &effect_failed(effect, kind)))
}

#[test]
fn passes_that_fail_keep_nothing_waiting_that_may_help_them() {
    let full = reported(AgentReport {
        disk: DiskSeen::Short { total_gb: 100 },
        ..pulling()
    });
    let at_the_cap = failed_often(after(&protected(), &full), E::Sync, ProblemKind::Failed);
    assert_eq!(kinds_when_running(&at_the_cap), [E::Sync]);
    let told = warmspare_domain::health::health(&at_the_cap, None, t0())
        .reasons
        .join(" ");
    assert!(!told.contains("next attempt after"), "{told}");
    // Passes go on failing after the user acted, faster than the beats come.
    let larger = after(&at_the_cap, &wish(|p| p.max_disk_gb = 500));
    let still_failing = failed_often(larger, E::Sync, ProblemKind::Failed);
    assert_eq!(kinds_when_running(&still_failing), [E::Sync, E::GrowDisk]);
    let fewer = after(&at_the_cap, &wish(|p| p.excludes.push("checkpoints/".to_owned())));
    assert_eq!(kinds_when_running(&fewer), [E::Bind]);
}

#[test]
fn a_disk_that_may_not_be_enlarged_keeps_nothing_else_waiting() {
    let full = reported(AgentReport {
        disk: DiskSeen::Short { total_gb: 100 },
        ..pulling()
    });
    let allowed = with_policy(protected(), |policy| policy.max_disk_gb = 500);
    let refused = failed_often(after(&allowed, &full), E::GrowDisk, ProblemKind::QuotaExceeded);
    assert_eq!(kinds_when_running(&refused), [E::Sync]);
    let pulled = after(&after(&refused, &full), &full);
    assert_eq!(
        kinds_when_running(&pulled),
        [E::Sync],
        "a pass that completes does not hasten it"
    );
    let told = warmspare_domain::health::health(&pulled, None, t0()).reasons.join(" ");
    assert!(
        told.contains("could not be enlarged") && told.contains("next attempt after"),
        "{told}"
    );
    let preempted = after(&refused, &Event::StandbyUnreachable);
    let started = decide(&preempted, &looked(sees_standby(StandbySeen::Stopped)), t0());
    assert!(matches!(
        started.effects[..],
        [warmspare_domain::effect::Effect::StartStandby { .. }]
    ));
    let corrected = after(&pulled, &wish(|p| p.max_disk_gb = 400));
    assert_eq!(kinds_when_running(&corrected), [E::Sync, E::GrowDisk]);
    // A pass under way says nothing of the disk, and its end does not begin the waiting anew.
    let under_way = after(&pulled, &reported(pulling()));
    let told = warmspare_domain::health::health(&under_way, None, t0())
        .reasons
        .join(" ");
    assert!(!told.contains("could not be enlarged"), "{told}");
    assert_eq!(kinds_when_running(&after(&under_way, &full)), [E::Sync]);
}

#[test]
fn a_wish_that_is_changed_during_a_rescue_is_learned_when_the_gpu_is_back() {
    let announced = after(&doubted(protected()), &Event::OutbidAnnounced { gpu: gpu() });
    let lost = after(&announced, &looked(sees_gpu(paused())));
    let changed = after(&lost, &wish(|p| p.excludes.push("checkpoints/".to_owned())));
    let effects = decide(&changed, &looked(sees_gpu(paused())), t0()).effects;
    assert!(
        matches!(effects[..], [warmspare_domain::effect::Effect::Rescue { epoch, .. }] if epoch == lost.epoch),
        "{effects:?}"
    );
    let back = after(&changed, &looked(sees_gpu(running())));
    assert_eq!(kinds_when_running(&back), [E::Bind]);
}

#[test]
fn a_gpu_that_is_back_before_another_was_found_is_copied_again() {
    use warmspare_domain::decide::needs;
    let no_offer = Event::RentRefused {
        epoch: renting().last_epoch,
        problem: problem(ProblemKind::NoOffer),
    };
    let back = looked(sees_gpu(running()));
    let asked = decide(&renting(), &looked(Seen::NOTHING), t0()).next;
    assert_eq!(needs(&asked, t0()).gpu, None, "one may have been rented");
    assert_eq!(decide(&asked, &back, t0()).reason, Reason::Steady);
    let none_found = after(&asked, &no_offer);
    assert_eq!(needs(&none_found, t0()).gpu, Some(gpu()));
    let decision = decide(&none_found, &back, t0());
    assert_eq!(decision.reason, Reason::GpuCameBack);
    assert_eq!(decision.next.phase.name(), PhaseName::Protected);
    assert!(
        decision.next.epoch > none_found.last_epoch,
        "the restore's epoch fences off the older one"
    );
    assert_eq!(kinds_when_running(&decision.next), [E::Bind]);
    let reported_failed = change(none_found.clone(), |a| {
        if let Phase::Restoring { loss, .. } = &mut a.phase {
            loss.cause = LossCause::ReportedFailed;
        }
    });
    let an_older_point = change(none_found.clone(), |a| {
        if let Phase::Restoring { job, .. } = &mut a.phase {
            job.point = warmspare_domain::association::PointChoice::Id("20261127T075820.327Z".parse().unwrap());
        }
    });
    let told_by_a_tool = after(
        &none_found,
        &Event::GpuFailedReported {
            subject: Subject::Gpu(gpu()),
        },
    );
    for stays in [reported_failed, an_older_point, told_by_a_tool] {
        assert_eq!(needs(&stays, t0()).gpu, None);
        assert_eq!(decide(&stays, &back, t0()).next.phase, stays.phase);
    }
}

#[test]
fn a_changed_wish_is_tried_at_once_and_one_that_fails_again_waits_as_before() {
    let wrong = after(&protected(), &wish(|p| p.source_path = "no-such-place".to_owned()));
    let refused = failed_often(wrong, E::Bind, ProblemKind::Invalid);
    assert_eq!(kinds_when_running(&refused), []);
    let corrected = after(&refused, &wish(|p| p.source_path = "elsewhere".to_owned()));
    assert_eq!(kinds_when_running(&corrected), [E::Bind]);
    let wrong_again = after(&corrected, &effect_failed(E::Bind, ProblemKind::Invalid));
    assert_eq!(wrong_again.retry.not_before, refused.retry.not_before);
}

#[test]
fn a_disk_that_fills_grows_step_by_step_to_the_users_cap_and_never_twice_at_once() {
    let told = |total_gb| {
        reported(AgentReport {
            disk: DiskSeen::Short { total_gb },
            ..pulling()
        })
    };
    let size = |a: &Association| match decide(a, &looked(Seen::NOTHING), t0()).effects.as_slice() {
        [_, warmspare_domain::effect::Effect::GrowDisk { gb, .. }] => Some(*gb),
        _ => None,
    };
    let capped = |gb| with_policy(protected(), |policy| policy.max_disk_gb = gb);
    assert_eq!(size(&after(&capped(0), &told(100))), None, "nobody allowed it");
    assert_eq!(size(&after(&capped(100), &told(100))), None, "the cap is its size");
    let short = after(&capped(200), &told(100));
    assert_eq!(size(&short), Some(150));
    assert_eq!(size(&after(&short, &reported(pulling()))), None, "there is room again");
    let grown = after(&short, &Event::DiskGrown { attempt: 1, gb: 150 });
    assert_eq!(size(&grown), None);
    assert_eq!(
        size(&after(&grown, &told(100))),
        None,
        "its file system has yet to grow"
    );
    let again = after(&grown, &told(150));
    assert_eq!(size(&again), Some(200), "never above the cap");
    let whole = after(&after(&again, &Event::DiskGrown { attempt: 1, gb: 200 }), &told(199));
    assert_eq!(size(&whole), None);
    let words = warmspare_domain::health::health(&whole, None, t0()).reasons.join(" ");
    assert!(
        words.contains("200 GB is full") && words.contains("max_disk_gb"),
        "{words}"
    );
    let late = after(&again, &Event::DiskGrown { attempt: 2, gb: 400 });
    assert_eq!(late, again, "of another attempt's disk");
    assert_eq!(
        after(&again, &Event::DiskGrown { attempt: 1, gb: 120 }),
        again,
        "disks only grow"
    );
}
