//! The address space: which pages of a region are spoken for, and by what.

pub mod arena;
pub mod units;
