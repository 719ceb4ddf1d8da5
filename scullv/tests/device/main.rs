//! scullv on an instance in this process.
//!
//! - `spec`: what a caller sees, fact by fact
//! - `defects`: what the original did wrong, and this does not
//! - `refusals`: every refusal, and that it changes nothing
//! - `mapped`: mappings
//! - `waits`: calls that are interrupted, and requests that are reported later
//! - `model`, `random`: a model too simple to be wrong, and a million steps
//!   beside it (SCULLV_OPS)
//! - `threads`: many at once

mod common;
mod defects;
mod mapped;
mod model;
mod random;
mod refusals;
mod spec;
mod threads;
mod waits;
