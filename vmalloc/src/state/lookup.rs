//! Lookup: from an address to its slot.
//!
//! ```text
//!   address ─ region ─▶ grain ─ unit table ─▶ chunk (and slot of a run)
//!                                  chunk ─ reciprocal ─▶ slot of a class
//! ```
//!
//! O(1), for interior addresses too. A finder takes no lock. It reads the chunk's sequence before
//! and after (R2), and may find that the slot is changing.
//!
//! After a lookup another CPU may give the chunk up, and its header may become another chunk. So a
//! lookup returns a [`SlotRef`], which carries the sequences that were read before anything else. A
//! caller that claims the slot checks [`SlotRef::is_same`] *after* the claim. A caller that follows
//! a pointer of the chunk checks it after it has read the pointer and before it follows it. A call
//! inside the owner's CPU needs neither, because only the owner gives chunks up.

use crate::area::{Info, Kind};
use crate::error::FreeError;
use crate::machine::Machine;
use crate::space::chunk::ChunkRef;
use crate::space::slot::{Slot, Snapshot};
use crate::state::batch::Batch;
use crate::state::config::MAX_REGIONS;
use crate::state::core::{Core, Ctx};
use crate::state::enter::CpuGuard;
use crate::state::region::{Region, UnitEntry};
use crate::sync::{Ordering::Acquire, breaks, fence};
use crate::units::{PAGE_SHIFT, VirtAddr};
use core::ops::Deref;
use core::ptr::NonNull;

/// A slot, and the address of its first page.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub(crate) chunk: ChunkRef,
    pub(crate) index: u32,
    pub(crate) start: VirtAddr,
}

/// A slot, and its state when it was looked up (R2).
#[derive(Clone, Copy, Debug)]
pub struct SlotRef {
    found: Found,
    /// The chunk's sequence, which was read first.
    life: u32,
    /// The slot's sequence.
    sequence: u32,
}

impl Deref for SlotRef {
    type Target = Found;

    fn deref(&self) -> &Found {
        &self.found
    }
}

impl SlotRef {
    /// The slot of `region` that contains `at`, from the unit-table entry of its grain.
    pub(crate) fn at<L: lock_api::RawMutex>(region: &Region<L>, entry: UnitEntry, at: VirtAddr) -> Option<SlotRef> {
        let chunk = entry.chunk()?;
        match entry.slot() {
            None => SlotRef::in_class(chunk, at),
            Some(slot) => {
                let index = || chunk.is_runs().then_some(slot);
                SlotRef::look(chunk, at, index, |slot| region.start_of(chunk.slot(slot)))
            }
        }
    }

    /// The slot that contains `at`, of a chunk that was a class chunk when it was found.
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

    /// A slot of a class chunk that had the sequence `life`.
    pub fn in_chunk(chunk: ChunkRef, life: u32, index: u32) -> SlotRef {
        let sequence = chunk.slot(index).sequence();
        SlotRef { found: Found { chunk, index, start: chunk.address(index) }, life, sequence }
    }

    /// A slot that belongs to the caller and cannot change meanwhile.
    pub(crate) fn of(found: Found) -> SlotRef {
        SlotRef { found, life: found.chunk.sequence(), sequence: found.slot().sequence() }
    }

    /// Whether chunk and slot are unchanged since the lookup.
    #[inline]
    pub fn is_same(&self) -> bool {
        // All earlier reads of chunk and slot come before this.
        fence(Acquire);
        let chunk = breaks!(ChunkReborn) || self.chunk.sequence() == self.life;
        chunk && self.slot().sequence() == self.sequence
    }

    /// Whether it is a complete area that starts at `at`.
    #[inline]
    pub fn is_area_at(&self, at: VirtAddr) -> bool {
        self.start == at && self.is_area()
    }

    /// Whether it is still the area that was looked up, live and not claimed.
    #[inline]
    pub fn lives(&self) -> bool {
        self.chunk.areas() >> self.index & 1 != 0 && self.is_same()
    }

    /// Called by the owner: live → stale, in `open`, if it is still the area that was looked up.
    /// Returns false if another caller was first.
    #[inline]
    pub fn retire(&self, open: &mut Batch, pages: usize) -> bool {
        let lives = self.lives();
        if lives {
            open.add(self.chunk, 1 << self.index, pages);
        }
        lives
    }

    /// Calls `look` to read from the area. `None` if `look` returns it, or if the area is not live
    /// and unchanged when `look` is over (U1).
    pub fn seen<R>(&self, look: impl FnOnce() -> Option<R>) -> Option<R> {
        let seen = look()?;
        (self.is_area() && self.is_same()).then_some(seen)
    }

    /// A copy of what the slot records, if chunk and slot are unchanged since the lookup (R2).
    pub(crate) fn record(&self) -> Option<(Snapshot, Info)> {
        let copy = self.slot().snapshot()?;
        let info = copy.info(self.start, self.chunk.region());
        (copy.sequence == self.sequence && self.is_same()).then_some((copy, info))
    }

    /// The area in the slot, if there is one and it is unchanged since the lookup (R2).
    pub fn area(&self) -> Option<Info> {
        let (_, info) = self.record()?;
        // The order matters: after the last check another area may be there.
        (self.is_area() && self.is_same()).then_some(info)
    }

