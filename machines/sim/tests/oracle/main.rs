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
//! - parts of reservations that are bound and unbound by hand, areas that shrink and grow, and pages
//!   whose protection changes keep all of these;
//! - **leak**: in the end everything is given back.

mod bad;
mod frames;
mod hand;
mod make;
mod model;
mod parts;
mod promises;
mod rng;
#[cfg(interleave)]
mod sabotage;
mod setup;
mod time;
mod unmake;

use setup::{Setup, Tables};

use hand::World;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::Counts;
use vmalloc::machine::format::Format;
use vmalloc_sim::{Booted, Counters, Sim, Work};

/// What a run met.
#[derive(Debug)]
struct Met {
    machine: Counters,
    library: Counts,
    /// The most that one section did.
    longest: Work,
}

/// Runs a setup. Returns what it met; panics with the story, and with seed and act.
fn run<F: Format, const ALIASES: bool>(setup: &Setup) -> Met {
    run_with::<F, ALIASES>(setup, |_| ())
}

/// Does something to the machine before the first act.
fn run_with<F: Format, const ALIASES: bool>(setup: &Setup, before: impl FnOnce(&Sim<F>)) -> Met {
    let act = AtomicUsize::new(0);
    let ended = catch_unwind(AssertUnwindSafe(|| live::<F, ALIASES>(setup, before, &act)));
    ended.unwrap_or_else(|panic| {
        let story = panic.downcast_ref::<String>().map(String::as_str);
        let story = story.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a story");
        let (seed, act) = (setup.seed, act.load(Relaxed));
        let when = if act < setup.ops { format!("act {act}") } else { format!("the end, after {act} acts") };
        let repeat = setup.ops.min(act + 1);
        // The hook has told of the place already.
        resume_unwind(Box::new(format!("seed {seed}, {when}: {story}\nrepeat: ORACLE_SEED={seed} ORACLE_OPS={repeat}")))
    })
}

/// The life of an instance; `act` says how far it has come.
fn live<F: Format, const ALIASES: bool>(setup: &Setup, before: impl FnOnce(&Sim<F>), act: &AtomicUsize) -> Met {
    let sim = setup.machine::<F>();
    let vm = Booted::<F, ALIASES>::new(sim.for_instance(), setup.config()).expect("an instance");
    before(&sim);
    let world = Arc::new(World::new(sim.clone(), setup.clone()));
    let irq = Arc::clone(&world);
    vm.set_interrupt(move |vm, _| irq.hand(vm).interrupt());
    let acted = catch_unwind(AssertUnwindSafe(|| {
        let hand = world.hand(&vm);
        for n in 0..setup.ops {
            act.store(n, Relaxed);
            hand.act(n);
        }
        act.store(setup.ops, Relaxed);
        hand.finish();
    }));
    if let Err(story) = acted {
        // It would only go wrong again.
        std::mem::forget(vm);
        resume_unwind(story);
    }
    let seen = Met { machine: sim.counters(), library: vm.stats().counts, longest: sim.longest_section() };
    drop(vm);
    sim.audit();
    sim.assert_no_leaks();
    seen
}
