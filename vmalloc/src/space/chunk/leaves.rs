//! The leaf tables under a class chunk, stored in its header so that the hot path walks nothing.

use super::Chunk;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::units::{Pfn, VirtAddr};

impl Chunk {
    /// The leaf table that maps `at`, as a number that [`Chunk::cache_leaf`] stored; 0 if none is
    /// stored.
    #[inline]
    pub fn leaf(&self, at: VirtAddr, leaf_shift: u32) -> usize {
        let index = (at.0 >> leaf_shift).wrapping_sub(self.base.load(Relaxed) >> leaf_shift);
        self.leaves.get(index).map_or(0, |leaf| leaf.load(Acquire))
    }

    /// The address of the entry of the first page, as [`Chunk::cache_entries`] stored it; 0 if none
    /// is stored.
    #[inline(always)]
    pub fn entries(&self) -> usize {
        self.entries.load(Acquire)
    }

    /// Stores the address of the entry of the first page. One leaf table maps all pages of the
    /// chunk.
    pub fn cache_entries(&self, first: usize) {
        self.entries.store(first, Release);
    }

    /// Stores the `index`-th leaf table under the chunk, as a number, and its frame.
    pub fn cache_leaf(&self, index: usize, leaf: usize, frame: Pfn) {
        if let (Some(place), Some(of)) = (self.leaves.get(index), self.frames.get(index)) {
            of.store(frame.0, Relaxed);
            place.store(leaf, Release);
        }
    }

    /// The stored leaf tables: the index and the frame of each.
    pub fn leaves(&self) -> impl Iterator<Item = (usize, Pfn)> {
        let known = self.leaves.iter().zip(&self.frames).enumerate().filter(|(_, (leaf, _))| leaf.load(Relaxed) != 0);
        known.map(|(index, (_, frame))| (index, Pfn(frame.load(Relaxed))))
    }

    /// Forgets the `index`-th leaf table, which is no longer linked.
    #[cold]
    pub fn forget_leaf(&self, index: usize) {
        self.entries.store(0, Release);
        self.cache_leaf(index, 0, Pfn(0));
    }

    /// Forgets the leaf tables of the chunk that the header was before.
    pub(super) fn forget_leaves(&self) {
        self.leaves.iter().for_each(|leaf| leaf.store(0, Relaxed));
        self.entries.store(0, Relaxed);
    }
}