    /// Hands out a frame of the area: `hold` makes the caller one of its holders. `look` comes
    /// last; it returns whether the frame is still the area's (R5).
    pub fn hand_out(&self, hold: impl FnOnce(), look: impl FnOnce() -> bool) -> bool {
        self.slot().share();
        hold();
        look()
    }

    /// Claims the slot for freeing, if it is still the area that was looked up. Returns false if
    /// another caller was first (R1).
    #[inline]
    pub fn claim(&self) -> bool {
        // A claim on another area would make that area's own free fail.
        if !self.is_same() || !self.chunk.claim(self.index) {
            return false;
        }
        // Checked once: a slot that is claimed and unchanged stays so until it is unclaimed.
        let same = self.is_same();
        if !same && !breaks!(LateClaimKept) {
            self.chunk.unclaim(1 << self.index);
        }
        if breaks!(ClaimDecidedTwice) { self.is_same() } else { same }
    }
}

/// The pointer that a caller gets for an area.
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

    /// The pages of the area, if `frees` accepts its kind and `count`, if given, is their number.
    ///
    /// # Errors
    /// The kind or the size that the area has instead.
    #[inline]
    pub(crate) fn freeable(&self, frees: fn(Kind) -> bool, count: Option<usize>) -> Result<usize, FreeError> {
        let (kind, pages) = (self.slot().kind(), self.slot().pages());
        match count {
            _ if !frees(kind) => Err(FreeError::WrongKind(kind)),
            Some(given) if given != pages => Err(FreeError::WrongSize { pages, given }),
            _ => Ok(pages),
        }
    }

    /// Makes a complete area visible to finders.
    #[inline(always)]
    pub(crate) fn publish(&self) -> NonNull<u8> {
        self.slot().publish();
        pointer(self.start)
    }

    /// Whether it holds a complete area.
    #[inline]
    pub(crate) fn is_area(&self) -> bool {
        self.chunk.areas() >> self.index & 1 != 0 && !self.slot().is_building()
    }
}

impl<M: Machine> Core<M> {
    /// The region that holds `at`, and the grain.
    #[inline]
    pub(crate) fn grain_of(&self, at: VirtAddr) -> Option<(&Region<M::Lock>, usize)> {
        for region in &self.regions {
            if let Some(grain) = region.grain_of(at) {
                return Some((region, grain));
            }
        }
        None
    }

    #[cold]
    fn why_not(&self, found: Option<SlotRef>, at: VirtAddr) -> FreeError {
        let copied = found.and_then(|found| Some((found, found.slot().snapshot()?)));
        match copied {
            Some((found, copy)) if found.is_area() => match at.0.wrapping_sub(found.start.0) < copy.pages << PAGE_SHIFT
            {
                true => FreeError::NotItsStart { addr: at, start: found.start },
                false => FreeError::NotAnArea(at),
            },
            Some((found, copy)) if copy.is_freed() && found.start == at => self.double_free(&found),
            _ => match self.last_frees().find(at) {
                Some(was) if was.start == at => FreeError::DoubleFree { start: at, was },
                _ => FreeError::NotAnArea(at),
            },
        }
    }

    /// The error for a free of an area that was freed before.
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

    /// The address of the first page of a slot.
    #[inline]
    pub(crate) fn address_of(&self, chunk: ChunkRef, slot: u32) -> VirtAddr {
        if chunk.is_runs() { self.address_of_run(chunk, slot) } else { chunk.address(slot) }
    }

    /// The pages that an area in the slot could have: a class has a guard (K1), a run as it was asked.
    pub(crate) fn room(&self, found: &Found, guard: usize) -> usize {
        let (start, grains) = found.slot().run();
        let run = || self.regions[found.chunk.region().0 as usize].pages_of(start, grains).pages - guard;
        found.chunk.class().map_or_else(run, |class| class.stride() - 1)
    }

    #[cold]
    #[inline(never)]
    fn address_of_run(&self, chunk: ChunkRef, slot: u32) -> VirtAddr {
        self.regions[chunk.region().0 as usize].start_of(chunk.slot(slot))
    }
}

impl<M: Machine> Ctx<'_, M> {
    /// The slot that contains `at`: in an area's pages, in its guard, or in what an earlier area
    /// had.
    #[inline]
    pub(crate) fn find(self, at: VirtAddr) -> Option<SlotRef> {
        let (region, grain) = self.core.grain_of(at)?;
        SlotRef::at(region, UnitEntry(region.units.get(self.machine, grain)), at)
    }

    /// The area that starts at `at`.
    ///
    /// # Errors
    /// The error names what is there instead.
    #[inline]
    pub(crate) fn find_start(self, at: VirtAddr) -> Result<SlotRef, FreeError> {
        match self.find(at) {
            Some(slot) if slot.is_area_at(at) => Ok(slot),
            slot => Err(self.core.why_not(slot, at)),
        }
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// The live area of a class that starts at `at`, if this CPU owns it, and the number of pages
    /// of the chunk before it. No other CPU can give its chunk up.
    #[inline(always)]
    pub(crate) fn own_area(&mut self, at: VirtAddr) -> Option<(Found, usize)> {
        let (machine, (region, unit)) = (self.machine, self.core.grain_of(at)?);
        let near = &mut self.near[region.id.0 as usize % MAX_REGIONS];
        let chunk = UnitEntry(region.units.get_near(machine, near, unit)).chunk_of_class()?;
        let (index, page) = chunk.area_at(at)?;
        (chunk.owner() == self.index).then_some((Found { chunk, index, start: at }, page))
    }
}
