//! The kernel's allocator of virtually contiguous memory.
#![no_std]

pub mod area;
pub mod error;
pub mod frames;
pub mod gfp;
pub mod machine;
pub mod space;
pub mod table;
pub mod units;

pub use lock_api;
