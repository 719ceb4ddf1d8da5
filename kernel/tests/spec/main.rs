//! The rows of `docs/BEHAVIOUR.md`, on a simulated machine, subject by subject.

// Without debug assertions nothing can be refused on request, and fewer tests are there.
#![cfg_attr(not(debug_assertions), allow(unused_imports))]

mod behaviour;
mod careless;
mod chain;
mod common;
#[cfg(debug_assertions)]
mod device;
mod failures;
mod family;
mod highmem;
mod judge;
mod kmap;
mod kmemleak;
mod kmemleak_colours;
mod kmemleak_commands;
mod kmemleak_random;
mod kmemleak_report;
mod kmemleak_slices;
mod kmemleak_told;
mod layout;
mod listing;
mod names;
mod pae;
mod past;
mod percpu;
mod percpu_first;
mod pkmap;
mod protect;
mod rcu;
mod realloc;
mod redzone;
mod seen;
mod slab;
mod stacks;
mod steps;
mod structs;
mod told;
mod walk;
