//! The rows of `docs/BEHAVIOUR.md`, on a simulated machine, subject by subject.

mod chain;
mod common;
mod failures;
mod slab;
mod structs;
