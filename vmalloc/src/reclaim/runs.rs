//! Runs: grains of a region that a chunk or one area takes and gives back.
//!
//! # Rules
//! - **R3** A call takes what a run needs (bookkeeping frames, a header) before it takes the
//!   region's lock, so it cannot fail in the middle. The grains of the run point at its chunk
//!   before anybody can look them up; those of a long run while finders skip its area (U1). Its
//!   leaf tables are linked slice by slice, when an area first reaches them
//!   ([`tables`](super::tables)).
//! - L3: The entries of a long run are written by pieces ([`PIECE`]): the first before its area
//!   begins, each other in a section of its own. They are cleared in the same way, the first last.

use crate::area::RegionId;
use crate::error::Shortage;
use crate::machine::Machine;
use crate::reclaim::tables::{KEEP, PRUNED};
use crate::space::arena::Fit;
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::space::slot::Slot;
use crate::state::cpu::{SLICE, WORK};
use crate::state::enter::CpuGuard;
use crate::state::lookup::Found;
use crate::state::region::{Region, RunFit, UnitEntry, leaf_shift};
use crate::state::stats::count;
use crate::sync::Ordering::Relaxed;
use crate::units::VirtAddr;
use core::ops::Range;

/// The grains of a run whose entries one section writes. No class chunk has more.
pub(crate) const PIECE: usize = 4096;
/// The work that giving a run back counts as.
const RUN: usize = WORK / 8;

