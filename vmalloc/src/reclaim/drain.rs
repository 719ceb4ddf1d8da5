//! Reclaiming: what an expired batch holds is free again, bit by bit.
//!
//! A batch is drained chunk by chunk and slot by slot: frames are collected from
//! the entries in which they waited, and go to the magazine unless somebody else
//! holds them; then the slot is free, and what was in it is nobody's.
//!
//! # Rules
//! - G3: Only what is expired is reclaimed: grace has come for it.
//! - R4: A slot that somebody else is still freeing waits once more.
//! - L3: About as much at a time as the caller says, a slice at most: a page
//!   counts as one, and so does a slot, which may have few; a chunk, which may have
//!   one slot, counts as eight, and each leaf table under it as four.

use crate::area::Kind;
use crate::frames::{release, release_all};
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::space::chunk::ChunkRef;
use crate::space::slot::{Slot, slots_of};
use crate::state::batch::{Batch, CHUNK};
use crate::state::cpu::SLICE;
use crate::state::enter::CpuGuard;
use crate::state::entries::{at_hand, at_hand_from};
use crate::state::stats::count;
use crate::sync::Ordering::Relaxed;
use crate::sync::{breaks, pooled};
use crate::table::PteRange;
use crate::units::{PageRange, Pfn};

/// What a table page is in the work of a batch.
const TABLE: usize = SLICE / 8;
/// What a leaf table is that is looked at.
const LEAF: usize = SLICE / 16;

