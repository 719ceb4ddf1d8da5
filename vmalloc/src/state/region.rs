//! Regions: addresses, and the tables under them, taken and given back in runs.
//!
//! A region is a range of addresses with an arena and a unit table. It is handed out in **runs** of
//! grains. A run serves a chunk (placement Classes), or one area: an area larger than a slot, one
//! that no chunk has room for, or any area under the placement Lowest. A chunk may be asked to lie
//! in a part of the region; areas confined to that part get its slots.
//!
//! # Rules
//! - G6: The page below a stack belongs to the stack. A slot of a class has such a page (K7). A run
//!   has one more grain before the area, which points at no chunk. So neighbours in the region or
//!   below it do not matter. A region's first page is in no grain.
//! - R3: The tables of a run are linked before anything is mapped in it, slice by slice, when an
//!   area first reaches them. Its grains point at its chunk before its area is complete.
//! - T1: A leaf table stays linked while any grain under it is outside the arena. When a run goes
//!   back and nothing is left under a leaf table, the table is unlinked. Its grains stay out of the
//!   arena until the batch that holds the table page has expired, because a paging-structure cache
//!   may still point at the page. Two-level formats keep their leaf tables, because other roots
//!   have copied the links (M1).
//!
//! # Locks
//! `shared` protects the arena, writes to the unit table, and unlinking. A call takes the
//! bookkeeping frames that it needs before it takes the lock, so it cannot fail under it.

use crate::area::RegionId;
use crate::error::AllocError;
use crate::machine::Machine;
use crate::machine::format::Format;
use crate::space::arena::{Arena, Fit, WINDOW};
use crate::space::chunk::ChunkRef;
use crate::space::class::{Class, MAX_SLOT_PAGES};
use crate::space::slot::Slot;
use crate::space::units::UnitTable;
use crate::state::config::RegionConfig;
use crate::sync::{AtomicBool, Ordering::Relaxed};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use lock_api::Mutex;

/// An entry of the unit table: the address of a header and, in the low bits, the slot whose run
/// this is, or all ones for a class chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnitEntry(pub(crate) u64);

const NO_SLOT: u32 = 0xff;

impl UnitEntry {
    pub(crate) fn new(chunk: ChunkRef, slot: Option<u32>) -> UnitEntry {
        UnitEntry(chunk.as_ptr().expose_provenance() as u64 | slot.unwrap_or(NO_SLOT) as u64)
    }

    /// The header; `None` if the entry is empty.
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

    /// The slot, if the run is one area.
    #[inline]
    pub(crate) fn slot(self) -> Option<u32> {
        let low = self.0 as u32 & NO_SLOT;
        (low != NO_SLOT).then_some(low)
    }
}

/// The data under the region's lock.
pub(crate) struct Shared {
    pub(crate) arena: Arena,
    /// Spare headers, chained by their `next`.
    pub(crate) headers: Option<ChunkRef>,
    /// Between these addresses lie all empty leaf tables that `prune` had to leave (T1).
    pub(crate) unswept: (VirtAddr, VirtAddr),
}

/// No address.
pub(crate) const NOWHERE: (VirtAddr, VirtAddr) = (VirtAddr(usize::MAX), VirtAddr(0));

/// A range of addresses from which areas are allocated.
pub(crate) struct Region<L: lock_api::RawMutex> {
    pub(crate) id: RegionId,
    /// The address of the first grain. The region itself may begin below it.
    pub(crate) base: VirtAddr,
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) grain_shift: u32,
    /// log2 of a grain's bytes.
    shift: u32,
    /// The bytes of all grains. An incomplete last one is not used.
    whole: usize,
    /// The pages of the largest area of a class that needs no further checks; 0 under Lowest.
    pub(crate) usual: usize,
    pub(crate) arena_frames: usize,
    pub(crate) units: UnitTable,
    pub(crate) shared: Mutex<L, Shared>,
    /// Empty leaf tables may be linked that `prune` had to leave.
    pub(crate) unswept: AtomicBool,
}

/// A run of grains that a call has taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunFit {
    /// The pages needed, guard included.
    pub(crate) pages: usize,
    /// The grains before them that are never mapped (G6).
    pub(crate) below: usize,
    /// Alignment, in pages.
    pub(crate) align: usize,
    /// The range of grains that may be used.
    pub(crate) within: (usize, usize),
}

impl<L: lock_api::RawMutex> Region<L> {
    pub(crate) fn new(id: usize, config: &RegionConfig, frames: usize) -> Region<L> {
        let grain_shift = config.grain_shift();
        let base = config.first_grain();
        let grains = (config.end - base) >> PAGE_SHIFT >> grain_shift;
        let arena = Arena::new(grains, base >> PAGE_SHIFT >> grain_shift);
        Region {
            id: RegionId(id as u8),
            base: VirtAddr(base),
            start: config.start,
            bytes: config.end - base,
            grain_shift,
            shift: PAGE_SHIFT + grain_shift,
            whole: grains << (PAGE_SHIFT + grain_shift),
            usual: if grain_shift == 0 { 0 } else { MAX_SLOT_PAGES.min(frames).min(grains) },
            arena_frames: arena.frames_needed(),
            units: UnitTable::new(grains),
            shared: Mutex::new(Shared { arena, headers: None, unswept: NOWHERE }),
            unswept: AtomicBool::new(false),
        }
    }

