//! Draining an expired batch, bit by bit.
//!
//! A CPU drains a batch chunk by chunk and slot by slot. It takes the frames out of the parked
//! entries, and pushes those that nobody else holds onto its magazine. Then the slot is free.
//!
//! # Rules
//! - G3: Only an expired batch is drained: grace has come for it.
//! - R4: A slot that another CPU is still freeing moves to the open batch and waits once more.
//! - L3: A call drains about as much work as its caller asks for, at most a slice. A page counts as
//!   one, and so does a slot. A piece of a long run counts as 32. A chunk counts as sixteen, and
//!   each leaf table under it as four. A run that goes back counts as eight, and as 32 for each leaf
//!   table that is looked through then.

use crate::area::Kind;
use crate::frames::{release, release_all};
use crate::machine::Machine;
use crate::machine::event::Event;
use crate::machine::frames::Frames;
use crate::space::chunk::ChunkRef;
use crate::space::slot::{Slot, slots_of};
use crate::state::batch::{Batch, CHUNK};
use crate::state::cpu::{SLICE, WORK};
use crate::state::enter::CpuGuard;
use crate::state::entries::{at_hand, at_hand_from};
use crate::state::stats::count;
use crate::sync::{Ordering::Relaxed, breaks, pooled};
use crate::table::PteRange;
use crate::units::{PageRange, Pfn};

/// The work that a table page counts as.
const TABLE: usize = WORK / 8;
/// The pages of a slot that are taken at once where it has so many, even if the budget is smaller.
const LEAST: usize = WORK / 2;
/// The work that a check of one leaf table counts as.
const LEAF: usize = WORK / 16;

