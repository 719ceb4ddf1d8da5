//! What comes after a free: sealed batches, grace, frames and slots made usable again; what
//! stays cached instead; runs and tables that go back.

pub(crate) mod aliases;
pub(crate) mod cache;
pub(crate) mod close;
mod drain;
pub(crate) mod purge;
pub(crate) mod release;
mod remote;
pub(crate) mod runs;
pub(crate) mod tables;
mod tick;
