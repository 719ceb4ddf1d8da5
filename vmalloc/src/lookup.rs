//! From an address to its slot: what a free and a question begin with.
//!
//! ```text
//!   address ─ region ─▶ grain ─ unit table ─▶ chunk (and slot of a run)
//!                                  chunk ─ reciprocal ─▶ slot of a class
//! ```
//!
//! O(1), interior addresses too. A finder takes no lock: it reads the chunk's
//! sequence before and after (R2), and may be told *changing*.

use crate::error::FreeError;
use crate::instance::{Core, Vmalloc};
use crate::machine::Machine;
use crate::machine::format::{Format, entries};
use crate::region::{Region, UnitEntry, leaf_shift};
use crate::space::chunk::{Chunk, ChunkRef};
use crate::space::slot::Slot;
use crate::table::{LeafTable, Piece, Walker};
use crate::units::{PAGE_SHIFT, VirtAddr};

/// A slot, and where its pages begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) chunk: ChunkRef,
    pub(crate) index: u32,
    pub(crate) start: VirtAddr,
}

impl Found {
    #[inline]
    pub(crate) fn slot(&self) -> &Slot {
        self.chunk.slot(self.index)
    }

    /// Whether it holds an area that is whole.
    #[inline]
    pub(crate) fn is_area(&self) -> bool {
        self.chunk.areas() >> self.index & 1 != 0 && !self.slot().is_building()
    }
}

impl<M: Machine> Core<M> {
    /// The region that holds `at`, and the grain.
    #[inline]
    pub(crate) fn grain_of(&self, at: VirtAddr) -> Option<(&Region<M::Lock>, u32)> {
        self.regions.iter().find_map(|region| region.grain_of(at).map(|grain| (region, grain)))
    }

    /// The slot whose room holds `at`: an area's pages, its guard, or what an
    /// area had before.
    #[inline]
    pub(crate) fn find(&self, vm: &Vmalloc<M>, at: VirtAddr) -> Option<Found> {
        let (region, grain) = self.grain_of(at)?;
        let entry = UnitEntry(region.units.get(vm.machine(), grain));
        if entry.0 == 0 {
            return None;
        }
        let header = vm.machine().virt(entry.header()).cast::<Chunk>();
        // SAFETY: H2: unit entries name headers and nothing else.
        let chunk = unsafe { ChunkRef::from_ptr(header.as_ptr()) }?;
        match entry.slot() {
            None => chunk.slot_at(at).map(|index| Found { chunk, index, start: chunk.address(index) }),
            Some(index) => Some(Found { chunk, index, start: region.address(chunk.slot(index).run().0) }),
        }
    }

    /// The area that starts at `at`, and its slot's sequence.
    ///
    /// # Errors
    /// What is there instead.
    #[inline]
    pub(crate) fn find_start(&self, vm: &Vmalloc<M>, at: VirtAddr) -> Result<(Found, u32), FreeError> {
        let found = self.find(vm, at);
        // Before the look: who claims the slot later sees whether it is still
        // the same area.
        let sequence = found.map_or(0, |found| found.slot().sequence());
        match found {
            Some(found) if found.start == at && found.is_area() => Ok((found, sequence)),
            found => Err(self.why_not(found, at)),
        }
    }

    #[cold]
    fn why_not(&self, found: Option<Found>, at: VirtAddr) -> FreeError {
        let Some(found) = found else { return FreeError::NotAnArea(at) };
        let Some(copy) = found.slot().snapshot() else { return FreeError::NotAnArea(at) };
        let inside = at.0.wrapping_sub(found.start.0) < copy.pages() << PAGE_SHIFT;
        if found.is_area() && inside {
            FreeError::NotItsStart { addr: at, start: found.start }
        } else if copy.is_freed() && found.start == at {
            self.double_free(&found)
        } else {
            FreeError::NotAnArea(at)
        }
    }

    /// The error of a free that came too late.
    #[cold]
    pub(crate) fn double_free(&self, found: &Found) -> FreeError {
        match found.slot().snapshot() {
            Some(copy) => {
                let was = copy.info(found.start, found.chunk.region());
                FreeError::DoubleFree { start: found.start, was }
            }
            None => FreeError::NotAnArea(found.start),
        }
    }

    /// Where the pages of a slot begin.
    #[inline]
    pub(crate) fn address_of(&self, chunk: ChunkRef, slot: u32) -> VirtAddr {
        match chunk.class() {
            Some(_) => chunk.address(slot),
            None => self.regions[chunk.region().0 as usize].address(chunk.slot(slot).run().0),
        }
    }

    /// The entries of `pages` pages of a slot of `chunk`, cut at the borders of
    /// leaf tables: class chunks keep theirs at hand.
    #[inline]
    pub(crate) fn pieces<'v>(&self, vm: &'v Vmalloc<M>, chunk: ChunkRef, at: VirtAddr, pages: usize) -> Pieces<'v, M> {
        // SAFETY: T1: the caller holds the slot, so its run is outside the
        // arena and its tables stay linked.
        let walker = unsafe { Walker::new(vm.machine()) };
        Pieces { walker, chunk, at, left: pages }
    }
}

/// The pieces of a slot. See [`Core::pieces`].
pub(crate) struct Pieces<'v, M: Machine> {
    walker: Walker<'v, M>,
    chunk: ChunkRef,
    at: VirtAddr,
    left: usize,
}

impl<M: Machine> Pieces<'_, M> {
    /// Runs of their own keep no leaf tables at hand.
    #[cold]
    #[inline(never)]
    fn walk(&self) -> Option<LeafTable<M::Table>> {
        self.walker.leaf_table(self.at)
    }
}

impl<M: Machine> Iterator for Pieces<'_, M> {
    type Item = Piece<M::Table>;

    #[inline]
    fn next(&mut self) -> Option<Piece<M::Table>> {
        if self.left == 0 {
            return None;
        }
        let first = (self.at.0 >> PAGE_SHIFT) & (entries::<M::Table>() - 1);
        let pages = self.left.min(entries::<M::Table>() - first);
        let table = match self.chunk.leaf(self.at, leaf_shift::<M>()) {
            0 => self.walk(),
            // SAFETY: T1: `cache_leaves` stored it when the chunk was made, and
            // it stays linked while the chunk is one.
            raw => Some(unsafe { LeafTable::from_raw(raw) }),
        };
        let piece = Piece::new(table?, self.at, pages);
        (self.at, self.left) = (self.at.add_pages(pages), self.left - pages);
        Some(piece)
    }
}

const _: () = assert!(<crate::table::X86_32 as Format>::INDEX_BITS >= crate::space::class::UNIT_SHIFT);
