//! Exhaustive exploration of one association in a small world: `cargo test -p warmspare-domain --test explore -- --nocapture`.
//!
//! Two reconcilers and the sweep run at once; between any two of their steps anything may happen that the budgets of the path allow:
//! faults, crashes, lost, late and repeated answers, requests, changes of GPUs and machines, and time. From every state, calm is checked.
//!
//! # Bounds
//! - Disturbances and jumps of time on a path, and states of a scenario: `scenarios.rs`. `EXPLORE_ONLY`, `EXPLORE_LIMIT`,
//!   `EXPLORE_EVERY_LIMIT` and `EXPLORE_JUMPS` change them. A state holds what is left of the path's budgets.
//! - Four orders of a standby, six rentals, one GPU of the user's own, two versions of the data.
//! - Time jumps by 200 s or by 3,700 s. Failures in a row are counted to three.
//! - A pass or a binding happens at once or not at all; the agent is taken to keep its protocol (`Rules::agent_*`).
//! - No other association, no rate limits, and the newest recovery point stands for all of them.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a step that a function is not about cannot happen there"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the exploration measures itself and lets its bounds be changed; the rules under test do not see it"
)]

mod calm;
mod lost;
mod model;
mod mutants;
mod rules;
mod scenarios;
mod search;
mod world;

use std::time::Instant;

use calm::Calm;
use model::Model;
use rules::Rules;
use scenarios::{Bounds, Scenario};
use search::{Found, search};

#[test]
fn whatever_happens_the_invariants_hold_and_calm_settles_everything() {
    let setting = |name: &str| std::env::var(name).unwrap_or_default();
    let only = setting("EXPLORE_ONLY");
    let limit = setting("EXPLORE_LIMIT")
        .parse()
        .unwrap_or(scenarios::NEAREST_STATES_LIMIT);
    let start = Instant::now();
    let mut total = Totals::default();
    let jumps = setting("EXPLORE_JUMPS").parse().unwrap_or(scenarios::EVERY_STATE.jumps);
    let every = Bounds {
        jumps,
        ..scenarios::EVERY_STATE
    };
    let every_limit = setting("EXPLORE_EVERY_LIMIT")
        .parse()
        .unwrap_or(scenarios::EVERY_STATE_LIMIT);
    for (bounds, limit) in [(every, every_limit), (scenarios::NEAREST_STATES, limit)] {
        println!(
            "\n{} disturbances and {} jumps of time on a path, every state, at most {limit} a scenario:",
            bounds.disturbances, bounds.jumps,
        );
        for scenario in scenarios::all().iter().filter(|scenario| scenario.name.contains(&only)) {
            total.explore(scenario, bounds, limit);
        }
    }
    total.print(start.elapsed().as_secs_f64());
    assert!(total.failures.is_empty(), "{:?}", total.failures);
    assert!(
        !only.is_empty() || total.states >= 1_000_000,
        "only {} states",
        total.states
    );
}

#[test]
fn every_effect_and_every_event_twice_ends_as_once() {
    let mut compared = 0;
    for scenario in scenarios::all() {
        let (mut model, root) = scenario.build(Rules::REAL, scenarios::EVERY_STATE);
        match search::twice_ends_as_once(&mut model, root, scenarios::TWICE_STATES_LIMIT) {
            Ok(pairs) => compared += pairs,
            Err(difference) => panic!("{}: {difference}", scenario.name),
        }
    }
    println!("{compared} effects and events, each twice and once: the same end");
}

#[test]
fn a_lost_record_is_rebuilt_in_any_state_and_nothing_is_lost_with_it() {
    for agents in [lost::Agents::NameGpus, lost::Agents::KnowAddresses] {
        let mut lost = lost::Lost::default();
        for scenario in scenarios::all() {
            let (mut model, root) = scenario.build(Rules::REAL, scenarios::EVERY_STATE);
            let explored = lost.explore(&mut model, root, scenarios::LOST_STATES_LIMIT, agents);
            assert!(explored.is_ok(), "{agents:?}, {}: {explored:?}", scenario.name);
        }
        println!("{agents:?}: {lost:?}");
        assert!(lost.rebuilt > 10_000, "{lost:?}");
    }
}

#[derive(Default)]
struct Totals {
    states: usize,
    transitions: usize,
    decisions: usize,
    calm: usize,
    steady: usize,
    longest: u8,
    checks: model::Checks,
    failures: Vec<String>,
}

impl Totals {
    fn explore(&mut self, scenario: &Scenario, bounds: Bounds, limit: usize) {
        let began = Instant::now();
        let (mut model, root) = scenario.build(Rules::REAL, bounds);
        let mut calm = Calm::default();
        let found = search(&mut model, &mut calm, root, limit);
        self.add(scenario.name, &found, &model, &calm, began.elapsed().as_secs_f64());
        if let Some(violation) = found.violation {
            println!("  BROKEN {}", violation.broken);
            for step in &violation.path {
                println!("    {step:?}");
            }
            self.failures
                .push(format!("{}: {}", scenario.name, violation.broken.invariant));
        }
    }

    fn add(&mut self, name: &str, found: &Found, model: &Model, calm: &Calm, seconds: f64) {
        println!(
            "{name:<44} {:>9} states {:>10} transitions  depth {:>3}{}  {:>6} associations {:>7} decisions  {:>7} calm worlds, settled in ≤ {:>2} beats  {seconds:>5.1} s",
            found.states,
            found.transitions,
            found.depth,
            if found.complete { " (all)" } else { " (cut)" },
            model.mind.associations.len(),
            model.mind.decisions,
            calm.distinct(),
            calm.longest,
        );
        self.states += found.states;
        self.transitions += found.transitions;
        self.decisions += model.mind.decisions;
        self.calm += calm.checked;
        self.steady += calm.steady;
        self.longest = self.longest.max(calm.longest);
        let (sum, more) = (&mut self.checks, model.checks);
        sum.last_copy += more.last_copy;
        sum.superseded += more.superseded;
        sum.overwritten += more.overwritten;
        sum.in_use += more.in_use;
        sum.verdicts += more.verdicts;
    }

    fn print(&self, seconds: f64) {
        println!(
            "\n{} distinct states, {} transitions, {seconds:.1} s",
            self.states, self.transitions
        );
        println!("checks per invariant:");
        println!(
            "  {:>9} × each of the {} invariants of a decision, and repeated requests (once per distinct decision)",
            self.decisions,
            warmspare_domain::invariants::DECISION_INVARIANTS
        );
        for (name, count) in [
            ("never_the_last_copy", self.checks.last_copy),
            ("superseded_is_never_read", self.checks.superseded),
            ("live_gpu_is_never_overwritten", self.checks.overwritten),
            ("a_gpu_in_use_is_never_destroyed", self.checks.in_use),
            ("a_verdict_stays_true", self.checks.verdicts),
            ("one_standby_paid, no_orphan, progress (calm)", self.calm),
            ("steady_state_makes_no_effects_but_passes", self.steady),
        ] {
            println!("  {count:>9} × {name}");
        }
        println!("longest way to calm: {} beats of at most {}", self.longest, calm::BEATS);
    }
}
