//! The rows of `docs/BEHAVIOUR.md`, on a simulated machine, subject by subject.

mod behaviour;
mod chain;
mod common;
mod failures;
mod family;
mod listing;
mod realloc;
mod slab;
mod steps;
mod structs;
mod walk;
