//! The leaf tables under a class chunk, kept at hand: which they are, and where.

use super::Chunk;
use crate::sync::Ordering::{Relaxed, Release};
use crate::units::Pfn;

impl Chunk {
    /// Keeps the `index`-th leaf table under the chunk at hand, which is in `frame`.
    pub fn cache_leaf(&self, index: usize, leaf: usize, frame: Pfn) {
        if let (Some(place), Some(of)) = (self.leaves.get(index), self.frames.get(index)) {
            of.store(frame.0, Relaxed);
            place.store(leaf, Release);
        }
    }

    /// The leaf tables at hand, as [`Chunk::cache_leaf`] left them: which, and the
    /// frame.
    pub fn leaves(&self) -> impl Iterator<Item = (usize, Pfn)> {
        let known = self.leaves.iter().zip(&self.frames).enumerate().filter(|(_, (leaf, _))| leaf.load(Relaxed) != 0);
        known.map(|(index, (_, frame))| (index, Pfn(frame.load(Relaxed))))
    }

    /// The `index`-th leaf table under the chunk is not linked any more: nothing of
    /// it is at hand.
    #[cold]
    pub fn forget_leaf(&self, index: usize) {
        self.entries.store(0, Release);
        self.cache_leaf(index, 0, Pfn(0));
    }

    /// Those at hand were of the chunk that the header was before.
    pub(super) fn forget_leaves(&self) {
        self.leaves.iter().for_each(|leaf| leaf.store(0, Relaxed));
        self.entries.store(0, Relaxed);
    }
}
