//! The atomics of the marks. A model of all their interleavings has others in their place
//! (`tests/loom.rs`).

pub use core::sync::atomic::{AtomicU64, Ordering};