impl<M: Machine> CpuGuard<'_, M> {
    /// Step 4 of a [purge](super::purge): drains the expired batch by about `budget`, in the unit
    /// in which the batch counts work. Returns the work done.
    pub(crate) fn reclaim(&mut self, budget: usize) -> usize {
        let Some(mut batch) = self.expired.take() else { return 0 };
        let (mut work, mut pages, mut slots) = (0, 0, 0);
        let mut drained = false;
        while work < budget && !drained {
            let Some((chunk, slot)) = batch.first() else {
                let loose = self.reclaim_waiting_frames(&mut batch, budget - work);
                if loose > 0 {
                    (pages, work) = (pages + loose, work + loose);
                } else if self.reclaim_one_table(&batch) {
                    work += TABLE;
                } else {
                    drained = true;
                }
                continue;
            };
            if batch.checked != chunk.as_ptr() {
                batch.checked = chunk.as_ptr();
                work += CHUNK + self.check_leaves(chunk) * LEAF;
            }
            if (batch.done, batch.cleared) == (0, 0) {
                let left = budget.saturating_sub(work).max(1);
                let (many, their_pages) = self.collect_many(chunk, batch.index, left);
                (slots, pages, work) = (slots + many, pages + their_pages, work + many as usize + their_pages);
                if many > 0 {
                    continue;
                }
                if self.open.postpone_claimed(chunk, slot) {
                    work += 1;
                    continue;
                }
            }
            let collected =
                if batch.cleared == 0 { self.collect(&mut batch, chunk, slot, budget.saturating_sub(work)) } else { 0 };
            if batch.done == 0 && self.clear_piece(chunk, slot, &mut batch.cleared) {
                work += WORK / 2;
            } else if batch.done == 0 {
                work += self.give(chunk, slot, batch.index);
                (batch.cleared, slots) = (0, slots + 1);
            }
            pages += collected;
            // A slot is work even if it has no pages.
            work += collected + 1;
        }
        let _ = self.machine.note(Event::Retire(pages));
        batch.gone += pages;
        count(&self.cpu.counters.reclaimed, slots);
        count(&self.cpu.counters.reclaimed_pages, pages as u64);
        if !drained {
            // Skips a chunk that has nothing left in the batch. It may be given up and become
            // another CPU's chunk before the batch is drained further.
            let _ = batch.first();
            self.expired = Some(batch);
        }
        self.publish_waiting();
        work
    }

    /// Takes the frames of the common slots and makes these slots free at once: bare slots, and the
    /// chunk's next stale slots as long as each has only frames of its own in one leaf table, and
    /// all together fit one slice. Returns the slots and pages, about `budget` at most.
    #[inline(always)]
    fn collect_many(&mut self, chunk: ChunkRef, batch: usize, budget: usize) -> (u64, usize) {
        let mut clean = chunk.take_bare(batch);
        let (mut slots, mut pages) = (0, 0);
        for slot in slots_of(clean) {
            (slots, pages) = (slots + 1, pages + chunk.slot(slot).pages());
        }
        let stale = chunk.stale(batch) & !clean;
        if M::ALIASES && stale != 0 && slots + pages < budget && !chunk.is_runs() {
            let (these, more, their_pages) = self.collect_usual(chunk, stale, budget - slots - pages);
            (clean, slots, pages) = (clean | these, slots + more, pages + their_pages);
        }
        if clean != 0 {
            let before = chunk.give_all(clean, batch);
            self.cpu_chunks(chunk.region()).slot_freed(chunk, before);
        }
        (slots as u64, pages)
    }

    /// Moves the frames of common slots to the magazine, all at once. Returns the slots as a mask,
    /// and the number of slots and pages.
    #[inline(always)]
    fn collect_usual(&mut self, chunk: ChunkRef, stale: u64, budget: usize) -> (u64, usize, usize) {
        let (ctx, depot) = (self.ctx(), self.core.depot(self.node));
        let Some(places) = self.magazine.room(ctx.machine, depot, SLICE) else { return (0, 0, 0) };
        let (mut left, mut work, mut got) = (stale, 0, 0);
        while left != 0 && work < budget {
            let slot = left.trailing_zeros();
            let Some(pages) = chunk.usual_pages(slot, (SLICE - got).min((budget - work).max(LEAST))) else { break };
            let (start, page) = chunk.place(slot);
            let Some(piece) = at_hand_from::<M>(chunk, PageRange::new(start, pages), || page) else { break };
            let report = move |at, word| ctx.report_bad_entry_again(chunk.slot(slot), at, word);
            got += piece.take_frames(&mut places[got..], report);
            work += 1 + piece.pages();
            left &= left - 1;
        }
        pooled(&places[..got]);
        // SAFETY: the only entries that held them are absent, after grace (G3).
        unsafe { self.magazine.accept(SLICE, got) }
        let (these, slots) = (stale ^ left, (stale ^ left).count_ones() as usize);
        (these, slots, work - slots)
    }

    /// Takes frames that others may hold out of the entries, and drops one holder of each. Frames
    /// without a holder go to the magazine, or wait in the open batch.
    #[inline(never)]
    fn return_lent(&mut self, area: &Slot, piece: PteRange<M::Table>) {
        let (ctx, core) = (self.ctx(), self.core);
        let before = breaks!(LookBeforeRelease) && self.has_no_aliases();
        let depot = core.depot(self.node);
        let Some(places) = self.magazine.room(ctx.machine, depot, piece.pages()) else {
            return self.return_singly(area, piece);
        };
        let collected = piece.take_frames(places, |at, word| ctx.report_bad_entry_again(area, at, word));
        let last = release_all(ctx.machine.frames(), &mut places[..collected]);
        // Aliases are checked after the holds are dropped, never before: in between, another CPU
        // may unmap one of the frames elsewhere and drop its own hold.
        if before || breaks!(IgnoreAliases) || core.flush_epochs.has_no_aliases() {
            pooled(&places[..last]);
            // SAFETY: the entries of the last holder are cleared, after grace, and no alias is left
            // (G3).
            return unsafe { self.magazine.accept(piece.pages(), last) };
        }
        let mut frames = [Pfn(0); SLICE];
        frames[..last].copy_from_slice(&places[..last]);
        // SAFETY: none is accepted.
        unsafe { self.magazine.accept(piece.pages(), 0) }
        let source = self.machine.frames();
        frames[..last].iter().rev().for_each(|&frame| _ = self.give_up(frame, source.page(frame)));
    }

    /// Drops one holder of each frame of the entries, if others may hold some (G3). On a machine of
    /// several nodes all frames come this way.
    #[inline(never)]
    fn return_singly(&mut self, area: &Slot, piece: PteRange<M::Table>) {
        let (ctx, kind, own) = (self.ctx(), area.kind(), area.own_pages().is_some());
        let mut frames = [Pfn(0); SLICE];
        let collected = piece.take_frames(&mut frames, |at, word| ctx.report_bad_entry_again(area, at, word));
        if !M::ALIASES {
            pooled(&frames[..collected]);
            self.core.in_place.fetch_add(collected, Relaxed);
        }
        for &frame in frames[..collected].iter().rev().filter(|_| M::ALIASES) {
            match ctx.machine.frames().page(frame) {
                // Nobody else holds it, and no CPU reaches it after grace.
                _ if own => self.pool_frame(frame),
                _ if kind == Kind::Ioremap => {}
                None if kind == Kind::Vmap => {}
                Some(page) if !breaks!(IgnoreCounts) && !release(page) => {}
                page => _ = self.give_up(frame, page),
            }
        }
    }

    /// Moves the frames of the entries to the magazine. Nobody else holds them.
    #[inline(never)]
    fn pool(&mut self, area: &Slot, piece: PteRange<M::Table>) {
        let (ctx, depot) = (self.ctx(), self.core.depot(self.node));
        let report = |at, word| ctx.report_bad_entry_again(area, at, word);
        let room = self.magazine.room(ctx.machine, depot, piece.pages());
        let Some(places) = room.filter(|_| M::ALIASES) else { return self.return_singly(area, piece) };
        let got = piece.take_frames(places, report);
        pooled(&places[..got]);
        // SAFETY: the only entries that held them are absent, after grace (G3).
        unsafe { self.magazine.accept(piece.pages(), got) }
    }

    /// Frees one table page of a batch that has no slots left. Returns false if there is none.
    fn reclaim_one_table(&mut self, batch: &Batch) -> bool {
        let held = self.tables[batch.index].pop();
        held.map(|held| self.reclaim_table(held)).is_some()
    }

    /// Takes the frames of up to a slice of a slot, and not many more than `budget`. `batch.done` is the
    /// number of pages done; it is 0 when the slot is finished.
    #[inline(never)]
    fn collect(&mut self, batch: &mut Batch, chunk: ChunkRef, slot: u32, budget: usize) -> usize {
        let area = chunk.slot(slot);
        let (kind, pages) = (area.kind(), area.pages());
        if !kind.keeps() || area.mapped_pages() == 0 {
            // Pages of a reservation hold no frames.
            return area.mapped_pages();
        }
        let slice = (pages - batch.done).min(budget.clamp(LEAST, SLICE));
        let at = self.core.address_of(chunk, slot).add_pages(batch.done);
        let piece = at_hand::<M>(chunk, PageRange::new(at, slice));
        match (piece, kind) {
            (Some(piece), _) if area.own_pages().is_some() => self.pool(area, piece),
            (Some(piece), Kind::Vmap) if !breaks!(IgnoreCounts) => self.return_lent(area, piece),
            (_, Kind::Sparse) => self.collect_parked(chunk, slot, PageRange::new(at, slice)),
            _ => self.collect_slowly(chunk, slot, PageRange::new(at, slice)),
        }
        batch.done = if batch.done + slice == pages { 0 } else { batch.done + slice };
        slice
    }

    /// Takes the frames of a slice as the area's kind requires, with a walk if needed.
    #[inline(never)]
    fn collect_slowly(&mut self, chunk: ChunkRef, slot: u32, pages: PageRange) {
        let area = chunk.slot(slot);
        // Where others may hold some frames, each is looked at (G3).
        let own = area.kind().allocates() && (!area.is_shared() || breaks!(IgnoreCounts));
        let put = if own { Self::pool } else { Self::return_singly };
        self.ctx().pieces((chunk, Some(slot)), pages).for_each(|piece| put(self, area, piece));
    }

    /// After grace: takes the frames of those pages of a sparse area that are parked.
    pub(crate) fn collect_parked(&mut self, chunk: ChunkRef, slot: u32, pages: PageRange) {
        let looks = self.ctx().each_look(chunk, pages);
        looks.filter_map(|(_, piece)| piece).for_each(|piece| self.return_singly(chunk.slot(slot), piece));
    }

    /// Makes a drained slot free. Returns the work of giving its own run back, if it has one.
    #[inline]
    fn give(&mut self, chunk: ChunkRef, slot: u32, batch: usize) -> usize {
        let work = if chunk.is_runs() { self.release_run_of(chunk, slot) } else { 0 };
        let before = chunk.give(slot, batch);
        self.cpu_chunks(chunk.region()).slot_freed(chunk, before);
        work
    }
}
