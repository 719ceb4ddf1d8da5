//! Physical frames: their owners, and their way to the CPUs.
//!
//! | Word | Meaning |
//! |---|---|
//! | frame | a page of physical memory |
//! | block | 2ⁿ adjacent frames, aligned to 2ⁿ; n is its order |
//! | home | the zone and the node of a frame |
//! | source | an implementation of [`Frames`](crate::machine::frames::Frames): [`Zones`], or the
//! embedder's own |
//! | run | any number of adjacent frames |
//! | stack | a bookkeeping frame that holds frame numbers |
//! | waiting frame | a frame that its last holder has released, and that waits for a flush before
//! it is free |
//!
//! ```text
//!   CPU 0: Magazine ─┐
//!   CPU 1: Magazine ─┼─ Depot (one per node) ─ source: Zones
//!   CPU 2: Magazine ─┘      whole stacks        nodes → zones → buddy lists
//!     single frames
//! ```
//!
//! A CPU takes single frames from its `Magazine` and returns them there, without a lock. A
//! magazine and the `Depot` of its node exchange whole stacks, which is an exchange of two
//! pointers. If neither can serve a request, the magazine asks the source for many frames at once.
//! `Runs` come straight from the source, for machines on which adjacent frames save work.
//!
//! # Locks
//! One for each depot and one for each node of [`Zones`]. No caller holds two of them.

mod buddy;
mod check;
pub(crate) mod count;
mod depot;
mod descriptor;
mod magazine;
mod map;
mod node;
mod runs;
mod stack;
mod waiting;
mod zones;

pub use map::{BadMap, MAX_NODES, MemoryRange};
pub use zones::{STORAGE_ALIGN, ZoneStats, Zones};

pub(crate) use count::{hold, hold_known, mixed, release, release_all, twice};
pub(crate) use depot::Depot;
pub(crate) use magazine::{MAX_BULK, Magazine};
pub(crate) use runs::Runs;
pub(crate) use waiting::{DeferredFrames, WaitingFrames};
