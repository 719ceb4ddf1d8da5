//! Cached slots: the policies Park and Keep.
//!
//! Under these policies a freed area of a common kind is not taken apart. Its slot stays *cached*,
//! with its frames, and the next area of its size reuses it: no frame is allocated and nothing is
//! flushed.
//!
//! ```text
//!   live ──free──▶ cached ──alloc──▶ live          Park: entries parked, and restored; Keep: entries not touched
//!                   └──evict──▶ stale ──▶ …        like every freed slot: its frames wait for grace in a batch
//! ```
//!
//! A slot is cached in one of two forms, and its label records which. The entries of a *parked*
//! slot are not present, like those of a stale slot. The entries of a *kept* slot are unchanged. So
//! the policy may change at any time.
//!
//! # Rules
//! - **W1** A slot is cached only if any common request could have it: a slot of a class; memory
//!   that the area allocated itself; ordinary memory type, readable and writable; all frames of the
//!   CPU's own node. With one node this is known when the area is allocated, from its request.
//!   Otherwise each entry is checked. A cached slot is reused only for requests that want exactly
//!   this.
//! - **W2** The pages of cached slots are counted, at most [`Core::budget`] for each CPU. Over the
//!   budget, the oldest slot of the class that was used the longest ago is evicted. The tick evicts
//!   what a class has not needed for a while, half of it at a time. Everything is evicted by a
//!   purge, by a shortage of memory or addresses (the CPU's own slots first), by `unmap_aliases`,
//!   and when the policy changes.
//! - **W3** A slot is not cached if somebody else may reach its frames: if `hold_frame` handed one
//!   out, or if another CPU is freeing the slot at the same moment. Both are checked after the slot
//!   has left `live` (R5).
//! - G2: The pages of a cached slot keep their frames and their protection. A stale translation
//!   reaches what the next area has there, so no flush is needed. For the same reason a use after
//!   free is noticed late.
//! - G6: A slot is reused for the same number of pages only. The pages beyond them were never
//!   mapped since the slot was clean, so the page after the area has had no translation since
//!   grace, under Park and Keep too.
//! - R1: Another CPU that frees an area under Keep leaves the entries alone if the owner has room,
//!   and posts the slot. Under Park it parks the entries first, as for any remote free. The owner
//!   finds both in its remote frees and decides.
//! - L3: At most one slice of entries is parked in a section. A slot that is evicted in part is
//!   stored as the CPU's `evicting`, and the next caller goes on with it.

use crate::area::{Caller, Policy, RegionId};
use crate::error::FreeError;
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::reclaim::release::Way;
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::space::slot::{Label, Slot};
use crate::state::cached::Evicting;
use crate::state::core::{Core, Ctx};
use crate::state::cpu::{PerCpu, SLICE, WORK};
use crate::state::enter::CpuGuard;
use crate::state::lookup::{Found, SlotRef};
use crate::state::stats::{Counters, count};
use crate::sync::{Ordering::Relaxed, breaks, plain::AtomicU64};
use crate::table::PteRange;
use crate::units::{PageRange, Pfn};

/// The number of ticks between two checks of a class.
const LOOK: u32 = 16;

/// What a free does with the entries of an area that may stay cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Retire {
    /// The area does not stay cached: Unmap, Strict.
    Clear,
    /// They are made not present.
    Park,
    /// They stay as they are.
    Keep,
}

/// Whether a cached slot has the size of the area (G6).
#[inline(always)]
pub(crate) fn fits(slot: &Slot, pages: usize) -> bool {
    slot.pages() == pages || breaks!(AnySize)
}

/// Whether somebody else may hold frames of the area (W3).
#[inline]
fn is_handed_out(slot: &Slot) -> bool {
    slot.is_shared() && !breaks!(CacheShared)
}

/// Why a cached slot is evicted: the counter that tells.
pub(crate) type Evict = fn(&Counters) -> &AtomicU64;
/// Its class has not needed it for a while.
pub(crate) const AGED: Evict = |counters| &counters.cache_aged;
/// The CPU is over its budget.
const OVER: Evict = |counters| &counters.cache_over;
/// A purge, or a shortage.
pub(crate) const PURGED: Evict = |counters| &counters.cache_purged;

impl<M: Machine> Core<M> {
    /// What a free does with entries now.
    #[inline(always)]
    pub(crate) fn retire(&self) -> Retire {
        const { assert!((Policy::Unmap as u8) < Policy::Park as u8 && (Policy::Strict as u8) < Policy::Park as u8) };
        match self.policy.load(Relaxed) {
            policy if policy < self.caches_from => Retire::Clear,
            policy if policy == Policy::Keep as u8 => Retire::Keep,
            _ => Retire::Park,
        }
    }

