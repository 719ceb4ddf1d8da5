//! The cases that Linux measures its vmalloc with (`test_vmalloc`), written
//! anew from their description, for any machine.
//!
//! | Case | Before | Each loop makes, touches and frees |
//! |---|---|---|
//! | `fix_size n` | | n pages |
//! | `full_fit` | two sets of one-page areas, side by side, each as large as 32 MiB × fls(CPUs); one set is freed | 1 page |
//! | `long_busy_list` | 15,000 one-page areas, which live | 100 pages and 1 page |
//! | `random_size` | | 1..100 pages |
//! | `fix_align` | | 5 cleared pages, aligned to 32 KiB |
//! | `random_size_align` | | 1..10 cleared pages, aligned to 2..4 Mi bytes |
//! | `align_shift` | | 1 page for each power of two there is, which is refused from the one on that the region has no room for |
//! | `pcpu` | | an object by CPU of 1..1,024 bytes, aligned to 2..2,048, which is not touched: 35,000 are made, then they are freed |
//! | `vm_map_ram n` | n frames | a mapping of these |
//! | `kvfree_rcu_1` | | 1 page, which is freed after a grace period, by a list of the subsystem's |
//! | `kvfree_rcu_2` | | 1 page, which is freed after a grace period, by a head in it |
//! | `no_block` | | 1 page, with preemption off, ATOMIC or NOWAIT at random; refusals are allowed |
//! | `vrealloc` | | 1 page, resized to 4, to 1, to ½ and to 1 again; the first byte is kept |
//!
//! A run of a case has **passed**, **failed**, or **xfailed**: failed as it is expected to
//! ([`Suite::results`]). `align_shift` xfails where an alignment is larger than the region,
//! `no_block` where a request that must not wait was refused.
//!
//! # How it counts
//! As Linux's figures were: whole calls, with everything in them; a store to
//! the first byte between the two. An operation's cost is that of 2N loops
//! less that of N loops, divided by N ([`Suite::difference`]), so that what a
//! case lays in and gives back does not count. There is no chance in it:
//! sizes follow from a seed.
//!
//! # Rules
//! - **C1** A case gives back all that it made, also when it fails.
//! - **C2** It keeps no memory of its own: lists of addresses are areas of the
//!   instance under test, made before the loops.
//! - **C3** It fails by an [`Error`] that says what was refused.
//!
//! # Locks
//! None. The same case may run on several CPUs at once.
#![no_std]

mod case;
mod error;
mod grown;
mod live;
mod loops;
mod measure;
mod percpu;
mod random;
mod results;

pub use case::{Case, Unknown};
pub use error::Error;
pub use measure::{Difference, Span, loops_for};
pub use random::Random;
pub use results::Results;

use core::cell::Cell;
use core::ops::Range;
use core::ptr::NonNull;
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;

/// What a case does to memory, and the clock it is measured by.
pub trait Ground: Sync {
    /// Stores `word` to the first bytes of an area, or anywhere in one.
    fn store(&self, at: NonNull<u8>, word: u64);
    /// Loads what was stored.
    fn load(&self, at: NonNull<u8>) -> u64;
    /// What has passed since some start: instructions, nanoseconds.
    fn now(&self) -> u64;
    /// The loops begin: what a case lays in is there.
    fn begin(&self) {}
    /// The loops have ended.
    fn end(&self) {}
    /// Other tasks may, or may not, take this CPU. A ground without such tasks leaves it.
    fn preempt(&self, _on: bool) {}
    /// A grace period begins, for the readers of now: its number.
    fn grace_begins(&self) -> u64 {
        0
    }
    /// Whether that grace period has passed.
    fn grace_has_passed(&self, _number: u64) -> bool {
        true
    }
}

/// The cases, on one instance.
pub struct Suite<'v, M: Machine, G> {
    vm: &'v Vmalloc<M>,
    ground: &'v G,
    cpus: u32,
    region: Range<usize>,
    seed: u64,
    results: Cell<Results>,
    /// The run of now has met a refusal that it expects.
    refused: Cell<bool>,
}

impl<'v, M: Machine, G: Ground> Suite<'v, M, G> {
    /// On `vm`, whose region 0 is `region`, on a machine of `cpus` CPUs.
    pub fn new(vm: &'v Vmalloc<M>, ground: &'v G, cpus: u32, region: Range<usize>) -> Suite<'v, M, G> {
        let (results, refused) = (Cell::new(Results::NONE), Cell::new(false));
        Suite { vm, ground, cpus, region, seed: Random::SEED, results, refused }
    }

    /// Other random sizes: each CPU that runs a case at the same time takes
    /// its own.
    pub fn seed(mut self, seed: u64) -> Suite<'v, M, G> {
        self.seed = seed;
        self
    }
}
