//! The kernel's allocator of virtually contiguous memory, for any kernel,
//! hypervisor, unikernel or process.
//!
//! - An **embedder** implements [`Machine`](machine::Machine) and
//!   [`Frames`](machine::frames::Frames), whose contracts are numbered there, and
//!   calls [`Vmalloc::init`] and a few hooks. `examples/kernel.rs` is a machine to
//!   copy; the README says what breaks where a function or a hook is wrong.
//! - A **caller** asks with a [`Req`]: [`Vmalloc::alloc`] and [`Vmalloc::free`],
//!   or [`Vmalloc::area`], which frees itself. [`Vmalloc::whatis`] tells what an
//!   address is.
//! - A **reader** begins with `vmalloc.rs` (one allocation, one free), then
//!   `reclaim.rs` (one purge). ARCHITECTURE.md follows all three.
//!
//! ```text
//! top     vmalloc (alloc, free: the story)   map io owned kernel   info check stats
//!         cached plan pressure reclaim batch region lookup cpu instance config
//! middle  space    class arena units chunk slot CPU's chunks slot cache   (addresses only)
//!         frames   zones node buddy magazine depot      (frames only)
//!         table    format walker piece prune            (entries only)
//!         flush    FlushEpochs, Pending<T>              (tags only)
//! bottom  area · error · gfp · units · machine
//! ```
//!
//! A tier names only tiers below it, and the middle modules never name each
//! other: only the top combines them. There are no statics and no heap: what is
//! kept lies in frames of the machine.
#![no_std]

pub mod area;
pub mod config;
pub mod error;
pub mod flush;
pub mod frames;
pub mod gfp;
pub mod machine;
pub mod space;
pub mod table;
pub mod units;

mod alias;
#[cfg(not(loom))]
mod batch;
#[cfg(loom)]
pub mod batch;
mod cache;
mod check;
mod cpu;
#[cfg(not(loom))]
mod deferred;
#[cfg(loom)]
pub mod deferred;
mod drain;
mod fill;
mod info;
mod instance;
mod io;
mod kernel;
#[cfg(not(loom))]
mod lookup;
#[cfg(loom)]
pub mod lookup;
mod map;
mod owned;
mod part;
mod plan;
mod pressure;
mod reclaim;
mod region;
mod short;
mod stats;
mod straight;
#[cfg(not(interleave))]
mod sync;
#[cfg(interleave)]
pub mod sync;
#[cfg(test)]
mod testing;
mod vmalloc;

pub use area::{Caller, Info, Kind, Placement, Policy, Req, What};
pub use config::{Config, InitError};
pub use error::{AllocError, FreeError};
pub use gfp::Gfp;
pub use instance::Vmalloc;
pub use lock_api;
pub use map::FrameRef;
pub use owned::Area;
pub use reclaim::Tick;
pub use stats::{Counts, Stats};
