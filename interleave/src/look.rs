//! Looking for a schedule that fails: one scenario, one scheduler, many seeds.

use crate::chooser::{Chooser, Kind};
use crate::engine;
use crate::rig::Trial;
use crate::scenarios::Scenario;
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use vmalloc::internals::interleave::Rule;

/// A schedule that failed.
#[derive(Clone, Debug)]
pub struct Found {
    pub kind: Kind,
    pub seed: u64,
    pub story: String,
}

/// What a look cost, and what it found.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    pub schedules: u64,
    pub steps: u64,
    pub time: Duration,
    pub found: Option<Found>,
}

impl Looked {
    pub fn add(&mut self, other: Looked) {
        self.schedules += other.schedules;
        self.steps += other.steps;
        self.time += other.time;
        self.found = self.found.take().or(other.found);
    }
}

/// Steps that each CPU takes in a scenario when nobody is switched: what schedulers
/// spread their switches over.
pub fn lengths(scenario: &Scenario) -> Vec<u64> {
    let chooser = Chooser::new(Kind::Straight, 0, &vec![0; scenario.cpus]);
    // Whatever it finds, a schedule will find again.
    let _ = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut Trial::new(0, chooser))));
    engine::last_steps()
}

/// Runs `scenario` under `kind` with all `seeds`, until one fails.
pub fn look(scenario: &Scenario, kind: Kind, seeds: Range<u64>, lengths: &[u64], broken: Option<Rule>) -> Looked {
    let (began, before) = (Instant::now(), engine::steps());
    let mut looked = Looked::default();
    for seed in seeds {
        looked.schedules += 1;
        if let Err(panic) = once(scenario, kind, seed, lengths, broken) {
            looked.found = Some(Found { kind, seed, story: story(&*panic) });
            break;
        }
    }
    (looked.steps, looked.time) = (engine::steps() - before, began.elapsed());
    looked
}

/// Runs one schedule.
pub fn once(
    scenario: &Scenario,
    kind: Kind,
    seed: u64,
    lengths: &[u64],
    broken: Option<Rule>,
) -> Result<(), Box<dyn Any + Send>> {
    let chooser = Chooser::new(kind, seed, lengths);
    engine::break_rule(broken);
    let ended = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut Trial::new(seed, chooser))));
    engine::break_rule(None);
    ended
}

/// What it panicked with.
pub fn story(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into()))
        .unwrap_or_else(|| "a panic without a story".into())
}
