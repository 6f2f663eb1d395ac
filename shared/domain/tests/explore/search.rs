//! Breadth-first search: every state that can be reached is visited once, so the first violation has a shortest path.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;
use warmspare_domain::invariants::Broken;

use crate::calm::{Calm, end};
use crate::model::{Model, REQUESTS};
use crate::world::{Answer, AsSeen, GPUS, STANDBYS, Step, World};

/// What a search found.
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) transitions: usize,
    pub(crate) depth: usize,
    pub(crate) complete: bool,
    pub(crate) violation: Option<Violation>,
}

/// A broken invariant and the shortest way to it.
pub(crate) struct Violation {
    pub(crate) broken: Broken,
    pub(crate) path: Vec<Step>,
}

/// Every step there is; most are not possible in most states.
pub(crate) fn all_steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for reconciler in [0, 1] {
        for as_seen in [
            AsSeen::AsItIs,
            AsSeen::GpusSilent,
            AsSeen::StandbysSilent,
            AsSeen::ShortList,
        ] {
            steps.push(Step::Look { reconciler, as_seen });
        }
        steps.push(Step::Commit { reconciler });
        for answer in [
            Answer::Done,
            Answer::NotDone,
            Answer::DoneUnheard,
            Answer::Refused,
            Answer::RefusedWithDisk,
            Answer::LandsLate,
            Answer::OutOfCredit,
            Answer::Guarded,
        ] {
            steps.push(Step::Run { reconciler, answer });
        }
        for twice in [false, true] {
            steps.push(Step::FeedBack { reconciler, twice });
        }
        steps.push(Step::Crash { reconciler });
    }
    steps.extend([
        Step::SweepLists,
        Step::SweepReads,
        Step::SweepDestroys,
        Step::SweepCrashes,
    ]);
    for attempt in 0..u8::try_from(STANDBYS).expect("few") {
        steps.extend([
            Step::OrderLands { attempt },
            Step::Boots { attempt },
            Step::RestoreEnds {
                attempt,
                verified: true,
            },
            Step::RestoreEnds {
                attempt,
                verified: false,
            },
            Step::Preempted { attempt },
            Step::MachineVanishes { attempt },
            Step::StandbyVanishes { attempt },
        ]);
    }
    for gpu in 0..u8::try_from(GPUS).expect("few") {
        steps.extend([
            Step::RentalLands { gpu },
            Step::GpuStarts { gpu },
            Step::GpuPauses { gpu },
            Step::GpuGoesDark { gpu },
            Step::GpuRowGoes { gpu },
            Step::GpuComesBack { gpu },
            Step::GpuWrites { gpu },
            Step::GpuEmptied { gpu },
        ]);
    }
    steps.extend((0..REQUESTS).map(|request| Step::Asked { request }));
    steps.extend([Step::ShortTime, Step::LongTime]);
    steps
}

/// A set of worlds that knows them by number: open addressing over 32-bit indices.
struct Visited {
    worlds: Vec<World>,
    table: Vec<u32>,
}

const FREE: u32 = u32::MAX;

impl Visited {
    fn new() -> Self {
        Self {
            worlds: Vec::new(),
            table: vec![FREE; 1 << 16],
        }
    }

    fn place(world: &World, mask: usize) -> usize {
        let mut hasher = FxHasher::default();
        world.hash(&mut hasher);
        let hash = hasher.finish();
        usize::try_from(hash ^ hash >> 32).expect("64-bit") & mask
    }

    /// Adds a world unless it is known; answers whether it was new.
    fn insert(&mut self, world: &World) -> bool {
        if self.worlds.len() * 2 >= self.table.len() {
            self.grow();
        }
        let mask = self.table.len() - 1;
        let mut at = Self::place(world, mask);
        while self.table[at] != FREE {
            if self.worlds[self.table[at] as usize] == *world {
                return false;
            }
            at = (at + 1) & mask;
        }
        self.table[at] = u32::try_from(self.worlds.len()).expect("fewer than 2^32 states");
        self.worlds.push(*world);
        true
    }

    fn grow(&mut self) {
        let size = self.table.len() * 2;
        self.table = vec![FREE; size];
        for (index, world) in self.worlds.iter().enumerate() {
            let mut at = Self::place(world, size - 1);
            while self.table[at] != FREE {
                at = (at + 1) & (size - 1);
            }
            self.table[at] = u32::try_from(index).expect("fewer than 2^32 states");
        }
    }
}

