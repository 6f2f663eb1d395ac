//! What becomes of a state when nothing more goes wrong: one reconciler beats, the sweep sweeps, and everything under way lands.

use rustc_hash::FxHashMap;
use warmspare_domain::association::{Association, Binding, Copying, GpuWatch, Link, Phase, PhaseName, Saved, Trust};
use warmspare_domain::effect::Effect;
use warmspare_domain::event::Event;
use warmspare_domain::ids::Epoch;
use warmspare_domain::invariants::{Broken, Inventory, no_orphan, one_standby_paid};
use warmspare_domain::policy::{Failover, SupersededGpu};

use crate::model::{Model, bits, gpu_id, labelled};
use crate::rules::NOW;
use crate::world::{Answer, AsSeen, GpuState, Machine, Reconciler, Restore, Sweep, World};

/// Fewer than the retention lasts: a release by date is no progress. Calm beats after which every association must be protected again, held, halted or released, with nothing left over.
pub(crate) const BEATS: u8 = 6;

/// Time between two calm beats: longer than every wait between attempts, so that a beat is one attempt.
const BEAT: i64 = 1_000_000;

/// Rounds of look, decide and act in one beat, as the shell does them.
const ROUNDS: usize = 4;

/// What is known about calm worlds.
#[derive(Default)]
pub(crate) struct Calm {
    /// Beats until settled.
    known: FxHashMap<World, u8>,
    pub(crate) longest: u8,
    /// States for which calm was checked.
    pub(crate) checked: usize,
    /// Settled worlds whose next beat was checked to change nothing.
    pub(crate) steady: usize,
}

impl Calm {
    pub(crate) fn distinct(&self) -> usize {
        self.known.len()
    }

    /// Checks that calm settles this world within [`BEATS`] beats.
    pub(crate) fn check(&mut self, model: &mut Model, w: &World) -> Result<u8, Broken> {
        self.checked += 1;
        let mut trail = Vec::new();
        let mut world = quiet(w);
        let mut beats = loop {
            if let Some(beats) = self.known.get(&world) {
                break *beats;
            }
            if settled(model, &world).is_ok() {
                self.check_steady(model, &world)?;
                self.known.insert(world, 0);
                break 0;
            }
            if trail.len() > usize::from(BEATS) {
                return Err(stuck(model, &world));
            }
            trail.push(world);
            world = beat(model, &world);
            if let Some(broken) = model.broken.take() {
                return Err(broken);
            }
        };
        for earlier in trail.into_iter().rev() {
            beats += 1;
            self.known.insert(earlier, beats);
        }
        self.longest = self.longest.max(beats);
        if beats > BEATS {
            Err(stuck(model, &world))
        } else {
            Ok(beats)
        }
    }

    /// A settled association makes no effects but passes, and its beats change nothing.
    fn check_steady(&mut self, model: &mut Model, w: &World) -> Result<(), Broken> {
        let phase = &model.association(w).phase;
        if matches!(phase, Phase::Holding(_)) {
            return Ok(());
        }
        self.steady += 1;
        let Some(seen) = model.seen(w, AsSeen::AsItIs) else {
            return Ok(());
        };
        let event = model.mind.events.number(Event::Looked(seen));
        let decided = model.mind.decide(w.association, event);
        let effects = model.mind.lists.value(decided.effects).clone();
        let others = effects.iter().map(|effect| model.mind.effects.value(*effect));
        let mut others = others.filter(|effect| !matches!(effect, Effect::Sync { .. }));
        if let Some(effect) = others.next() {
            return Err(broken(
                "steady_state_makes_no_effects_but_passes",
                format!("{effect:?}"),
            ));
        }
        Ok(())
    }
}

pub(crate) fn broken(invariant: &'static str, what: String) -> Broken {
    Broken { invariant, what }
}

fn stuck(model: &Model, w: &World) -> Broken {
    let reason = settled(model, w)
        .err()
        .unwrap_or_else(|| broken("progress_once_calm", String::new()));
    let invariant = match reason.invariant {
        "one_standby_paid" | "no_orphan" => reason.invariant,
        _ => "progress_once_calm",
    };
    broken(
        invariant,
        format!(
            "after {BEATS} calm beats: {}; {:?}; {w:?}",
            reason.what,
            model.association(w)
        ),
    )
}

/// The same world when every process has died, every order under way has landed, and nothing more goes wrong.
pub(crate) fn quiet(w: &World) -> World {
    let mut w = *w;
    w.reconcilers = [Reconciler::Idle; 2];
    w.sweep = Sweep::Idle;
    w.disturbances = 0;
    w.jumps = 0;
    w.short_list_used = true;
    for standby in &mut w.standbys {
        if std::mem::take(&mut standby.pending) {
            standby.disk = true;
            if standby.machine == Machine::None {
                standby.machine = Machine::Booting;
                standby.instance = standby.instance.saturating_add(1).min(15);
            }
        }
    }
    for gpu in &mut w.gpus {
        if gpu.state == GpuState::Pending {
            gpu.state = GpuState::Starting;
        }
    }
    w
}

/// One calm beat, and the sweep after it.
pub(crate) fn beat(model: &mut Model, w: &World) -> World {
    let mut w = *w;
    ripen(&mut w);
    model.grow_older(&mut w, BEAT);
    for _ in 0..ROUNDS {
        if !round(model, &mut w) {
            break;
        }
    }
    let found = labelled(&w);
    let condemned = model.judged(&w, w.association, found);
    for bit in bits(condemned) {
        model.destroy_found(&mut w, bit);
    }
    w
}

