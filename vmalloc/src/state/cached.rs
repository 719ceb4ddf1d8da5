//! Counts of one CPU's cached slots, and the slot that it is evicting.

use crate::space::chunk::ChunkRef;
use crate::sync::Ordering::Relaxed;
use crate::sync::plain::AtomicUsize;

/// One CPU's cached slots and their pages. Only the caller inside the CPU writes them; anybody may
/// read them.
#[derive(Debug, Default)]
pub(crate) struct CacheSize {
    slots: AtomicUsize,
    pages: AtomicUsize,
}

impl CacheSize {
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

/// A cached slot that is being evicted, and the number of its pages that are parked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evicting {
    pub(crate) chunk: ChunkRef,
    pub(crate) slot: u32,
    pub(crate) done: usize,
}

/// One CPU's clock of uses, and the slot that it is evicting.
#[derive(Debug, Default)]
pub(crate) struct Eviction {
    /// The number of slots that were ever cached.
    pub(crate) clock: u32,
    pub(crate) ticks: u32,
    pub(crate) evicting: Option<Evicting>,
}
