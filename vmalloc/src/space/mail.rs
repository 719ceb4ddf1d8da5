//! Mail: chunks in which other CPUs have freed slots (R1).
//!
//! A CPU's mail is a chain of chunks. Who posts the first slot of a chunk puts
//! the chunk in; only the owner takes chunks out, all at once, and then looks at one after the other.
//!
//! # Locks
//! None: a push is one exchange, and a drain is one swap.

use super::chunk::{Chunk, ChunkRef};
use crate::sync::{AtomicPtr, Ordering::*};
use core::ptr::null_mut;

/// Chunks that were taken out of a CPU's mail, and wait for it to look at them.
#[derive(Debug)]
pub struct Letters(*mut Chunk);

// SAFETY: the pointer is a header (C1), which any CPU may follow.
unsafe impl Send for Letters {}

impl Default for Letters {
    fn default() -> Letters {
        Letters(null_mut())
    }
}

impl Letters {
    /// Whether all were looked at.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_null()
    }
}

/// The mail of one CPU.
#[derive(Debug)]
pub struct Mail(AtomicPtr<Chunk>);

impl Default for Mail {
    fn default() -> Mail {
        Mail(AtomicPtr::new(null_mut()))
    }
}

impl Mail {
    /// Puts `chunk` in: [`Chunk::post`] has asked for it.
    pub fn push(&self, chunk: ChunkRef) {
        let mut head = self.0.load(Relaxed);
        loop {
            chunk.next_in_mail().store(head, Relaxed);
            match self.0.compare_exchange_weak(head, chunk.as_ptr(), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Whether nothing was in it a moment ago.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.load(Relaxed).is_null()
    }

    /// Owner: the next chunk, and what was posted in it; from `letters`, or if
    /// there are none from here, where all chunks are taken out at once.
    pub fn next(&self, letters: &mut Letters) -> Option<(ChunkRef, u64)> {
        if letters.is_empty() && !self.is_empty() {
            letters.0 = self.0.swap(null_mut(), Acquire);
        }
        // SAFETY: H2: `push` stored what `as_ptr` gave.
        let chunk = unsafe { ChunkRef::from_ptr(letters.0) }?;
        // R1: the link is read first: as soon as nothing is posted, the
        // next freer may push the chunk again.
        letters.0 = chunk.next_in_mail().load(Relaxed);
        Some((chunk, chunk.take_posted()))
    }
}