impl<'v, M: Machine> CpuGuard<'v, M> {
    pub(super) fn region(&self, id: RegionId) -> &'v Region<M::Lock> {
        &self.core.regions[id.0 as usize]
    }

    /// Makes a chunk of `class` inside `within` and puts it on the CPU's chunks (R3). Where no hole
    /// is long enough, it makes a smaller one (K4).
    pub(crate) fn grow(&mut self, id: RegionId, class: Class, within: (usize, usize)) -> Result<(), Shortage> {
        let region = self.region(id);
        let most = (within.1.saturating_sub(within.0) / 8).max(1) << region.grain_shift;
        let due = class.slots_after(self.cpu_chunks(id).chunks(class));
        let mut slots = due.min(most / class.stride()).max(class.fewest());
        let (start, grains) = loop {
            let pages = class.units(slots) << region.grain_shift;
            match self.take_run(region, &RunFit { pages, below: 0, align: class.align(), within }) {
                Err(Shortage::Addresses { .. }) if slots > class.fewest() => slots = class.fewest().max(slots / 2),
                taken => break taken?,
            }
            self.preempt_point();
        };
        let chunk = self.take_header(id);
        chunk.become_class(class, slots, region.address(start), id, self.index);
        self.set_units(region, (start, grains), (chunk, None));
        self.cpu_chunks(id).add(chunk);
        self.magazine.few = true;
        count(&self.cpu.counters.chunks_made, 1);
        Ok(())
    }

    /// Takes the runs of all `parts`, each a distance from a base and a length, in one step, at the
    /// highest base that `fit` allows. Returns the base.
    pub(crate) fn take_parts(
        &mut self,
        region: &Region<M::Lock>,
        parts: impl Iterator<Item = (usize, usize)> + Clone,
        fit: &Fit,
    ) -> Result<usize, Shortage> {
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
        base.ok_or_else(|| self.no_addresses(region, fit.within.clone(), fit.grains << region.grain_shift))
    }

    /// Gives a run that was taken to a slot.
    pub(crate) fn place_run(
        &mut self,
        id: RegionId,
        (start, grains): (usize, usize),
    ) -> Result<(ChunkRef, u32), Shortage> {
        let region = self.region(id);
        let (chunk, slot) = self.run_slot(id)?;
        let filled = self.populate(region.units.frames_needed(grains.min(PIECE)));
        filled.inspect_err(|_| self.cpu_chunks(id).put_back(chunk, slot))?;
        chunk.slot(slot).place(start, grains);
        self.set_units(region, (start, grains), (chunk, Some(slot)));
        Ok((chunk, slot))
    }

    /// Makes the grains of an area's run point at it, from the `done`-th on. The area is building.
    pub(crate) fn set_pieces(&mut self, found: &Found, done: &mut usize) -> Result<(), Shortage> {
        let (start, grains) = found.slot().run();
        let region = self.region(found.chunk.region());
        while found.chunk.is_runs() && *done < grains {
            // The CPU that goes on need not be the owner's.
            self.preempt_point();
            self.populate(region.units.frames_needed((grains - *done).min(PIECE)))?;
            self.set_units(region, (start + *done, grains - *done), (found.chunk, Some(found.index)));
            *done += PIECE;
        }
        Ok(())
    }

    /// Clears the entries of the next piece of a slot's run. All but the first piece are cleared
    /// before the run goes back. Returns whether there was one.
    pub(super) fn clear_piece(&mut self, chunk: ChunkRef, slot: u32, done: &mut u32) -> bool {
        let ((start, grains), region) = (chunk.slot(slot).run(), self.region(chunk.region()));
        let from = *done as usize + PIECE;
        let more = chunk.is_runs() && from < grains;
        if more {
            *done = from as u32;
            let _shared = region.shared.lock();
            region.units.clear(self.machine, start + from, (grains - from).min(PIECE));
        }
        more
    }

    /// Takes a slot of a run chunk. If the CPU has none, it makes such a chunk.
    fn run_slot(&mut self, id: RegionId) -> Result<(ChunkRef, u32), Shortage> {
        if let Some(place) = self.cpu_chunks(id).take(None) {
            return Ok(place);
        }
        self.populate(1)?;
        let header = self.take_header(id);
        header.become_runs(id, self.index);
        self.cpu_chunks(id).add(header);
        self.cpu_chunks(id).take(None).ok_or(Shortage::Tables(1))
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
    fn take_header(&mut self, id: RegionId) -> ChunkRef {
        let mut shared = self.region(id).shared.lock();
        if let Some(header) = shared.headers {
            shared.headers = header.unchain();
            return header;
        }
        let machine = self.machine;
        let frame = self.prealloc.take(machine).expect("R3: populated before");
        self.core.bookkeeping.fetch_add(1, Relaxed);
        // SAFETY: H1: fresh from the prealloc, and never given back (C1).
        unsafe { ChunkRef::create(machine, frame) }
    }

    /// Takes the grains of a run, and before them the frames of its header and of the entries of its
    /// first piece (R3). Interrupts come in after a number of searches (L3).
    pub(crate) fn take_run(&mut self, region: &Region<M::Lock>, run: &RunFit) -> Result<(usize, usize), Shortage> {
        let (machine, mut fit) = (self.machine, region.fit(run));
        fit.grains = Slot::storable(fit.grains - run.below) + run.below;
        let taken = loop {
            self.populate(1 + region.arena_frames + region.units.frames_needed(fit.grains.min(PIECE)))?;
            let before = self.prealloc.len();
            let taken = region.shared.lock().arena.take(machine, &mut self.prealloc, &fit);
            self.core.bookkeeping.fetch_add(before - self.prealloc.len(), Relaxed);
            let Err(Some(next)) = taken else { break taken };
            fit.within.start = next;
            self.preempt_point();
        };
        taken.map(|start| (start + run.below, fit.grains - run.below)).map_err(|_| {
            self.prealloc.trim(machine, KEEP);
            let pages = run.pages + (run.below << region.grain_shift);
            self.no_addresses(region, run.within.0..run.within.1, pages)
        })
    }

    /// No run of `pages` was found.
    fn no_addresses(&self, region: &Region<M::Lock>, within: Range<usize>, pages: usize) -> Shortage {
        let widest = region.shared.lock().arena.widest_within(self.machine, &within);
        Shortage::Addresses { pages, widest: widest << region.grain_shift }
    }

    /// Makes the grains of the first piece of a run point at `place`.
    fn set_units(&mut self, region: &Region<M::Lock>, run: (usize, usize), (chunk, slot): (ChunkRef, Option<u32>)) {
        let (machine, before, entry) = (self.machine, self.prealloc.len(), UnitEntry::new(chunk, slot));
        let shared = region.shared.lock();
        region.units.set(machine, &mut self.prealloc, run.0, run.1.min(PIECE), entry.0);
        drop(shared);
        self.core.bookkeeping.fetch_add(before - self.prealloc.len(), Relaxed);
        self.prealloc.trim(machine, KEEP);
    }

    /// Gives up an empty chunk, off its CPU's chunks. Returns the work done.
    pub(crate) fn release_chunk(&mut self, chunk: ChunkRef) -> usize {
        let region = self.region(chunk.region());
        let Some(start) = region.grain_of(chunk.address(0)) else { return 0 };
        chunk.retire_header();
        self.core.last_frees().remember_chunk(chunk, region.pages_of(start, chunk.units()));
        let work = self.release_run(region.id, (start, chunk.units()), 0);
        let mut shared = region.shared.lock();
        chunk.chain(shared.headers);
        shared.headers = Some(chunk);
        drop(shared);
        count(&self.cpu.counters.chunks_released, 1);
        work
    }

    /// Gives the run of the slot `slot` of the run chunk `chunk` back. Returns the work done.
    pub(crate) fn release_run_of(&mut self, chunk: ChunkRef, slot: u32) -> usize {
        let (area, region) = (chunk.slot(slot), self.region(chunk.region()));
        let (start, grains) = area.run();
        self.core.last_frees().remember_run(chunk, slot, region.pages_of(start, grains), region.start_of(area));
        self.release_run(region.id, area.run(), area.kind().guards_below())
    }

    /// Gives a run back to the arena, and the grains `below` it. All of its entries are absent, and
    /// its pieces after the first are cleared. Leaf tables with nothing left under them join the
    /// open batch (T1). Returns the work done.
    pub(crate) fn release_run(&mut self, id: RegionId, (start, grains): (usize, usize), below: usize) -> usize {
        let (machine, region) = (self.machine, self.region(id));
        // `prune` needs the frames, and does nothing without them.
        let _ = self.populate(region.arena_frames);
        let mut shared = region.shared.lock();
        region.units.clear(machine, start, grains.min(PIECE));
        let (start, grains) = (start - below, grains + below);
        shared.arena.free(machine, start, grains);
        if self.ctx().walker().keeps_leaf_tables() {
            return RUN;
        }
        let (shift, range) = (leaf_shift::<M>(), region.pages_of(start, grains));
        let leaves = range.start.0 >> shift..=(range.end().0 - 1) >> shift;
        if leaves.end() - leaves.start() >= PRUNED {
            region.leave(&mut shared, range);
            return RUN;
        }
        let leaves = leaves.filter_map(|leaf| region.under(VirtAddr(leaf << shift), shift));
        RUN + leaves.map(|(at, span)| self.prune(region, &mut shared, at, span)).sum::<usize>()
    }
}
