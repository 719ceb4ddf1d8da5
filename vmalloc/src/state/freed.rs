//! The last frees: what slots had recorded whose chunk or run was given up.
//!
//! A slot tells who freed its area until it gets another one. When its chunk or its run goes back to
//! the arena, the record is copied here: a double free and a use after free are named then, too. A
//! free itself does nothing for it. The oldest record goes first, and that of an earlier life of the
//! addresses goes in any case: it is not what was freed there last. Slots do not say when they were
//! freed, so a chunk with more than [`FREES`] of them brings the lowest along.
//!
//! Callers inside a CPU write, perhaps several at a time, and anybody reads, from any context (R2).

use crate::area::Info;
use crate::space::chunk::ChunkRef;
use crate::space::slot::{Slot, slots_of};
use crate::sync::plain::{AtomicUsize, Ordering::Relaxed};
use crate::units::{PageRange, VirtAddr};

/// The number of frees that are remembered.
const FREES: usize = 32;

/// The ring of the last frees.
#[derive(Default)]
pub(crate) struct LastFrees {
    slots: [Slot; FREES],
    count: AtomicUsize,
}

impl LastFrees {
    /// Remembers frees of a class chunk of these pages, which is given up. Its slots will have other
    /// addresses, so they forget them.
    pub(crate) fn remember_chunk(&self, chunk: ChunkRef, pages: PageRange) {
        self.forget(pages);
        let mut freed = slots_of(u64::MAX).filter(|&slot| chunk.slot(slot).is_freed());
        freed.by_ref().take(FREES).for_each(|slot| self.remember(chunk, slot, chunk.address(slot)));
        freed.for_each(|slot| chunk.slot(slot).forget());
    }

    /// Remembers the free of an area with a run of its own, of these pages.
    pub(crate) fn remember_run(&self, chunk: ChunkRef, slot: u32, pages: PageRange, start: VirtAddr) {
        self.forget(pages);
        self.remember(chunk, slot, start);
    }

    /// Remembers the free of the area at `start`, if the slot tells of one, and the slot forgets it.
    fn remember(&self, chunk: ChunkRef, slot: u32, start: VirtAddr) {
        let slot = chunk.slot(slot);
        if slot.is_freed() {
            self.slots[self.count.fetch_add(1, Relaxed) % FREES].remember(slot, start, chunk.region());
            slot.forget();
        }
    }

    /// Forgets what was freed at these pages before they were used once more.
    fn forget(&self, pages: PageRange) {
        self.slots.iter().filter(|slot| slot.remembers(pages)).for_each(Slot::forget);
    }

    /// The last area that held `at` and was given up, if it is remembered.
    pub(crate) fn find(&self, at: VirtAddr) -> Option<Info> {
        let count = self.count.load(Relaxed);
        let mut newest_first = (1..=FREES).filter_map(|back| self.slots[count.wrapping_sub(back) % FREES].remembered());
        newest_first.find(|was| was.range().contains(at))
    }
}
