//! Physical frames: who has which, and how they get to the CPUs.
//!
//! | Word | Meaning |
//! |---|---|
//! | frame | a page of physical memory |
//! | block | 2ⁿ adjacent frames, aligned to 2ⁿ; n is its order |
//! | home | the zone and the node of a frame |
//! | source | whatever implements [`Frames`](crate::machine::frames::Frames): [`Zones`], or the embedder's own |
//! | run | adjacent frames, however many |
//! | stack | a bookkeeping frame full of frame numbers |
//! | loose | given up by its last holder, and still waiting for a flush |
//!
//! ```text
//!   CPU 0: Magazine ─┐
//!   CPU 1: Magazine ─┼─ Depot (one a node) ─ source: Zones
//!   CPU 2: Magazine ─┘      whole stacks       nodes → zones → buddy lists
//!     single frames
//! ```
//!
//! A CPU takes and gives single frames at its [`Magazine`], without a lock.
//! Magazines exchange whole stacks with their node's [`Depot`], by changing a
//! pointer. What neither can serve comes from the source, by the batch.
//! [`Runs`] go past all that, for machines that save work when frames are
//! adjacent.
//!
//! # Locks
//! One for each depot, one for each node of [`Zones`]. Nobody holds two.

mod buddy;
mod check;
mod count;
mod depot;
mod descriptor;
mod magazine;
mod map;
mod node;
mod runs;
mod stack;
mod waiting;
mod zones;

#[cfg(test)]
mod testing;

pub use count::{hold, hold_all, release, release_all, twice};
pub use depot::Depot;
pub use magazine::Magazine;
pub use map::{BadMap, MemoryRange};
pub use runs::{MAX_RUNS, Runs, TakenRun};
pub use waiting::{DeferredFrames, WaitingFrames};
pub use zones::{MAX_NODES, STORAGE_ALIGN, ZoneStats, Zones};
