//! The rules under test, whole or deliberately broken, with everything memorised: a decision is made once per distinct question.

use std::hash::Hash;

use rustc_hash::FxHashMap;
use warmspare_domain::association::{Association, Lease, Loss, Order, OutbidNotice, Phase, Rescue, Target};
use warmspare_domain::decide::{Decision, Needs, decide, needs};
use warmspare_domain::effect::Effect;
use warmspare_domain::event::Event;
use warmspare_domain::invariants::{Broken, a_repeated_request_changes_nothing, check_decision};
use warmspare_domain::observed::Found;
use warmspare_domain::orphan::{Verdict, judge};
use warmspare_domain::units::Timestamp;

/// The one instant at which everything is decided; when time passes, what is remembered moves into the past.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Longer than every wait of the rules that is counted in minutes, shorter than the patience with a target.
pub(crate) const SHORT_TIME: i64 = 200_000;
/// Longer than every wait except the retention.
pub(crate) const LONG_TIME: i64 = 3_700_000;
/// The retention of the policies here.
pub(crate) const RETENTION_S: u32 = 7_000;

/// The rules, and how the shell around them behaves.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) decide: fn(&Association, &Event, Timestamp) -> Decision,
    pub(crate) judge: fn(Found, Option<&Association>) -> Verdict,
    pub(crate) needs: fn(&Association, Timestamp) -> Needs,
    /// After a lost race the shell looks again; a broken one decides on what it saw before.
    pub(crate) looks_again: bool,
    /// The sweep reads the association after the listing; a broken one reads it before.
    pub(crate) lists_first: bool,
    /// The agent refuses what an older epoch asks.
    pub(crate) agent_fences: bool,
    /// The agent knows which restore it has verified, and does not push it again.
    pub(crate) agent_remembers: bool,
}

impl Rules {
    pub(crate) const REAL: Self = Self {
        decide,
        judge,
        needs,
        looks_again: true,
        lists_first: true,
        agent_fences: true,
        agent_remembers: true,
    };
}

/// Gives every distinct value a number.
pub(crate) struct Interner<T> {
    numbers: FxHashMap<T, u32>,
    values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn new() -> Self {
        Self {
            numbers: FxHashMap::default(),
            values: Vec::new(),
        }
    }

    pub(crate) fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).expect("fewer than 2^32 distinct values");
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    pub(crate) fn value(&self, number: u32) -> &T {
        &self.values[number as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

/// What an association decides, by numbers.
#[derive(Clone, Copy)]
pub(crate) struct Decided {
    pub(crate) next: u32,
    pub(crate) effects: u32,
}

/// The rules with a memory.
pub(crate) struct Mind {
    pub(crate) rules: Rules,
    pub(crate) associations: Interner<Association>,
    pub(crate) events: Interner<Event>,
    pub(crate) effects: Interner<Effect>,
    /// Lists of effects and lists of events. Number 0 is the empty list.
    pub(crate) lists: Interner<Vec<u32>>,
    decided: FxHashMap<(u32, u32), Decided>,
    aged: FxHashMap<(u32, i64), u32>,
    /// The first decision that broke an invariant.
    pub(crate) broken: Option<Broken>,
    /// Distinct decisions that were checked.
    pub(crate) decisions: usize,
}

impl Mind {
    pub(crate) fn new(rules: Rules) -> Self {
        let mut lists = Interner::new();
        lists.number(Vec::new());
        Self {
            rules,
            associations: Interner::new(),
            events: Interner::new(),
            effects: Interner::new(),
            lists,
            decided: FxHashMap::default(),
            aged: FxHashMap::default(),
            broken: None,
            decisions: 0,
        }
    }

    pub(crate) fn decide(&mut self, association: u32, event: u32) -> Decided {
        if let Some(decided) = self.decided.get(&(association, event)) {
            return *decided;
        }
        let (a, e) = (self.associations.value(association), self.events.value(event));
        let decision = (self.rules.decide)(a, e, NOW);
        self.decisions += 1;
        let checked = check_decision(a, e, &decision, NOW).and_then(|()| {
            let again = (self.rules.decide)(&decision.next, e, NOW);
            a_repeated_request_changes_nothing(e, &decision.next, &again.next)
        });
        if let Err(broken) = checked {
            self.broken.get_or_insert(broken);
        }
        let list = decision.effects.into_iter().map(|effect| self.effects.number(effect));
        let effects = list.collect();
        let decided = Decided {
            effects: self.lists.number(effects),
            next: self.associations.number(aged(decision.next, 0)),
        };
        self.decided.insert((association, event), decided);
        decided
    }

    /// The association when this much time has passed.
    pub(crate) fn age(&mut self, association: u32, millis: i64) -> u32 {
        if let Some(number) = self.aged.get(&(association, millis)) {
            return *number;
        }
        let older = aged(self.associations.value(association).clone(), millis);
        let number = self.associations.number(older);
        self.aged.insert((association, millis), number);
        number
    }
}

/// Moves an association into the past and forgets what no rule asks for, so that states that behave alike are alike.
pub(crate) fn aged(mut a: Association, millis: i64) -> Association {
    let past = |instant: Timestamp, matters_for_s: i64| {
        let age = (NOW.as_millis() - instant.as_millis() + millis).min(matters_for_s * 1000);
        Timestamp::from_millis(NOW.as_millis() - age)
    };
    a.history.clear();
    a.created_at = NOW;
    for retry in [Some(&mut a.retry), a.standby.disk.refused.as_mut()]
        .into_iter()
        .flatten()
    {
        retry.not_before = past(retry.not_before, 0);
        retry.failures = retry.failures.min(3);
        if !retry.problem.is_empty() {
            "something".clone_into(&mut retry.problem);
        }
    }
    a.standby.wanted_until = past(a.standby.wanted_until, 0);
    a.standby.gone_reads = a.standby.gone_reads.min(2);
    a.watch.absent_reads = a.watch.absent_reads.min(3);
    a.watch.dark_reads = a.watch.dark_reads.min(3);
    if let Order::Sent { at } = &mut a.standby.order {
        *at = past(*at, 120);
    }
    if let OutbidNotice::PassAsked { at } = &mut a.watch.outbid {
        *at = past(*at, 180);
    }
    let age_loss = |loss: &mut Loss| {
        loss.since = past(loss.since, i64::from(RETENTION_S));
        if let Rescue::Wanted { not_before, .. } = &mut loss.rescue {
            *not_before = past(*not_before, 0);
        }
    };
    match &mut a.phase {
        Phase::Holding(loss) => age_loss(loss),
        Phase::Restoring { loss, job } => {
            age_loss(loss);
            match &mut job.target {
                Target::ToRent { lease, .. } => {
                    if let Lease::Taken { until } = lease {
                        *until = past(*until, 0);
                    }
                }
                Target::Gpu { since, .. } => *since = past(*since, 900),
            }
        }
        Phase::Halted { since, .. } => *since = past(*since, i64::from(RETENTION_S)),
        Phase::Releasing { since, .. } | Phase::Released { since, .. } => *since = NOW,
        Phase::Provisioning | Phase::Seeding | Phase::Protected => {}
    }
    a
}
