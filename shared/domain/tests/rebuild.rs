//! What is made of the remains of a lost record, situation by situation.

mod fixtures;

use fixtures::*;
use warmspare_domain::association::{Association, GpuProfile, Link, Loss, LossCause, Phase, PhaseName, Rescue, Saved};
use warmspare_domain::decide::decide;
use warmspare_domain::effect::{EffectKind, StandbyRef};
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{AssociationId, Deployment, Epoch, GpuId, StandbyName};
use warmspare_domain::observed::{AgentReport, BoundTo, PointsSeen, RestoreSeen, SshHost};
use warmspare_domain::orphan::{Verdict, judge};
use warmspare_domain::policy::{Failover, StandbyProvider, SupersededGpu, WhenDeletedAtVast};
use warmspare_domain::reason::Reason;
use warmspare_domain::rebuild::{
    BoundSource, CannotRebuild, ListedGpu, Remains, RememberedGpu, Rental, StandbyRemains, rebuild,
};

fn deployment() -> Deployment {
    "demo".parse().expect("a literal name parses")
}

fn epoch(number: u32) -> Epoch {
    Epoch::numbered(number).expect("an epoch")
}

fn at(port: u16) -> SshHost {
    SshHost {
        address: "198.51.100.4".to_owned(),
        port,
    }
}

/// The agent's memory of a GPU that answered on a port; agents from before names do not know which it was.
fn remembered(gpu: Option<GpuId>, port: u16) -> RememberedGpu {
    RememberedGpu { gpu, host: at(port) }
}

fn standby(attempt: u16, report: AgentReport) -> StandbyRemains {
    StandbyRemains {
        attempt,
        standby: StandbyRef {
            name: StandbyName::new(&deployment(), AssociationId::of(gpu()), attempt),
            zone: "us-south1-b".parse().expect("a literal zone parses"),
            provider: StandbyProvider::Gcp,
        },
        labelled_gpu: gpu(),
        endpoint: endpoint(),
        serves: Some(AssociationId::of(gpu())),
        report,
        source: Some(BoundSource {
            gpu: remembered(Some(gpu()), 1),
            path: "/data".to_owned(),
            excludes: vec!["*.cache".to_owned()],
            includes: vec!["keep.cache".to_owned()],
            first: vec!["src".parse().expect("a literal path parses")],
            before_pass: "./dump.sh".to_owned(),
            max_deleted_percent: 70,
        }),
        restore_target: None,
    }
}

fn bound(number: u32) -> AgentReport {
    AgentReport {
        bound: BoundTo::Epoch(epoch(number)),
        ..pulling()
    }
}

/// The first GPU answers on port 1, the other on port 2.
fn remains(standbys: Vec<StandbyRemains>) -> Remains {
    let listed = |gpu, port| ListedGpu {
        gpu,
        host: Some(at(port)),
        profile: GpuProfile {
            model: "RTX 4090".to_owned(),
            ..GpuProfile::default()
        },
    };
    Remains {
        deployment: deployment(),
        association: AssociationId::of(gpu()),
        standbys,
        rentals: Vec::new(),
        gpus: vec![listed(gpu(), 1), listed(other_gpu(), 2)],
    }
}

fn rebuilt(remains: &Remains) -> Association {
    rebuild(remains, &policy(), t0()).expect("nothing contradicts")
}

fn holds_for(cause: LossCause) -> Phase {
    Phase::Holding(Loss {
        since: t0(),
        cause,
        rescue: Rescue::Over,
        rescue_problem: String::new(),
    })
}

#[test]
fn a_protected_gpu_is_held_until_it_is_looked_at_with_the_users_source() {
    let a = rebuilt(&remains(vec![standby(1, bound(1))]));
    assert_eq!(a.phase, holds_for(LossCause::RecordLost));
    assert_eq!((a.gpu, a.epoch, a.last_epoch), (gpu(), epoch(1), epoch(1)));
    assert_eq!((a.saved, &a.standby.link), (Saved::Points, &Link::Up(endpoint())));
    assert_eq!(a.policy.source_path, "/data");
    assert_eq!(a.policy.excludes, ["*.cache"]);
    assert_eq!(a.policy.includes, ["keep.cache"]);
    assert_eq!(a.policy.first, ["src".parse().unwrap()]);
    assert_eq!(a.policy.before_pass, "./dump.sh");
    assert_eq!(a.policy.max_deleted_percent, 70);
    assert_eq!(a.policy.retention, policy().retention);
    assert_eq!(a.policy.machine.zones[0], a.standby.zone);
    assert_eq!(a.profile.model, "RTX 4090");
    assert_eq!(a.history.last().map(|step| step.reason), Some(Reason::RecordRebuilt));
    let back = decide(&a, &looked(sees_gpu(running())), t0());
    assert_eq!(back.next.phase, Phase::Protected);
    let kinds: Vec<_> = back
        .effects
        .iter()
        .map(warmspare_domain::effect::Effect::kind)
        .collect();
    assert_eq!(
        kinds,
        [EffectKind::Bind],
        "the agent's guards see it before anything is read"
    );
    assert_eq!(back.next.epoch, a.epoch);
}

