//! Prepare and commit: what a call takes is looked at as a whole, then taken as a whole.
//!
//! A slice is up to 128 adjacent pages whose entries lie in one leaf table. What an area
//! takes for its first slice is a [`Clean`] kit: the next clean slot of its class, or one
//! with a run of its own; its entries; and frames. Under Park and Keep a cached slot is a
//! kit by itself.
//!
//! Nothing of a kit is taken before [`CpuGuard::commit`], but for what the backing holds;
//! so a call that lacks something leaves no trace, and is supplied with it
//! ([`supply`](crate::path::supply)).
//!
//! - U1: For a mapping of one slice (`map_ram`) the label is written and the entries are
//!   mapped before the slot lives: when finders see it, it is whole.

use crate::error::AllocError;
use crate::machine::Machine;
use crate::machine::format::{MemType, Prot};
use crate::path::backing::{Backing, Fresh};
use crate::path::plan::Plan;
use crate::path::supply::{Call, Lack};
use crate::reclaim::cache::{fits, miss, restore};
use crate::space::chunk::ChunkRef;
use crate::space::slot::Slot;
use crate::state::core::Ctx;
use crate::state::cpu::SLICE;
use crate::state::enter::CpuGuard;
use crate::state::entries::{at_hand, at_hand_from, in_one_table};
use crate::state::lookup::Found;
use crate::state::region::leaf_shift;
use crate::sync::breaks;
use crate::table::PteRange;
use crate::units::{PageRange, VirtAddr};

/// A slot: its chunk, and its index there.
pub(crate) type Place = (ChunkRef, u32);

/// What an area takes, none of it taken yet.
pub(crate) enum Kit<M: Machine, B: Backing<M>> {
    /// A cached slot, with its frames, whose entries are right or take one slice.
    Cached(Place),
    /// A cached slot whose entries take several slices.
    Parked(Place),
    /// A clean slot.
    Clean(Clean<M, B>),
}

/// A clean slot, and what its first slice takes.
pub(crate) struct Clean<M: Machine, B: Backing<M>> {
    place: Place,
    start: VirtAddr,
    slice: Option<Slice<M, B>>,
    /// A cached slot would have done, and there was none.
    missed: bool,
}

/// The entries of a slice, and the backing's word that it can be mapped.
pub(crate) struct Slice<M: Machine, B: Backing<M>> {
    entries: PteRange<M::Table>,
    taken: B::Taken,
}

impl<M: Machine, B: Backing<M>> Clone for Slice<M, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine, B: Backing<M>> Copy for Slice<M, B> {}

