//! What every step does to the world: the shell, the providers, the agents, the user, and time.

use warmspare_domain::association::{Association, Phase, PointChoice};
use warmspare_domain::effect::{Accept, Effect, EffectKind, StandbyRef, Urgency};
use warmspare_domain::event::{Destination, Event, Subject};
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{Epoch, GpuId};
use warmspare_domain::invariants::{
    Broken, Deletion, Holds, a_gpu_in_use_is_never_destroyed, a_verdict_stays_true, live_gpu_is_never_overwritten,
    never_the_last_copy, superseded_is_never_read,
};
use warmspare_domain::observed::{
    AgentReport, BoundTo, DiskSeen, Endpoint, Found, GpuSeen, Observed, PassTrouble, PauseCause, PointsSeen,
    RescueSeen, RestoreSeen, Seen, SshHost, StandbySeen,
};
use warmspare_domain::orphan::Verdict;
use warmspare_domain::policy::StandbyProvider;
use warmspare_domain::problem::{Problem, ProblemKind};
use warmspare_domain::units::{MicroUsd, Timestamp};
use warmspare_domain::warrant::Ground;

use crate::rules::{LONG_TIME, Mind, NOW, SHORT_TIME};
use crate::world::{
    Agent, Answer, AsSeen, CHOSEN, FIRST, GPUS, Gpu, GpuState, Machine, RENTALS, Reconciler, Restore, STANDBYS,
    Standby, Step, Sweep, World,
};

/// A tree without files.
pub(crate) const EMPTY: u8 = 9;
/// The newest version that the user writes here.
const LAST_VERSION: u8 = 2;

/// A world model: the rules under test and what they are asked.
pub(crate) struct Model {
    pub(crate) mind: Mind,
    /// Which requests happen in this scenario.
    pub(crate) requests: &'static [u8],
    /// World invariants that were checked, by name.
    pub(crate) checks: Checks,
    pub(crate) broken: Option<Broken>,
}

/// How often each invariant of the world was checked.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Checks {
    pub(crate) last_copy: usize,
    pub(crate) superseded: usize,
    pub(crate) overwritten: usize,
    pub(crate) in_use: usize,
    pub(crate) verdicts: usize,
}

pub(crate) fn gpu_id(slot: usize) -> GpuId {
    GpuId::vast(slot as u64 + 1)
}

fn slot_of(gpu: GpuId) -> usize {
    usize::try_from(gpu.contract()).expect("a small number") - 1
}

fn small(epoch: Epoch) -> u8 {
    u8::try_from(epoch.number()).expect("few epochs on one path")
}

pub(crate) fn large(epoch: u8) -> Epoch {
    Epoch::numbered(u32::from(epoch)).expect("an epoch that was given out")
}

fn problem(kind: ProblemKind) -> Problem {
    Problem {
        kind,
        detail: "something".to_owned(),
    }
}

fn failed(effect: EffectKind, kind: ProblemKind) -> Event {
    Event::EffectFailed {
        effect,
        problem: problem(kind),
    }
}

pub(crate) fn host(slot: usize, gpu: Gpu) -> SshHost {
    SshHost {
        address: String::new(),
        port: u16::try_from(slot).expect("few GPUs") * 16 + u16::from(gpu.address),
    }
}

fn endpoint(index: usize, standby: Standby) -> Endpoint {
    Endpoint {
        provider: StandbyProvider::Gcp,
        instance: index as u64 * 16 + u64::from(standby.instance),
        address: String::new(),
        port: 22,
        host_key: String::new(),
    }
}

fn index_of(standby: &StandbyRef) -> usize {
    let name = standby.name.as_str();
    let attempt: usize = name
        .rsplit('-')
        .next()
        .and_then(|text| text.parse().ok())
        .expect("a name ends in its attempt");
    attempt - 1
}

impl World {
    fn disturb(mut self) -> Option<Self> {
        self.disturbances = self.disturbances.checked_sub(1)?;
        Some(self)
    }

    /// Takes what this effect needs from the adversary's budget.
    fn pay(self, answer: Answer) -> Option<Self> {
        if answer == Answer::Done {
            Some(self)
        } else {
            self.disturb()
        }
    }
}

impl Model {
    pub(crate) fn association(&self, w: &World) -> &Association {
        self.mind.associations.value(w.association)
    }

    fn check(&mut self, holds: Holds) {
        if let Err(broken) = holds {
            self.broken.get_or_insert(broken);
        }
    }

    /// The world after this step; `None` when the step cannot happen now.
    pub(crate) fn step(&mut self, w: &World, step: Step) -> Option<World> {
        let mut next = match step {
            Step::Look { reconciler, as_seen } => self.look(*w, reconciler.into(), as_seen),
            Step::Commit { reconciler } => self.commit(*w, reconciler.into()),
            Step::Run { reconciler, answer } => self.run_next(*w, reconciler.into(), answer),
            Step::FeedBack { reconciler, twice } => self.feed_back(*w, reconciler.into(), twice),
            Step::Crash { reconciler } => crash(*w, reconciler.into()),
            Step::SweepLists | Step::SweepReads | Step::SweepDestroys | Step::SweepCrashes => self.sweep(*w, step),
            Step::OrderLands { .. }
            | Step::RentalLands { .. }
            | Step::Boots { .. }
            | Step::GpuStarts { .. }
            | Step::RestoreEnds { .. } => self.ripens(*w, step),
            Step::GpuPauses { gpu }
            | Step::GpuGoesDark { gpu }
            | Step::GpuRowGoes { gpu }
            | Step::GpuComesBack { gpu }
            | Step::GpuWrites { gpu }
            | Step::GpuEmptied { gpu } => self.gpu_changes(*w, gpu.into(), step),
            Step::Preempted { attempt } | Step::MachineVanishes { attempt } | Step::StandbyVanishes { attempt } => {
                standby_suffers(*w, attempt.into(), step)
            }
            Step::Asked { request } => self.asked(*w, request),
            Step::ShortTime => self.time_passes(*w, SHORT_TIME),
            Step::LongTime => self.time_passes(*w, LONG_TIME),
        }?;
        // The two reconcilers are alike: which is which does not matter.
        next.reconcilers.sort_unstable();
        Some(next)
    }

