//! From an address to its slot: what a free and a question begin with.
//!
//! ```text
//!   address ─ region ─▶ grain ─ unit table ─▶ chunk (and slot of a run)
//!                                  chunk ─ reciprocal ─▶ slot of a class
//! ```
//!
//! O(1), interior addresses too. A finder takes no lock: it reads the chunk's
//! sequence before and after (R2), and may be told *changing*.
//!
//! Between the look and what comes of it another CPU may give the chunk up, and its
//! header may become another chunk. So a look is a [`SlotRef`], which carries what the
//! sequences were before anything else was read: whoever claims the slot, or follows a
//! pointer that the chunk has, asks [`SlotRef::is_same`] *after* the claim, or after
//! the pointer was read and before it is followed. A call that is inside the owner's
//! CPU needs neither, since the owner alone gives chunks up.

use crate::area::{Info, Kind};
use crate::error::FreeError;
use crate::machine::Machine;
use crate::space::chunk::ChunkRef;
use crate::space::slot::Slot;
use crate::state::batch::Batch;
use crate::state::config::MAX_REGIONS;
use crate::state::core::{Core, Ctx};
use crate::state::enter::CpuGuard;
use crate::state::region::{Region, UnitEntry};
use crate::sync::{Ordering::Acquire, breaks, fence};
use crate::units::{PAGE_SHIFT, VirtAddr};
use core::ops::Deref;
use core::ptr::NonNull;

/// A slot, and where its pages begin.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub(crate) chunk: ChunkRef,
    pub(crate) index: u32,
    pub(crate) start: VirtAddr,
}

/// A slot, and what it was when it was looked up (R2).
#[derive(Clone, Copy, Debug)]
pub struct SlotRef {
    found: Found,
    /// The chunk's sequence, read before anything else of it.
    life: u32,
    /// The slot's.
    sequence: u32,
}

impl Deref for SlotRef {
    type Target = Found;

    fn deref(&self) -> &Found {
        &self.found
    }
}

impl SlotRef {
    /// The slot of `region` for `at`, by the entry of its grain.
    pub(crate) fn at<L: lock_api::RawMutex>(region: &Region<L>, entry: UnitEntry, at: VirtAddr) -> Option<SlotRef> {
        let chunk = entry.chunk()?;
        match entry.slot() {
            None => SlotRef::in_class(chunk, at),
            Some(slot) => {
                let index = || chunk.is_runs().then_some(slot);
                SlotRef::look(chunk, at, index, |slot| region.address(chunk.slot(slot).run().0))
            }
        }
    }

    /// The slot for `at` of a chunk that was a class chunk when it was found.
    pub fn in_class(chunk: ChunkRef, at: VirtAddr) -> Option<SlotRef> {
        SlotRef::look(chunk, at, || chunk.slot_at(at), |slot| chunk.address(slot))
    }

    #[inline(always)]
    fn look(
        chunk: ChunkRef,
        at: VirtAddr,
        index: impl FnOnce() -> Option<u32>,
        start: impl FnOnce(u32) -> VirtAddr,
    ) -> Option<SlotRef> {
        let life = chunk.sequence();
        let index = index()?;
        let sequence = chunk.slot(index).sequence();
        let start = start(index);
        let sequence = if breaks!(ChunkReborn) { chunk.slot(index).sequence() } else { sequence };
        let found = Found { chunk, index, start };
        (start <= at).then_some(SlotRef { found, life, sequence })
    }

    /// A slot of a class chunk whose sequence was `life`.
    pub fn in_chunk(chunk: ChunkRef, life: u32, index: u32) -> SlotRef {
        let sequence = chunk.slot(index).sequence();
        SlotRef { found: Found { chunk, index, start: chunk.address(index) }, life, sequence }
    }

    /// A slot that is the caller's, and stays so.
    pub(crate) fn of(found: Found) -> SlotRef {
        SlotRef { found, life: found.chunk.sequence(), sequence: found.slot().sequence() }
    }

    /// The slot's sequence, then.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Whether chunk and slot are still what they were.
    #[inline]
    pub fn is_same(&self) -> bool {
        // What was read of them before was read before this.
        fence(Acquire);
        let chunk = breaks!(ChunkReborn) || self.chunk.sequence() == self.life;
        chunk && self.slot().sequence() == self.sequence
    }
}

impl SlotRef {
    /// Whether it is the area that starts at `at`: one that is whole.
    #[inline]
    pub fn is_area_at(&self, at: VirtAddr) -> bool {
        self.start == at && self.is_area()
    }

    /// Whether it is still the area that was looked up, and nobody frees it.
    #[inline]
    pub fn lives(&self) -> bool {
        self.chunk.areas() >> self.index & 1 != 0 && self.is_same()
    }

    /// Owner: live → stale, in `open`, if it still is the area that was looked up;
    /// false = somebody was first.
    #[inline]
    pub fn retire(&self, open: &mut Batch, pages: usize) -> bool {
        let lives = self.lives();
        if lives {
            open.add(self.chunk, 1 << self.index, pages);
        }
        lives
    }