#[test]
fn nothing_is_released_rented_or_destroyed_on_the_word_of_a_rebuilt_record() {
    let mut settings = policy();
    settings.failover = Failover::Automatic {
        max_price_per_hour: CAP,
    };
    settings.superseded = SupersededGpu::Destroy;
    settings.when_deleted_at_vast = WhenDeletedAtVast::Release;
    let a = rebuild(&remains(vec![standby(1, bound(1))]), &settings, t0()).expect("nothing contradicts");
    assert_eq!(a.policy.failover, Failover::Manual);
    assert_eq!(a.policy.superseded, SupersededGpu::Keep);
    assert_eq!(a.policy.when_deleted_at_vast, WhenDeletedAtVast::Hold);
    assert!(
        !LossCause::RecordLost.allows_automatic_failover() && !LossCause::RecordUnclear.allows_automatic_failover()
    );
}

/// After a failover: agent bound to epoch 2, label of the first GPU.
fn failed_over(told: Option<GpuId>, port: u16) -> StandbyRemains {
    let mut found = standby(1, bound(2));
    if let Some(source) = &mut found.source {
        source.gpu = remembered(told, port);
    }
    found
}

fn rental(number: u32) -> Rental {
    Rental {
        gpu: other_gpu(),
        epoch: epoch(number),
    }
}

