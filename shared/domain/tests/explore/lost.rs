//! The record is lost in any state and rebuilt from what the agents and the labels say: what it must not cost.

use rustc_hash::FxHashSet;
use warmspare_domain::association::{Association, LossCause, Phase};
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::{Epoch, StandbyName};
use warmspare_domain::invariants::Broken;
use warmspare_domain::observed::{GpuSeen, Observed, StandbySeen};
use warmspare_domain::policy::StandbyProvider;
use warmspare_domain::rebuild::{
    BoundSource, CannotRebuild, ListedGpu, Remains, RememberedGpu, Rental, StandbyRemains, rebuild,
};

use crate::calm::{BEATS, beat, broken, quiet};
use crate::model::{EMPTY, Model, gpu_id, gpu_seen, host, large, machine_seen, report};
use crate::rules::NOW;
use crate::search::all_steps;
use crate::world::{Agent, FIRST, Machine, Restore, World};

/// What agents remember of their GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agents {
    /// Its name and where it answered.
    NameGpus,
    /// As agents from before names: only where it answered.
    KnowAddresses,
}

/// How the records of many states were rebuilt.
#[derive(Default)]
pub(crate) struct Lost {
    pub(crate) rebuilt: usize,
    /// Protected before, and protected again on the same GPU.
    pub(crate) as_before: usize,
    pub(crate) unclear: usize,
    pub(crate) no_disk: usize,
    pub(crate) contradictions: usize,
    known: FxHashSet<World>,
}

impl std::fmt::Debug for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} records rebuilt, {} protected as before, {} unclear, {} without a disk, {} contradictions",
            self.rebuilt, self.as_before, self.unclear, self.no_disk, self.contradictions
        )
    }
}

impl Lost {
    /// Loses the record in each of the nearest states.
    pub(crate) fn explore(
        &mut self,
        model: &mut Model,
        root: World,
        limit: usize,
        agents: Agents,
    ) -> Result<(), Broken> {
        // Worlds name their record by a number of this model.
        self.known.clear();
        let steps = all_steps();
        let mut visited: FxHashSet<World> = [root].into_iter().collect();
        let mut worlds = vec![root];
        let mut at = 0;
        while let Some(world) = worlds.get(at).copied() {
            at += 1;
            self.lose(model, &world, agents)?;
            for step in &steps {
                if worlds.len() >= limit {
                    break;
                }
                if let Some(next) = model.step(&world, *step)
                    && visited.insert(next)
                {
                    worlds.push(next);
                }
            }
        }
        Ok(())
    }

    fn lose(&mut self, model: &mut Model, world: &World, agents: Agents) -> Result<(), Broken> {
        let world = brought_up(world);
        if !self.known.insert(world) {
            return Ok(());
        }
        let before = model.association(&world).clone();
        let remains = remains(&before, &world, agents);
        let found = match rebuild(&remains, &before.policy, NOW) {
            Ok(found) => found,
            Err(CannotRebuild::NoDisk) => {
                self.no_disk += 1;
                return Ok(());
            }
            Err(CannotRebuild::SeveralHoldData(..) | CannotRebuild::NotTheNewest(..)) => {
                self.contradictions += 1;
                return Ok(());
            }
            Err(error @ CannotRebuild::ForeignAssociation { .. }) => {
                return Err(broken("a_standby_is_known_again", error.to_string()));
            }
        };
        self.rebuilt += 1;
        epochs_are_fresh(&found, &world)?;
        let unclear = matches!(&found.phase, Phase::Holding(loss) if loss.cause == LossCause::RecordUnclear);
        self.unclear += usize::from(unclear);
        let mut after = world;
        after.association = model.mind.associations.number(found.clone());
        for _ in 0..BEATS {
            after = beat(model, &after);
            if let Some(broken) = model.broken.take().or_else(|| model.mind.broken.take()) {
                return Err(broken);
            }
            nothing_is_deleted(&world, &after)?;
            if !pin_refuses(&found, &world) {
                superseded_stays_unread(&before, &world, &after)?;
            }
        }
        if agents == Agents::NameGpus && was_calm(&before, &world) {
            self.as_before += 1;
            is_as_before(&before, model.association(&after))?;
        }
        Ok(())
    }
}

/// Whether the record said what the agent says, and the GPU that both mean runs.
fn was_calm(before: &Association, world: &World) -> bool {
    let agent = world.standbys[usize::from(before.standby.attempt) - 1].agent;
    before.phase == Phase::Protected
        && u32::from(agent.bound) == before.epoch.number()
        && gpu_id(agent.gpu.into()) == before.gpu
        && !agent.halted
        && world.gpus[usize::from(agent.gpu)].content != EMPTY
        && matches!(
            gpu_seen(world, agent.gpu.into()),
            Observed::Present(GpuSeen::Running(_))
        )
}

/// What was protected is protected again, on the same GPU.
fn is_as_before(before: &Association, is: &Association) -> Result<(), Broken> {
    if is.phase == Phase::Protected && is.gpu == before.gpu && is.epoch >= before.epoch {
        Ok(())
    } else {
        Err(broken("protected_again", format!("{before:?} → {is:?}")))
    }
}

/// What `rebuild` does before it asks: whatever has a disk gets its machine up.
fn brought_up(world: &World) -> World {
    let mut world = quiet(world);
    for standby in world.standbys.iter_mut().filter(|standby| standby.disk) {
        if standby.machine == Machine::None {
            standby.instance = standby.instance.saturating_add(1).min(15);
        }
        standby.machine = Machine::Up;
    }
    world
}

