//! One allocation, one free: the story.
//!
//! ```text
//! alloc(request)                                  free(addr)
//!   plan: pages, class or run, frames, label        found: region → unit → chunk → slot, checked
//!   slot: taken, building        AreaBuilder: undone       claim: live → stale, or claimed (another CPU)
//!   frames, slice by slice: reserve, bind           entries: retired, the frames wait in them
//!   ── nothing below can fail ──                    purge, at grace (`reclaim`)
//!   publish                                         entries collected, slot clean
//! ```
//!
//! # Rules
//! - **E1** What can fail comes before what cannot. A refusal is an error with
//!   its numbers; a slot that was begun is undone through the same door that a
//!   freed one takes, so that even half of an area is flushed before reuse.
//! - **G2** A live page is never reached through a stale translation: its entry
//!   was last changed by a first bind from clean, or was parked and is as it was.
//! - **G6** The page after a live area has had no translation since grace: a
//!   slot has one page more than its area, and nothing ever binds it. Nor has the
//!   page below a stack: it is the stack's own, wherever that lies
//!   ([`region`](crate::region)).
//!
//! What stays bound under Park and Keep is a story of its own:
//! [`cached`](crate::cached). Shortages are relieved in [`pressure`](crate::pressure), never here.

use crate::area::{Backing, Caller, Kind, Policy, Req};
use crate::cpu::{CpuGuard, SLICE};
use crate::error::{AllocError, FreeError, Shortage};
use crate::frames::release;
use crate::gfp::Gfp;
use crate::instance::{Core, Vmalloc};
use crate::lookup::{Found, PteRanges, SlotRef};
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::plan::Plan;
use crate::pressure::Tries;
use crate::space::chunk::ChunkRef;
use crate::stats::{count, uncount};
use crate::sync::breaks;
use crate::table::PteRange;
use crate::units::{PageRange, VirtAddr};
use core::ptr::NonNull;

/// A slot that a call has begun to fill. Dropping it undoes what was done.
pub(crate) struct AreaBuilder<'v, M: Machine> {
    pub(crate) vm: &'v Vmalloc<M>,
    pub(crate) core: &'v Core<M>,
    pub(crate) found: Found,
    pub(crate) pages: usize,
    /// Of which have been bound.
    pub(crate) bound: usize,
}

impl<M: Machine> Vmalloc<M> {
    /// Allocates an area (`vmalloc` and its family): `req` says how large, of
    /// which frames, and where. The bytes are uninitialised unless asked for
    /// with [`Gfp::ZERO`].
    ///
    /// # Errors
    /// See [`AllocError`]; nothing has changed then.
    ///
    /// # Cost
    /// O(pages) with a small constant; no lock and no shared cache line, but
    /// for one call in some hundred. Source: `__vmalloc_node_range`.
    #[track_caller]
    #[inline]
    pub fn alloc(&self, req: Req) -> Result<NonNull<u8>, AllocError> {
        self.make(&req, req.kind, Caller::here(), Backing::Fresh)
    }

    /// Frees what [`Vmalloc::alloc`], [`Vmalloc::reserve`] or
    /// [`Vmalloc::vmap_owned`] returned (`vfree`). From any CPU and any context;
    /// never waits, unless the policy is Strict and the caller a task. An NMI in
    /// the middle of another call leaves the work to the CPU that made the area.
    ///
    /// # Errors
    /// See [`FreeError`]; nothing has changed then.
    ///
    /// # Safety
    /// - V1. Nobody uses the area any more.
    ///
    /// # Cost
    /// O(pages). Source: `vfree`.
    #[track_caller]
    #[inline]
    pub unsafe fn free(&self, at: NonNull<u8>) -> Result<(), FreeError> {
        let frees = |kind| matches!(kind, Kind::Vmalloc | Kind::Stack | Kind::VmapOwned | Kind::Reserved);
        self.free_area(VirtAddr(at.addr().get()), Caller::here(), frees, None)
    }

    /// Makes an area of any kind.
    #[inline(always)]
    pub(crate) fn make(
        &self,
        req: &Req,
        kind: Kind,
        caller: Caller,
        backing: Backing<'_>,
    ) -> Result<NonNull<u8>, AllocError> {
        let Some(core) = self.core() else { return Err(AllocError::NotInitialised) };
        let made = match self.make_straight(core, req, kind, caller, &backing) {
            Some(made) => made,
            None => self.make_long(core, req, kind, caller, &backing),
        };
        if let Err(error) = &made {
            self.refused(core, req, error);
        }
        made
    }

