//! Who owns what: the instance's core, CPUs, regions, slots and their entries. No verb here
//! crosses owners.

pub mod batch;
pub(crate) mod cached;
pub mod config;
pub(crate) mod core;
pub(crate) mod cpu;
pub mod deferred;
pub(crate) mod enter;
pub(crate) mod entries;
pub(crate) mod freed;
pub mod lookup;
pub(crate) mod quiet;
pub(crate) mod region;
pub(crate) mod slots;
pub mod stats;
pub(crate) mod visit;
