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
pub mod error;
pub mod flush;
pub mod frames;
pub mod gfp;
pub mod machine;
pub mod space;
pub mod table;
pub mod units;

#[cfg(test)]
mod testing;

mod api;
mod path;
mod reclaim;
#[cfg(not(loom))]
mod state;
#[cfg(loom)]
pub mod state;
#[cfg(not(interleave))]
mod sync;
#[cfg(interleave)]
pub mod sync;

pub use api::frame::FrameRef;
pub use api::hooks::Tick;
pub use api::instance::Vmalloc;
pub use api::owned::Area;
pub use area::{Caller, Info, Kind, Placement, Policy, Req, What};
pub use error::{AllocError, FreeError};
pub use gfp::Gfp;
pub use lock_api;
pub use state::config::{self, Config, InitError};
pub use state::stats::{Counts, Stats};
