//! The straight path under Park and Keep: a hit is one section.
//!
//! As in [`straight`](crate::straight), all is made sure of before anything is
//! changed; the steps and the rules (W1–W3, R5) are those of the long way. What
//! has to be looked at page by page, or parked in several slices, goes that way.

use super::Retire;
use crate::area::{Caller, Kind, Req};
use crate::cpu::{CpuGuard, SLICE};
use crate::gfp::Gfp;
use crate::instance::{Core, Vmalloc};
use crate::lookup::{Found, at_hand};
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::plan::Plan;
use crate::space::chunk::ChunkRef;
use crate::space::class::MAX_SLOT_PAGES;
use crate::space::slot::Slot;
use crate::stats::count;
use crate::straight::straight_plan;
use crate::table::PteRange;
use crate::units::{PageRange, VirtAddr};
use crate::vmalloc::{AreaBuilder, Way};
use core::ptr::NonNull;

impl<M: Machine> Vmalloc<M> {
    /// Makes an area of a cached slot, if that is a straight matter; `None`, and
    /// nothing has changed, where it is not, or nothing is cached.
    #[inline(always)]
    pub(crate) fn make_cached(&self, core: &Core<M>, req: &Req, kind: Kind, caller: Caller) -> Option<NonNull<u8>> {
        match core.retire() {
            Retire::Clear => None,
            Retire::Park => self.make_of_newest::<false>(core, req, kind, caller),
            Retire::Keep => self.make_of_newest::<true>(core, req, kind, caller),
        }
    }

    /// Makes an area of the newest slot, if that has the right size, and its
    /// entries are of the usual form: kept, or parked in one slice. Of others
    /// otherwise.
    #[inline(never)]
    fn make_of_newest<const KEPT: bool>(
        &self,
        core: &Core<M>,
        req: &Req,
        kind: Kind,
        caller: Caller,
    ) -> Option<NonNull<u8>> {
        let plan = straight_plan(req, kind, caller, MAX_SLOT_PAGES)?;
        let mut here = CpuGuard::enter(self, core).ok()?;
        let (class, now) = (plan.class?, here.cached.clock);
        if !here.is_usual(&plan) {
            return None;
        }
        let slot_cache = &mut here.cpu_chunks(req.region).slot_cache;
        let (chunk, index) = slot_cache.newest(class)?;
        let slot = chunk.slot(index);
        let fits = CpuGuard::<M>::fits(slot, &plan) && slot.is_kept() == KEPT;
        let parked = if KEPT { None } else { piece::<M>(chunk, chunk.address(index), plan.pages) };
        if !fits || parked.is_some() == KEPT {
            return here.make_of_other(req, kind, caller);
        }
        slot_cache.take_newest(class, slot, now);
        let found = here.begin_again((chunk, index), &plan);
        if let Some(piece) = parked {
            self.unpark(found.slot(), piece);
        }
        drop(here);
        if found.slot().is_reported() {
            return self.undone(core, found, plan.pages);
        }
        if req.gfp.contains(Gfp::ZERO) {
            return Some(self.cleared(core, found, plan.pages));
        }
        Some(found.publish())
    }

    /// Frees an area that stays cached, if that is a straight matter; false, and
    /// nothing has changed, where it is not; `None` where nothing stays.
    #[inline(always)]
    pub(crate) fn free_area_cached(&self, core: &Core<M>, at: VirtAddr, by: Caller) -> Option<bool> {
        match core.retire() {
            Retire::Clear => None,
            Retire::Park => Some(self.keep::<false>(core, at, by)),
            Retire::Keep => Some(self.keep::<true>(core, at, by)),
        }
    }

    /// live → cached, in one section: kept, or parked.
    #[inline(never)]
    fn keep<const KEPT: bool>(&self, core: &Core<M>, at: VirtAddr, by: Caller) -> bool {
        let Ok(mut here) = CpuGuard::enter(self, core) else { return false };
        let Some(found) = here.find(at) else { return false };
        let Some(pages) = found.slot().plain_pages() else { return false };
        let whole = found.start == at && found.chunk.areas() >> found.index & 1 != 0;
        let ours = found.chunk.owner() == here.index && !found.chunk.is_runs();
        // From inside: after another policy was set nothing more stays.
        let stays = core.retire() == if KEPT { Retire::Keep } else { Retire::Park };
        let parked = if KEPT { None } else { piece::<M>(found.chunk, found.start, pages) };
        if !(whole && ours && stays && pages <= core.budget) || parked.is_some() == KEPT {
            return false;
        }
        here.keep_straight(&found, parked, pages, by);
        true
    }

