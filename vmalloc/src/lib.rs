//! The kernel's allocator of virtually contiguous memory.
#![no_std]

pub mod area;
pub mod error;
pub mod flush;
pub mod frames;
pub mod gfp;
pub mod machine;
pub mod space;
mod sync;
pub mod table;
pub mod units;

pub use lock_api;