/// Everything that goes on by itself ends.
fn ripen(w: &mut World) {
    for gpu in &mut w.gpus {
        if gpu.state == GpuState::Starting {
            gpu.state = GpuState::Running;
        }
    }
    for standby in &mut w.standbys {
        if standby.machine == Machine::Booting {
            standby.machine = Machine::Up;
        }
        if let (Restore::Running { epoch, target }, Machine::Up) = (standby.agent.restore, standby.machine) {
            let target = &mut w.gpus[usize::from(target)];
            standby.agent.restore = if target.state == GpuState::Running {
                target.content = standby.agent.point;
                Restore::Verified { epoch }
            } else {
                Restore::Failed { epoch }
            };
        }
    }
}

fn round(model: &mut Model, w: &mut World) -> bool {
    if let Phase::Released { .. } = model.association(w).phase {
        return false;
    }
    let before = w.association;
    let Some(seen) = model.seen(w, AsSeen::AsItIs) else {
        return false;
    };
    let event = model.mind.events.number(Event::Looked(seen));
    let decided = model.mind.decide(w.association, event);
    w.association = decided.next;
    let effects = model.mind.lists.value(decided.effects).clone();
    for effect in effects {
        let effect = model.mind.effects.value(effect).clone();
        for event in model.run(w, &effect, Answer::Done).unwrap_or_default() {
            let event = model.mind.events.number(event);
            w.association = model.mind.decide(w.association, event).next;
        }
    }
    w.association != before
}

/// What a person is left with once calm: phase, what the bound GPU and the standby hold, and what is paid.
pub(crate) type End = (PhaseName, u8, u8, usize, usize);

/// Where calm leads from here.
pub(crate) fn end(model: &mut Model, w: &World) -> End {
    let mut world = quiet(w);
    for _ in 0..BEATS {
        if settled(model, &world).is_ok() {
            break;
        }
        world = beat(model, &world);
    }
    let a = model.association(&world);
    let inventory = inventory(&world);
    let held = world.standbys[usize::from(a.standby.attempt) - 1].agent.point;
    let machines = inventory.running.len() + inventory.stopped.len();
    (
        a.phase.name(),
        world.gpus[slot(a)].content,
        held,
        machines,
        inventory.disks.len(),
    )
}

/// Whether this is an end that a person may be left with.
pub(crate) fn settled(model: &Model, w: &World) -> Result<(), Broken> {
    let a = model.association(w);
    let inventory = inventory(w);
    one_standby_paid(a, &inventory)?;
    no_orphan(a, &inventory)?;
    let good = match &a.phase {
        Phase::Released { .. } => true,
        Phase::Holding(loss) => {
            let heals = loss.cause.heals_by_itself() && gpu_runs(a, w);
            let fails_over = matches!(a.policy.failover, Failover::Automatic { .. })
                && loss.cause.allows_automatic_failover()
                && a.saved == Saved::Points;
            inventory.running.is_empty() && !heals && !fails_over
        }
        Phase::Halted { .. } => gpu_runs(a, w) && a.standby.wanted_until <= NOW,
        Phase::Provisioning | Phase::Seeding | Phase::Protected if a.copying == Copying::Off => {
            gpu_runs(a, w) && matches!(a.standby.link, Link::Up(_)) && a.watch.trust == Trust::Fine
        }
        Phase::Protected => copies(a, w),
        Phase::Provisioning | Phase::Seeding | Phase::Restoring { .. } | Phase::Releasing { .. } => false,
    };
    let waits_for_superseded = a.policy.superseded == SupersededGpu::Destroy
        && a.copying == Copying::On
        && a.phase == Phase::Protected
        && !a.superseded.is_empty();
    if good && !waits_for_superseded {
        Ok(())
    } else {
        Err(broken("progress_once_calm", format!("still {}", a.phase.name())))
    }
}

fn slot(a: &Association) -> usize {
    (0..crate::world::GPUS)
        .find(|slot| gpu_id(*slot) == a.gpu)
        .expect("a GPU of this world")
}

fn gpu_runs(a: &Association, w: &World) -> bool {
    w.gpus[slot(a)].state == GpuState::Running
}

/// Whether the standby holds what the GPU holds, and will go on.
fn copies(a: &Association, w: &World) -> bool {
    let gpu = w.gpus[slot(a)];
    let standby = w.standbys[usize::from(a.standby.attempt) - 1];
    let agent = standby.agent;
    a.watch == GpuWatch::CALM
        && a.standby.binding == Binding::Bound
        && matches!(a.standby.link, Link::Up(_))
        && a.retry.not_before <= NOW
        && gpu_runs(a, w)
        && standby.machine == Machine::Up
        && a.epoch == Epoch::numbered(u32::from(agent.bound)).unwrap_or(Epoch::FIRST)
        && usize::from(agent.gpu) == slot(a)
        && agent.address == gpu.address
        && agent.point == gpu.content
}

fn inventory(w: &World) -> Inventory {
    let mut inventory = Inventory::default();
    for (attempt, standby) in (1..).zip(&w.standbys) {
        match standby.machine {
            Machine::None => {}
            Machine::Booting | Machine::Up => inventory.running.push(attempt),
            Machine::Stopped => inventory.stopped.push(attempt),
        }
        if standby.disk {
            inventory.disks.push(attempt);
        }
    }
    for (index, gpu) in w.gpus.iter().enumerate() {
        if gpu.label != 0 && gpu.exists() {
            inventory
                .rentals
                .push((gpu_id(index), Epoch::numbered(u32::from(gpu.label)).expect("a label")));
        }
    }
    inventory
}
