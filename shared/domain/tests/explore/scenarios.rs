//! Where the explorations start, what the user's rules are, and how much may go wrong on one path.

use warmspare_domain::association::Association;
use warmspare_domain::ids::Deployment;
use warmspare_domain::policy::{
    Failover, MachineSpec, Policy, Provisioning, StandbyProvider, SupersededGpu, WhenDeletedAtVast,
};
use warmspare_domain::units::{MicroUsd, Seconds};

use crate::calm;
use crate::model::{Checks, Model, gpu_id};
use crate::rules::{Mind, NOW, RETENTION_S, Rules, aged};
use crate::world::{CHOSEN, FIRST, GPUS, Gpu, GpuState, Reconciler, STANDBYS, Standby, Step, Sweep, World};

/// States of one scenario with [`NEAREST_STATES`] disturbances.
pub(crate) const NEAREST_STATES_LIMIT: usize = 300_000;

/// How much may go wrong on one path.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Faults, crashes, lost or late or repeated answers, requests, and changes of the GPUs and machines.
    pub(crate) disturbances: u8,
    pub(crate) jumps: u8,
}

/// Within these, every state is visited.
pub(crate) const EVERY_STATE: Bounds = Bounds {
    disturbances: 2,
    jumps: 1,
};

/// States of one scenario with [`EVERY_STATE`]. All end before it but the three that rent in the middle of a move: those have 18,
/// 11 and 19 million states, all of which `EXPLORE_EVERY_LIMIT=20000000` visits in six minutes.
pub(crate) const EVERY_STATE_LIMIT: usize = 1_300_000;

/// States of one scenario from which everything is done twice.
pub(crate) const TWICE_STATES_LIMIT: usize = 60_000;

/// States of one scenario in which the record is lost.
pub(crate) const LOST_STATES_LIMIT: usize = 60_000;

/// Within these, the nearest states are visited: every path of a few steps.
pub(crate) const NEAREST_STATES: Bounds = Bounds {
    disturbances: 3,
    jumps: 2,
};

/// One exploration.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Calm beats before the adversary starts.
    beats: u8,
    /// Steps by hand after those.
    prelude: &'static [Step],
    /// Calm beats after those.
    beats_after: u8,
    requests: &'static [u8],
    policy: fn() -> Policy,
}

pub(crate) fn all() -> Vec<Scenario> {
    let scenario = |name, beats, prelude, beats_after, requests, policy| Scenario {
        name,
        beats,
        prelude,
        beats_after,
        requests,
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
    const SLOW: &[Step] = &[
        LOOK,
        Step::GpuPauses { gpu: 0 },
        Step::Asked { request: 5 },
        LOOK,
        Step::Commit { reconciler: 0 },
        Step::Asked { request: 10 },
    ];
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
        scenario("ordering a standby", 0, &[], 0, &[0, 3, 4, 5], one_zone),
        scenario("ordering in two zones", 0, &[], 0, &[1], two_zones),
        scenario(
            "protected, anything happens",
            4,
            &[],
            0,
            &[0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12],
            one_zone,
        ),
        scenario(
            "lost, held, restored by the user",
            4,
            LOST,
            0,
            &[0, 3, 4, 7, 9, 10, 11],
            one_zone,
        ),
        scenario(
            "restoring onto a rented GPU",
            4,
            RESTORING,
            0,
            &[0, 1, 2, 13],
            destroying_superseded,
        ),
        scenario("restoring onto a GPU of the user's", 4, ONTO, 0, &[0, 13], one_zone),
        scenario("a slow pass while the data moves", 4, SLOW, 0, &[4, 14], one_zone),
        scenario("a rented GPU is lost again", 4, RESTORING, 4, &[4, 9, 14], one_zone),
        scenario(
            "a superseded GPU is chosen again",
            4,
            RESTORING,
            1,
            &[4, 5, 14],
            destroying_superseded,
        ),
        scenario("failing over by policy", 4, FAILED_OVER, 0, &[0, 2], failing_over),
        scenario("deletions at Vast release", 4, &[], 0, &[4, 9], releasing_on_deletion),
        scenario("halted", 4, HALTED, 0, &[1, 2, 8, 9, 12], one_zone),
        scenario("releasing", 4, RELEASING, 0, &[0, 2, 4, 7, 9, 11], one_zone),
    ]
}

const LOOK: Step = Step::Look {
    reconciler: 0,
    as_seen: crate::world::AsSeen::AsItIs,
};
const COMMIT: Step = Step::Commit { reconciler: 1 };

impl Scenario {
    pub(crate) fn build(&self, rules: Rules, bounds: Bounds) -> (Model, World) {
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
        model.requests = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
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
        if self.beats_after > 0 {
            root = calm::quiet(&root);
        }
        for _ in 0..self.beats_after {
            root = calm::beat(&mut model, &root);
        }
        root.disturbances = bounds.disturbances;
        root.jumps = bounds.jumps;
        root.short_list_used = false;
        (model, root)
    }
}

fn one_zone() -> Policy {
    Policy {
        source_path: "/workspace".to_owned(),
        excludes: Vec::new(),
        includes: Vec::new(),
        first: Vec::new(),
        before_pass: String::new(),
        lag_objective: Policy::DEFAULT_LAG_OBJECTIVE,
        max_deleted_percent: Policy::DEFAULT_MAX_DELETED_PERCENT,
        machine: MachineSpec {
            provider: StandbyProvider::Gcp,
            machine_type: "e2-medium".to_owned(),
            disk_gb: 100,
            disk_type: "pd-standard".to_owned(),
            provisioning: Provisioning::Spot,
            zones: vec!["us-central1-a".parse().expect("a literal zone parses")],
        },
        max_disk_gb: Policy::DEFAULT_MAX_DISK_GB,
        bandwidth_kib_per_s: 0,
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
