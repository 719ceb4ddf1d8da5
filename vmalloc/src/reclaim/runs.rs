//! Runs: grains of a region that a chunk or one area takes and gives back.
//!
//! # Rules
//! - **R3** A call takes what a run needs (bookkeeping frames, a header) before it takes the
//!   region's lock, so it cannot fail in the middle. The grains of the run point at its chunk
//!   before anybody can look them up. Its leaf tables are linked slice by slice, when an area first
//!   reaches them ([`tables`](super::tables)).

use crate::area::RegionId;
use crate::error::Shortage;
use crate::machine::Machine;
use crate::reclaim::tables::{KEEP, PRUNED};
use crate::space::arena::Fit;
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::state::cpu::SLICE;
use crate::state::enter::CpuGuard;
use crate::state::region::{Region, RunFit, Shared, UnitEntry, leaf_shift};
use crate::state::stats::count;
use crate::sync::Ordering::Relaxed;
use crate::units::{PageRange, VirtAddr};

impl<'v, M: Machine> CpuGuard<'v, M> {
    pub(super) fn region(&self, id: RegionId) -> &'v Region<M::Lock> {
        &self.core.regions[id.0 as usize]
    }

    /// Makes a chunk of `class` inside `within` and puts it on the CPU's chunks (R3). Where no hole
    /// is long enough, it makes a smaller one (K4).
    pub(crate) fn grow(&mut self, id: RegionId, class: Class, within: (u32, u32)) -> Result<(), Shortage> {
        let most = ((within.1.saturating_sub(within.0) / 8).max(1) as usize) << self.region(id).grain_shift;
        let due = class.slots_after(self.cpu_chunks(id).chunks(class));
        let mut slots = due.min(most / class.stride()).max(class.fewest());
        let chunk = loop {
            match self.take_chunk(id, class, slots, within) {
                Err(Shortage::Addresses { .. }) if slots > class.fewest() => slots = class.fewest().max(slots / 2),
                made => break made?,
            }
            self.preempt_point();
        };
        self.cpu_chunks(id).add(chunk);
        self.magazine.few = true;
        count(&self.cpu.counters.chunks_made, 1);
        Ok(())
    }

    fn take_chunk(
        &mut self,
        id: RegionId,
        class: Class,
        slots: usize,
        within: (u32, u32),
    ) -> Result<ChunkRef, Shortage> {
        let pages = class.units(slots) << self.region(id).grain_shift;
        let run = RunFit { pages, below: 0, align: class.align(), within };
        self.take_run(id, &run, |cpu, shared, range| {
            let chunk = cpu.take_header(shared);
            chunk.become_class(class, slots, range.start, id, cpu.index);
            (chunk, None)
        })
    }

    /// Gives the slot `slot` of the run chunk `chunk` a run of its own.
    pub(crate) fn take_run_for(&mut self, id: RegionId, place: (ChunkRef, u32), run: &RunFit) -> Result<(), Shortage> {
        let region = self.region(id);
        let label = |_: &mut Self, _: &mut Shared, range: PageRange| {
            let grains = (range.pages >> region.grain_shift) as u32;
            place.0.slot(place.1).place(region.grain_of(range.start).unwrap_or(0), grains);
            (place.0, Some(place.1))
        };
        self.take_run(id, run, label).map(drop)
    }

    /// Takes the runs of all `parts`, each a distance from a base and a length, in one step, at the
    /// highest base that `fit` allows. Returns the base.
    pub(crate) fn take_parts(
        &mut self,
        region: &Region<M::Lock>,
        parts: impl Iterator<Item = (u32, u32)> + Clone,
        fit: &Fit,
    ) -> Result<u32, Shortage> {
        let (machine, needed) = (self.machine, region.arena_frames * parts.clone().count());
        let last = fit.within.end.min(region.grains()).checked_sub(fit.grains);
        let mut base = last.and_then(|last| fit.align_down(last));
        while let Some(at) = base {
            // Many parts take more frames than a section clears.
            while self.prealloc.len() < needed {
                self.populate(needed.min(self.prealloc.len() + SLICE))?;
                self.preempt_point();
            }
            let before = self.prealloc.len();
            let taken = region.shared.lock().arena.take_parts(machine, &mut self.prealloc, parts.clone(), at);
            self.core.bookkeeping.fetch_add(before - self.prealloc.len(), Relaxed);
            self.preempt_point();
            match taken {
                Ok(()) => break,
                Err(lower) => base = lower.and_then(|lower| fit.align_down(lower)),
            }
        }
        self.prealloc.trim(machine, KEEP);
        let pages = |grains: u32| (grains as usize) << region.grain_shift;
        let widest = || pages(region.shared.lock().arena.widest());
        base.ok_or_else(|| Shortage::Addresses { pages: pages(fit.grains), widest: widest() })
    }

    /// Gives a run that was taken by [`CpuGuard::take_parts`] to a slot.
    pub(crate) fn place_run(&mut self, id: RegionId, (start, grains): (u32, u32)) -> Result<(ChunkRef, u32), Shortage> {
        let (machine, region) = (self.machine, self.region(id));
        let (chunk, slot) = self.run_slot(id)?;
        let filled = self.populate(region.units.frames_needed(grains));
        filled.inspect_err(|_| self.cpu_chunks(id).put_back(chunk, slot))?;
        chunk.slot(slot).place(start, grains);
        self.set_units(region, &mut region.shared.lock(), (start, grains), (chunk, Some(slot)));
        self.prealloc.trim(machine, KEEP);
        Ok((chunk, slot))
    }

    /// Takes a slot of a run chunk.
    pub(crate) fn run_slot(&mut self, id: RegionId) -> Result<(ChunkRef, u32), Shortage> {
        if let Some(place) = self.cpu_chunks(id).take(None) {
            return Ok(place);
        }
        self.grow_runs(id)?;
        self.cpu_chunks(id).take(None).ok_or(Shortage::Tables(1))
    }

    /// Puts a chunk of slots for runs on the CPU's chunks.
    fn grow_runs(&mut self, id: RegionId) -> Result<(), Shortage> {
        self.populate(1)?;
        let before = self.prealloc.len();
        let header = self.take_header(&mut self.region(id).shared.lock());
        self.core.bookkeeping.fetch_add(before - self.prealloc.len(), Relaxed);
        header.become_runs(id, self.index);
        self.cpu_chunks(id).add(header);
        Ok(())
    }

    /// Takes bookkeeping frames before a lock is taken.
    pub(super) fn populate(&mut self, frames: usize) -> Result<(), Shortage> {
        let (machine, node) = (self.machine, self.node);
        let filled = self.prealloc.fill(machine, node, frames);
        filled.map_err(|_| {
            self.prealloc.trim(machine, KEEP);
            Shortage::Tables(frames)
        })
    }

    /// Returns a header: a spare one, or a new one from the bookkeeping frames.
    fn take_header(&mut self, shared: &mut Shared) -> ChunkRef {
        if let Some(header) = shared.headers {
            shared.headers = header.unchain();
            return header;
        }
        let machine = self.machine;
        let frame = self.prealloc.take(machine).expect("R3: populated before");
        // SAFETY: H1: fresh from the prealloc, and never given back (C1).
        unsafe { ChunkRef::create(machine, frame) }
    }

    /// Takes a run: grains and unit entries (R3). `label` writes down which chunk or slot has it,
    /// before its grains point there.
    fn take_run(
        &mut self,
        id: RegionId,
        run: &RunFit,
        label: impl FnOnce(&mut Self, &mut Shared, PageRange) -> (ChunkRef, Option<u32>),
    ) -> Result<ChunkRef, Shortage> {
        let (machine, region) = (self.machine, self.region(id));
        let fit = region.fit(run);
        self.populate(1 + region.arena_frames + region.units.frames_needed(fit.grains))?;

        let before = self.prealloc.len();
        let mut shared = region.shared.lock();
        let start = match shared.arena.take(machine, &mut self.prealloc, &fit) {
            Ok(start) => start,
            Err(widest) => {
                drop(shared);
                self.prealloc.trim(machine, KEEP);
                let pages = run.pages + ((run.below as usize) << region.grain_shift);
                return Err(Shortage::Addresses { pages, widest: (widest as usize) << region.grain_shift });
            }
        };
        let (start, grains) = (start + run.below, fit.grains - run.below);
        let range = region.pages_of(start, grains);
        let (chunk, slot) = label(self, &mut shared, range);
        self.core.bookkeeping.fetch_add(before - self.prealloc.len(), Relaxed);
        self.set_units(region, &mut shared, (start, grains), (chunk, slot));
        drop(shared);

        self.prealloc.trim(machine, KEEP);
        Ok(chunk)
    }

    /// Makes the grains of a run point at `place`.
    fn set_units(
        &mut self,
        region: &Region<M::Lock>,
        _: &mut Shared,
        (start, grains): (u32, u32),
        (chunk, slot): (ChunkRef, Option<u32>),
    ) {
        let (before, entry) = (self.prealloc.len(), UnitEntry::new(chunk, slot));
        region.units.set(self.machine, &mut self.prealloc, start, grains, entry.0);
        self.core.bookkeeping.fetch_add(before - self.prealloc.len(), Relaxed);
    }

    /// Gives up an empty chunk, off its CPU's chunks.
    pub(crate) fn release_chunk(&mut self, chunk: ChunkRef) {
        let region = self.region(chunk.region());
        let Some(start) = region.grain_of(chunk.address(0)) else { return };
        chunk.retire_header();
        self.release_run(region.id, (start, chunk.units()), 0);
        let mut shared = region.shared.lock();
        chunk.chain(shared.headers);
        shared.headers = Some(chunk);
        drop(shared);
        count(&self.cpu.counters.chunks_released, 1);
    }

    /// Gives the run of the slot `slot` of the run chunk `chunk` back.
    pub(crate) fn release_run_of(&mut self, chunk: ChunkRef, slot: u32) {
        let area = chunk.slot(slot);
        self.release_run(chunk.region(), area.run(), area.kind().guards_below());
    }

    /// Gives a run back to the arena, all of its entries absent, and the grains
    /// `below` it. Leaf tables with nothing left under them join the open batch (T1).
    pub(crate) fn release_run(&mut self, id: RegionId, (start, grains): (u32, u32), below: u32) {
        let (machine, region) = (self.machine, self.region(id));
        // `prune` needs the frames, and does nothing without them.
        let _ = self.populate(region.arena_frames);
        let mut shared = region.shared.lock();
        region.units.clear(machine, start, grains);
        let (start, grains) = (start - below, grains + below);
        shared.arena.free(machine, start, grains);
        if self.ctx().walker().keeps_leaf_tables() {
            return;
        }
        let (shift, range) = (leaf_shift::<M>(), region.pages_of(start, grains));
        let leaves = range.start.0 >> shift..=(range.end().0 - 1) >> shift;
        if leaves.end() - leaves.start() >= PRUNED {
            return region.leave(&mut shared, range);
        }
        for leaf in leaves {
            if let Some((at, span)) = region.under(VirtAddr(leaf << shift), shift) {
                self.prune(region, &mut shared, at, span);
            }
        }
    }
}
