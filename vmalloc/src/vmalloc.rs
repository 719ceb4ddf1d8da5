//! One allocation, one free: the story.
//!
//! ```text
//! alloc(request)                                  free(addr)
//!   plan: pages, class or run, frames, label        found: region → unit → chunk → slot, checked
//!   slot: taken, building        Hole: undone       claim: live → stale, or claimed (another CPU)
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
//!   slot has one page more than its area, and nothing ever binds it.
//!
//! What stays bound under Park and Keep is a story of its own:
//! [`warm`](crate::warm). Shortages are relieved in [`pressure`](crate::pressure), never here.

use crate::area::{Backing, Caller, Kind, Policy, Req};
use crate::cpu::{Here, SLICE};
use crate::error::{AllocError, FreeError, Shortage};
use crate::frames::{Runs, hold, release};
use crate::gfp::Gfp;
use crate::instance::{Core, Vmalloc};
use crate::lookup::{Found, Pieces};
use crate::machine::frames::{Frames, Want};
use crate::machine::{Machine, Run, Sabotage};
use crate::plan::Plan;
use crate::pressure::Tries;
use crate::space::chunk::ChunkRef;
use crate::stats::{count, uncount};
use crate::units::{PageRange, Pfn, VirtAddr};
use core::ptr::NonNull;

/// A slot that a call has begun to fill. Dropping it undoes what was done.
struct Hole<'v, M: Machine> {
    vm: &'v Vmalloc<M>,
    core: &'v Core<M>,
    found: Found,
    pages: usize,
    /// Of which have been bound.
    bound: usize,
}

