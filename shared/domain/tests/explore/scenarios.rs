//! Where the explorations start, what the user's rules are, and how much may go wrong on one path.

use warmspare_domain::association::Association;
use warmspare_domain::ids::Deployment;
use warmspare_domain::policy::{Failover, MachineSpec, Policy, Provisioning, SupersededGpu, WhenDeletedAtVast};
use warmspare_domain::units::{MicroUsd, Seconds};

use crate::calm;
use crate::model::{Checks, Model, gpu_id};
use crate::rules::{Mind, NOW, RETENTION_S, Rules, aged};
use crate::world::{CHOSEN, FIRST, GPUS, Gpu, GpuState, Reconciler, STANDBYS, Standby, Step, Sweep, World};

/// States after which a scenario is cut short.
pub(crate) const STATES_PER_SCENARIO: usize = 1_500_000;

/// One exploration.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Calm beats before the adversary starts.
    beats: u8,
    /// Steps by hand after those.
    prelude: &'static [Step],
    requests: &'static [u8],
    disturbances: u8,
    jumps: u8,
    policy: fn() -> Policy,
}

pub(crate) fn all() -> Vec<Scenario> {
    let scenario = |name, beats, prelude, requests, disturbances, jumps, policy| Scenario {
        name,
        beats,
        prelude,
        requests,
        disturbances,
        jumps,
        policy,
    };
    const LOST: &[Step] = &[Step::GpuPauses { gpu: 0 }, Step::Asked { request: 5 }, LOOK, COMMIT];
    const RESTORING: &[Step] = &[
        Step::GpuPauses { gpu: 0 },
        Step::Asked { request: 5 },
        LOOK,
        COMMIT,
        Step::Asked { request: 9 },
    ];
    const ONTO: &[Step] = &[
        Step::GpuPauses { gpu: 0 },
        Step::Asked { request: 5 },
        LOOK,
        COMMIT,
        Step::Asked { request: 10 },
    ];
    const FAILED_OVER: &[Step] = &[Step::GpuPauses { gpu: 0 }, Step::Asked { request: 4 }, LOOK, COMMIT];
    const RELEASING: &[Step] = &[Step::Asked { request: 1 }];
    const HALTED: &[Step] = &[
        Step::GpuEmptied { gpu: 0 },
        LOOK,
        Step::Run {
            reconciler: 1,
            answer: crate::world::Answer::Done,
        },
        Step::FeedBack {
            reconciler: 1,
            twice: false,
        },
    ];
    vec![
        scenario("ordering a standby", 0, &[], &[0, 3, 4, 5], 3, 2, one_zone),
        scenario("ordering in two zones", 0, &[], &[1], 3, 2, two_zones),
        scenario(
            "protected, anything happens",
            4,
            &[],
            &[0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12],
            3,
            2,
            one_zone,
        ),
        scenario(
            "lost, held, restored by the user",
            4,
            LOST,
            &[0, 3, 4, 7, 9, 10, 11],
            3,
            2,
            one_zone,
        ),
        scenario(
            "restoring onto a rented GPU",
            4,
            RESTORING,
            &[0, 1, 2, 13],
            3,
            2,
            destroying_superseded,
        ),
        scenario("restoring onto a GPU of the user's", 4, ONTO, &[0, 13], 3, 2, one_zone),
        scenario("failing over by policy", 4, FAILED_OVER, &[0, 2], 3, 2, failing_over),
        scenario(
            "deletions at Vast release",
            4,
            &[],
            &[4, 9],
            3,
            2,
            releasing_on_deletion,
        ),
        scenario("halted", 4, HALTED, &[1, 2, 8, 9, 12], 3, 2, one_zone),
        scenario("releasing", 4, RELEASING, &[0, 2, 4, 7, 9, 11], 3, 2, one_zone),
    ]
}

const LOOK: Step = Step::Look {
    reconciler: 0,
    as_seen: crate::world::AsSeen::AsItIs,
};
const COMMIT: Step = Step::Commit { reconciler: 1 };

impl Scenario {
    pub(crate) fn build(&self, rules: Rules) -> (Model, World) {
        let deployment: Deployment = "t".parse().expect("a literal name parses");
        let association = Association::new(deployment, gpu_id(FIRST), (self.policy)(), NOW);
        let mut mind = Mind::new(rules);
        let number = mind.associations.number(aged(association, 0));
        let mut model = Model {
            mind,
            requests: self.requests,
            checks: Checks::default(),
            broken: None,
        };
        let mut gpus = [Gpu::NONE; GPUS];
        for slot in [FIRST, CHOSEN] {
            gpus[slot] = Gpu {
                state: GpuState::Running,
                content: 1,
                ..Gpu::NONE
            };
        }
        let mut root = World {
            association: number,
            gpus,
            standbys: [Standby::NONE; STANDBYS],
            reconcilers: [Reconciler::Idle; 2],
            sweep: Sweep::Idle,
            disturbances: 0,
            jumps: 0,
            short_list_used: false,
            user_asked: false,
        };
        for _ in 0..self.beats {
            root = calm::beat(&mut model, &root);
        }
        root.disturbances = 9;
        model.requests = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
        for step in self.prelude {
            root = model.step(&root, *step).unwrap_or_else(|| {
                panic!(
                    "{}: {step:?} is not possible in {root:?} {:?}",
                    self.name,
                    model.association(&root)
                )
            });
        }
        model.requests = self.requests;
        root.disturbances = self.disturbances;
        root.jumps = self.jumps;
        (model, root)
    }
}

fn one_zone() -> Policy {
    Policy {
        source_path: "/workspace".to_owned(),
        excludes: Vec::new(),
        lag_objective: Policy::DEFAULT_LAG_OBJECTIVE,
        max_deleted_percent: Policy::DEFAULT_MAX_DELETED_PERCENT,
        machine: MachineSpec {
            machine_type: "e2-medium".to_owned(),
            disk_gb: 100,
            disk_type: "pd-standard".to_owned(),
            provisioning: Provisioning::Spot,
            zones: vec!["us-central1-a".parse().expect("a literal zone parses")],
        },
        retention: Seconds(RETENTION_S),
        stop_standby_after: Policy::DEFAULT_STOP_STANDBY_AFTER,
        when_deleted_at_vast: WhenDeletedAtVast::Hold,
        failover: Failover::Manual,
        superseded: SupersededGpu::Keep,
    }
}

fn two_zones() -> Policy {
    let mut policy = one_zone();
    policy
        .machine
        .zones
        .push("us-central1-b".parse().expect("a literal zone parses"));
    policy
}

fn destroying_superseded() -> Policy {
    Policy {
        superseded: SupersededGpu::Destroy,
        ..one_zone()
    }
}

fn failing_over() -> Policy {
    Policy {
        failover: Failover::Automatic {
            max_price_per_hour: MicroUsd(500_000),
        },
        ..one_zone()
    }
}

fn releasing_on_deletion() -> Policy {
    Policy {
        when_deleted_at_vast: WhenDeletedAtVast::Release,
        ..one_zone()
    }
}