    /// An area with the entries that it has to have is cleared, and whole.
    #[inline(never)]
    fn cleared(&self, core: &Core<M>, found: Found, pages: usize) -> NonNull<u8> {
        let hole = AreaBuilder { vm: self, core, found, pages, bound: pages };
        hole.zero();
        hole.publish()
    }

    /// An entry was not what it had to be (T2): no area can be made of the slot.
    #[cold]
    fn undone(&self, core: &Core<M>, found: Found, pages: usize) -> Option<NonNull<u8>> {
        drop(AreaBuilder { vm: self, core, found, pages, bound: pages });
        None
    }

    /// Parked → bound.
    #[inline(never)]
    fn unpark(&self, slot: &Slot, piece: PteRange<M::Table>) {
        piece.restore(&mut |at, word| self.report_bad_entry(slot, at, word));
        self.machine().sync(PageRange::new(piece.start(), piece.pages()));
    }

    /// Bound → parked.
    #[inline(never)]
    fn park(&self, place: (ChunkRef, u32), piece: PteRange<M::Table>) {
        piece.park(&mut |at, word| self.report_bad_entry_once(place, at, word));
        self.machine().unmapped(PageRange::new(piece.start(), piece.pages()));
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Makes an area of a slot that is not the newest, or not of the usual form.
    #[inline(never)]
    fn make_of_other(mut self, req: &Req, kind: Kind, caller: Caller) -> Option<NonNull<u8>> {
        let plan = straight_plan(req, kind, caller, MAX_SLOT_PAGES)?;
        let (chunk, index) = self.take_from_rack(&plan)?;
        let kept = chunk.slot(index).is_kept();
        let found = self.begin_again((chunk, index), &plan);
        if !kept {
            self.unpark(&found, plan.pages);
        }
        let hole = AreaBuilder { vm: self.vm, core: self.core, found, pages: plan.pages, bound: plan.pages };
        drop(self);
        (!found.slot().is_reported()).then(|| hole.whole(&plan))
    }

    /// No slot was cached: the area is made as under Unmap.
    #[inline(never)]
    pub(crate) fn missed(&mut self, plan: &Plan<'_>, slot: &Slot) {
        if self.is_usual(plan) {
            count(&self.cpu.counters.warm_misses, 1);
            if self.vm.machine().frames().nodes() == 1 {
                slot.mark_plain();
            }
        }
    }

    /// live → cached, in one section, of which leaving is the end.
    #[inline(always)]
    fn keep_straight(mut self, found: &Found, parked: Option<PteRange<M::Table>>, pages: usize, by: Caller) {
        let (vm, slot) = (self.vm, found.slot());
        self.count_free(Way::AtOnce, pages);
        let kept = parked.is_none();
        let park = || {
            slot.freed_plain_by(by, kept);
            if let Some(piece) = parked {
                vm.park((found.chunk, found.index), piece);
            }
        };
        if !found.chunk.cache_alone(found.index, park, |slot| self.is_handed_out(slot)) {
            return self.let_go_last(found, pages, kept);
        }
        self.slot_cache(found.chunk, found.index, pages);
        if self.cpu.bound.pages() > self.core.budget {
            self.trim_last();
        }
    }

    #[cold]
    #[inline(never)]
    fn let_go_last(mut self, found: &Found, pages: usize, kept: bool) {
        self.let_go(found.chunk, found.index, pages, kept)
    }

    #[inline(never)]
    fn trim_last(mut self) {
        self.trim_now()
    }
}

/// The entries of a slot at `start`, if they are one slice and at hand.
#[inline(always)]
fn piece<M: Machine>(chunk: ChunkRef, start: VirtAddr, pages: usize) -> Option<PteRange<M::Table>> {
    if pages > SLICE {
        return None;
    }
    at_hand::<M>(chunk, PageRange::new(start, pages))
}