    // --- the shell ---

    pub(crate) fn seen(&self, w: &World, as_seen: AsSeen) -> Option<Seen> {
        let a = self.association(w);
        let needs = (self.mind.rules.needs)(a, NOW);
        let gpu = |id: Option<GpuId>| match (id, as_seen) {
            (None, _) | (_, AsSeen::GpusSilent) => Observed::Unknown,
            (Some(_), AsSeen::ShortList) => Observed::Absent,
            (Some(id), AsSeen::AsItIs | AsSeen::StandbysSilent) => gpu_seen(w, slot_of(id)),
        };
        let asks_gpus = needs.gpu.is_some() || needs.target.is_some();
        match as_seen {
            AsSeen::AsItIs => {}
            AsSeen::GpusSilent if asks_gpus => {}
            AsSeen::StandbysSilent if needs.standby => {}
            AsSeen::ShortList if asks_gpus && !w.short_list_used => {}
            AsSeen::GpusSilent | AsSeen::StandbysSilent | AsSeen::ShortList => return None,
        }
        let standby = w
            .standbys
            .get(usize::from(a.standby.attempt) - 1)
            .copied()
            .unwrap_or(Standby::NONE);
        let (machine, disk) = if needs.standby && as_seen != AsSeen::StandbysSilent {
            let disk = if standby.disk {
                Observed::Present(())
            } else {
                Observed::Absent
            };
            (machine_seen(usize::from(a.standby.attempt) - 1, standby), disk)
        } else {
            (Observed::Unknown, Observed::Unknown)
        };
        Some(Seen {
            gpu: gpu(needs.gpu),
            target: gpu(needs.target),
            standby: machine,
            disk,
        })
    }

    fn look(&mut self, mut w: World, r: usize, as_seen: AsSeen) -> Option<World> {
        if w.reconcilers[r] != Reconciler::Idle || r == 1 && w.reconcilers[0] == Reconciler::Idle {
            return None;
        }
        if let Phase::Released { .. } = self.association(&w).phase {
            return None;
        }
        let seen = self.seen(&w, as_seen)?;
        if as_seen != AsSeen::AsItIs {
            w = w.disturb()?;
        }
        w.short_list_used |= as_seen == AsSeen::ShortList;
        let seen = self.mind.events.number(Event::Looked(seen));
        let decided = self.mind.decide(w.association, seen);
        w.reconcilers[r] = if decided.next == w.association {
            // Nothing to commit, so nothing guards the effects against a newer state.
            acting(decided.effects, 0)
        } else {
            Reconciler::Deciding {
                seen,
                next: decided.next,
                effects: decided.effects,
            }
        };
        Some(w)
    }

    fn commit(&mut self, mut w: World, r: usize) -> Option<World> {
        let Reconciler::Deciding { next, effects, .. } = w.reconcilers[r] else {
            return None;
        };
        w.reconcilers[r] = acting(effects, 0);
        self.store(&mut w, next);
        Some(w)
    }

    /// Writes the association; whoever decided on the old one has lost the race.
    fn store(&mut self, w: &mut World, association: u32) {
        if w.association == association {
            return;
        }
        w.association = association;
        for r in 0..w.reconcilers.len() {
            if let Reconciler::Deciding { seen, .. } = w.reconcilers[r] {
                w.reconcilers[r] = if self.mind.rules.looks_again {
                    Reconciler::Idle
                } else {
                    let decided = self.mind.decide(association, seen);
                    Reconciler::Deciding {
                        seen,
                        next: decided.next,
                        effects: decided.effects,
                    }
                };
            }
        }
    }

    fn run_next(&mut self, w: World, r: usize, answer: Answer) -> Option<World> {
        let Reconciler::Acting { effects, results: 0 } = w.reconcilers[r] else {
            return None;
        };
        let (first, rest) = self.pop(effects)?;
        let mut w = w.pay(answer)?;
        let effect = self.mind.effects.value(first).clone();
        let events = self.run(&mut w, &effect, answer)?;
        let numbers = events.into_iter().map(|event| self.mind.events.number(event)).collect();
        let results = self.mind.lists.number(numbers);
        w.reconcilers[r] = acting(rest, results);
        Some(w)
    }

    /// The same step, and what it did done once more: the effect run again, the event heard again. `None` for steps that do neither.
    pub(crate) fn step_twice(&mut self, w: &World, step: Step) -> Option<World> {
        match step {
            Step::Run {
                reconciler,
                answer: Answer::Done,
            } => {
                let Reconciler::Acting { effects, results: 0 } = w.reconcilers[usize::from(reconciler)] else {
                    return None;
                };
                let (first, _) = self.pop(effects)?;
                let effect = self.mind.effects.value(first).clone();
                let mut once = self.step(w, step)?;
                self.run(&mut once, &effect, Answer::Done)?;
                Some(once)
            }
            Step::FeedBack {
                reconciler,
                twice: false,
            } => self.step(
                w,
                Step::FeedBack {
                    reconciler,
                    twice: true,
                },
            ),
            Step::Asked { .. } => {
                let event = request_number(step)?;
                let mut twice = self.step(w, step)?;
                let event = request_event(event, self.association(w));
                let event = self.mind.events.number(event);
                self.hear(&mut twice, event);
                Some(twice)
            }
            _ => None,
        }
    }

