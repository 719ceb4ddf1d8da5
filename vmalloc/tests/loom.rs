//! Every interleaving of the races that matter, of the functions that ship: a model is
//! a few calls of the library, and what they have to come to.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p vmalloc --test loom --target-dir target/loom
//! ```
//!
//! Each model was seen to fail when the library was broken; its documentation says
//! how. Headers have two slots here.
//!
//! Loom compares an access with the last one of the same atomic alone. Where a thread
//! batches a word and then exchanges it, its own batch hides what others did before: so
//! what two threads meet at had better begin with the exchange.
#![cfg(loom)]
#![allow(unsafe_code)]

#[path = "loom/cache.rs"]
mod cache;
#[path = "loom/finders.rs"]
mod finders;
#[path = "loom/flushes.rs"]
mod flushes;
#[path = "loom/frames.rs"]
mod frames;
#[path = "loom/frees.rs"]
mod frees;

use std::sync::Arc;
use vmalloc::area::{Caller, Guard, Kind, RegionId};
use vmalloc::internals::chunk::{Chunk, ChunkRef};
use vmalloc::internals::slot::Label;
use vmalloc::units::{Node, Pfn};

/// Explores `model` with up to `preemptions` of a thread by another.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// An area of `n` pages, all of whose fields say so.
fn label(n: usize) -> Label {
    Label {
        bytes: n << 12,
        pages: n,
        kind: Kind::Ioremap,
        guard: Guard::After,
        caller: Caller::Return(n),
        node: Node(n as u8),
        phys: Some(n as u64),
    }
}

/// Its owner makes an area in the next slot of `chunk`.
fn make(chunk: &Chunk, n: usize) -> u32 {
    let slot = chunk.take().expect("a free slot");
    chunk.begin(slot, &label(n));
    chunk.slot(slot).publish();
    slot
}

/// A chunk of which these slots live.
fn chunk(live: u32) -> Arc<Chunk> {
    let chunk = Chunk::new(Pfn(0));
    chunk.become_runs(RegionId(0), 0);
    (0..live).for_each(|slot| assert_eq!(make(&chunk, 1), slot));
    Arc::new(chunk)
}

fn link(chunk: &Chunk) -> ChunkRef {
    // SAFETY: H2: a model's chunks outlive its threads.
    unsafe { ChunkRef::from_ptr(std::ptr::from_ref(chunk).cast_mut()) }.expect("a reference is not null")
}
