//! Sealing batches, and grace.
//!
//! # Rules
//! - **D2** A CPU seals its open batch when it is full or old (G4), and only when the one
//!   before it has been reclaimed.

use crate::flush::{Grace, Holds};
use crate::machine::{Flush, Machine};
use crate::state::batch::Batch;
use crate::state::core::Ctx;
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

    /// Reclaims about a slice, and seals the open batch if it is full.
    #[inline(never)]
    pub(crate) fn reclaim_step(&mut self) {
        self.poll();
        // This is twice what was added since the last step. For the largest areas that go to the
        // batch at once, it is two areas, even if each is in a chunk of its own.
        let added = self.open.step();
        self.reclaim((2 * added).min(SLICE + WORK) + 2);
        if self.open.pages + self.open.bare >= self.core.batch_pages {
            self.seal();
        }
    }

    /// Step 2 of a [purge](super::purge): seals the open batch, unless it is empty or the other
    /// batch is in use.
    pub(crate) fn seal(&mut self) -> Covers {
        let index = self.open.index;
        let tables = !self.tables[index].is_empty();
        if self.sealed.is_some() || self.expired.is_some() || !(tables || self.open.waits()) {
            return Covers::Nothing;
        }
        let narrow = if tables { None } else { self.narrow() };
        let batch = core::mem::replace(&mut self.open, Batch::new(index ^ 1));
        self.core.waiting.fetch_add(batch.pages, Relaxed);
        count(&self.cpu.counters.closes, 1);
        let (core, mut asked) = (self.core, CpuSet::EMPTY);
        // On a machine whose flush covers all CPUs, no CPU has to be asked.
        let epochs = core.epochs().take(if M::MIRRORED { 0 } else { usize::MAX });
        let flush = || {
            count(&self.cpu.counters.flushes, 1);
            self.ctx().flush_here()
        };
        let holds = Holds { tables, aliases: batch.has_aliases, narrow };
        let pending = core.flush_epochs.seal_and_ask(batch, holds, flush, epochs, |cpu| asked.insert(cpu));
        if !asked.is_empty() {
            count(&self.cpu.counters.kicks, asked.iter().count() as u64);
            self.machine.kick(&asked);
        }
        self.sealed = Some(pending);
        self.poll();
        narrow.map_or(Covers::Everything, Covers::Pages)
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

    /// Whether more pages wait for flushes than should (G4). Counts the sealed batches of all CPUs
    /// and this CPU's open one.
    #[inline]
    pub(crate) fn is_pressed(&self) -> bool {
        let (waiting, most) = (self.core.waiting.load(Relaxed) + self.open.pages, self.core.waiting_pages);
        waiting > most && waiting - self.expired.as_ref().map_or(0, |expired| expired.gone) > most
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

    /// Flushes the calling CPU and publishes its epoch, or flushes all CPUs where the machine can.
    pub(crate) fn flush_here(self) {
        let everywhere = || self.machine.flush_everywhere(Flush::Everything) && self.nobody_looks();
        if self.core.flush_epochs.flush_everywhere(everywhere) || M::MIRRORED {
            return;
        }
        self.pinned(|cpu| match self.core.cpu(cpu) {
            cpu if cpu.looks.are_under_way() => cpu.epoch.put_off(),
            cpu => self.core.flush_epochs.flush(&cpu.epoch, |what| self.flush_machine(what)),
        });
    }
}