#[test]
fn which_gpu_it_is_comes_from_whoever_knows_best() {
    use LossCause::{RecordLost, RecordUnclear};
    let third = GpuId::vast(3);
    let also_three = Rental {
        gpu: third,
        epoch: epoch(2),
    };
    type Case = (&'static str, StandbyRemains, Vec<Rental>, GpuId, LossCause);
    let cases: Vec<Case> = vec![
        (
            "the agent says",
            failed_over(Some(other_gpu()), 9),
            vec![],
            other_gpu(),
            RecordLost,
        ),
        (
            "the agent says, whatever the label",
            failed_over(Some(other_gpu()), 9),
            vec![also_three],
            other_gpu(),
            RecordLost,
        ),
        (
            "its label",
            failed_over(None, 9),
            vec![rental(2)],
            other_gpu(),
            RecordLost,
        ),
        ("its address", failed_over(None, 2), vec![], other_gpu(), RecordLost),
        (
            "its address among two labels",
            failed_over(None, 2),
            vec![also_three, rental(2)],
            other_gpu(),
            RecordLost,
        ),
        ("its epoch: the first", standby(1, bound(1)), vec![], gpu(), RecordLost),
        (
            "a guess that a pinned key guards",
            failed_over(None, 9),
            vec![],
            gpu(),
            RecordLost,
        ),
        (
            "a guess that nothing guards",
            failed_over(None, 9),
            vec![rental(3)],
            gpu(),
            RecordUnclear,
        ),
    ];
    for (why, found, rentals, expected, cause) in cases {
        let a = rebuilt(&Remains {
            rentals: rentals.clone(),
            ..remains(vec![found])
        });
        assert_eq!((a.gpu, &a.phase), (expected, &holds_for(cause)), "{why}");
        assert!(!a.superseded.contains(&expected), "{why}");
        assert!(
            expected == gpu() || a.superseded.contains(&gpu()),
            "{why}: the stale one is never read"
        );
        for rental in rentals {
            assert!(a.last_epoch >= rental.epoch, "{why}");
            let found = warmspare_domain::observed::Found::Rental {
                gpu: rental.gpu,
                epoch: rental.epoch,
            };
            assert_eq!(
                judge(found, Some(&a)),
                Verdict::Keep,
                "{why}: it may hold the user's work"
            );
        }
    }
}

#[test]
fn a_verified_target_that_was_not_bound_yet_is_bound_and_never_pushed_to_again() {
    let verified = AgentReport {
        restore: RestoreSeen::Verified(epoch(2)),
        ..bound(1)
    };
    let target = |told, port| StandbyRemains {
        restore_target: Some(remembered(told, port)),
        ..standby(1, verified.clone())
    };
    let known = [
        Remains {
            rentals: vec![rental(2)],
            ..remains(vec![target(None, 9)])
        },
        remains(vec![target(Some(other_gpu()), 9)]),
        remains(vec![target(None, 2)]),
    ];
    for remains in known {
        let a = rebuilt(&remains);
        assert_eq!((a.gpu, a.epoch), (other_gpu(), epoch(2)));
        assert!(a.superseded.contains(&gpu()));
        let back = decide(&a, &looked(sees_gpu(running())), t0());
        let kinds: Vec<_> = back
            .effects
            .iter()
            .map(warmspare_domain::effect::Effect::kind)
            .collect();
        assert_eq!(
            (back.next.phase.name(), kinds),
            (PhaseName::Protected, vec![EffectKind::Bind])
        );
    }
    let nowhere = rebuilt(&remains(vec![target(None, 9)]));
    assert_eq!(
        nowhere.phase,
        holds_for(LossCause::RecordUnclear),
        "the old GPU is not read on a guess"
    );
    let still = decide(&nowhere, &looked(sees_gpu(running())), t0());
    assert_eq!(still.next.phase, nowhere.phase);
}

#[test]
fn a_restore_that_did_not_end_is_over_and_its_epoch_is_used_up() {
    for restore in [RestoreSeen::Running(epoch(2)), RestoreSeen::Failed(epoch(2))] {
        let a = rebuilt(&Remains {
            rentals: vec![rental(2)],
            ..remains(vec![standby(1, AgentReport { restore, ..bound(1) })])
        });
        assert_eq!((a.gpu, a.epoch, a.last_epoch), (gpu(), epoch(1), epoch(2)));
        assert_eq!(a.phase, holds_for(LossCause::RecordLost));
    }
}

#[test]
fn without_a_recovery_point_it_starts_where_the_standby_is_ready() {
    let empty = AgentReport {
        points: PointsSeen::None,
        ..bound(1)
    };
    assert_eq!(
        rebuilt(&remains(vec![standby(1, empty.clone())])).phase,
        Phase::Provisioning
    );
    let mut fresh = standby(
        2,
        AgentReport {
            bound: BoundTo::Nothing,
            ..empty
        },
    );
    (fresh.serves, fresh.source, fresh.labelled_gpu) = (None, None, other_gpu());
    let a = rebuilt(&remains(vec![fresh]));
    assert_eq!(
        (a.phase, a.gpu, a.saved),
        (Phase::Provisioning, other_gpu(), Saved::Nothing)
    );
    assert_eq!(
        a.policy.source_path,
        policy().source_path,
        "nobody was told another one"
    );
}

#[test]
fn a_halt_stays_a_halt() {
    let halted = AgentReport {
        halt: Some(HaltReason::SourceEmptied),
        ..bound(1)
    };
    let a = rebuilt(&remains(vec![standby(1, halted)]));
    assert_eq!(
        a.phase,
        Phase::Halted {
            since: t0(),
            reason: HaltReason::SourceEmptied
        }
    );
}

#[test]
fn of_several_attempts_the_newest_counts_and_contradictions_are_left_alone() {
    let empty = AgentReport {
        points: PointsSeen::None,
        ..bound(1)
    };
    let cannot = |standbys| rebuild(&remains(standbys), &policy(), t0()).expect_err("a contradiction");
    let a = rebuilt(&remains(vec![standby(1, empty.clone()), standby(2, bound(1))]));
    assert_eq!(a.standby.attempt, 2);
    assert_eq!(cannot(vec![]), CannotRebuild::NoDisk);
    let both = cannot(vec![standby(1, bound(1)), standby(2, bound(1))]);
    assert!(matches!(both, CannotRebuild::SeveralHoldData(..)), "{both}");
    let older = cannot(vec![standby(1, bound(1)), standby(2, empty)]);
    assert!(matches!(older, CannotRebuild::NotTheNewest(..)), "{older}");
    let mut foreign = standby(1, bound(1));
    foreign.serves = Some(AssociationId::of(other_gpu()));
    assert!(matches!(
        cannot(vec![foreign]),
        CannotRebuild::ForeignAssociation { .. }
    ));
}
