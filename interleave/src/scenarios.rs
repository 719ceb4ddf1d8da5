//! Races that are known to matter: each is short, and its machine is made ready
//! before the CPUs run at the same time. What holds in any order is asserted; what a
//! CPU reaches is judged by the machine.

mod aliases;
mod dead;
mod devices;
mod finders;
mod frees;
mod in_place;
mod leaks;
mod nmis;
mod parts;
mod percpu;
mod pkmap;
mod protect;
mod rounds;
mod stacks;
mod subsystem;

use crate::rig::Trial;
use vmalloc::internals::interleave::Rule;

/// A race.
pub struct Scenario {
    pub name: &'static str,
    pub cpus: usize,
    pub run: fn(&mut Trial),
    /// Rules of which each, broken, has to be noticed by it.
    pub notices: &'static [Rule],
}

/// All of them, the mixes last.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        dead::ALL,
        aliases::ALL,
        frees::ALL,
        finders::ALL,
        nmis::ALL,
        parts::ALL,
        protect::ALL,
        rounds::ALL,
        subsystem::ALL,
        pkmap::ALL,
        percpu::ALL,
        stacks::ALL,
        devices::ALL,
        leaks::ALL,
        in_place::ALL,
        crate::mix::ALL,
    ]
    .into_iter()
    .flatten()
}

pub fn named(name: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.name == name)
}