    fn feed_back(&mut self, mut w: World, r: usize, twice: bool) -> Option<World> {
        let Reconciler::Acting { effects, results } = w.reconcilers[r] else {
            return None;
        };
        let (first, rest) = self.pop(results)?;
        if twice {
            w = w.disturb()?;
        }
        w.reconcilers[r] = acting(effects, if twice { results } else { rest });
        self.hear(&mut w, first);
        Some(w)
    }

    fn hear(&mut self, w: &mut World, event: u32) {
        let decided = self.mind.decide(w.association, event);
        self.store(w, decided.next);
    }

    fn pop(&mut self, list: u32) -> Option<(u32, u32)> {
        let (first, rest) = self.mind.lists.value(list).split_first()?;
        let (first, rest) = (*first, rest.to_vec());
        Some((first, self.mind.lists.number(rest)))
    }

    // --- effects ---

    pub(crate) fn run(&mut self, w: &mut World, effect: &Effect, answer: Answer) -> Option<Vec<Event>> {
        match effect {
            Effect::CreateStandby { standby, .. } => self.create(w, standby, answer),
            Effect::StartStandby { standby } => {
                let index = index_of(standby);
                simply(w, effect.kind(), answer, |w| {
                    if w.standbys[index].machine == Machine::Stopped {
                        w.standbys[index].machine = Machine::Booting;
                    }
                })
            }
            Effect::StopStandby { standby } => {
                let index = index_of(standby);
                simply(w, effect.kind(), answer, |w| {
                    if matches!(w.standbys[index].machine, Machine::Up | Machine::Booting) {
                        w.standbys[index].machine = Machine::Stopped;
                    }
                })
            }
            Effect::DeleteStandby { standby, .. } => {
                let index = index_of(standby);
                simply(w, effect.kind(), answer, |w| w.standbys[index].machine = Machine::None)
            }
            Effect::DeleteDisk { standby, .. } => self.delete_disk(w, index_of(standby), answer),
            Effect::Bind {
                endpoint,
                gpu,
                host,
                epoch,
                accept,
            } => self.bind(w, endpoint, *gpu, host, *epoch, *accept, answer),
            Effect::Sync {
                endpoint,
                epoch,
                urgency,
            } => self.sync(w, endpoint, *epoch, *urgency, answer),
            Effect::Rescue {
                endpoint,
                gpu,
                epoch,
                loss,
            } => self.rescue(w, endpoint, *gpu, *epoch, *loss, answer),
            Effect::GrowDisk { .. } => simply(w, effect.kind(), answer, |_| {}),
            Effect::RentGpu { epoch, .. } => rent(w, *epoch, answer),
            Effect::Restore {
                endpoint,
                epoch,
                target,
                host,
                ..
            } => self.restore(w, endpoint, *epoch, *target, host, answer),
            Effect::DestroyRental { gpu, .. } | Effect::DestroySuperseded { gpu, .. } => {
                self.destroy_gpu(w, effect.kind(), *gpu, answer)
            }
        }
    }

    fn create(&mut self, w: &mut World, standby: &StandbyRef, answer: Answer) -> Option<Vec<Event>> {
        let index = index_of(standby);
        // More attempts than the model has slots: refused for ever, a bound of this exploration.
        let refused = Event::StandbyRefused {
            attempt: u16::try_from(index).expect("few attempts") + 1,
            problem: problem(ProblemKind::CapacityExhausted),
        };
        let unknown = failed(EffectKind::CreateStandby, ProblemKind::OutcomeUnknown);
        let Some(slot) = w.standbys.get_mut(index) else {
            return (answer == Answer::Done).then(|| vec![failed(EffectKind::CreateStandby, ProblemKind::Failed)]);
        };
        match answer {
            Answer::Done => {
                make_machine(slot);
                Some(Vec::new())
            }
            Answer::DoneUnheard => {
                make_machine(slot);
                Some(vec![unknown])
            }
            Answer::NotDone => Some(vec![unknown]),
            Answer::Refused | Answer::RefusedWithDisk => {
                if slot.machine != Machine::None {
                    return None;
                }
                if answer == Answer::RefusedWithDisk {
                    make_disk(slot);
                }
                Some(vec![refused])
            }
            Answer::LandsLate => {
                slot.pending = true;
                Some(vec![unknown])
            }
            Answer::OutOfCredit | Answer::Guarded => None,
        }
    }

    fn delete_disk(&mut self, w: &mut World, index: usize, answer: Answer) -> Option<Vec<Event>> {
        let kind = EffectKind::DeleteDisk;
        if w.standbys[index].machine != Machine::None {
            return (answer == Answer::Done).then(|| vec![failed(kind, ProblemKind::Failed)]);
        }
        if matches!(answer, Answer::Done | Answer::DoneUnheard) {
            self.disk_goes(w, index);
        }
        simply(w, kind, answer, |_| {})
    }