    /// Makes an area the long way.
    #[inline(never)]
    pub(crate) fn make_long(
        &self,
        core: &Core<M>,
        req: &Req,
        kind: Kind,
        caller: Caller,
        backing: &Backing<'_>,
    ) -> Result<NonNull<u8>, AllocError> {
        let plan = Plan::new(self, core, (req, kind, caller), backing)?;
        self.build(core, &plan, backing).or_else(|error| self.build_again(core, &plan, backing, error))
    }

    #[inline(always)]
    pub(crate) fn build(
        &self,
        core: &Core<M>,
        plan: &Plan<'_>,
        backing: &Backing<'_>,
    ) -> Result<NonNull<u8>, AllocError> {
        let mut here = CpuGuard::enter(self, core).map_err(AllocError::WrongContext)?;
        let mut plain = false;
        if core.caches() {
            match here.take_cached(plan, backing) {
                Ok(found) => {
                    drop(here);
                    let hole = AreaBuilder { vm: self, core, found, pages: plan.pages, bound: plan.pages };
                    if !found.slot().is_reported() {
                        return Ok(hole.whole(plan));
                    }
                    drop(hole);
                    here = CpuGuard::enter(self, core).map_err(AllocError::WrongContext)?;
                }
                Err(miss) => plain = miss,
            }
        }
        if here.is_pressed() {
            self.wait_for_flushes(&mut here, plan);
        }
        let place = match here.take_slot(plan) {
            Ok(place) => place,
            Err(short) => self.take_slot_of_others(&mut here, plan, short)?,
        };
        let mut hole = AreaBuilder::begin(&here, place, plan, backing);
        if plain && hole.found.chunk.class().is_some() {
            hole.found.slot().mark_plain();
        }
        let filled = match backing {
            Backing::Nothing => Ok(()),
            _ => here.fill(&mut hole, plan, backing),
        };
        // Undoing and clearing are done from outside.
        drop(here);
        filled?;
        if plan.adopts() {
            hole.adopt();
        }
        Ok(if matches!(backing, Backing::Fresh) { hole.whole(plan) } else { hole.publish() })
    }

    /// Takes a slot when this CPU has none: step by step, until one turns up.
    #[cold]
    #[inline(never)]
    fn take_slot_of_others<'v>(
        &'v self,
        here: &mut CpuGuard<'v, M>,
        plan: &Plan<'_>,
        mut short: Shortage,
    ) -> Result<(ChunkRef, u32), AllocError> {
        let mut tries = Tries::default();
        loop {
            self.resolve_shortage(here, plan, short, &mut tries)?;
            match here.take_slot(plan) {
                Ok(place) => return Ok(place),
                Err(again) => short = again,
            }
        }
    }

    /// Frees an area of a kind that `frees` accepts, of `count` pages where the
    /// caller names them.
    #[inline(always)]
    pub(crate) fn free_area(
        &self,
        at: VirtAddr,
        by: Caller,
        frees: fn(Kind) -> bool,
        count: Option<usize>,
    ) -> Result<(), FreeError> {
        let Some(core) = self.core() else { return Err(FreeError::NotInitialised) };
        if self.free_area_straight(core, at, by, frees, count) {
            return Ok(());
        }
        self.free_area_long(core, at, by, frees, count)
    }

    /// Frees an area the long way.
    #[inline(never)]
    pub(crate) fn free_area_long(
        &self,
        core: &Core<M>,
        at: VirtAddr,
        by: Caller,
        frees: fn(Kind) -> bool,
        count: Option<usize>,
    ) -> Result<(), FreeError> {
        let Ok(mut here) = CpuGuard::enter(self, core) else {
            return self.free_area_deferred(core, at, by, frees, count);
        };
        let found = here.find_start(at)?;
        let (kind, pages) = found.freeable(frees, count)?;
        here.retire(&found, kind, pages, by)?;
        if core.policy() == Policy::Strict {
            drop(here);
            self.flush_and_wait(core, found.start);
        }
        Ok(())
    }

    /// Clears the pages of an area that is being built, through whatever way the
    /// machine has.
    #[inline(never)]
    pub(crate) fn zero(&self, piece: PteRange<M::Table>) {
        piece.frames().for_each(|(at, frame)| self.machine().zero(frame, at));
    }

    /// Undoes a slot that was begun: of its pages, `bound` have frames.
    #[cold]
    fn abandon(&self, core: &Core<M>, found: &Found, bound: usize) {
        let Ok(mut here) = CpuGuard::enter(self, core) else { return self.abandon_deferred(core, found, bound) };
        here.uncount_alloc(found.slot().pages());
        found.slot().truncate(bound);
        if bound == 0 && found.chunk.owner() == here.index {
            return here.put_back(found);
        }
        let how = loop {
            let how = here.way_of(found, bound);
            if here.claim(&SlotRef::of(*found), how, bound) {
                break how;
            }
            // U1: nobody else can free it; but whoever frees what was there before, too
            // late, claims it for a moment.
            if breaks!(HoleForgotten) {
                return;
            }
            here.outside(|| self.machine().relax());
        };
        here.unbind(found, how, PageRange::new(found.start, bound));
    }
}

