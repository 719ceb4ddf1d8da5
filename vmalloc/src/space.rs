//! The address space: which pages of a region are taken, and by which area.
//!
//! ```text
//!   arena    which grains of a region are taken (a grain is a unit of 64 pages, or one page)
//!   units    the chunk that owns a grain, or the slot that owns it
//!   class    the strides of slots
//!   chunk    up to 64 slots and the state of each
//!   slot     the record of one area
//!   bins     one CPU's chunks of one region, by class
//!   remote   chunks of one CPU in which other CPUs have freed slots
//!   cache    one CPU's cached slots of one region, by class
//! ```
//!
//! This layer deals in addresses only. It knows nothing of frames, entries or flushes.

pub mod arena;
pub mod bins;
pub mod cache;
pub mod chunk;
pub mod class;
#[cfg(test)]
mod model;
pub mod remote;
pub mod slot;
pub mod units;