    fn disk_goes(&mut self, w: &mut World, index: usize) {
        let a = self.mind.associations.value(w.association).clone();
        let ground = match &a.phase {
            Phase::Releasing { warrant, .. } => Some(warrant.ground()),
            Phase::Released { ground, .. } => Some(*ground),
            Phase::Provisioning
            | Phase::Seeding
            | Phase::Protected
            | Phase::Holding(_)
            | Phase::Restoring { .. }
            | Phase::Halted { .. } => None,
        };
        let user_lets_go = match ground {
            Some(Ground::UserRequest) => w.user_asked,
            Some(Ground::DeletedAtVast) => !w.gpus[slot_of(a.gpu)].exists(),
            Some(Ground::RetentionOver) => true,
            Some(Ground::VerifiedElsewhere | Ground::NeverHeldData) | None => false,
        };
        let deletion = Deletion {
            attempt: u16::try_from(index).expect("few attempts") + 1,
            holds_data: w.standbys[index].disk && w.standbys[index].agent.point != 0,
            user_lets_go,
        };
        self.checks.last_copy += 1;
        self.check(never_the_last_copy(&deletion, &a));
        w.standbys[index].disk = false;
        w.standbys[index].agent = Agent::FRESH;
    }

    fn destroy_gpu(&mut self, w: &mut World, kind: EffectKind, gpu: GpuId, answer: Answer) -> Option<Vec<Event>> {
        let slot = slot_of(gpu);
        let existed = w.gpus[slot].exists();
        if existed && matches!(answer, Answer::Done | Answer::DoneUnheard) {
            let holds = a_gpu_in_use_is_never_destroyed(self.association(w), gpu);
            self.checks.in_use += 1;
            self.check(holds);
        }
        let mut events = simply(w, kind, answer, |w| w.gpus[slot].state = GpuState::Gone)?;
        if !existed && answer == Answer::Done && kind == EffectKind::DestroySuperseded {
            events.push(Event::SupersededGone { gpu });
        }
        Some(events)
    }

    // --- the agent ---

    #[allow(clippy::too_many_arguments, reason = "the fields of one effect")]
    fn bind(
        &mut self,
        w: &mut World,
        endpoint: &Endpoint,
        gpu: GpuId,
        host: &SshHost,
        epoch: Epoch,
        accept: Accept,
        answer: Answer,
    ) -> Option<Vec<Event>> {
        let kind = EffectKind::Bind;
        let Some(index) = reach(w, endpoint) else {
            return (answer == Answer::Done).then(|| vec![Event::StandbyUnreachable]);
        };
        let slot = slot_of(gpu);
        if !answers(w, slot, host) {
            return (answer == Answer::Done).then(|| vec![failed(kind, ProblemKind::Unreachable)]);
        }
        let agent = &mut w.standbys[index].agent;
        if self.mind.rules.agent_fences && small(epoch) < agent.bound {
            let events = vec![
                failed(kind, ProblemKind::StaleEpoch),
                Event::AgentReported(report(agent, PassTrouble::None)),
            ];
            return (answer == Answer::Done).then_some(events);
        }
        let mut tie = || {
            agent.halted &= small(epoch) == agent.bound && accept == Accept::Nothing;
            agent.accepted = accept == Accept::SourceAsItIs;
            agent.bound = small(epoch);
            agent.gpu = u8::try_from(slot).expect("few GPUs");
            agent.address = w.gpus[slot].address;
        };
        match answer {
            Answer::Done => {
                tie();
                Some(vec![Event::Bound { epoch }])
            }
            Answer::DoneUnheard => {
                tie();
                Some(vec![Event::StandbyUnreachable])
            }
            Answer::NotDone => Some(vec![failed(kind, ProblemKind::Unreachable)]),
            Answer::Guarded => {
                if accept == Accept::SourceAsItIs {
                    return None;
                }
                Some(vec![failed(kind, ProblemKind::Halted(HaltReason::HostKeyChanged))])
            }
            Answer::Refused | Answer::RefusedWithDisk | Answer::LandsLate | Answer::OutOfCredit => None,
        }
    }

    fn sync(
        &mut self,
        w: &mut World,
        endpoint: &Endpoint,
        epoch: Epoch,
        urgency: Urgency,
        answer: Answer,
    ) -> Option<Vec<Event>> {
        let Some(index) = reach(w, endpoint) else {
            return (answer == Answer::Done).then(|| vec![Event::StandbyUnreachable]);
        };
        if answer == Answer::NotDone {
            return Some(vec![failed(EffectKind::Sync, ProblemKind::Failed)]);
        }
        let agent = w.standbys[index].agent;
        let stale = if self.mind.rules.agent_fences {
            // A restore fences off the passes of every epoch before its own: the data is about to live elsewhere.
            agent.bound != small(epoch) || small(epoch) < agent.restore.epoch()
        } else {
            agent.bound == 0
        };
        if stale {
            return (answer == Answer::Done).then(|| vec![Event::AgentReported(report(&agent, PassTrouble::None))]);
        }
        let slot = usize::from(agent.gpu);
        let gpu = w.gpus[slot];
        let reachable = gpu.state == GpuState::Running && gpu.address == agent.address;
        let trouble = if reachable {
            PassTrouble::None
        } else {
            PassTrouble::GpuUnreachable
        };
        // Guarded: the pass is still under way when the call returns.
        let pulls = reachable && !agent.halted && answer != Answer::Guarded;
        let agent = &mut w.standbys[index].agent;
        if pulls && gpu.content == EMPTY && agent.point != 0 && agent.point != EMPTY && !agent.accepted {
            agent.halted = true;
        } else if pulls {
            agent.point = gpu.content;
            agent.accepted = false;
        }
        let reported = Event::AgentReported(report(agent, trouble));
        if pulls {
            let holds = superseded_is_never_read(self.association(w), gpu_id(slot));
            self.checks.superseded += 1;
            self.check(holds);
        }
        match answer {
            Answer::Done | Answer::Guarded => {
                let accepted = (urgency == Urgency::LastGasp).then_some(Event::LastGaspAccepted);
                Some(accepted.into_iter().chain([reported]).collect())
            }
            Answer::DoneUnheard => Some(vec![Event::StandbyUnreachable]),
            Answer::NotDone | Answer::Refused | Answer::RefusedWithDisk | Answer::LandsLate | Answer::OutOfCredit => {
                None
            }
        }
    }