    /// The grain that contains `at`, if it is in the region.
    #[inline]
    pub(crate) fn grain_of(&self, at: VirtAddr) -> Option<usize> {
        let offset = at.0.wrapping_sub(self.base.0);
        (offset < self.whole).then_some(offset >> self.shift)
    }

    /// Whether `at` is one of its addresses, including those that no area gets.
    pub(crate) fn holds(&self, at: VirtAddr) -> bool {
        at.0.wrapping_sub(self.start) < self.base.0 - self.start + self.whole
    }

    /// The grains under the leaf table from `leaf` on: the first, and the number. `None` if the
    /// table reaches beyond the region, since others may use it too.
    pub(crate) fn under(&self, leaf: VirtAddr, leaf_shift: u32) -> Option<(usize, usize)> {
        let last = self.grain_of(VirtAddr(leaf.0 | ((1 << leaf_shift) - 1)))?;
        let first = if leaf.0 < self.base.0 { 0 } else { self.grain_of(leaf)? };
        (self.start <= leaf.0).then_some((first, last - first + 1))
    }

    /// The address of a grain.
    #[inline]
    pub(crate) fn address(&self, grain: usize) -> VirtAddr {
        self.base.add_pages(grain << self.grain_shift)
    }

    /// The address of the area in `slot`, which has a run of its own.
    pub(crate) fn start_of(&self, slot: &Slot) -> VirtAddr {
        VirtAddr(self.address(slot.run().0).0 + slot.offset())
    }

    pub(crate) fn grains(&self) -> usize {
        self.bytes >> PAGE_SHIFT >> self.grain_shift
    }

    /// Checks that `grains`, which `bytes` bytes and `guards` pages need, can be one run.
    ///
    /// # Errors
    /// [`AllocError::TooLarge`].
    pub(crate) fn check_run(&self, grains: usize, bytes: usize, guards: usize) -> Result<(), AllocError> {
        match grains {
            ..=WINDOW => Ok(()),
            _ => Err(AllocError::TooLarge { bytes, limit: (WINDOW << self.shift) - (guards << PAGE_SHIFT) }),
        }
    }

    /// All its pages, including those that no area gets.
    pub(crate) fn all_pages(&self) -> PageRange {
        PageRange::new(VirtAddr(self.start), (self.base.0 - self.start + self.bytes) >> PAGE_SHIFT)
    }

    /// The pages of its grains.
    pub(crate) fn pages(&self) -> PageRange {
        PageRange::new(self.base, self.bytes >> PAGE_SHIFT)
    }

    /// The pages of a run of grains.
    pub(crate) fn pages_of(&self, start: usize, grains: usize) -> PageRange {
        PageRange::new(self.address(start), grains << self.grain_shift)
    }

    /// The class whose slots serve `pages` pages at a multiple of `align` bytes; none under Lowest.
    pub(crate) fn class_of(&self, pages: usize, align: usize) -> Option<Class> {
        Class::of(pages, align >> PAGE_SHIFT).filter(|_| self.grain_shift != 0)
    }

    /// The grains that lie wholly inside `range`; `None` if it leaves the region.
    pub(crate) fn grains_within(&self, range: (usize, usize)) -> Option<(usize, usize)> {
        let offset = |at: usize| at.saturating_sub(self.base.0);
        let whole = (offset(range.0).div_ceil(1 << self.shift), offset(range.1) >> self.shift);
        let inside = self.start <= range.0 && range.0 < range.1 && offset(range.1) <= self.bytes;
        inside.then_some(whole)
    }

    /// Leaves the empty leaf tables of `range` to a later sweep.
    pub(crate) fn leave(&self, shared: &mut Shared, range: PageRange) {
        let (first, end) = shared.unswept;
        shared.unswept = (first.min(range.start), end.max(range.end()));
        self.unswept.store(true, Relaxed);
    }

    pub(crate) fn fit(&self, run: &RunFit) -> Fit {
        Fit {
            grains: run.pages.div_ceil(1 << self.grain_shift) + run.below,
            align: (run.align >> self.grain_shift).max(1),
            phase: (self.base.0 >> self.shift) + run.below,
            within: run.within.0..run.within.1,
        }
    }

    /// Gives all bookkeeping back, when all grains are in the arena.
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

/// The number of address bits that a leaf table translates.
pub(crate) const fn leaf_shift<M: Machine>() -> u32 {
    PAGE_SHIFT + <M::Table as Format>::INDEX_BITS
}
