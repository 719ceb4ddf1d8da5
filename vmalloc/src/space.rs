//! The address space: which pages of a region are spoken for, and by what.
//!
//! ```text
//!   arena    which grains (units of 64 pages, or pages) of a region are taken
//!   units    what a grain belongs to: a chunk, or one slot of a chunk
//!   class    the strides of slots        slot     what is known of one area
//!   chunk    up to 64 slots, and their states
//!   CPU's chunks    one CPU's chunks of a region, by class    remote frees   chunks that others freed in
//!   slot cache     one CPU's cached slots of a region, by class
//! ```
//!
//! Addresses only: nothing here knows of frames, entries or flushes.

pub mod arena;
pub mod bins;
pub mod cache;
pub mod chunk;
pub mod class;
#[cfg(test)]
mod model;
pub mod remote;
pub mod slot;
#[cfg(test)]
mod testing;
pub mod units;
