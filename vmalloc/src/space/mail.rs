//! Mail: chunks in which other CPUs have freed slots (R1).
//!
//! A CPU's mail is a chain of chunks. Who posts the first slot of a chunk puts
//! the chunk in; only the owner takes chunks out, all at once.
//!
//! # Locks
//! None: a push is one exchange, and a drain is one swap.

use super::chunk::{Chunk, ChunkRef};
use crate::sync::{AtomicPtr, Ordering::*};
use core::ptr::null_mut;

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

    /// Owner: takes all chunks out, and tells of each what was posted in it.
    pub fn drain(&self, mut posted: impl FnMut(ChunkRef, u64)) {
        let mut link = self.0.swap(null_mut(), Acquire);
        // SAFETY: H2: `push` stored what `as_ptr` gave.
        while let Some(chunk) = unsafe { ChunkRef::from_ptr(link) } {
            // R1: the link is read first: as soon as nothing is posted, the
            // next freer may push the chunk again.
            link = chunk.next_in_mail().load(Relaxed);
            posted(chunk, chunk.take_posted());
        }
    }
}