impl<M: Machine> CpuGuard<'_, M> {
    /// Step 4: drains the expired batch by about `budget`, counted as it counts its
    /// work, and says how much it was.
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
            if batch.done == 0 {
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
            let collected = self.collect(&mut batch, chunk, slot);
            if batch.done == 0 {
                self.give(chunk, slot, batch.index);
                slots += 1;
            }
            pages += collected;
            // A slot costs something even if it has no pages to collect.
            work += collected + 1;
        }
        batch.gone += pages;
        count(&self.cpu.counters.redeemed, slots);
        count(&self.cpu.counters.redeemed_pages, pages as u64);
        if drained {
            self.core.waiting.fetch_sub(batch.pages, Relaxed);
        } else {
            // Past a chunk that has nothing left in the batch: it may be given
            // up, and be somebody else's when the batch is looked at again.
            let _ = batch.first();
            self.expired = Some(batch);
        }
        work
    }

    /// Collects what is usual: slots in whose entries nothing waits; and as long as
    /// the chunk's next stale slot has nothing but frames of its own, in one slice and
    /// one leaf table, as many as fit one slice together. Gives these slots at once, and
    /// says how many slots and pages it was: about `budget` at most.
    #[inline(always)]
    fn collect_many(&mut self, chunk: ChunkRef, batch: usize, budget: usize) -> (u64, usize) {
        let mut clean = chunk.take_bare(batch);
        let (mut slots, mut pages) = (0, 0);
        for slot in slots_of(clean) {
            (slots, pages) = (slots + 1, pages + chunk.slot(slot).pages());
        }
        let stale = chunk.stale(batch) & !clean;
        if stale != 0 && slots + pages < budget && !chunk.is_runs() {
            let (these, more, their_pages) = self.collect_usual(chunk, stale, budget - slots - pages);
            (clean, slots, pages) = (clean | these, slots + more, pages + their_pages);
        }
        if clean != 0 {
            let before = chunk.give_all(clean, batch);
            self.cpu_chunks(chunk.region()).slot_freed(chunk, before);
        }
        (slots as u64, pages)
    }

    /// The frames that wait in usual slots go to the magazine, all at once. Says
    /// which slots, and how many slots and pages.
    #[inline(always)]
    fn collect_usual(&mut self, chunk: ChunkRef, stale: u64, budget: usize) -> (u64, usize, usize) {
        let (ctx, depot) = (self.ctx(), self.core.depot(self.node));
        let Some(places) = self.magazine.room(ctx.machine, depot, SLICE) else { return (0, 0, 0) };
        let (mut these, mut slots, mut pages, mut got) = (0, 0, 0, 0);
        for slot in slots_of(stale) {
            if slots + pages >= budget {
                break;
            }
            let Some(piece) = usual_piece::<M>(chunk, slot, SLICE - got) else { break };
            let report = &mut |at, word| ctx.report_bad_entry_again(chunk.slot(slot), at, word);
            got += piece.take_frames(&mut places[got..], report);
            (slots, pages) = (slots + 1, pages + piece.pages());
            these |= 1 << slot;
        }
        pooled(&places[..got]);
        // SAFETY: the only bindings are collected, after grace (G3).
        unsafe { self.magazine.accept(SLICE, got) }
        (these, slots, pages)
    }

    /// The frames that wait in entries were lent: their holders are one less. Those
    /// that nobody holds any more go to the magazine, or wait by themselves.
    #[inline(never)]
    fn return_lent(&mut self, area: &Slot, piece: PteRange<M::Table>) {
        let (ctx, core) = (self.ctx(), self.core);
        let before = breaks!(LookBeforeRelease) && self.has_no_aliases();
        let depot = core.depot(self.node);
        let Some(places) = self.magazine.room(ctx.machine, depot, piece.pages()) else {
            return self.return_singly(area, piece);
        };
        let collected = piece.take_frames(places, &mut |at, word| ctx.report_bad_entry_again(area, at, word));
        let last = release_all(ctx.machine.frames(), &mut places[..collected]);
        // Looked at after they were let go, never before: in between another CPU may
        // unmap one of them elsewhere and drop its own hold.
        if before || breaks!(IgnoreAliases) || core.flush_epochs.has_no_aliases() {
            pooled(&places[..last]);
            // SAFETY: the bindings of the last holder are collected, after grace, and
            // no alias is left (G3).
            return unsafe { self.magazine.accept(piece.pages(), last) };
        }
        let mut frames = [Pfn(0); SLICE];
        frames[..last].copy_from_slice(&places[..last]);
        // SAFETY: none is accepted.
        unsafe { self.magazine.accept(piece.pages(), 0) }
        self.give_up_all(&frames[..last]);
    }

    #[cold]
    #[inline(never)]
    fn return_singly(&mut self, area: &Slot, piece: PteRange<M::Table>) {
        let ctx = self.ctx();
        let mut frames = [Pfn(0); SLICE];
        let collected = piece.take_frames(&mut frames, &mut |at, word| ctx.report_bad_entry_again(area, at, word));
        let last = release_all(ctx.machine.frames(), &mut frames[..collected]);
        self.give_up_all(&frames[..last]);
    }

    /// Frames that nobody holds any more are pooled, or wait (G3 aliases).
    #[cold]
    #[inline(never)]
    fn give_up_all(&mut self, frames: &[Pfn]) {
        let source = self.machine.frames();
        frames.iter().rev().for_each(|&frame| _ = self.give_up(frame, source.page(frame)));
    }

    /// The frames that wait in entries go to the magazine: nobody else holds them.
    #[inline(never)]
    fn pool(&mut self, area: &Slot, piece: PteRange<M::Table>) {
        let (ctx, depot) = (self.ctx(), self.core.depot(self.node));
        let report = &mut |at, word| ctx.report_bad_entry_again(area, at, word);
        let Some(places) = self.magazine.room(ctx.machine, depot, piece.pages()) else {
            return self.pool_singly(area, piece);
        };
        let got = piece.take_frames(places, report);
        pooled(&places[..got]);
        // SAFETY: the only bindings are collected, after grace (G3).
        unsafe { self.magazine.accept(piece.pages(), got) }
    }

    #[cold]
    #[inline(never)]
    fn pool_singly(&mut self, area: &Slot, piece: PteRange<M::Table>) {
        let (ctx, depot) = (self.ctx(), self.core.depot(self.node));
        let mut frames = [Pfn(0); SLICE];
        let collected = piece.take_frames(&mut frames, &mut |at, word| ctx.report_bad_entry_again(area, at, word));
        for &frame in frames[..collected].iter().rev() {
            // SAFETY: as in `pool`.
            unsafe { self.magazine.push(ctx.machine, depot, frame) }
        }
    }

    /// No slots are left in the batch: its table pages are free memory. False =
    /// none is left either.
    fn reclaim_one_table(&mut self, batch: &Batch) -> bool {
        let held = self.tables[batch.index].pop();
        held.map(|held| self.reclaim_table(held)).is_some()
    }

    /// Collects up to a slice of a slot's frames. `load.done` says how far it
    /// came; 0 = nothing is left.
    #[inline(never)]
    fn collect(&mut self, batch: &mut Batch, chunk: ChunkRef, slot: u32) -> usize {
        let area = chunk.slot(slot);
        let (kind, pages) = (area.kind(), area.pages());
        if !kind.keeps() || pages == 0 {
            // Pages of a reservation were never bound.
            return if kind == Kind::MapRam { pages } else { 0 };
        }
        let slice = (pages - batch.done).min(SLICE);
        let at = self.core.address_of(chunk, slot).add_pages(batch.done);
        let piece = at_hand::<M>(chunk, PageRange::new(at, slice));
        match (piece, kind) {
            (Some(piece), _) if area.own_pages().is_some() => self.pool(area, piece),
            (Some(piece), Kind::Vmap) if !breaks!(IgnoreCounts) => self.return_lent(area, piece),
            _ => self.collect_slowly(chunk, slot, PageRange::new(at, slice)),
        }
        batch.done = if batch.done + slice == pages { 0 } else { batch.done + slice };
        slice
    }

    /// As its kind, and who else holds frames, demand.
    #[inline(never)]
    fn collect_slowly(&mut self, chunk: ChunkRef, slot: u32, pages: PageRange) {
        let area = chunk.slot(slot);
        let kind = area.kind();
        if kind.allocates() && (!area.is_shared() || breaks!(IgnoreCounts)) {
            self.ctx().pieces((chunk, Some(slot)), pages).for_each(|piece| self.pool(area, piece));
        } else {
            self.collect_held(chunk, slot, pages);
        }
    }

    /// Frames that others may hold lose this holder (G3).
    #[inline(never)]
    fn collect_held(&mut self, chunk: ChunkRef, slot: u32, pages: PageRange) {
        let (ctx, area) = (self.ctx(), chunk.slot(slot));
        let kind = area.kind();
        for piece in ctx.pieces((chunk, Some(slot)), pages) {
            let mut frames = [Pfn(0); SLICE];
            let collected = piece.take_frames(&mut frames, &mut |at, word| ctx.report_bad_entry_again(area, at, word));
            for &frame in &frames[..collected] {
                let page = ctx.machine.frames().page(frame);
                let last = match page {
                    _ if kind == Kind::Ioremap => false,
                    Some(page) => breaks!(IgnoreCounts) || release(page),
                    None => kind != Kind::Vmap,
                };
                if last {
                    self.give_up(frame, page);
                }
            }
        }
    }

    /// A reclaimed slot is free again.
    #[inline]
    fn give(&mut self, chunk: ChunkRef, slot: u32, batch: usize) {
        if chunk.is_runs() {
            self.release_run_of(chunk, slot);
        }
        let before = chunk.give(slot, batch);
        self.cpu_chunks(chunk.region()).slot_freed(chunk, before);
    }
}

/// The entries of a stale slot of a class chunk with nothing but frames of its own,
/// at most `most`, in one leaf table that is at hand, which nobody claims.
#[inline(always)]
fn usual_piece<M: Machine>(chunk: ChunkRef, slot: u32, most: usize) -> Option<PteRange<M::Table>> {
    let pages = chunk.usual_pages(slot, most)?;
    let (start, page) = chunk.place(slot);
    at_hand_from::<M>(chunk, PageRange::new(start, pages), || page)
}