/// Visits every state reachable from `root`, at most `limit` of them, and checks calm from every one.
pub(crate) fn search(model: &mut Model, calm: &mut Calm, root: World, limit: usize) -> Found {
    let steps = all_steps();
    let mut visited = Visited::new();
    visited.insert(&root);
    let mut from: Vec<(u32, u8)> = vec![(0, 0)];
    let mut depths: Vec<u16> = vec![0];
    let mut found = Found {
        states: 0,
        transitions: 0,
        depth: 0,
        complete: true,
        violation: None,
    };
    let mut at = 0;
    while at < visited.worlds.len() {
        let world = visited.worlds[at];
        let index = u32::try_from(at).expect("fewer than 2^32 states");
        if let Err(broken) = calmed(model, calm, &world) {
            found.violation = Some(violation(&from, &steps, index, None, broken));
            break;
        }
        for (number, step) in (0u8..).zip(&steps) {
            let Some(next) = model.step(&world, *step) else {
                continue;
            };
            found.transitions += 1;
            if let Err(broken) = heard(model) {
                found.violation = Some(violation(&from, &steps, index, Some(*step), broken));
                break;
            }
            if visited.insert(&next) {
                from.push((index, number));
                depths.push(depths[at] + 1);
            }
        }
        if found.violation.is_some() {
            break;
        }
        at += 1;
        if visited.worlds.len() >= limit {
            found.complete = false;
            found.violation = calm_for_the_rest(model, calm, &visited, at, &from, &steps);
            break;
        }
    }
    found.states = visited.worlds.len();
    found.depth = usize::from(*depths.last().unwrap_or(&0));
    found
}

/// States whose steps are no longer followed are still calmed.
fn calm_for_the_rest(
    model: &mut Model,
    calm: &mut Calm,
    visited: &Visited,
    first: usize,
    from: &[(u32, u8)],
    steps: &[Step],
) -> Option<Violation> {
    for (index, world) in (0u32..).zip(&visited.worlds).skip(first) {
        if let Err(broken) = calmed(model, calm, world) {
            return Some(violation(from, steps, index, None, broken));
        }
    }
    None
}

/// Checks calm from here; what a decision or an act broke on the way comes first.
fn calmed(model: &mut Model, calm: &mut Calm, world: &World) -> Result<(), Broken> {
    let calmed = calm.check(model, world);
    heard(model)?;
    calmed.map(|_| ())
}

/// Every effect and every event twice: calm leads to the same end as after once. Answers how many pairs were compared.
pub(crate) fn twice_ends_as_once(model: &mut Model, root: World, limit: usize) -> Result<usize, String> {
    let steps = all_steps();
    let mut visited = Visited::new();
    visited.insert(&root);
    let (mut at, mut compared) = (0, 0);
    while at < visited.worlds.len() {
        let world = visited.worlds[at];
        at += 1;
        for step in &steps {
            let Some(once) = model.step(&world, *step) else {
                continue;
            };
            if visited.worlds.len() < limit {
                visited.insert(&once);
            }
            let Some(twice) = model.step_twice(&world, *step) else {
                continue;
            };
            let ends = (end(model, &once), end(model, &twice));
            compared += 1;
            if ends.0 != ends.1 {
                return Err(format!(
                    "{step:?} once and twice: {ends:?}, from {world:?} {:?}",
                    model.association(&world)
                ));
            }
        }
    }
    Ok(compared)
}

/// What the step just made broke, if anything.
fn heard(model: &mut Model) -> Result<(), Broken> {
    match model.broken.take().or_else(|| model.mind.broken.take()) {
        Some(broken) => Err(broken),
        None => Ok(()),
    }
}

fn violation(from: &[(u32, u8)], steps: &[Step], at: u32, last: Option<Step>, broken: Broken) -> Violation {
    let mut path: Vec<Step> = last.into_iter().collect();
    let mut at = at;
    while at != 0 {
        let (parent, step) = from[at as usize];
        path.push(steps[usize::from(step)]);
        at = parent;
    }
    path.reverse();
    Violation { broken, path }
}