    /// The disk of a paused GPU, read through its provider: at once, or not at all.
    fn rescue(
        &mut self,
        w: &mut World,
        endpoint: &Endpoint,
        gpu: GpuId,
        epoch: Epoch,
        loss: Timestamp,
        answer: Answer,
    ) -> Option<Vec<Event>> {
        let kind = EffectKind::Rescue;
        let Some(index) = reach(w, endpoint) else {
            return (answer == Answer::Done).then(|| vec![Event::StandbyUnreachable]);
        };
        let agent = w.standbys[index].agent;
        let fenced = agent.bound != small(epoch) || small(epoch) < agent.restore.epoch() || agent.halted;
        if self.mind.rules.agent_fences && fenced {
            return (answer == Answer::Done).then(|| vec![failed(kind, ProblemKind::StaleEpoch)]);
        }
        let slot = slot_of(gpu);
        let there = matches!(w.gpus[slot].state, GpuState::Paused | GpuState::Running);
        let rescued = |agent: &Agent, rescue| {
            let mut report = report(agent, PassTrouble::None);
            report.rescue = rescue;
            Event::AgentReported(report)
        };
        match answer {
            Answer::Done if !there => Some(vec![failed(kind, ProblemKind::Failed)]),
            Answer::Done if w.gpus[slot].content == EMPTY => Some(vec![rescued(&agent, RescueSeen::Refused(loss))]),
            Answer::Done | Answer::DoneUnheard if there && w.gpus[slot].content != EMPTY => {
                let holds = superseded_is_never_read(self.association(w), gpu);
                self.checks.superseded += 1;
                self.check(holds);
                let agent = &mut w.standbys[index].agent;
                agent.point = w.gpus[slot].content;
                Some(vec![if answer == Answer::Done {
                    rescued(agent, RescueSeen::Complete(loss))
                } else {
                    Event::StandbyUnreachable
                }])
            }
            Answer::NotDone => Some(vec![failed(kind, ProblemKind::OutcomeUnknown)]),
            // It goes on when the call returns, or broke off.
            Answer::Guarded => Some(vec![rescued(&agent, RescueSeen::Running(loss))]),
            Answer::Refused => Some(vec![rescued(&agent, RescueSeen::Failed { loss, attempts: 3 })]),
            Answer::Done | Answer::DoneUnheard | Answer::RefusedWithDisk | Answer::LandsLate | Answer::OutOfCredit => {
                None
            }
        }
    }

    fn restore(
        &mut self,
        w: &mut World,
        endpoint: &Endpoint,
        epoch: Epoch,
        target: GpuId,
        host: &SshHost,
        answer: Answer,
    ) -> Option<Vec<Event>> {
        let kind = EffectKind::Restore;
        let Some(index) = reach(w, endpoint) else {
            return (answer == Answer::Done).then(|| vec![Event::StandbyUnreachable]);
        };
        let slot = slot_of(target);
        let agent = &mut w.standbys[index].agent;
        let number = small(epoch);
        let remembers = self.mind.rules.agent_remembers;
        let under_way = match agent.restore {
            Restore::Running { epoch, .. } => epoch == number,
            Restore::Verified { epoch } => epoch == number && remembers,
            Restore::Idle | Restore::Failed { .. } => false,
        };
        // Whoever is bound under the epoch works there already; only the job that the agent itself knows under it may be asked after.
        let stale = number < agent.bound.max(agent.restore.epoch()) || number == agent.bound && !under_way;
        if self.mind.rules.agent_fences && remembers && stale {
            return (answer == Answer::Done).then(|| vec![failed(kind, ProblemKind::StaleEpoch)]);
        }
        if !under_way {
            if agent.point == 0 {
                return (answer == Answer::Done).then(|| vec![failed(kind, ProblemKind::NoRecoveryPoint)]);
            }
            if !answers(w, slot, host) {
                return (answer == Answer::Done).then(|| vec![failed(kind, ProblemKind::Unreachable)]);
            }
        }
        let agent = &mut w.standbys[index].agent;
        match answer {
            Answer::Done | Answer::DoneUnheard => {
                let before = report(agent, PassTrouble::None);
                if !under_way {
                    let target = u8::try_from(slot).expect("few GPUs");
                    agent.restore = Restore::Running { epoch: number, target };
                }
                let told = if remembers {
                    report(agent, PassTrouble::None)
                } else {
                    before
                };
                Some(vec![if answer == Answer::Done {
                    Event::AgentReported(told)
                } else {
                    Event::StandbyUnreachable
                }])
            }
            Answer::NotDone => Some(vec![failed(kind, ProblemKind::Unreachable)]),
            Answer::Refused | Answer::RefusedWithDisk | Answer::LandsLate | Answer::OutOfCredit | Answer::Guarded => {
                None
            }
        }
    }