impl<M: Machine, B: Backing<M>> Clean<M, B> {
    /// The entries that it maps.
    #[inline(always)]
    pub(crate) fn entries(&self) -> Option<PteRange<M::Table>> {
        self.slice.map(|slice| slice.entries)
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Looks for what the area takes.
    ///
    /// # Errors
    /// What is lacking; nothing has changed.
    #[inline(always)]
    pub(crate) fn prepare<B: Backing<M>>(&mut self, plan: Plan<'_>, backing: B, call: Call) -> Result<Kit<M, B>, Lack> {
        if B::FRESH
            && call.caches
            && let Some(place) = self.cached(plan)
        {
            return Ok(if self.reuses_at_once(place, plan) { Kit::Cached(place) } else { Kit::Parked(place) });
        }
        let missed = B::FRESH && call.missed && plan.class.is_some() && self.wants_plain(plan);
        if missed && !call.drained && (!self.cpu.remote_frees.is_empty() || self.has_drained()) {
            return Err(Lack::RemoteFrees);
        }
        if self.is_pressed() && !call.supplied {
            return Err(Lack::Grace);
        }
        let (place, start, page) = self.clean_slot(plan).ok_or(Lack::Slot)?;
        if !B::MAPS {
            return Ok(Kit::Clean(Clean { place, start, slice: None, missed: false }));
        }
        let slice = PageRange::new(start, plan.pages.min(SLICE));
        let entries = match at_hand_from::<M>(place.0, slice, || page) {
            Some(entries) => entries,
            None => entries(self.ctx(), place.0, slice)?,
        };
        let taken = backing.take(self, plan, 0, entries.pages())?;
        Ok(Kit::Clean(Clean { place, start, slice: Some(Slice { entries, taken }), missed }))
    }

    /// The newest cached slot of the area's size (G6), if the request wants one.
    #[inline(always)]
    pub(crate) fn cached(&mut self, plan: Plan<'_>) -> Option<Place> {
        if !self.wants_plain(plan) {
            return None;
        }
        self.cpu_chunks(plan.req.region).slot_cache.find(plan.class?, |slot| fits(slot, plan.pages))
    }

    /// Whether the request wants what is cached: ordinary memory of this CPU, for reading
    /// and writing (W1).
    #[inline(always)]
    fn wants_plain(&self, plan: Plan<'_>) -> bool {
        plan.req.memory == MemType::WriteBack && (plan.req.prot == Prot::RW || breaks!(AnyProt)) && self.serves(plan)
    }

    /// The newest cached slot of the class, if the request wants one, and whether it fits and takes
    /// one slice at most: then it is off the list.
    #[inline(always)]
    pub(crate) fn take_newest_cached(&mut self, plan: Plan<'_>) -> Option<(Place, bool)> {
        if !self.wants_plain(plan) {
            return None;
        }
        let (now, pages) = (self.cached.clock, plan.pages);
        let fits = |slot: &Slot| fits(slot, pages) && (pages <= SLICE || slot.is_kept());
        self.cpu_chunks(plan.req.region).slot_cache.take_newest(plan.class?, now, fits)
    }

    /// Whether a cached slot's entries are right, or take one slice.
    #[inline(always)]
    pub(crate) fn reuses_at_once(&self, (chunk, slot): Place, plan: Plan<'_>) -> bool {
        plan.pages <= SLICE || chunk.slot(slot).is_kept()
    }

    /// Takes a cached slot.
    #[inline(always)]
    pub(crate) fn reuse(&mut self, place: Place, plan: Plan<'_>) -> Found {
        self.take_cached(place, plan);
        self.reuse_taken(place, plan)
    }

    fn take_cached(&mut self, place: Place, plan: Plan<'_>) {
        let now = self.cached.clock;
        if let Some(class) = plan.class {
            self.cpu_chunks(plan.req.region).slot_cache.take(class, place, now);
        }
    }

    /// Makes an area of a cached slot that is off its list.
    #[inline(always)]
    pub(crate) fn reuse_taken(&mut self, place: Place, plan: Plan<'_>) -> Found {
        let kept = place.0.slot(place.1).is_kept();
        self.count_alloc(plan.pages);
        let found = self.uncache(place, plan.label::<M, _>(Fresh));
        if !kept {
            restore(self.ctx(), &found, PageRange::new(found.start, plan.pages));
        }
        found
    }

    /// As [`CpuGuard::reuse`], for one whose entries take several slices; and leaves.
    pub(crate) fn reuse_in_slices(mut self, place: Place, plan: Plan<'_>) -> Found {
        self.take_cached(place, plan);
        self.count_alloc(plan.pages);
        let found = self.uncache(place, plan.label::<M, _>(Fresh));
        for slice in PageRange::new(found.start, plan.pages).slices(SLICE) {
            restore(self.ctx(), &found, slice);
            self.preempt_point();
        }
        found
    }

    /// The next clean slot of the class: its address, and how many pages of the chunk come
    /// before it.
    #[inline(always)]
    fn clean_slot(&mut self, plan: Plan<'_>) -> Option<(Place, VirtAddr, usize)> {
        let (chunk, slot) = self.cpu_chunks(plan.req.region).next(plan.class?)?;
        let (start, page) = chunk.place(slot);
        Some(((chunk, slot), start, page))
    }

    /// Looks for what the next slice takes of `rest`, the first page of which is the
    /// `done`-th.
    ///
    /// # Errors
    /// What is lacking.
    pub(crate) fn prepare_slice<B: Backing<M>>(
        &mut self,
        chunk: ChunkRef,
        rest: PageRange,
        done: usize,
        plan: Plan<'_>,
        backing: B,
    ) -> Result<Slice<M, B>, Lack> {
        let entries = match entries(self.ctx(), chunk, rest) {
            // The page before is mapped by the same table: somebody has written over the link.
            Err(_) if done > 0 && !rest.start.0.is_multiple_of(1 << leaf_shift::<M>()) => {
                return Err(Lack::Final(AllocError::InUse(rest.start)));
            }
            entries => entries?,
        };
        let taken = backing.take(self, plan, done, entries.pages())?;
        Ok(Slice { entries, taken })
    }

    /// Begins an area in a slot with a run of its own, which this CPU has taken.
    pub(crate) fn begin<B: Backing<M>>(&mut self, (chunk, index): Place, plan: Plan<'_>, backing: B) -> Found {
        self.count_alloc(plan.pages);
        chunk.begin(index, &plan.label(backing));
        Found { chunk, index, start: self.core.address_of(chunk, index) }
    }

    /// Takes the slot and maps the first slice. Returns the slot, what came of the slice,
    /// and whether the area is whole.
    #[inline(always)]
    pub(crate) fn commit<B: Backing<M>>(
        &mut self,
        kit: Clean<M, B>,
        plan: Plan<'_>,
        backing: B,
    ) -> (Found, Result<usize, Partial>, bool) {
        let Clean { place: (chunk, index), start, slice, missed } = kit;
        let (found, label) = (Found { chunk, index, start }, plan.label(backing));
        chunk.take_this(index);
        self.count_alloc(plan.pages);
        let pages = slice.map_or(plan.pages, |slice| slice.entries.pages());
        let at_once = B::AT_ONCE && pages == plan.pages;
        if at_once {
            chunk.slot(index).begin_whole(&label)
        } else {
            chunk.begin(index, &label)
        }
        if missed {
            miss(self.ctx(), self.cpu, chunk.slot(index));
        }
        let mapped = match slice {
            Some(slice) => self.commit_slice(chunk, slice, 0, plan, backing),
            None => Ok(plan.pages),
        };
        match mapped {
            Ok(_) if at_once => chunk.make_live(index),
            // It is not whole: it has to be undone.
            Err(_) if at_once => chunk.begin(index, &label),
            _ => (),
        }
        let whole = at_once && mapped.is_ok();
        (found, mapped, whole)
    }

    /// Maps a slice, and returns its pages.
    ///
    /// # Errors
    /// An entry is in use (T2), the machine refuses the mapping, or frames are lacking that
    /// no CPU keeps.
    #[inline(always)]
    pub(crate) fn commit_slice<B: Backing<M>>(
        &mut self,
        chunk: ChunkRef,
        slice: Slice<M, B>,
        done: usize,
        plan: Plan<'_>,
        backing: B,
    ) -> Result<usize, Partial> {
        let Slice { entries, taken } = slice;
        let mapped = backing.map(self, taken, entries, plan, done)?;
        let pages = PageRange::new(entries.start(), entries.pages());
        self.machine.sync(pages);
        if breaks!(MapGuard) {
            let guard = self.ctx().look(chunk, pages.end());
            guard.map(|piece| piece.map_run(self.machine.root(), plan.req.prot, plan.req.memory));
        }
        if mapped < pages.pages {
            let error = AllocError::InUse(pages.start.add_pages(mapped));
            return Err(Partial { mapped, lack: Lack::Final(error) });
        }
        Ok(mapped)
    }
}

/// The entries of the first pages of `rest`: those of one slice that lie in one leaf
/// table, where several map the chunk, or a run is walked.
///
/// # Errors
/// Their table is lacking.
#[inline(never)]
fn entries<M: Machine>(ctx: Ctx<'_, M>, chunk: ChunkRef, rest: PageRange) -> Result<PteRange<M::Table>, Lack> {
    let pages = in_one_table::<M>(rest.start, rest.pages.min(SLICE));
    let slice = PageRange::new(rest.start, pages);
    let walk = || Some(PteRange::new(ctx.walker().leaf(slice.start)?.1, slice.start, pages));
    let entries = if chunk.is_runs() { walk() } else { at_hand::<M>(chunk, slice) };
    entries.ok_or(Lack::Table(chunk, slice))
}

/// A slice that was not mapped to the end.
pub(crate) struct Partial {
    /// Pages of it that were.
    pub(crate) mapped: usize,
    /// What the next one lacks.
    pub(crate) lack: Lack,
}
