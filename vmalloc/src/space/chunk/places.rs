//! The slots of a class chunk and their addresses.

use super::Chunk;
use crate::space::class::MAX_SLOTS;
use crate::sync::Ordering::Relaxed;
use crate::units::{PAGE_SHIFT, VirtAddr};

impl Chunk {
    /// The address of a slot of a class chunk.
    #[inline]
    pub fn address(&self, slot: u32) -> VirtAddr {
        self.place(slot).0
    }

    /// The slot of a class chunk that holds `at`; `None` if `at` lies past the last slot.
    #[inline]
    pub fn slot_at(&self, at: VirtAddr) -> Option<u32> {
        let page = at.0.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT;
        // A finder may read half of the old chunk and half of the new one. The result is then wrong
        // and the sequence says so, but nothing overflows here.
        let slot = (page as u64).wrapping_mul(self.reciprocal.load(Relaxed) as u64) >> 32;
        (slot < MAX_SLOTS as u64 && self.all.load(Relaxed) >> slot & 1 != 0).then_some(slot as u32)
    }

    /// The slot of a class chunk whose area starts at `at`, as a finder sees it (R2), and the
    /// number of pages from the chunk's start to `at`.
    #[inline(always)]
    pub fn area_at(&self, at: VirtAddr) -> Option<(u32, usize)> {
        let offset = at.0.wrapping_sub(self.base.load(Relaxed));
        let page = offset >> PAGE_SHIFT;
        let slot = (page as u64).wrapping_mul(self.reciprocal.load(Relaxed) as u64) >> 32;
        if slot >= MAX_SLOTS as u64 || self.areas() >> slot & 1 == 0 {
            return None;
        }
        let start = (slot as usize).wrapping_mul(self.stride.load(Relaxed) as usize) << PAGE_SHIFT;
        if start == offset { Some((slot as u32, page)) } else { None }
    }

    /// The address of a slot of a class chunk, and the number of pages from the chunk's start to
    /// it.
    #[inline(always)]
    pub fn place(&self, slot: u32) -> (VirtAddr, usize) {
        let page = slot as usize * self.stride.load(Relaxed) as usize;
        (VirtAddr(self.base.load(Relaxed).wrapping_add(page << PAGE_SHIFT)), page)
    }

    /// The number of pages from the chunk's start to `at`.
    #[inline(always)]
    pub fn page_of(&self, at: VirtAddr) -> usize {
        at.0.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT
    }
}