fn remains(a: &Association, world: &World, agents: Agents) -> Remains {
    let mut standbys = Vec::new();
    for (index, standby) in world.standbys.iter().enumerate().filter(|(_, standby)| standby.disk) {
        let Observed::Present(StandbySeen::Running(endpoint)) = machine_seen(index, *standby) else {
            continue;
        };
        let attempt = u16::try_from(index).expect("few attempts") + 1;
        let agent = standby.agent;
        let bound = agent.bound != 0;
        standbys.push(StandbyRemains {
            attempt,
            standby: StandbyRef {
                name: StandbyName::new(&a.deployment, a.id, attempt),
                zone: a.standby.zone.clone(),
                provider: StandbyProvider::Gcp,
            },
            // Before the first binding no data can have moved; after it, the stalest that it can be.
            labelled_gpu: if bound { gpu_id(FIRST) } else { a.gpu },
            endpoint,
            serves: bound.then_some(a.id),
            report: report(&agent, warmspare_domain::observed::PassTrouble::None),
            source: bound.then(|| source(&agent, agents)),
            restore_target: None,
        });
    }
    let listed = || world.gpus.iter().enumerate().filter(|(_, gpu)| gpu.exists());
    Remains {
        deployment: a.deployment.clone(),
        association: a.id,
        standbys,
        rentals: listed()
            .filter(|(_, gpu)| gpu.label != 0)
            .map(|(slot, gpu)| Rental {
                gpu: gpu_id(slot),
                epoch: large(gpu.label),
            })
            .collect(),
        gpus: listed()
            .map(|(slot, _)| ListedGpu {
                gpu: gpu_id(slot),
                host: match gpu_seen(world, slot) {
                    Observed::Present(GpuSeen::Running(host)) => Some(host),
                    _ => None,
                },
                profile: a.profile.clone(),
            })
            .collect(),
    }
}

fn source(agent: &Agent, agents: Agents) -> BoundSource {
    let gpu = crate::world::Gpu {
        address: agent.address,
        ..crate::world::Gpu::NONE
    };
    BoundSource {
        gpu: RememberedGpu {
            gpu: (agents == Agents::NameGpus).then(|| gpu_id(agent.gpu.into())),
            host: host(agent.gpu.into(), gpu),
        },
        path: "/workspace".to_owned(),
        excludes: Vec::new(),
        includes: Vec::new(),
        first: Vec::new(),
        before_pass: String::new(),
        max_deleted_percent: 50,
    }
}

/// No epoch that anybody still remembers is given out again.
fn epochs_are_fresh(found: &Association, world: &World) -> Result<(), Broken> {
    let attempt = usize::from(found.standby.attempt) - 1;
    let agent = world.standbys[attempt].agent;
    let labels = world.gpus.iter().filter(|gpu| gpu.exists()).map(|gpu| gpu.label);
    let highest = labels.chain([agent.bound, agent.restore.epoch()]).max().unwrap_or(0);
    let highest = Epoch::numbered(u32::from(highest)).unwrap_or(Epoch::FIRST);
    let bound = Epoch::numbered(u32::from(agent.bound)).unwrap_or(Epoch::FIRST);
    if found.last_epoch >= highest && found.epoch >= bound && found.epoch <= found.last_epoch {
        Ok(())
    } else {
        Err(broken("epoch_never_falls", format!("{found:?} {world:?}")))
    }
}

/// Neither a disk with data nor a GPU goes, whoever's it is.
fn nothing_is_deleted(before: &World, after: &World) -> Result<(), Broken> {
    for (was, is) in before.standbys.iter().zip(&after.standbys) {
        if was.disk && was.agent.point != 0 && !is.disk {
            return Err(broken("never_the_last_copy", format!("{before:?} → {after:?}")));
        }
    }
    for (was, is) in before.gpus.iter().zip(&after.gpus) {
        if was.exists() && !is.exists() {
            return Err(broken(
                "a_rebuilt_record_destroys_no_gpu",
                format!("{before:?} → {after:?}"),
            ));
        }
    }
    Ok(())
}

/// A wrong guess under the epoch that the agent is bound to is refused by the host key it pinned for it, which the model does not have.
fn pin_refuses(found: &Association, world: &World) -> bool {
    let agent = world.standbys[usize::from(found.standby.attempt) - 1].agent;
    agent.bound != 0
        && u32::from(agent.bound) == found.epoch.number()
        && found.epoch == found.last_epoch
        && gpu_id(agent.gpu.into()) != found.gpu
}

/// What the lost record knew to be superseded is not read because of the loss.
fn superseded_stays_unread(before: &Association, was: &World, is: &World) -> Result<(), Broken> {
    for (was, is) in was.standbys.iter().zip(&is.standbys) {
        let rebound = is.agent.bound != 0 && (is.agent.bound, is.agent.gpu) != (was.agent.bound, was.agent.gpu);
        if rebound && before.superseded.contains(&gpu_id(is.agent.gpu.into())) {
            return Err(broken(
                "superseded_is_never_read",
                format!("{before:?}: {was:?} → {is:?}"),
            ));
        }
    }
    for standby in &is.standbys {
        if let Restore::Running { target, .. } = standby.agent.restore
            && gpu_id(target.into()) == before.gpu
        {
            let known = was
                .standbys
                .iter()
                .any(|was| was.agent.restore == standby.agent.restore);
            if !known {
                return Err(broken(
                    "live_gpu_is_never_overwritten",
                    format!("{before:?}: {standby:?}"),
                ));
            }
        }
    }
    Ok(())
}
