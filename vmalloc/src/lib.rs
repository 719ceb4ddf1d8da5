//! The kernel's allocator of virtually contiguous memory, for any kernel,
//! hypervisor, unikernel or process.
//!
//! An area takes page frames that need not be adjacent, and page tables make them adjacent in
//! virtual memory. After a free, every CPU may still have the old translations. So addresses,
//! frames and empty page tables wait until every CPU has flushed: one flush serves thousands of
//! freed pages, and nothing is reused before it.
//!
//! ```
//! use vmalloc::machine::Machine;
//! use vmalloc::{AllocError, Req, Vmalloc};
//!
//! fn use_it<M: Machine>(vm: &Vmalloc<M>) -> Result<(), AllocError> {
//!     let ring = vm.alloc(Req::bytes(5000).zeroed())?;
//!     assert!(vm.find(ring.addr().get() + 4999).is_some());
//!     // SAFETY: V1: nobody uses it any more.
//!     unsafe { vm.free(ring) }.expect("an area");
//!     Ok(())
//! }
//! ```
//!
//! - An **embedder** reads the [`guide`]: it implements [`Machine`](machine::Machine) and
//!   [`Frames`](machine::frames::Frames), whose contracts are numbered there, and
//!   calls [`Vmalloc::init`] and a few hooks. `examples/kernel.rs` is a machine to
//!   copy.
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

/// The guide for authors of kernels: what you write, what you call, and what breaks.
///
/// [`Frames`]: crate::machine::frames::Frames
/// [`Machine`]: crate::machine::Machine
#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/kernel.md")]
pub mod guide {}

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
pub use api::heap::Heap;
pub use api::hooks::Tick;
pub use api::instance::Vmalloc;
pub use api::owned::{Area, Mapping};
pub use area::{Caller, Info, Kind, Placement, Policy, Req, What};
pub use error::{AllocError, FreeError};
pub use gfp::Gfp;
pub use lock_api;
pub use state::config::{self, Config, InitError, RegionFault};
pub use state::stats::{Counts, Stats};
pub use state::visit::Quiesced;