    // --- what goes on by itself ---

    fn ripens(&mut self, mut w: World, step: Step) -> Option<World> {
        match step {
            Step::OrderLands { attempt } => {
                let slot = &mut w.standbys[usize::from(attempt)];
                if !std::mem::take(&mut slot.pending) {
                    return None;
                }
                make_machine(slot);
            }
            Step::RentalLands { gpu } => {
                let gpu = &mut w.gpus[usize::from(gpu)];
                if gpu.state != GpuState::Pending {
                    return None;
                }
                gpu.state = GpuState::Starting;
            }
            Step::Boots { attempt } => {
                let machine = &mut w.standbys[usize::from(attempt)].machine;
                if *machine != Machine::Booting {
                    return None;
                }
                *machine = Machine::Up;
            }
            Step::GpuStarts { gpu } => {
                let gpu = &mut w.gpus[usize::from(gpu)];
                if gpu.state != GpuState::Starting {
                    return None;
                }
                gpu.state = GpuState::Running;
            }
            Step::RestoreEnds { attempt, verified } => {
                if !verified {
                    w = w.disturb()?;
                }
                self.restore_ends(&mut w, attempt.into(), verified)?;
            }
            _ => return None,
        }
        Some(w)
    }

    fn restore_ends(&mut self, w: &mut World, index: usize, verified: bool) -> Option<()> {
        let standby = w.standbys[index];
        let Restore::Running { epoch, target } = standby.agent.restore else {
            return None;
        };
        if standby.machine != Machine::Up || !standby.disk {
            return None;
        }
        let target = usize::from(target);
        let verified = verified && w.gpus[target].state == GpuState::Running;
        w.standbys[index].agent.restore = if verified {
            w.gpus[target].content = standby.agent.point;
            let holds = live_gpu_is_never_overwritten(self.association(w), gpu_id(target), large(epoch));
            self.checks.overwritten += 1;
            self.check(holds);
            Restore::Verified { epoch }
        } else {
            Restore::Failed { epoch }
        };
        Some(())
    }

    fn gpu_changes(&mut self, w: World, slot: usize, step: Step) -> Option<World> {
        let mut w = w.disturb()?;
        let a = self.association(&w);
        // Vast's list and the user's hands reach any GPU; only those that matter here are moved, to keep the world small.
        let matters = slot == FIRST || gpu_id(slot) == a.gpu || slot >= RENTALS;
        let gpu = &mut w.gpus[slot];
        match step {
            Step::GpuPauses { .. } if matters && matches!(gpu.state, GpuState::Running) => gpu.state = GpuState::Paused,
            Step::GpuGoesDark { .. } if matters && gpu.state == GpuState::Running => gpu.state = GpuState::Dark,
            Step::GpuRowGoes { .. } if matters && gpu.exists() => gpu.state = GpuState::Gone,
            Step::GpuComesBack { .. } if matches!(gpu.state, GpuState::Paused | GpuState::Dark) => {
                gpu.state = GpuState::Running;
                gpu.address ^= 1;
            }
            Step::GpuWrites { .. } if gpu.state == GpuState::Running && gpu.content < LAST_VERSION => gpu.content += 1,
            Step::GpuEmptied { .. } if matters && gpu.state == GpuState::Running && gpu.content != EMPTY => {
                gpu.content = EMPTY;
            }
            _ => return None,
        }
        Some(w)
    }

    fn asked(&mut self, w: World, request: u8) -> Option<World> {
        if !self.requests.contains(&request) {
            return None;
        }
        let mut w = w.disturb()?;
        let before = w.association;
        let event = request_event(request, self.association(&w));
        let asks_release = matches!(event, Event::ReleaseRequested { .. });
        let event = self.mind.events.number(event);
        self.hear(&mut w, event);
        if w.association == before {
            return None;
        }
        w.user_asked |= asks_release;
        Some(w)
    }

    fn time_passes(&mut self, mut w: World, millis: i64) -> Option<World> {
        w.jumps = w.jumps.checked_sub(1)?;
        self.grow_older(&mut w, millis);
        Some(w)
    }

    pub(crate) fn grow_older(&mut self, w: &mut World, millis: i64) {
        w.association = self.mind.age(w.association, millis);
        for reconciler in &mut w.reconcilers {
            if let Reconciler::Deciding { next, .. } = reconciler {
                *next = self.mind.age(*next, millis);
            }
        }
    }

    // --- the sweep ---

    fn sweep(&mut self, mut w: World, step: Step) -> Option<World> {
        match (step, w.sweep) {
            (Step::SweepLists, Sweep::Idle) if self.mind.rules.lists_first => {
                let found = labelled(&w);
                if found == 0 {
                    return None;
                }
                w.sweep = Sweep::Listed(found);
            }
            (Step::SweepReads, Sweep::Listed(found)) => w.sweep = destroying(self.judged(&w, w.association, found)),
            (Step::SweepReads, Sweep::Idle) if !self.mind.rules.lists_first => w.sweep = Sweep::Read(w.association),
            (Step::SweepLists, Sweep::Read(association)) => {
                w.sweep = destroying(self.judged(&w, association, labelled(&w)))
            }
            (Step::SweepDestroys, Sweep::Destroying(mask)) => {
                let bit = mask.trailing_zeros();
                self.destroy_found(&mut w, bit);
                w.sweep = destroying(mask & !(1 << bit));
            }
            (Step::SweepCrashes, Sweep::Destroying(_)) => {
                w = w.disturb()?;
                w.sweep = Sweep::Idle;
            }
            _ => return None,
        }
        Some(w)
    }

