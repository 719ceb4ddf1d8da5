//! Freeing a slot: live to stale, by the way that its owner and its size allow.
//!
//! ```text
//!   own CPU, one slice     live ─────────────────────────────▶ stale, in the open batch
//!   own CPU, more slices   live ─ claimed ─ entries parked ──▶ stale, in the open batch
//!   another CPU            live ─ claimed ─ entries parked ─ pushed to its owner ──▶ stale there
//! ```
//!
//! # Rules
//! - L3: Interrupts come in between two slices.

use crate::area::{Caller, Kind};
use crate::error::FreeError;
use crate::machine::Machine;
use crate::machine::event::Event;
use crate::space::chunk::ChunkRef;
use crate::state::cpu::{SLICE, WORK};
use crate::state::enter::CpuGuard;
use crate::state::lookup::{Found, SlotRef};
use crate::state::stats::{count, uncount};
use crate::sync::breaks;
use crate::units::PageRange;

/// How a slot goes from live to stale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// On the owner's CPU, in one section: no claim.
    AtOnce,
    /// On the owner's CPU, in several sections, so the slot is claimed meanwhile.
    InSlices,
    /// On another CPU: the slot is claimed, and then posted to its owner (R1).
    Remote,
}

impl<M: Machine> CpuGuard<'_, M> {
    /// live → stale. The entries are parked and keep their frames. Under Park and Keep perhaps live
    /// → cached.
    #[inline]
    pub(crate) fn release(&mut self, found: &SlotRef, pages: usize, by: Caller) -> Result<(), FreeError> {
        let caches = self.core.caches();
        if caches && let Some(done) = self.cache_slowly(found, pages, by) {
            return done;
        }
        let mapped = found.slot().mapped_pages();
        let how = self.way_of(found, mapped);
        if how == Way::AtOnce && !caches {
            // Nothing could happen to the slot since the lookup: this CPU was not left.
            self.open.add(found.chunk, 1 << found.index, mapped);
        } else if !self.claim(found, how, mapped) {
            return Err(self.core.double_free(found));
        }
        self.open.bare += if how == Way::Remote { 0 } else { pages - mapped };
        self.note_free(how, found, pages, by);
        found.slot().freed_by(by);
        self.unmap(found, how, PageRange::new(found.start, mapped));
        Ok(())
    }

    /// The way in which this CPU frees a slot of which `mapped` pages have entries.
    #[inline]
    pub(crate) fn way_of(&self, found: &Found, mapped: usize) -> Way {
        match found.chunk.owner() == self.index {
            true if mapped <= SLICE => Way::AtOnce,
            true => Way::InSlices,
            false => Way::Remote,
        }
    }

    /// Claims the slot for this call, or makes it stale, if it is still the area that was looked
    /// up. Returns false if another caller was first.
    #[inline]
    pub(crate) fn claim(&mut self, found: &SlotRef, how: Way, pages: usize) -> bool {
        if how == Way::AtOnce { found.retire(&mut self.open, pages) } else { found.claim() }
    }

    #[inline(always)]
    pub(crate) fn count_alloc(&self, pages: usize) {
        count(&self.cpu.counters.allocs, 1);
        count(&self.cpu.counters.alloc_pages, pages as u64);
    }

    /// Takes back [`CpuGuard::count_alloc`]: the allocation failed.
    pub(crate) fn uncount_alloc(&self, pages: usize) {
        uncount(&self.cpu.counters.allocs, 1);
        uncount(&self.cpu.counters.alloc_pages, pages as u64);
    }

    /// Counts a free that has claimed its area, and tells the machine.
    #[inline(always)]
    pub(crate) fn note_free(&self, how: Way, found: &Found, pages: usize, freer: Caller) {
        let _ = self.machine.note(Event::Claim { start: found.start, pages, freer });
        let counters = &self.cpu.counters;
        count(if how == Way::Remote { &counters.remote_frees } else { &counters.local_frees }, 1);
        count(&counters.free_pages, pages as u64);
    }

    /// Parks or clears the entries of a claimed slot, and hands the slot to its owner.
    #[inline]
    pub(crate) fn unmap(&mut self, found: &Found, how: Way, mapped: PageRange) {
        if how != Way::AtOnce && mapped.pages > WORK {
            return self.unmap_in_slices(found, mapped);
        }
        self.unmap_slice(found, mapped);
        if how == Way::Remote {
            // They are few enough to reclaim as many in the same section (L3).
            self.reclaim(mapped.pages);
            self.hand_over(found);
        } else if self.open.is_due() {
            self.reclaim_step_after(mapped.pages);
        }
    }

    #[inline(never)]
    fn unmap_in_slices(&mut self, found: &Found, mapped: PageRange) {
        for slice in mapped.slices(SLICE) {
            self.unmap_slice(found, slice);
            self.preempt_point();
            self.reclaim(SLICE);
            // `hand_over` reclaims too (L3).
            self.preempt_point();
        }
        self.hand_over(found);
    }

    /// Parks the entries of a slice, or clears those that hold no frames.
    pub(crate) fn unmap_slice(&mut self, found: &Found, slice: PageRange) {
        let (ctx, place) = (self.ctx(), (found.chunk, found.index));
        match found.slot().kind() {
            Kind::MapRam => {
                ctx.each_piece(found.place(), slice, |piece| {
                    piece.clear(move |at, word| ctx.report_bad_entry_once(place, at, word));
                    ctx.machine.unmapped(PageRange::new(piece.start(), piece.pages()));
                });
                self.note_alias();
            }
            Kind::Reserved => _ = self.clear_mapped(found, slice, |_, _| ()),
            Kind::Sparse => _ = self.park_mapped(found, slice),
            _ => self.park_entries(place, slice),
        }
    }

    /// Mapped → parked, page by page.
    #[inline]
    pub(crate) fn park_entries(&self, (chunk, index): (ChunkRef, u32), slice: PageRange) {
        if slice.pages == 0 {
            return;
        }
        let ctx = self.ctx();
        ctx.each_piece((chunk, Some(index)), slice, |piece| {
            piece.park(move |at, word| ctx.report_bad_entry_once((chunk, index), at, word));
        });
        ctx.machine.unmapped(slice);
    }

    /// Hands a claimed slot, whose entries are parked or cleared, to its owner (R1).
    pub(crate) fn hand_over(&mut self, found: &Found) {
        let chunk = found.chunk;
        if breaks!(DropClaim) {
            chunk.unclaim(1 << found.index);
        }
        if chunk.owner() == self.index {
            chunk.receive(1 << found.index, |live| {
                self.receive(chunk, live);
                0
            });
            self.reclaim_after();
        } else {
            // Counted here and not before: this call may have begun on the owner's CPU, or on another.
            count(&self.cpu.counters.remote_pages, found.slot().mapped_pages() as u64);
            self.core.cpu(chunk.owner()).remote_frees.post(chunk, found.index);
        }
    }
}
