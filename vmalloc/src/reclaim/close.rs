//! Sealing batches, and grace.
//!
//! A flush discards everything on every CPU, so all CPUs share it. A **round** is one such flush:
//!
//! ```text
//!   1  a CPU finds that enough pages wait on all CPUs together      seals its batch, asks all CPUs
//!   2  each CPU, at its next step                                   seals its batch, asks nobody
//!   3  the next round's flush                                       grace for all of these batches
//! ```
//!
//! A CPU publishes what waits in its batches at each step, in its own frame. The CPU that looks adds
//! up the numbers of all CPUs. So a free writes nothing that CPUs share. An instance with one CPU has
//! nothing to share, and seals its batch when the batch is full.
//!
//! # Rules
//! - **D2** A CPU seals its open batch in a round, or when it is full or old (G4), and only when the
//!   one before it has been reclaimed.

use crate::flush::{Grace, Holds, Pending};
use crate::machine::{Flush, Machine};
use crate::state::batch::Batch;
use crate::state::core::{Ctx, share_of_live};
use crate::state::cpu::{SLICE, WORK};
use crate::state::enter::CpuGuard;
use crate::state::stats::count;
use crate::sync::{Ordering::Relaxed, breaks};
use crate::units::{CpuSet, PageRange};

/// What the flush of a sealed batch discards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Covers {
    /// Nothing was sealed.
    Nothing,
    /// Only these pages: it is no barrier for other frees (G1 ranges).
    Pages(PageRange),
    /// Everything that was cleared before.
    Everything,
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Amortised reclaim: for every 32 pages of work that frees add to the open batch, reclaims
    /// about twice what was added from the expired one, and seals the open batch if it is full. So
    /// the expired batch is empty before the open one is full (G4, L3).
    #[inline]
    pub(crate) fn reclaim_after(&mut self) {
        if self.open.is_due() {
            self.reclaim_step();
        }
    }

    /// As [`Self::reclaim_step`], after `pages` pages were unmapped: that was a section of its own if
    /// they are many (L3).
    #[inline]
    pub(crate) fn reclaim_step_after(&mut self, pages: usize) {
        if pages > WORK {
            self.preempt_point();
        }
        self.reclaim_step();
    }

    /// Reclaims about a slice, and seals the open batch if it is full.
    #[inline(never)]
    pub(crate) fn reclaim_step(&mut self) {
        self.poll();
        // This is twice what was added since the last step. For the largest areas that go to the
        // batch at once, it is more than one area, even if each is in a chunk of its own.
        let added = self.open.step();
        self.reclaim((2 * added).min(SLICE + WORK) + 2);
        self.seal_if_due();
    }

    /// Seals the open batch if the CPU's share of the pages that may wait is in it, or if a round is
    /// due or was begun by another CPU (G4).
    pub(crate) fn seal_if_due(&mut self) {
        let (core, full) = (self.core, self.open.pages + self.open.bare);
        if core.cpus() == 1 {
            if full >= share_of_live(core.batch_pages, self.cpu.counters.live_pages() as usize) {
                self.seal();
            }
            core.waiting.store(self.waiting(), Relaxed);
            return;
        }
        if core.round.load(Relaxed) != self.round {
            self.join_round();
        }
        self.publish_waiting();
        if full >= WORK.min(core.batch_pages / 2) && (core.is_round_due() || self.open.bare >= core.round_pages) {
            self.start_round();
        }
    }

    /// Publishes what waits in the batches of this CPU.
    pub(crate) fn publish_waiting(&self) {
        let waits = self.waiting();
        let expired = self.expired.as_ref().map_or(0, |batch| batch.pages - batch.gone);
        self.cpu.waits.store(waits, Relaxed);
        self.cpu.unflushed.store(waits - expired, Relaxed);
    }

    /// Begins a round, unless there is nothing to flush for: the batch before the open one may be
    /// draining still.
    pub(crate) fn start_round(&mut self) {
        if self.expired.is_some() && self.sealed.is_none() {
            return;
        }
        self.round = self.core.round.fetch_add(1, Relaxed).wrapping_add(1);
        self.core.freed.store(self.core.look().freed, Relaxed);
        self.seal_open(None);
        self.ask();
    }

    /// Seals the open batch for the flush of the next round.
    pub(crate) fn join_round(&mut self) {
        let round = self.core.round.load(Relaxed);
        if self.seal_open(None) != Covers::Nothing || !self.open.waits() {
            self.round = round;
        }
    }

    /// Step 2 of a [purge](super::purge): seals the open batch, unless it is empty or the other
    /// batch is in use, and asks for its flush.
    pub(crate) fn seal(&mut self) -> Covers {
        let narrow = self.narrow();
        let covers = self.seal_open(narrow);
        if covers != Covers::Nothing {
            self.ask();
        }
        covers
    }

    /// Seals the open batch, unless it is empty or the other batch is in use. Asks nobody to flush.
    /// `narrow` is all of its pages, if they are few.
    pub(crate) fn seal_open(&mut self, narrow: Option<PageRange>) -> Covers {
        let index = self.open.index;
        let tables = !self.tables[index].is_empty();
        if self.sealed.is_some() || self.expired.is_some() || !(tables || self.open.waits()) {
            return Covers::Nothing;
        }
        let narrow = narrow.filter(|_| !tables);
        let batch = core::mem::replace(&mut self.open, Batch::new(index ^ 1));
        count(&self.cpu.counters.closes, 1);
        let holds = Holds { tables, aliases: batch.has_aliases, narrow };
        self.sealed = Some(self.core.flush_epochs.seal_batch(batch, holds));
        narrow.map_or(Covers::Everything, Covers::Pages)
    }

    /// Flushes the calling CPU, and asks the others for which the sealed batch waits.
    fn ask(&mut self) {
        let Some(barrier) = self.sealed.as_ref().map(Pending::barrier) else { return };
        count(&self.cpu.counters.flushes, 1);
        self.ctx().flush_here();
        let mut asked = CpuSet::EMPTY;
        // On a machine whose flush covers all CPUs, no CPU has to be asked.
        let epochs = self.core.epochs().take(if M::MIRRORED { 0 } else { usize::MAX });
        self.core.flush_epochs.ask(&barrier, epochs, |cpu| asked.insert(cpu));
        if !asked.is_empty() {
            count(&self.cpu.counters.kicks, asked.iter().count() as u64);
            self.machine.kick(&asked);
        }
        self.poll();
    }

    /// The pages of the open batch, if it holds a single small area (G1 ranges). That happens under
    /// Strict, in a shortage, and in a tick. `None` while there are aliases.
    fn narrow(&mut self) -> Option<PageRange> {
        let (chunk, slot) = self.open.only().filter(|_| self.core.flush_epochs.has_no_aliases())?;
        let pages = chunk.slot(slot).pages();
        (pages <= SLICE).then(|| PageRange::new(self.core.address_of(chunk, slot), pages))
    }

    /// Step 3: if grace has come for the sealed batch, it becomes the expired batch.
    #[inline]
    pub(crate) fn poll(&mut self) {
        if let Some(pending) = self.sealed.take() {
            match pending.reclaim(&self.ctx().grace()) {
                Ok(batch) => self.expired = Some(batch),
                Err(pending) => self.sealed = Some(pending),
            }
        }
    }

    /// Whether more pages waited for flushes than should when a CPU looked last (G4).
    #[inline]
    pub(crate) fn is_pressed(&self) -> bool {
        self.core.waiting.load(Relaxed) > self.core.waiting_pages
    }

    /// The same, by a look now.
    pub(crate) fn is_pressed_now(&self) -> bool {
        self.publish_waiting();
        self.core.look();
        self.is_pressed()
    }
}

impl<M: Machine> Ctx<'_, M> {
    /// How far grace has come.
    pub(crate) fn grace(self) -> Grace {
        let epochs = &self.core.flush_epochs;
        let grace = if M::MIRRORED { epochs.grace_so_far() } else { epochs.grace(self.core.epochs()) };
        if breaks!(EarlyReclaim) {
            return Grace::STOLEN;
        }
        if breaks!(SkipIdle) { grace.ignoring_idle() } else { grace }
    }

    /// Flushes the calling CPU if it is behind, and publishes its epoch; or flushes all CPUs where the
    /// machine can.
    pub(crate) fn flush_here(self) {
        let everywhere = || self.machine.flush_everywhere(Flush::Everything) && self.nobody_looks();
        if self.core.flush_epochs.flush_everywhere(everywhere) || M::MIRRORED {
            return;
        }
        self.pinned(|cpu| self.catch_up(self.core.cpu(cpu)));
    }
}
