//! The oracle: one driver, one simple model, and everything that the library
//! promises, checked after each thing that is done.
//!
//! ```text
//!   Setup ── seed ──▶ machine, instance        Model: what is live, which frames, what they say
//!   Hand  ── acts on the instance, tells the model, compares ──▶ panic, with the story
//! ```
//!
//! What is promised, by the word that a panic begins with:
//! - **place**: an area lies where it was asked for, over no other;
//! - **content**: a live page says what was stored there last, on every CPU
//!   and through every alias;
//! - **guard**: what belongs to nobody faults, the page after an area above all;
//! - **stale**: a page that was freed faults, or reaches its old frame before
//!   grace and no other; after Strict's free, or a purge, it faults;
//! - **frame**: a new frame belongs to nobody else, and nobody reaches it;
//! - **free**: what is freed twice, or is no area, is refused, named, and
//!   nothing has changed;
//! - **refusal**: what is refused could not be had;
//! - **leak**: in the end everything is given back.

mod bad;
mod frames;
mod hand;
mod make;
mod model;
mod rng;
mod setup;
mod time;
mod unmake;

pub use setup::{Setup, Tables};

use hand::World;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use vmalloc::Counts;
use vmalloc::machine::format::Format;
use vmalloc_sim::{Booted, Counters, Rules, Sabotage};

/// Runs a setup, perhaps on a library that breaks a rule, or on a machine that
/// does.
pub fn run<F: Format, R: Rules>(setup: &Setup, sabotage: Sabotage) -> Seen {
    let sim = setup.machine::<F>().breaking::<R>();
    let vm = Booted::new(sim.clone(), setup.config()).expect("an instance");
    sim.sabotage(sabotage);
    let world = Arc::new(World::new(sim.clone(), setup.clone()));
    let irq = Arc::clone(&world);
    vm.set_interrupt(move |vm, _| irq.hand(vm).interrupt());
    let acted = catch_unwind(AssertUnwindSafe(|| {
        let hand = world.hand(&vm);
        (0..setup.ops).for_each(|n| hand.act(n));
        hand.finish();
    }));
    if let Err(story) = acted {
        // It would only go wrong again.
        std::mem::forget(vm);
        resume_unwind(story);
    }
    let seen = Seen::of(&sim.counters(), &vm.stats().counts);
    drop(vm);
    sim.audit();
    sim.assert_no_leaks();
    seen
}

/// What runs met: those that met nothing prove nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    pub accesses: u64,
    pub used_after_free: u64,
    pub interrupts: u64,
    pub remote_frees: u64,
    pub refusals: u64,
    pub flushes: u64,
    pub purges: u64,
    pub tables_pruned: u64,
    pub chunks_released: u64,
}

impl Seen {
    fn of(machine: &Counters, library: &Counts) -> Seen {
        Seen {
            accesses: machine.accesses,
            used_after_free: machine.used_after_free,
            interrupts: machine.interrupts,
            remote_frees: library.remote_frees,
            refusals: library.failures,
            flushes: machine.flushes,
            purges: library.purges,
            tables_pruned: library.tables_pruned,
            chunks_released: library.chunks_released,
        }
    }

    pub fn add(&mut self, more: Seen) {
        self.accesses += more.accesses;
        self.used_after_free += more.used_after_free;
        self.interrupts += more.interrupts;
        self.remote_frees += more.remote_frees;
        self.refusals += more.refusals;
        self.flushes += more.flushes;
        self.purges += more.purges;
        self.tables_pruned += more.tables_pruned;
        self.chunks_released += more.chunks_released;
    }

    /// Whether everything was met, one act in `share` at least.
    pub fn is_enough(&self, acts: usize, share: usize) -> bool {
        let Seen { used_after_free, interrupts, remote_frees, refusals, purges, tables_pruned, .. } = *self;
        let met = [used_after_free, interrupts, remote_frees, refusals, purges, tables_pruned, self.chunks_released];
        met.iter().all(|&met| met as usize >= acts / share)
    }
}