    /// What the sweep destroys of what it found.
    pub(crate) fn judged(&self, w: &World, association: u32, found: u16) -> u16 {
        let a = self.mind.associations.value(association);
        let condemned = |bit: &u32| matches!((self.mind.rules.judge)(found_at(w, *bit), Some(a)), Verdict::Destroy(_));
        bits(found).filter(condemned).fold(0, |mask, bit| mask | 1 << bit)
    }

    pub(crate) fn destroy_found(&mut self, w: &mut World, bit: u32) {
        if bit >= RENTAL_BITS {
            let slot = (bit - RENTAL_BITS) as usize;
            if w.gpus[slot].exists() {
                let holds = a_gpu_in_use_is_never_destroyed(self.association(w), gpu_id(slot));
                self.checks.in_use += 1;
                self.check(holds);
                self.check_verdict(w, bit);
                w.gpus[slot].state = GpuState::Gone;
            }
            return;
        }
        self.check_verdict(w, bit);
        let index = (bit / 2) as usize;
        if bit.is_multiple_of(2) {
            w.standbys[index].machine = Machine::None;
        } else if w.standbys[index].machine == Machine::None {
            self.disk_goes(w, index);
        }
    }
}

impl Model {
    fn check_verdict(&mut self, w: &World, bit: u32) {
        let holds = a_verdict_stays_true(found_at(w, bit), self.association(w));
        self.checks.verdicts += 1;
        self.check(holds);
    }
}

const RENTAL_BITS: u32 = 2 * STANDBYS as u32;

pub(crate) fn bits(mask: u16) -> impl Iterator<Item = u32> {
    (0..u16::BITS).filter(move |bit| mask & 1 << bit != 0)
}

fn destroying(mask: u16) -> Sweep {
    if mask == 0 {
        Sweep::Idle
    } else {
        Sweep::Destroying(mask)
    }
}

/// What carries our label, as a mask.
pub(crate) fn labelled(w: &World) -> u16 {
    let mut mask = 0;
    for (index, standby) in w.standbys.iter().enumerate() {
        mask |= u16::from(standby.machine != Machine::None) << (2 * index);
        mask |= u16::from(standby.disk) << (2 * index + 1);
    }
    for (slot, gpu) in w.gpus.iter().enumerate() {
        mask |= u16::from(gpu.label != 0 && gpu.exists()) << (RENTAL_BITS as usize + slot);
    }
    mask
}

fn found_at(w: &World, bit: u32) -> Found {
    if bit >= RENTAL_BITS {
        let slot = (bit - RENTAL_BITS) as usize;
        return Found::Rental {
            gpu: gpu_id(slot),
            epoch: large(w.gpus[slot].label),
        };
    }
    Found::Standby {
        attempt: u16::try_from(bit / 2).expect("few attempts") + 1,
    }
}

fn acting(effects: u32, results: u32) -> Reconciler {
    if effects == 0 && results == 0 {
        Reconciler::Idle
    } else {
        Reconciler::Acting { effects, results }
    }
}

fn crash(w: World, r: usize) -> Option<World> {
    // A decision that was not committed is lost without a trace: looking again is the same.
    let Reconciler::Acting { .. } = w.reconcilers[r] else {
        return None;
    };
    let mut w = w.disturb()?;
    w.reconcilers[r] = Reconciler::Idle;
    Some(w)
}

fn standby_suffers(w: World, index: usize, step: Step) -> Option<World> {
    let mut w = w.disturb()?;
    let standby = &mut w.standbys[index];
    match step {
        Step::Preempted { .. } if standby.machine == Machine::Up => standby.machine = Machine::Stopped,
        Step::MachineVanishes { .. } if standby.machine != Machine::None => standby.machine = Machine::None,
        Step::StandbyVanishes { .. } if standby.disk => {
            standby.machine = Machine::None;
            standby.disk = false;
            standby.agent = Agent::FRESH;
        }
        _ => return None,
    }
    Some(w)
}

/// An effect that only is done or is not.
fn simply(w: &mut World, kind: EffectKind, answer: Answer, act: impl FnOnce(&mut World)) -> Option<Vec<Event>> {
    let unknown = vec![failed(kind, ProblemKind::OutcomeUnknown)];
    match answer {
        Answer::Done => {
            act(w);
            Some(Vec::new())
        }
        Answer::DoneUnheard => {
            act(w);
            Some(unknown)
        }
        Answer::NotDone => Some(unknown),
        Answer::Refused | Answer::RefusedWithDisk | Answer::LandsLate | Answer::OutOfCredit | Answer::Guarded => None,
    }
}

