//! Regions: addresses and the tables under them, given and taken in runs.
//!
//! A region is a range of addresses, its arena and its unit table. What is cut
//! from it is a **run** of grains: a chunk (Classes), or one area that has a
//! run of its own (larger than a slot, confined to a sub-range, or under the
//! placement Lowest).
//!
//! # Rules
//! - G6: The page below a stack is its own: a slot of a class has one (K7), and a
//!   run has a grain more, before the area, which points at nobody. So what else
//!   is in the region, or beside it, does not matter. A region's first page is in
//!   no grain.
//! - R3: A run's table pages are linked before anything is bound in it, and
//!   its grains point at its chunk before anybody can ask. They are linked slice
//!   by slice, where an area is the first to reach there.
//! - T1: A leaf table stays linked while any grain under it is outside the
//!   arena. When a run goes back, each leaf table with nothing left under it is
//!   unlinked, and its grains stay out of the arena until the batch that holds
//!   the table page is expired: a paging-structure cache may still point at it. Tables
//!   of two levels keep theirs: other roots have copied the links (M1).
//!
//! # Locks
//! `shared` guards the arena, writes to the unit table, and unlinking. What a
//! run needs is stocked before it is taken, so the middle cannot fail.

use crate::area::RegionId;
use crate::machine::Machine;
use crate::machine::format::Format;
use crate::space::arena::{Arena, Fit};
use crate::space::chunk::ChunkRef;
use crate::space::class::MAX_SLOT_PAGES;
use crate::space::units::UnitTable;
use crate::state::config::RegionConfig;
use crate::sync::{AtomicBool, Ordering::Relaxed};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use lock_api::Mutex;

/// What an entry of the unit table says: where the header is and, in the low
/// bits of its address, the slot whose run this is, or all ones for a class chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnitEntry(pub(crate) u64);

const NO_SLOT: u32 = 0xff;

impl UnitEntry {
    pub(crate) fn new(chunk: ChunkRef, slot: Option<u32>) -> UnitEntry {
        UnitEntry(chunk.as_ptr().expose_provenance() as u64 | slot.unwrap_or(NO_SLOT) as u64)
    }

    /// The header; `None` where the entry says nothing.
    #[inline]
    pub(crate) fn chunk(self) -> Option<ChunkRef> {
        let at = self.0 as usize & !(PAGE_SIZE - 1);
        // SAFETY: H2: `new` wrote what `as_ptr` gave; a header is a frame.
        unsafe { ChunkRef::from_ptr(core::ptr::with_exposed_provenance_mut(at)) }
    }

    /// The header of a class chunk.
    #[inline(always)]
    pub(crate) fn chunk_of_class(self) -> Option<ChunkRef> {
        let at = self.0 as usize ^ NO_SLOT as usize;
        // SAFETY: H2, as in `chunk`: only with the mark of a class chunk is this
        // the start of a frame, and no header is at address 0.
        let chunk = || unsafe { ChunkRef::from_ptr(core::ptr::with_exposed_provenance_mut(at)).unwrap_unchecked() };
        at.is_multiple_of(PAGE_SIZE).then(chunk)
    }

    /// The slot, where the run is one area.
    #[inline]
    pub(crate) fn slot(self) -> Option<u32> {
        let low = self.0 as u32 & NO_SLOT;
        (low != NO_SLOT).then_some(low)
    }
}

/// What the region's lock guards.
pub(crate) struct Shared {
    pub(crate) arena: Arena,
    /// Headers without a chunk, chained by their `next`.
    pub(crate) headers: Option<ChunkRef>,
    pub(crate) sweep: Sweep,
}

/// How far the search for empty leaf tables has come (T1).
pub(crate) struct Sweep {
    /// No run has reached beyond: there are none.
    pub(crate) end: VirtAddr,
    /// One is on its way: where it goes on.
    pub(crate) at: Option<VirtAddr>,
    /// There may be some behind it: another one is due.
    pub(crate) again: bool,
}

/// A range of addresses that areas are carved from.
pub(crate) struct Region<L: lock_api::RawMutex> {
    pub(crate) id: RegionId,
    /// The first grain's address: the region itself may begin below it.
    pub(crate) base: VirtAddr,
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) grain_shift: u32,
    /// log2 of a grain's bytes.
    shift: u32,
    /// Bytes of all grains: a last one that is not whole is nobody's.
    whole: usize,
    /// Pages of the largest area of a class that nothing can be wrong with: none under
    /// Lowest.
    pub(crate) usual: usize,
    pub(crate) arena_stock: usize,
    pub(crate) units: UnitTable,
    pub(crate) shared: Mutex<L, Shared>,
    /// Empty leaf tables may be linked: nobody has had the time, or the room in
    /// a batch.
    pub(crate) unswept: AtomicBool,
}

/// A run of grains that a call has taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunFit {
    /// Pages needed, guard included.
    pub(crate) pages: usize,
    /// Grains before them that nobody binds (G6).
    pub(crate) below: u32,
    /// Alignment, in pages.
    pub(crate) align: usize,
    /// Grains that will do.
    pub(crate) within: (u32, u32),
}