/// How a slot goes from live to stale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its owner's CPU, in one section: no claim.
    AtOnce,
    /// Its owner's CPU, in several sections, so the slot is claimed meanwhile.
    InSlices,
    /// Another CPU: the slot is claimed, and posted to its owner (R1).
    Remote,
}

impl<M: Machine> CpuGuard<'_, M> {
    /// live → stale: the entries are retired, the frames wait in them. Under
    /// Park and Keep perhaps live → cached.
    #[inline]
    fn retire(&mut self, found: &SlotRef, kind: Kind, pages: usize, by: Caller) -> Result<(), FreeError> {
        let caches = self.core.caches();
        if caches && let Some(done) = self.retire_cached(found, pages, by) {
            return done;
        }
        let bound = if kind == Kind::Reserved { 0 } else { pages };
        let how = self.way_of(found, bound);
        if how == Way::AtOnce && !caches {
            // Nobody else could do anything since it was looked up.
            self.open.add(found.chunk, 1 << found.index, bound);
        } else if !self.claim(found, how, bound) {
            return Err(self.core.double_free(found));
        }
        self.count_free(how, pages);
        found.slot().freed_by(by);
        self.unbind(found, how, PageRange::new(found.start, bound));
        Ok(())
    }

    /// How this CPU frees a slot of which `bound` pages have entries.
    #[inline]
    pub(crate) fn way_of(&self, found: &Found, bound: usize) -> Way {
        match found.chunk.owner() == self.index {
            true if bound <= SLICE => Way::AtOnce,
            true => Way::InSlices,
            false => Way::Remote,
        }
    }

    /// Makes the slot this call's to free, if it is still the area that was
    /// looked up; false = somebody was first.
    #[inline]
    pub(crate) fn claim(&mut self, found: &SlotRef, how: Way, pages: usize) -> bool {
        if how != Way::AtOnce {
            return found.claim();
        }
        found.retire(&mut self.open, pages)
    }

    #[inline(always)]
    pub(crate) fn count_alloc(&self, pages: usize) {
        count(&self.cpu.counters.allocs, 1);
        count(&self.cpu.counters.alloc_pages, pages as u64);
    }

    /// It is not made after all.
    pub(crate) fn uncount_alloc(&self, pages: usize) {
        uncount(&self.cpu.counters.allocs, 1);
        uncount(&self.cpu.counters.alloc_pages, pages as u64);
    }

    #[inline(always)]
    pub(crate) fn count_free(&self, how: Way, pages: usize) {
        let counters = &self.cpu.counters;
        count(if how == Way::Remote { &counters.remote_frees } else { &counters.local_frees }, 1);
        count(&counters.free_pages, pages as u64);
    }

    /// Writes the label of an area in a slot that was taken: from here on it is
    /// being built (U1).
    #[inline(always)]
    pub(crate) fn begin(&self, (chunk, index): (ChunkRef, u32), plan: &Plan<'_>, backing: &Backing<'_>) {
        chunk.begin(index, &plan.label(backing));
        self.count_alloc(plan.pages);
    }

    /// A slot that was begun, and of which nothing was bound, is clean.
    fn put_back(&mut self, found: &Found) {
        let chunk = found.chunk;
        if chunk.is_runs() {
            self.release_run_of(chunk, found.index);
        }
        self.cpu_chunks(chunk.region()).put_back(chunk, found.index);
    }

    /// Retires the entries of a claimed slot, and hands it to its owner.
    #[inline]
    pub(crate) fn unbind(&mut self, found: &Found, how: Way, bound: PageRange) {
        if how == Way::AtOnce {
            self.unbind_slice(found, bound);
            self.reclaim_step();
        } else {
            self.unbind_in_slices(found, bound);
        }
    }

    #[inline(never)]
    fn unbind_in_slices(&mut self, found: &Found, bound: PageRange) {
        for slice in bound.slices(SLICE) {
            if slice.start != bound.start {
                self.preempt_point();
            }
            self.unbind_slice(found, slice);
            self.reclaim(SLICE);
        }
        if found.chunk.owner() == self.index {
            // Coming home it pays too (L3).
            self.preempt_point();
        }
        self.hand_over(found);
    }

    pub(crate) fn unbind_slice(&mut self, found: &Found, slice: PageRange) {
        if found.slot().kind() == Kind::MapRam {
            self.clear_entries((found.chunk, found.index), slice);
        } else {
            self.retire_entries((found.chunk, found.index), slice);
        }
    }

    /// Bound → waiting, page by page.
    #[inline]
    pub(crate) fn retire_entries(&self, (chunk, index): (ChunkRef, u32), slice: PageRange) {
        if slice.pages == 0 {
            return;
        }
        let vm = self.vm;
        self.core.each_piece(vm, (chunk, Some(index)), slice, |piece| {
            piece.park(&mut |at, word| vm.report_bad_entry_once((chunk, index), at, word));
            true
        });
        vm.machine().unmapped(slice);
    }

    /// A claimed slot's entries are retired: it goes to its owner (R1).
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
            self.reclaim_step();
        } else {
            self.core.cpu(chunk.owner()).remote_frees.post(chunk, found.index);
        }
    }
}