    /// Whether freed areas may stay cached.
    #[inline]
    pub(crate) fn caches(&self) -> bool {
        self.retire() != Retire::Clear
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// cached → live: an area that is being built (U1). The slot is off its list.
    #[inline(always)]
    pub(crate) fn uncache(&mut self, (chunk, index): (ChunkRef, u32), label: Label) -> Found {
        if !breaks!(ForgetCached) {
            self.cpu.cache_size.remove(chunk.slot(index).pages());
        }
        chunk.begin_again(index, &label);
        count(&self.cpu.counters.cache_hits, 1);
        Found { chunk, index, start: chunk.address(index) }
    }

    /// live → cached, in one section, and leaves the CPU. The slot is parked if `park` has its
    /// entries, and kept otherwise.
    #[inline(always)]
    pub(crate) fn free_to_cache(mut self, found: &Found, park: Option<PteRange<M::Table>>, pages: usize, by: Caller) {
        let (ctx, slot, kept) = (self.ctx(), found.slot(), park.is_none());
        self.note_free(Way::AtOnce, found, pages, by);
        let park = || {
            slot.freed_plain_by(by, kept);
            if let Some(entries) = park {
                ctx.park((found.chunk, found.index), entries);
            }
        };
        if !found.chunk.cache_alone(found.index, park, is_handed_out) {
            return self.moved().leave_stale(found, pages, kept);
        }
        self.add_to_cache(found.chunk, found.index, pages);
        if self.cpu.cache_size.pages() > self.core.budget {
            self.moved().leave_within_budget();
        }
    }

    #[cold]
    #[inline(never)]
    fn leave_stale(mut self, found: &Found, pages: usize, kept: bool) {
        self.let_go(found.chunk, found.index, pages, kept)
    }

    #[inline(never)]
    fn leave_within_budget(mut self) {
        self.enforce_budget()
    }

    /// Whether an area that is about to be freed may stay cached (W1).
    #[inline]
    fn may_stay(&mut self, found: &SlotRef, pages: usize) -> bool {
        let slot = found.slot();
        found.chunk.class().is_some()
            && slot.kind().allocates()
            && pages <= self.core.budget
            && !is_handed_out(slot)
            && (slot.is_plain() || self.verify_entries(found, pages))
    }

    /// Checks each entry, a slice at a time, while the slot is the area that was looked up (T1).
    /// Returns whether all of them are plain.
    #[cold]
    #[inline(never)]
    fn verify_entries(&mut self, found: &SlotRef, pages: usize) -> bool {
        for slice in PageRange::new(found.start, pages).slices(SLICE) {
            if slice.start != found.start {
                self.preempt_point();
            }
            if !self.ctx().looking(|| found.is_area() && self.is_plain(found, slice)) {
                return false;
            }
        }
        true
    }

    fn is_plain(&self, found: &SlotRef, slice: PageRange) -> bool {
        let machine = self.machine;
        let (source, home) = (machine.frames(), machine.node_of(found.chunk.owner()));
        let mixed = source.nodes() > 1;
        let fits = |frame: Pfn| !mixed || source.node_of(frame) == home;
        // This call has not claimed the slot yet. So it uses a piece only if the chunk is unchanged
        // after the piece was read. Then the table stays while the call looks (T1).
        let mut left = slice.pages;
        let plain = self.ctx().pieces((found.chunk, None), slice).all(|piece| {
            left -= piece.pages();
            found.is_same() && piece.is_plain(fits)
        });
        plain && left == 0
    }

    /// Frees an area and caches its slot; `None` if it may not stay cached.
    #[inline(never)]
    pub(crate) fn cache_slowly(&mut self, found: &SlotRef, pages: usize, by: Caller) -> Option<Result<(), FreeError>> {
        if !self.may_stay(found, pages) {
            return None;
        }
        // Interrupts may have come in, and the policy may have changed.
        let kept = match self.core.retire() {
            Retire::Clear => return None,
            retire => retire == Retire::Keep,
        };
        let how = self.way_of(found, if kept { 0 } else { pages });
        if how != Way::AtOnce {
            return Some(self.post_cached(found, how, pages, by));
        }
        let (chunk, index, slot) = (found.chunk, found.index, found.slot());
        if !found.lives() {
            return Some(Err(self.core.double_free(found)));
        }
        self.note_free(how, found, pages, by);
        let park = || {
            slot.freed_plain_by(by, kept);
            if !kept {
                self.park_entries((chunk, index), PageRange::new(found.start, pages));
            }
        };
        if chunk.cache_alone(index, park, is_handed_out) {
            self.add_to_cache(chunk, index, pages);
            self.enforce_budget();
        } else {
            self.let_go(chunk, index, pages, kept);
        }
        Some(Ok(()))
    }

    /// Frees an area that its owner may cache, or that takes several sections to park. The slot is
    /// claimed meanwhile (R1).
    #[inline(never)]
    fn post_cached(&mut self, found: &SlotRef, how: Way, pages: usize, by: Caller) -> Result<(), FreeError> {
        if !self.claim(found, how, pages) {
            return Err(self.core.double_free(found));
        }
        self.note_free(how, found, pages, by);
        let bound = self.core.cpu(found.chunk.owner()).cache_size.pages();
        let kept = self.core.retire() == Retire::Keep && bound + pages <= self.core.budget;
        found.slot().freed_plain_by(by, kept);
        if kept {
            self.hand_over(found);
        } else {
            self.unmap(found, how, PageRange::new(found.start, pages));
        }
        Ok(())
    }

    /// Accepts a slot with plain entries that another CPU freed and still claims. Returns true if
    /// the slot is cached now, or stale.
    pub(crate) fn accept_remote(&mut self, chunk: ChunkRef, slot: u32) -> bool {
        let (area, pages) = (chunk.slot(slot), chunk.slot(slot).pages());
        let has_room = self.cpu.cache_size.pages() + pages <= self.core.budget;
        let may_park = has_room && self.core.retire() == Retire::Park;
        if !(area.is_kept() || may_park) {
            return false;
        }
        // The claim on the slot is the remote CPU's own.
        chunk.cache(slot);
        // The policy may have changed since the free.
        if is_handed_out(area) || !self.core.caches() || area.is_reported() {
            self.let_go(chunk, slot, pages, area.is_kept());
        } else {
            self.add_to_cache(chunk, slot, pages);
        }
        true
    }

    /// Adds a slot in state *cached* to the list of its class.
    #[inline(always)]
    fn add_to_cache(&mut self, chunk: ChunkRef, slot: u32, pages: usize) {
        let Some(class) = chunk.class() else { return };
        self.cached.clock = self.cached.clock.wrapping_add(1);
        let now = self.cached.clock;
        self.cpu_chunks(chunk.region()).slot_cache.push(class, chunk, slot, now);
        if !breaks!(ForgetCached) {
            self.cpu.cache_size.add(pages);
        }
        count(&self.cpu.counters.cache_frees, 1);
    }

    /// Makes a slot stale that was marked cached and must not be. This is rare and takes one
    /// section. The caller passes `kept`, because another CPU that frees the slot at the same
    /// moment may have overwritten it in the slot (R4).
    #[cold]
    fn let_go(&mut self, chunk: ChunkRef, slot: u32, pages: usize, kept: bool) {
        if kept {
            self.park_entries((chunk, slot), PageRange::new(chunk.address(slot), pages));
        }
        self.open.add_evicted(chunk, slot, pages);
        self.reclaim_after();
    }

    /// Evicts until the cached slots are within the budget (W2). Each eviction may also reclaim a
    /// slice, so each has a section of its own (L3).
    #[cold]
    #[inline(never)]
    fn enforce_budget(&mut self) {
        while self.cpu.cache_size.pages() > self.core.budget && self.evict(OVER) > 0 {
            if self.cpu.cache_size.pages() > self.core.budget {
                self.preempt_point();
            }
        }
    }

    /// Evicts up to a slice of this CPU's cached slots. Returns the work done; 0 if nothing is
    /// cached.
    pub(crate) fn evict(&mut self, why: Evict) -> usize {
        if breaks!(ForgetCached) {
            return 0;
        }
        match self.cached.evicting.take().or_else(|| self.pick()) {
            Some(evicting) => self.retire_some(evicting, why),
            None => 0,
        }
    }

    /// Evicts all cached slots of this CPU. Returns the work done.
    pub(crate) fn evict_own(&mut self) -> usize {
        self.in_sections(|cpu| cpu.evict(PURGED))
    }

    /// The oldest slot of the class that was used the longest ago (W2).
    fn pick(&mut self) -> Option<Evicting> {
        let now = self.cached.clock;
        let regions = (0..self.core.regions.len()).map(|region| RegionId(region as u8));
        let idlest = regions.filter_map(|region| {
            let (age, class) = self.cpu_chunks(region).slot_cache.idlest(now)?;
            Some((age, region, class))
        });
        let (_, region, class) = idlest.max_by_key(|&(age, ..)| age)?;
        let (chunk, slot) = self.cpu_chunks(region).slot_cache.take_oldest(class)?;
        Some(Evicting { chunk, slot, done: 0 })
    }

    /// Parks up to a quarter of a slice of the slot that is being evicted. When nothing of it is left mapped,
    /// the slot becomes stale, in a section of its own if what was parked last was more than a few pages.
    fn retire_some(&mut self, mut evicting: Evicting, why: Evict) -> usize {
        let Evicting { chunk, slot, done } = evicting;
        let pages = chunk.slot(slot).pages();
        let left = if chunk.slot(slot).is_kept() { pages - done } else { 0 };
        let slice = left.min(WORK / 2);
        self.park_entries((chunk, slot), PageRange::new(chunk.address(slot).add_pages(done), slice));
        if left > WORK / 4 {
            evicting.done += slice;
            self.cached.evicting = Some(evicting);
            return slice;
        }
        self.cpu.cache_size.remove(pages);
        count(why(&self.cpu.counters), 1);
        self.open.add_evicted(chunk, slot, pages);
        self.reclaim_after();
        slice.max(1)
    }

    /// Whether some cached slots must be evicted now, however recently they were used.
    fn is_overdue(&self) -> bool {
        let budget = if self.core.caches() { self.core.budget } else { 0 };
        self.cached.evicting.is_some() || self.cpu.cache_size.pages() > budget
    }

    /// Evicts a slice of the overdue slots. Returns false if there are none.
    pub(crate) fn evict_overdue(&mut self) -> bool {
        self.is_overdue() && self.evict(AGED) > 0
    }

    /// The tick's part of eviction: first what is overdue, otherwise half of what a few classes
    /// have not needed lately, about a slice in all. Returns whether more is overdue.
    pub(crate) fn age(&mut self) -> bool {
        if self.cpu.cache_size.pages() == 0 || self.evict_overdue() {
            return self.is_overdue();
        }
        self.cached.ticks = self.cached.ticks.wrapping_add(1);
        let mut work = 0;
        for region in (0..self.core.regions.len()).map(|region| RegionId(region as u8)) {
            let due = self.cached.ticks % LOOK;
            for class in Class::all().skip(due as usize).step_by(LOOK as usize) {
                let surplus = self.cpu_chunks(region).slot_cache.surplus(class).div_ceil(2);
                for _ in 0..surplus {
                    // Each eviction may reclaim a slice, so each has a section of its own (L3). The
                    // section begins before the slot is chosen: meanwhile another caller may have
                    // left a slot half evicted, or this may be another CPU.
                    self.preempt_point();
                    if work >= WORK || self.cached.evicting.is_some() {
                        break;
                    }
                    let Some((chunk, slot)) = self.cpu_chunks(region).slot_cache.take_oldest(class) else { break };
                    work += self.retire_some(Evicting { chunk, slot, done: 0 }, AGED);
                }
            }
        }
        self.is_overdue()
    }
}

/// Counts a miss: no slot was cached. With a single node the new area's entries are plain, and its
/// slot is marked so (W1).
#[inline(never)]
pub(crate) fn miss<M: Machine>(ctx: Ctx<'_, M>, cpu: &PerCpu, slot: &Slot) {
    count(&cpu.counters.cache_misses, 1);
    if ctx.machine.frames().nodes() == 1 {
        slot.mark_plain();
    }
}

/// Parked → mapped, with the same frames and the same protection (G2). A wrong entry is reported,
/// and then the slot must not be used (T2).
#[inline(never)]
pub(crate) fn restore<M: Machine>(ctx: Ctx<'_, M>, found: &Found, slice: PageRange) {
    ctx.each_piece(found.place(), slice, |piece| {
        piece.restore(|at, word| ctx.report_bad_entry(found.slot(), at, word));
    });
    ctx.machine.sync(slice);
}

impl<M: Machine> Ctx<'_, M> {
    /// Mapped → parked.
    #[inline(never)]
    fn park(self, place: (ChunkRef, u32), entries: PteRange<M::Table>) {
        entries.park(move |at, word| self.report_bad_entry_once(place, at, word));
        self.machine.unmapped(PageRange::new(entries.start(), entries.pages()));
    }
}
