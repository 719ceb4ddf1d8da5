//! Remote frees: the chunks of one CPU in which other CPUs have freed slots (R1).
//!
//! The remote frees of a CPU are a list of chunks. A CPU that posts the first slot of a chunk
//! pushes the chunk. Only the owner pops: it takes the whole list at once and then handles one
//! chunk after the other.
//!
//! # Locks
//! None. A push is one exchange and a drain is one swap.

use super::chunk::{Chunk, ChunkRef};
use crate::sync::{AtomicPtr, Ordering::*, breaks};
use core::ptr::null_mut;

/// Chunks that the owner has taken off the list and not handled yet.
#[derive(Debug, Default)]
pub struct Drained(Option<ChunkRef>);

impl Drained {
    /// Whether all of them are handled.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// The remote frees of one CPU.
#[derive(Debug, Default)]
pub struct RemoteFrees(AtomicPtr<Chunk>);

impl RemoteFrees {
    /// R1: posts a slot that the caller has claimed. `self` belongs to the slot's owner.
    #[inline]
    pub fn post(&self, chunk: ChunkRef, slot: u32) {
        if chunk.post(slot) {
            self.push(chunk);
        }
    }

    /// Pushes `chunk`, which is not on the list.
    fn push(&self, chunk: ChunkRef) {
        // The list is usually empty. If it is not, the failed exchange returns its head.
        let mut head = null_mut();
        loop {
            chunk.next_remote().store(head, Relaxed);
            match self.0.compare_exchange_weak(head, chunk.as_ptr(), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Whether the list is empty; another CPU may push at any moment.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.load(Relaxed).is_null()
    }

    /// Owner: the next chunk, and the slots that were posted in it. Takes the whole list when
    /// `drained` is empty.
    pub fn next(&self, drained: &mut Drained) -> Option<(ChunkRef, u64)> {
        if drained.is_empty() && !self.is_empty() {
            drained.0 = behind(self.0.swap(null_mut(), Acquire));
        }
        let chunk = drained.0?;
        if breaks!(LinkAfterPosted) {
            let posted = chunk.take_posted();
            drained.0 = behind(chunk.next_remote().load(Relaxed));
            return Some((chunk, posted));
        }
        // R1: the link is read before `posted` is taken. After that, the next freer may push the
        // chunk again and overwrite the link.
        drained.0 = behind(chunk.next_remote().load(Relaxed));
        Some((chunk, chunk.take_posted()))
    }
}

/// The header behind a link of the list.
fn behind(link: *mut Chunk) -> Option<ChunkRef> {
    // SAFETY: H2: `push` stored what `as_ptr` returned.
    unsafe { ChunkRef::from_ptr(link) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::area::RegionId;
    use crate::space::class::Class;
    use crate::units::{Pfn, VirtAddr};
    extern crate std;
    use std::boxed::Box;
    use std::vec::Vec;

    /// A chunk in which another CPU has posted slot 0. The chunk is leaked.
    fn posted() -> ChunkRef {
        let chunk = Box::leak(Box::new(Chunk::new(Pfn(0))));
        let class = Class::of(512, 1).unwrap();
        chunk.become_class(class, class.slots(), VirtAddr(1 << 30), RegionId(0), 0);
        let slot = chunk.take().unwrap();
        chunk.make_live(slot);
        assert!(chunk.claim(slot) && chunk.post(slot));
        // SAFETY: H2: it was leaked.
        unsafe { ChunkRef::from_ptr(chunk) }.unwrap()
    }

    #[test]
    fn what_was_taken_out_is_looked_at_before_what_came_later() {
        let (remote_frees, mut drained) = (RemoteFrees::default(), Drained::default());
        let chunks: Vec<_> = (0..4).map(|_| posted()).collect();
        chunks[..3].iter().for_each(|&chunk| remote_frees.push(chunk));
        let mut seen = Vec::from([remote_frees.next(&mut drained).unwrap()]);
        assert!(remote_frees.is_empty() && !drained.is_empty(), "two are still to be looked at");
        remote_frees.push(chunks[3]);
        seen.extend(core::iter::from_fn(|| remote_frees.next(&mut drained)));
        let order = [2, 1, 0, 3].map(|n: usize| chunks[n].as_ptr());
        assert!(seen.iter().map(|(chunk, _)| chunk.as_ptr()).eq(order));
        assert!(seen.iter().all(|&(_, slots)| slots == 1), "each is told what was posted, once");
        assert!(remote_frees.is_empty() && drained.is_empty());
    }
}
