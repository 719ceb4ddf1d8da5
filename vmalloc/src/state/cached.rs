//! What one CPU keeps cached, in numbers, and the slot that it is evicting.

use crate::space::chunk::ChunkRef;
use crate::sync::Ordering::Relaxed;
use crate::sync::plain::AtomicUsize;

/// What one CPU keeps bound: written by whoever is inside, read by anybody.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    slots: AtomicUsize,
    pages: AtomicUsize,
}

impl Bound {
    #[inline]
    pub(crate) fn pages(&self) -> usize {
        self.pages.load(Relaxed)
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots.load(Relaxed)
    }

    #[inline]
    pub(crate) fn add(&self, pages: usize) {
        self.slots.store(self.slots() + 1, Relaxed);
        self.pages.store(self.pages() + pages, Relaxed);
    }

    #[inline]
    pub(crate) fn remove(&self, pages: usize) {
        self.slots.store(self.slots().wrapping_sub(1), Relaxed);
        self.pages.store(self.pages().wrapping_sub(pages), Relaxed);
    }
}

/// A cached slot that is being evicted, and how many of its pages have been.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evicting {
    pub(crate) chunk: ChunkRef,
    pub(crate) slot: u32,
    pub(crate) done: usize,
}

/// One CPU's clock of uses, and the slot that it is evicting.
#[derive(Debug, Default)]
pub(crate) struct Eviction {
    /// Slots cached so far.
    pub(crate) clock: u32,
    pub(crate) ticks: u32,
    pub(crate) evicting: Option<Evicting>,
}
