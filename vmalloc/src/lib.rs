//! The kernel's allocator of virtually contiguous memory.
#![no_std]

pub mod area;
pub mod error;
pub mod gfp;
pub mod machine;
pub mod units;

pub use lock_api;