impl<'v, M: Machine> AreaBuilder<'v, M> {
    /// Begins an area in a slot that was taken.
    #[inline(always)]
    fn begin(here: &CpuGuard<'v, M>, (chunk, index): (ChunkRef, u32), plan: &Plan<'_>, backing: &Backing<'_>) -> Self {
        here.begin((chunk, index), plan, backing);
        let found = Found { chunk, index, start: here.core.address_of(chunk, index) };
        AreaBuilder { vm: here.vm, core: here.core, found, pages: plan.pages, bound: 0 }
    }

    fn pieces(&self) -> PteRanges<'v, M> {
        let place = (self.found.chunk, Some(self.found.index));
        self.core.pieces(self.vm, place, PageRange::new(self.found.start, self.pages))
    }

    /// Clears the pages.
    #[inline(never)]
    pub(crate) fn zero(&self) {
        self.pieces().for_each(|piece| self.vm.zero(piece));
    }

    /// The frames' caller gives its hold up: the area is the only holder now.
    fn adopt(&self) {
        let source = self.vm.machine().frames();
        for piece in self.pieces() {
            for page in piece.frames().filter_map(|(_, frame)| source.page(frame)) {
                let last = release(page);
                debug_assert!(!last, "G3: `bind_given` made the area a holder");
            }
        }
        self.found.slot().adopt();
    }

    /// The entry of the first page that could not be bound is in use (T2).
    #[cold]
    pub(crate) fn in_use(self) -> AllocError {
        AllocError::InUse(self.found.start.add_pages(self.bound))
    }

    /// The area has its own frames: it is cleared if asked for, and whole.
    #[inline]
    pub(crate) fn whole(self, plan: &Plan<'_>) -> NonNull<u8> {
        if plan.req.gfp.contains(Gfp::ZERO) {
            if breaks!(PublishUncleared) {
                self.found.publish();
            }
            self.zero();
        }
        self.publish()
    }

    /// The area is whole.
    #[inline]
    pub(crate) fn publish(self) -> NonNull<u8> {
        let found = self.found;
        core::mem::forget(self);
        found.publish()
    }
}

impl<M: Machine> Drop for AreaBuilder<'_, M> {
    /// Undoes what was done (E1): the slot is retired like a freed one, of
    /// which only the bound part has frames.
    #[cold]
    fn drop(&mut self) {
        self.vm.abandon(self.core, &self.found, self.bound);
    }
}