/// Why a slice could not be filled.
enum Refusal {
    /// Something ran short; nothing of the slice is bound.
    Short(Shortage),
    /// So many pages of the slice are bound, and nothing helps.
    Final(usize, AllocError),
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
    /// [`Vmalloc::vmap_owned`] returned (`vfree`). From any CPU and any context
    /// but NMI; never waits, unless the policy is Strict and the caller a task.
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
        self.unmake(VirtAddr(at.addr().get()), Caller::here(), frees, None)
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
        let made = match Plan::new(self, core, (req, kind, caller), &backing) {
            Ok(plan) => {
                self.build(core, &plan, &backing).or_else(|error| self.build_again(core, &plan, &backing, error))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &made {
            self.refused(core, req, error);
        }
        made
    }

    #[inline(always)]
    pub(crate) fn build(
        &self,
        core: &Core<M>,
        plan: &Plan<'_>,
        backing: &Backing<'_>,
    ) -> Result<NonNull<u8>, AllocError> {
        let mut here = Here::enter(self, core).map_err(AllocError::WrongContext)?;
        let mut plain = false;
        if core.caches() {
            match here.take_warm(plan, backing) {
                Ok(found) => {
                    drop(here);
                    return Ok(Hole { vm: self, core, found, pages: plan.pages, bound: plan.pages }.whole(plan));
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
        let mut hole = Hole::begin(&here, place, plan, backing);
        if plain && hole.found.chunk.class().is_some() {
            hole.found.slot().is_to_be_plain();
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
        here: &mut Here<'v, M>,
        plan: &Plan<'_>,
        mut short: Shortage,
    ) -> Result<(ChunkRef, u32), AllocError> {
        let mut tries = Tries::default();
        loop {
            self.relieve(here, plan, short, &mut tries)?;
            match here.take_slot(plan) {
                Ok(place) => return Ok(place),
                Err(again) => short = again,
            }
        }
    }

    /// Frees an area of a kind that `frees` accepts, of `count` pages where the
    /// caller names them.
    pub(crate) fn unmake(
        &self,
        at: VirtAddr,
        by: Caller,
        frees: impl FnOnce(Kind) -> bool,
        count: Option<usize>,
    ) -> Result<(), FreeError> {
        let core = self.core().ok_or(FreeError::NotInitialised)?;
        let (found, sequence) = core.find_start(self, at)?;
        let (kind, pages) = (found.slot().kind(), found.slot().pages());
        if !frees(kind) {
            return Err(FreeError::WrongKind(kind));
        }
        match count {
            Some(given) if given != pages => Err(FreeError::WrongSize { pages, given }),
            _ => self.retire(core, (&found, sequence), pages, by),
        }
    }

    /// live → stale: the entries are retired, the frames wait in them.
    #[inline]
    fn retire(
        &self,
        core: &Core<M>,
        (found, sequence): (&Found, u32),
        pages: usize,
        by: Caller,
    ) -> Result<(), FreeError> {
        let mut here = Here::enter(self, core).map_err(FreeError::WrongContext)?;
        if core.caches()
            && let Some(done) = here.retire_warm((found, sequence), pages, by)
        {
            return done;
        }
        let bound = if found.slot().kind() == Kind::Reserved { 0 } else { pages };
        let how = here.way_of(found, bound);
        if !here.claim(found, sequence, how, pages) {
            return Err(core.double_free(found));
        }
        here.count_free(how, pages);
        found.slot().freed_by(by);
        here.unbind(found, how, PageRange::new(found.start, bound));
        if core.policy() == Policy::Strict {
            drop(here);
            self.settle(core, found.start);
        }
        Ok(())
    }

    /// Undoes a slot that was begun: of its pages, `bound` have frames.
    #[cold]
    fn abandon(&self, core: &Core<M>, found: &Found, bound: usize) {
        let Ok(mut here) = Here::enter(self, core) else { return };
        uncount(&here.cpu.counters.alloc_pages, found.slot().pages() as u64);
        uncount(&here.cpu.counters.allocs, 1);
        found.slot().cut(bound);
        if bound == 0 && found.chunk.owner() == here.index {
            return here.untake(found);
        }
        let how = here.way_of(found, bound);
        let claimed = here.claim(found, found.slot().sequence(), how, bound);
        debug_assert!(claimed, "U1: nobody else can free what is building");
        here.unbind(found, how, PageRange::new(found.start, bound));
    }
}

/// An entry in use where none may be is an error, and never overwritten (T2).
#[inline]
fn all_bound(slice: PageRange, bound: usize) -> Result<(), Refusal> {
    if bound == slice.pages {
        return Ok(());
    }
    Err(Refusal::Final(bound, AllocError::InUse(slice.start.add_pages(bound))))
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

impl<M: Machine> Here<'_, M> {
    /// Binds every page of the hole, a slice at a time (L3).
    #[inline(always)]
    fn fill(&mut self, hole: &mut Hole<'_, M>, plan: &Plan<'_>, backing: &Backing<'_>) -> Result<(), AllocError> {
        let mut tries = Tries::default();
        loop {
            let at = hole.found.start.add_pages(hole.bound);
            let slice = PageRange::new(at, (plan.pages - hole.bound).min(SLICE));
            match self.bind(hole.found.chunk, slice, hole.bound, plan, backing) {
                Ok(()) => {
                    hole.bound += slice.pages;
                    tries.progress();
                }
                Err(Refusal::Short(short)) => {
                    let relieved = self.vm.relieve(self, plan, short, &mut tries);
                    relieved.map_err(|error| error.beyond(hole.bound))?;
                    continue;
                }
                Err(Refusal::Final(bound, error)) => {
                    hole.bound += bound;
                    return Err(error);
                }
            }
            if hole.bound == plan.pages {
                return Ok(());
            }
            self.breathe();
        }
    }

    /// Binds the pages of `slice`, `done` pages into the area.
    #[inline]
    fn bind(
        &mut self,
        chunk: ChunkRef,
        slice: PageRange,
        done: usize,
        plan: &Plan<'_>,
        backing: &Backing<'_>,
    ) -> Result<(), Refusal> {
        match *backing {
            Backing::Fresh => self.bind_fresh(chunk, slice, plan),
            Backing::Frames(frames) => self.bind_given(chunk, slice, &frames[done..done + slice.pages], plan),
            Backing::Device(first) => self.bind_device(chunk, slice, first.offset(done as u64), plan),
            Backing::Nothing => Ok(()),
        }
    }

    #[inline]
    fn bind_fresh(&mut self, chunk: ChunkRef, slice: PageRange, plan: &Plan<'_>) -> Result<(), Refusal> {
        let want = plan.want(self.node);
        if !self.magazine.serves(want) || (M::MIRRORED && slice.pages > 1) {
            return self.bind_runs(chunk, slice, plan, want);
        }
        let (machine, core) = (self.vm.machine(), self.core);
        let depot = core.depot(self.node);
        if self.magazine.reserve(machine, depot, want, slice.pages).is_err() {
            return Err(Refusal::Short(Shortage::Frames(slice.pages)));
        }
        let bound = self.write_entries(chunk, slice, self.magazine.top(slice.pages), plan);
        let first = self.magazine.top(slice.pages)[0];
        // From here on the frames are the entries', mirrored or not.
        self.magazine.commit(bound);
        all_bound(slice, bound)?;
        if M::MIRRORED { self.mirror(slice, Run { pages: slice, first, prot: plan.req.prot }) } else { Ok(()) }
    }

    /// Binds frames by the run: mirrored machines, and requests that the
    /// magazine does not serve.
    #[cold]
    fn bind_runs(&mut self, chunk: ChunkRef, slice: PageRange, plan: &Plan<'_>, want: Want) -> Result<(), Refusal> {
        let machine = self.vm.machine();
        let runs = Runs::take(machine.frames(), want, slice.pages)
            .map_err(|_| Refusal::Short(Shortage::Frames(slice.pages)))?;
        let mut bound = 0;
        for run in runs.iter() {
            let pages = PageRange::new(slice.start.add_pages(bound), run.frames);
            let these = self.write_run(chunk, pages, run.first, plan);
            bound += these;
            if these < run.frames {
                // SAFETY: they were taken a moment ago, and not bound.
                unsafe { runs.give_back_from(bound, machine.frames()) };
                return all_bound(slice, bound);
            }
        }
        let mut at = slice.start;
        for run in runs.iter() {
            let pages = PageRange::new(at, run.frames);
            self.mirror(slice, Run { pages, first: run.first, prot: plan.req.prot })?;
            at = pages.end();
        }
        Ok(())
    }

    /// Binds frames that are somebody's; each gains a holder.
    fn bind_given(
        &mut self,
        chunk: ChunkRef,
        slice: PageRange,
        frames: &[Pfn],
        plan: &Plan<'_>,
    ) -> Result<(), Refusal> {
        let source = self.vm.machine().frames();
        frames.iter().filter_map(|&frame| source.page(frame)).for_each(hold);
        let bound = self.write_entries(chunk, slice, frames, plan);
        for page in frames[bound..].iter().filter_map(|&frame| source.page(frame)) {
            let last = release(page);
            debug_assert!(!last, "P1: the caller holds it");
        }
        all_bound(slice, bound)?;
        let mut start = 0;
        while M::MIRRORED && start < frames.len() {
            let adjacent = |&i: &usize| frames[i].0 == frames[start].0 + (i - start) as u64;
            let end = (start..frames.len()).take_while(adjacent).last().map_or(start + 1, |last| last + 1);
            let pages = PageRange::new(slice.start.add_pages(start), end - start);
            self.mirror(slice, Run { pages, first: frames[start], prot: plan.req.prot })?;
            start = end;
        }
        Ok(())
    }

    fn bind_device(&mut self, chunk: ChunkRef, slice: PageRange, first: Pfn, plan: &Plan<'_>) -> Result<(), Refusal> {
        let bound = self.write_run(chunk, slice, first, plan);
        all_bound(slice, bound)?;
        self.mirror(slice, Run { pages: slice, first, prot: plan.req.prot })
    }

    /// Binds the slice's pages to `frames`, up to the first whose entry is in
    /// use, and says how many.
    #[inline]
    fn write_entries(&self, chunk: ChunkRef, slice: PageRange, frames: &[Pfn], plan: &Plan<'_>) -> usize {
        let mut bound = 0;
        for piece in self.core.pieces(self.vm, chunk, slice.start, slice.pages) {
            let these = &frames[bound..bound + piece.pages()];
            let pages = piece.bind(these, plan.req.prot, plan.req.memory);
            bound += pages;
            if pages < these.len() {
                return bound;
            }
        }
        self.written(chunk, slice, plan);
        bound
    }

    fn write_run(&self, chunk: ChunkRef, slice: PageRange, first: Pfn, plan: &Plan<'_>) -> usize {
        let mut bound = 0;
        for piece in self.core.pieces(self.vm, chunk, slice.start, slice.pages) {
            let pages = piece.bind_run(first.offset(bound as u64), plan.req.prot, plan.req.memory);
            bound += pages;
            if pages < piece.pages() {
                return bound;
            }
        }
        self.written(chunk, slice, plan);
        bound
    }

    #[inline]
    fn written(&self, chunk: ChunkRef, slice: PageRange, plan: &Plan<'_>) {
        self.vm.machine().sync(slice);
        if M::SABOTAGE == Sabotage::MapGuard {
            let guard = self.core.pieces(self.vm, chunk, slice.end(), 1).next();
            guard.map(|piece| piece.bind_run(self.vm.machine().root(), plan.req.prot, plan.req.memory));
        }
    }

    /// Makes a run of the slice, which is bound, reachable, where the MMU does
    /// not read the entries.
    #[inline]
    fn mirror(&mut self, slice: PageRange, run: Run) -> Result<(), Refusal> {
        self.vm.machine().mirror(run).map_err(|number| Refusal::Final(slice.pages, AllocError::Refused(number)))
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
    pub(crate) fn claim(&mut self, found: &Found, sequence: u32, how: Way, pages: usize) -> bool {
        let same = || found.slot().sequence() == sequence;
        if how == Way::AtOnce {
            let live = found.chunk.areas() >> found.index & 1 != 0 && same();
            if live {
                self.open.add(found.chunk, 1 << found.index, pages);
            }
            return live;
        }
        let claimed = found.chunk.claim(found.index);
        if claimed && !same() {
            found.chunk.unclaim(1 << found.index);
        }
        claimed && same()
    }

    #[inline]
    pub(crate) fn count_free(&self, how: Way, pages: usize) {
        let counters = &self.cpu.counters;
        count(if how == Way::Remote { &counters.remote_frees } else { &counters.local_frees }, 1);
        count(&counters.free_pages, pages as u64);
    }

    /// A slot that was begun, and of which nothing was bound, is clean.
    fn untake(&mut self, found: &Found) {
        let chunk = found.chunk;
        if chunk.class().is_none() {
            let (start, grains) = found.slot().run();
            self.release_run(chunk.region(), start, grains);
        }
        self.shelf(chunk.region()).untake(chunk, found.index);
    }

    /// Retires the entries of a claimed slot, and hands it to its owner.
    #[inline]
    pub(crate) fn unbind(&mut self, found: &Found, how: Way, bound: PageRange) {
        if how == Way::AtOnce {
            self.retire_entries(found.chunk, bound);
            self.pay(found.slot().pages());
        } else {
            self.unbind_in_slices(found, bound);
        }
    }

    #[inline(never)]
    fn unbind_in_slices(&mut self, found: &Found, bound: PageRange) {
        for slice in bound.slices(SLICE) {
            self.retire_entries(found.chunk, slice);
            self.redeem(SLICE);
            self.breathe();
        }
        self.hand_over(found);
    }

    /// Bound → waiting, page by page.
    #[inline]
    pub(crate) fn retire_entries(&self, chunk: ChunkRef, slice: PageRange) {
        if slice.pages == 0 {
            return;
        }
        let vm = self.vm;
        for piece in self.core.pieces(vm, chunk, slice.start, slice.pages) {
            piece.retire(&mut |at, word| vm.complain(at, word));
        }
        vm.machine().unmapped(slice);
    }

    /// A claimed slot's entries are retired: it goes to its owner (R1).
    pub(crate) fn hand_over(&mut self, found: &Found) {
        let chunk = found.chunk;
        if M::SABOTAGE == Sabotage::DropClaim {
            chunk.unclaim(1 << found.index);
        }
        if chunk.owner() == self.index {
            let pages = self.receive(chunk, 1 << found.index);
            chunk.unclaim(1 << found.index);
            self.pay(pages);
        } else if chunk.post(found.index) {
            self.core.cpu(chunk.owner()).mail.push(chunk);
        }
    }
}

impl<'v, M: Machine> Hole<'v, M> {
    /// Begins an area in a slot that was taken.
    #[inline(always)]
    fn begin(here: &Here<'v, M>, place: (ChunkRef, u32), plan: &Plan<'_>, backing: &Backing<'_>) -> Hole<'v, M> {
        let (chunk, index) = place;
        chunk.slot(index).begin(&plan.label(backing));
        chunk.enliven(index);
        count(&here.cpu.counters.allocs, 1);
        count(&here.cpu.counters.alloc_pages, plan.pages as u64);
        let found = Found { chunk, index, start: here.core.address_of(chunk, index) };
        Hole { vm: here.vm, core: here.core, found, pages: plan.pages, bound: 0 }
    }

    fn pieces(&self) -> Pieces<'v, M> {
        self.core.pieces(self.vm, self.found.chunk, self.found.start, self.pages)
    }

    /// Clears the pages, through whatever way the machine has.
    fn zero(&self) {
        for piece in self.pieces() {
            piece.frames().for_each(|(at, frame)| self.vm.machine().zero(frame, at));
        }
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

    /// The area has its own frames: it is cleared if asked for, and whole.
    #[inline]
    fn whole(self, plan: &Plan<'_>) -> NonNull<u8> {
        if plan.req.gfp.contains(Gfp::ZERO) {
            self.zero();
        }
        self.publish()
    }

    /// The area is whole.
    #[inline]
    fn publish(self) -> NonNull<u8> {
        self.found.slot().publish();
        let start = self.found.start.0;
        core::mem::forget(self);
        NonNull::new(core::ptr::with_exposed_provenance_mut(start)).expect("R3: no region holds address 0")
    }
}

impl<M: Machine> Drop for Hole<'_, M> {
    /// Undoes what was done (E1): the slot is retired like a freed one, of
    /// which only the bound part has frames.
    #[cold]
    fn drop(&mut self) {
        self.vm.abandon(self.core, &self.found, self.bound);
    }
}
