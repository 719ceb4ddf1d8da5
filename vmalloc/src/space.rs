//! The address space: which pages of a region are spoken for, and by what.
//!
//! ```text
//!   arena    which grains (units of 64 pages, or pages) of a region are taken
//!   units    what a grain belongs to: a chunk, or one slot of a chunk
//!   class    the strides of slots        slot     what is known of one area
//!   chunk    up to 64 slots, and their states
//!   shelf    one CPU's chunks of a region, by class    mail   chunks that others freed in
//!   rack     one CPU's warm slots of a region, by class
//! ```
//!
//! Addresses only: nothing here knows of frames, entries or flushes.

pub mod arena;
pub mod chunk;
pub mod class;
pub mod mail;
#[cfg(test)]
mod model;
pub mod rack;
pub mod shelf;
pub mod slot;
#[cfg(test)]
mod testing;
pub mod units;