fn rent(w: &mut World, epoch: Epoch, answer: Answer) -> Option<Vec<Event>> {
    let kind = EffectKind::RentGpu;
    let label = small(epoch);
    if let Some(slot) = w.gpus.iter().position(|gpu| gpu.label == label && gpu.exists()) {
        let gpu = gpu_id(slot);
        return (answer == Answer::Done).then(|| vec![Event::Rented { epoch, gpu }]);
    }
    let refused = |kind| Event::RentRefused {
        epoch,
        problem: problem(kind),
    };
    let Some(slot) = (RENTALS..GPUS).find(|slot| w.gpus[*slot].state == GpuState::None) else {
        // No slot left in this small world: nothing is on offer any more.
        return (answer == Answer::Done).then(|| vec![refused(ProblemKind::NoOffer)]);
    };
    let mut make = |state| {
        w.gpus[slot] = Gpu {
            state,
            label,
            content: EMPTY,
            address: 0,
        };
    };
    match answer {
        Answer::Done => {
            make(GpuState::Starting);
            Some(vec![Event::Rented {
                epoch,
                gpu: gpu_id(slot),
            }])
        }
        Answer::DoneUnheard => {
            make(GpuState::Starting);
            Some(vec![failed(kind, ProblemKind::OutcomeUnknown)])
        }
        Answer::LandsLate => {
            make(GpuState::Pending);
            Some(vec![failed(kind, ProblemKind::OutcomeUnknown)])
        }
        Answer::NotDone => Some(vec![failed(kind, ProblemKind::OutcomeUnknown)]),
        Answer::Refused => Some(vec![refused(ProblemKind::NoOffer)]),
        Answer::OutOfCredit => Some(vec![refused(ProblemKind::OutOfCredit)]),
        Answer::RefusedWithDisk | Answer::Guarded => None,
    }
}

fn make_disk(slot: &mut Standby) {
    if !slot.disk {
        slot.disk = true;
        slot.agent = Agent::FRESH;
    }
}

fn make_machine(slot: &mut Standby) {
    make_disk(slot);
    if slot.machine == Machine::None {
        slot.machine = Machine::Booting;
        slot.instance = slot.instance.saturating_add(1).min(15);
    }
}

/// The standby that answers at this endpoint.
fn reach(w: &World, endpoint: &Endpoint) -> Option<usize> {
    (0..STANDBYS).find(|index| {
        let standby = w.standbys[*index];
        standby.machine == Machine::Up && *index as u64 * 16 + u64::from(standby.instance) == endpoint.instance
    })
}

fn answers(w: &World, slot: usize, at: &SshHost) -> bool {
    w.gpus[slot].state == GpuState::Running && host(slot, w.gpus[slot]) == *at
}

pub(crate) fn report(agent: &Agent, trouble: PassTrouble) -> AgentReport {
    AgentReport {
        bound: match agent.bound {
            0 => BoundTo::Nothing,
            epoch => BoundTo::Epoch(large(epoch)),
        },
        halt: agent.halted.then_some(HaltReason::SourceEmptied),
        points: if agent.point == 0 {
            PointsSeen::None
        } else {
            PointsSeen::Some
        },
        trouble,
        restore: match agent.restore {
            Restore::Idle => RestoreSeen::Idle,
            Restore::Running { epoch, .. } => RestoreSeen::Running(large(epoch)),
            Restore::Verified { epoch } => RestoreSeen::Verified(large(epoch)),
            Restore::Failed { epoch } => RestoreSeen::Failed(large(epoch)),
        },
        rescue: RescueSeen::Idle,
        disk: DiskSeen::Fine,
    }
}

pub(crate) fn gpu_seen(w: &World, slot: usize) -> Observed<GpuSeen> {
    let gpu = w.gpus[slot];
    match gpu.state {
        GpuState::None | GpuState::Pending | GpuState::Gone => Observed::Absent,
        GpuState::Starting => Observed::Present(GpuSeen::Starting),
        GpuState::Running => Observed::Present(GpuSeen::Running(host(slot, gpu))),
        GpuState::Paused => Observed::Present(GpuSeen::Paused(PauseCause::OutbidOrStopped)),
        GpuState::Dark => Observed::Present(GpuSeen::Dark),
    }
}

pub(crate) fn machine_seen(index: usize, standby: Standby) -> Observed<StandbySeen> {
    match standby.machine {
        Machine::None => Observed::Absent,
        Machine::Booting => Observed::Present(StandbySeen::Booting),
        Machine::Up => Observed::Present(StandbySeen::Running(endpoint(index, standby))),
        Machine::Stopped => Observed::Present(StandbySeen::Stopped),
    }
}

fn request_number(step: Step) -> Option<u8> {
    if let Step::Asked { request } = step {
        Some(request)
    } else {
        None
    }
}

/// Every request that people and tools make here.
pub(crate) const REQUESTS: u8 = 15;

fn request_event(request: u8, a: &Association) -> Event {
    let first = Subject::Gpu(gpu_id(FIRST));
    let bound = Subject::Gpu(a.gpu);
    let restore = |destination| Event::RestoreRequested {
        point: PointChoice::Latest,
        destination,
    };
    match request {
        0 => Event::ReleaseRequested { subject: first },
        1 => Event::ReleaseRequested {
            subject: Subject::Association,
        },
        2 => Event::GpuFailedReported { subject: bound },
        3 => Event::GpuDestroyedReported { subject: first },
        4 => Event::OutbidAnnounced { gpu: a.gpu },
        5 => Event::LookRequested,
        6 => Event::SyncStopRequested,
        7 => Event::SyncStartRequested,
        8 => Event::SourceAccepted,
        9 => restore(Destination::Rent {
            max_price_per_hour: MicroUsd(500_000),
        }),
        10 => restore(Destination::Onto(gpu_id(CHOSEN))),
        11 => Event::StandbyWanted,
        12 => {
            let mut policy = a.policy.clone();
            "/other".clone_into(&mut policy.source_path);
            Event::PolicyChanged(Box::new(policy))
        }
        13 => Event::GpuFailedReported { subject: first },
        _ => restore(Destination::Onto(gpu_id(FIRST))),
    }
}
