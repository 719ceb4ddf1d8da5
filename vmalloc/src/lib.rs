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
//! - A **reader** begins with `path/alloc.rs` (one allocation), `path/free.rs` (one free),
//!   then `reclaim/purge.rs` (one purge). ARCHITECTURE.md follows all three.
//!
//! ```text
//! api       the interface: a function is a contract, and one call down
//! path      one call, from top to bottom: plan, prepare, commit, supply; free
//! reclaim   what comes after a free: batches, grace, cached slots, runs, tables
//! state     who owns what: core, CPUs, regions, slots and their entries
//! space · frames · table · flush      addresses, frames, entries, epochs: never each other
//! machine · area · error · gfp · units · sync
//! ```
//!
//! A floor names only floors below it. There are no statics and no heap: what is kept lies
//! in frames of the machine.
#![no_std]

pub mod area;
pub mod error;
pub mod frames;
pub mod gfp;
pub mod machine;
pub mod table;
pub mod units;

mod api;
mod flush;
mod path;
mod reclaim;
mod space;
mod state;
mod sync;

#[cfg(test)]
mod testing;

/// What the proofs and one bench name, and nobody else.
#[cfg(any(loom, interleave, internals))]
pub mod internals {
    pub use crate::flush::{CpuEpoch, FlushEpochs, Holds, Looks, Pending};
    pub use crate::frames::count::{hold, release};
    pub use crate::space::{arena, bins, chunk, class, remote, slot, units};
    pub use crate::state::{batch, deferred, lookup};
    #[cfg(interleave)]
    pub use crate::sync::interleave;
}

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
pub use state::visit::Quiesced;