impl<L: lock_api::RawMutex> Region<L> {
    pub(crate) fn new(id: usize, config: &RegionConfig, frames: usize) -> Region<L> {
        let grain_shift = config.grain_shift();
        let base = config.first_grain();
        let grains = ((config.end - base) >> PAGE_SHIFT >> grain_shift) as u32;
        let arena = Arena::new(grains);
        Region {
            id: RegionId(id as u8),
            base: VirtAddr(base),
            start: config.start,
            bytes: config.end - base,
            grain_shift,
            shift: PAGE_SHIFT + grain_shift,
            whole: (grains as usize) << (PAGE_SHIFT + grain_shift),
            usual: if grain_shift == 0 { 0 } else { MAX_SLOT_PAGES.min(frames).min(grains as usize) },
            arena_stock: arena.frames_needed(),
            units: UnitTable::new(grains),
            shared: Mutex::new(Shared {
                arena,
                headers: None,
                sweep: Sweep { end: VirtAddr(base), at: None, again: false },
            }),
            unswept: AtomicBool::new(false),
        }
    }

    /// The grain that holds `at`, if the region does.
    #[inline]
    pub(crate) fn grain_of(&self, at: VirtAddr) -> Option<u32> {
        let offset = at.0.wrapping_sub(self.base.0);
        (offset < self.whole).then_some((offset >> self.shift) as u32)
    }

    /// Whether `at` is one of its addresses, be it one that nobody gets.
    pub(crate) fn holds(&self, at: VirtAddr) -> bool {
        at.0.wrapping_sub(self.start) < self.base.0 - self.start + self.whole
    }

    /// The grains under the leaf table from `leaf` on: the first, and how many.
    /// `None` where the table reaches beyond the region: it is not ours alone.
    pub(crate) fn under(&self, leaf: VirtAddr, leaf_shift: u32) -> Option<(u32, u32)> {
        let last = self.grain_of(VirtAddr(leaf.0 | ((1 << leaf_shift) - 1)))?;
        let first = if leaf.0 < self.base.0 { 0 } else { self.grain_of(leaf)? };
        (self.start <= leaf.0).then_some((first, last - first + 1))
    }

    /// The address of a grain.
    #[inline]
    pub(crate) fn address(&self, grain: u32) -> VirtAddr {
        self.base.add_pages((grain as usize) << self.grain_shift)
    }

    pub(crate) fn grains(&self) -> u32 {
        (self.bytes >> PAGE_SHIFT >> self.grain_shift) as u32
    }

    /// Its pages, those that nobody gets too.
    pub(crate) fn all_pages(&self) -> PageRange {
        PageRange::new(VirtAddr(self.start), (self.base.0 - self.start + self.bytes) >> PAGE_SHIFT)
    }

    /// All its pages.
    pub(crate) fn pages(&self) -> PageRange {
        PageRange::new(self.base, self.bytes >> PAGE_SHIFT)
    }

    /// The pages of a run of grains.
    pub(crate) fn pages_of(&self, start: u32, grains: u32) -> PageRange {
        PageRange::new(self.address(start), (grains as usize) << self.grain_shift)
    }

    /// Grains that lie wholly inside `range`; `None` where it leaves the region.
    pub(crate) fn grains_within(&self, range: (usize, usize)) -> Option<(u32, u32)> {
        let shift = PAGE_SHIFT + self.grain_shift;
        let offset = |at: usize| at.saturating_sub(self.base.0);
        let whole = (offset(range.0).div_ceil(1 << shift) as u32, (offset(range.1) >> shift) as u32);
        let inside = self.start <= range.0 && range.0 < range.1 && offset(range.1) <= self.bytes;
        inside.then_some(whole)
    }

    /// Grains from address 0 to the region's first one.
    fn phase(&self) -> u64 {
        (self.base.0 >> PAGE_SHIFT >> self.grain_shift) as u64
    }

    /// Leaves empty leaf tables to a sweep.
    pub(crate) fn leave(&self, shared: &mut Shared) {
        shared.sweep.again = true;
        self.unswept.store(true, Relaxed);
    }

    pub(crate) fn fit(&self, run: &RunFit) -> Fit {
        let grains = run.pages.div_ceil(1 << self.grain_shift);
        Fit {
            grains: u32::try_from(grains).unwrap_or(u32::MAX).saturating_add(run.below),
            align: (run.align >> self.grain_shift).max(1) as u32,
            phase: (self.phase() as u32).wrapping_add(run.below),
            within: run.within.0..run.within.1,
        }
    }
}

/// Address bits below a leaf table's.
pub(crate) const fn leaf_shift<M: Machine>() -> u32 {
    PAGE_SHIFT + <M::Table as Format>::INDEX_BITS
}

impl<L: lock_api::RawMutex> Region<L> {
    /// Gives all bookkeeping back: nothing is outside the arena any more.
    pub(crate) fn destroy<M: Machine>(&mut self, machine: &M, give: &mut impl FnMut(Pfn)) {
        let shared = self.shared.get_mut();
        while let Some(header) = shared.headers {
            shared.headers = header.unchain();
            give(header.frame());
        }
        shared.arena.destroy(machine, &mut *give);
        self.units.destroy(machine, give);
    }
}