    /// Looks at what the area has, by `look`; `None` if it is not, or does not live any
    /// more when the look is over (U1).
    pub fn seen<R>(&self, look: impl FnOnce() -> Option<R>) -> Option<R> {
        let seen = look()?;
        (self.is_area() && self.is_same()).then_some(seen)
    }

    /// The area that is there, if it is one and still what it was when it was looked up
    /// (R2).
    pub fn area(&self) -> Option<Info> {
        let copy = self.slot().snapshot()?;
        let info = copy.info(self.start, self.chunk.region());
        // Whether it lives is asked before the last look: afterwards another one may.
        (self.is_area() && copy.sequence() == self.sequence && self.is_same()).then_some(info)
    }

    /// A frame of the area is handed out: `hold` makes the caller one of its holders.
    /// False = `look`, which comes last, says that it is not the area's (R5).
    pub fn hand_out(&self, hold: impl FnOnce(), look: impl FnOnce() -> bool) -> bool {
        self.slot().share();
        hold();
        look()
    }

    /// Claims the slot for freeing, if it is still the area that was looked up;
    /// false = somebody was first (R1).
    #[inline]
    pub fn claim(&self) -> bool {
        // A claim on what is another area by now would make its own free be refused.
        if !self.is_same() || !self.chunk.claim(self.index) {
            return false;
        }
        // Decided once: what is claimed and the same stays so until it is unclaimed.
        let same = self.is_same();
        if !same && !breaks!(LateClaimKept) {
            self.chunk.unclaim(1 << self.index);
        }
        if breaks!(ClaimDecidedTwice) { self.is_same() } else { same }
    }
}

/// An area's address, as it is handed out.
#[inline(always)]
pub(crate) fn pointer(at: VirtAddr) -> NonNull<u8> {
    debug_assert!(at.0 != 0);
    // SAFETY: no region holds address 0 (`Config::validate`).
    unsafe { NonNull::new_unchecked(core::ptr::with_exposed_provenance_mut(at.0)) }
}

impl Found {
    /// A slot of `chunk`, which the caller has claimed.
    pub(crate) fn of<M: Machine>(core: &Core<M>, chunk: ChunkRef, index: u32) -> Found {
        Found { chunk, index, start: core.address_of(chunk, index) }
    }

    #[inline]
    pub(crate) fn slot(&self) -> &Slot {
        self.chunk.slot(self.index)
    }

    /// Kind and pages of the area, if `frees` accepts the kind, and it has `count`
    /// pages where the caller names them.
    ///
    /// # Errors
    /// What it has instead.
    #[inline]
    pub(crate) fn freeable(&self, frees: fn(Kind) -> bool, count: Option<usize>) -> Result<(Kind, usize), FreeError> {
        let (kind, pages) = (self.slot().kind(), self.slot().pages());
        match count {
            _ if !frees(kind) => Err(FreeError::WrongKind(kind)),
            Some(given) if given != pages => Err(FreeError::WrongSize { pages, given }),
            _ => Ok((kind, pages)),
        }
    }

    /// The area is whole: finders see it.
    #[inline(always)]
    pub(crate) fn publish(&self) -> NonNull<u8> {
        self.slot().publish();
        pointer(self.start)
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
        for region in &self.regions {
            if let Some(grain) = region.grain_of(at) {
                return Some((region, grain));
            }
        }
        None
    }

    #[cold]
    fn why_not(&self, found: Option<SlotRef>, at: VirtAddr) -> FreeError {
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
        if chunk.is_runs() { self.address_of_run(chunk, slot) } else { chunk.address(slot) }
    }

    #[cold]
    #[inline(never)]
    fn address_of_run(&self, chunk: ChunkRef, slot: u32) -> VirtAddr {
        self.regions[chunk.region().0 as usize].address(chunk.slot(slot).run().0)
    }
}

impl<M: Machine> Ctx<'_, M> {
    /// The slot whose room holds `at`: an area's pages, its guard, or what an
    /// area had before.
    #[inline]
    pub(crate) fn find(self, at: VirtAddr) -> Option<SlotRef> {
        let (region, grain) = self.core.grain_of(at)?;
        SlotRef::at(region, UnitEntry(region.units.get(self.machine, grain)), at)
    }

    /// The area that starts at `at`.
    ///
    /// # Errors
    /// What is there instead.
    #[inline]
    pub(crate) fn find_start(self, at: VirtAddr) -> Result<SlotRef, FreeError> {
        match self.find(at) {
            Some(slot) if slot.is_area_at(at) => Ok(slot),
            slot => Err(self.core.why_not(slot, at)),
        }
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// The live area of a class that starts at `at`, if this CPU owns it: nobody else gives
    /// its chunk up. And how many pages of the chunk come before it.
    #[inline(always)]
    pub(crate) fn own_area(&mut self, at: VirtAddr) -> Option<(Found, usize)> {
        let (machine, (region, unit)) = (self.machine, self.core.grain_of(at)?);
        let near = &mut self.near[region.id.0 as usize % MAX_REGIONS];
        let chunk = UnitEntry(region.units.get_near(machine, near, unit)).chunk_of_class()?;
        let (index, page) = chunk.area_at(at)?;
        (chunk.owner() == self.index).then_some((Found { chunk, index, start: at }, page))
    }
}
