//! What comes after a free: closing, grace, reclaiming; ticks and pressure.
//!
//! # One purge
//! 1. The remote frees are drained: what other CPUs freed becomes stale here (R1).
//! 2. The open batch is sealed: a tag, a flush of this CPU, kicks (G1).
//! 3. At grace the batch is expired.
//! 4. It is drained slot by slot: entries are collected, frames go to the
//!    magazine, the slot is free again; table pages become free memory (G3).
//!
//! Steps 1–4 are taken a bit at a time by the calls that need something, and by
//! the tick; [`Vmalloc::purge`] takes them all, for all CPUs.

use crate::flush::Pending;
use crate::machine::{Context, Machine};
use crate::reclaim::cache::Evict;
use crate::reclaim::close::Covers;
use crate::state::core::Ctx;
use crate::state::cpu::SLICE;
use crate::state::enter::CpuGuard;
use crate::state::visit::Visit;
use crate::sync::Ordering::Relaxed;
use crate::units::{CpuSet, VirtAddr};

/// Rounds of a purge in any case: the batches, the tables that they freed, and
/// those of the uppermost runs.
const PURGE_ROUNDS: usize = 4;

impl<M: Machine> Ctx<'_, M> {
    /// Purges everything on all CPUs. Returns the pages that were reclaimed.
    pub(crate) fn purge(self) -> usize {
        self.evict_all(Evict::Purged);
        self.flush_all()
    }

    /// Evicts what is cached on any CPU, or lies in its remote frees.
    pub(crate) fn evict_all(self, why: Evict) {
        self.visit_each(|cpu| cpu.drain_remote_frees() || cpu.evict(why) > 0);
    }

    /// [`Vmalloc::purge`], but what is cached stays so.
    pub(crate) fn flush_all(self) -> usize {
        let before = self.core.redeemed_pages();
        let mut rounds = 0;
        loop {
            // Draining may unlink tables and fill the other batch: until nothing
            // is left, or nothing comes of it any more.
            let tables = self.core.tables.load(Relaxed);
            let left = self.purge_round();
            rounds += 1;
            if !left || (rounds >= PURGE_ROUNDS && self.core.tables.load(Relaxed) >= tables) {
                return self.core.redeemed_pages().wrapping_sub(before);
            }
        }
    }

    /// One round; true = something is left that another round may reclaim.
    fn purge_round(self) -> bool {
        let graced = self.flush_round();
        self.visit_each(|here| here.release_empties(true));
        for region in &self.core.regions {
            self.visit_each(|here| here.sweep(region.id));
        }
        let mut left = false;
        self.visit_all(|here| left |= !here.is_drained());
        left && graced
    }

    /// Closes what can be sealed, waits for grace, and reclaims. False = grace did
    /// not come.
    pub(crate) fn flush_round(self) -> bool {
        let mut tables = false;
        self.drain_all();
        self.visit_all(|here| {
            here.seal();
            tables |= here.sealed.as_ref().is_some_and(|sealed| !here.tables[sealed.peek().index].is_empty());
        });
        let graced = self.wait_for_grace(tables);
        self.drain_all();
        graced
    }

    /// Drains the expired batches of all CPUs, a slice inside one at a time (L3).
    fn drain_all(self) {
        self.visit_each(|cpu| cpu.reclaim_some());
    }

    /// Calls `f` inside each CPU in turn, again and again as long as it says
    /// that there is more (L3).
    pub(crate) fn visit_each(self, mut f: impl FnMut(&mut CpuGuard<'_, M>) -> bool) {
        for index in 0..self.core.cpus() {
            while Visit::enter(self, index).is_ok_and(|mut here| f(&mut here)) {}
        }
    }

    /// Calls `f` inside each CPU in turn.
    fn visit_all(self, mut f: impl FnMut(&mut CpuGuard<'_, M>)) {
        for index in 0..self.core.cpus() {
            if let Ok(mut here) = Visit::enter(self, index) {
                f(&mut here);
            }
        }
    }

    /// Waits until everything sealed so far has had grace; false where it must
    /// not wait, or a flush failed.
    pub(crate) fn wait_for_grace(self, idle_too: bool) -> bool {
        let barrier = self.core.flush_epochs.seal((), idle_too);
        self.pinned_anew(|_| self.flush_here());
        self.wait_for(barrier)
    }

    /// Waits until `barrier` has had grace; false where it must not wait, or a
    /// flush failed. Flushes this CPU meanwhile, if another one asks (L2).
    fn wait_for(self, mut barrier: Pending<()>) -> bool {
        loop {
            barrier = match barrier.reclaim(&self.grace()) {
                Ok(()) => return true,
                Err(barrier) => barrier,
            };
            if M::MIRRORED || self.machine.context() != Context::Task {
                return false;
            }
            let mut asked = CpuSet::EMPTY;
            self.core.flush_epochs.ask(&barrier, self.core.epochs(), |cpu| asked.insert(cpu));
            if !asked.is_empty() {
                self.machine.kick(&asked);
            }
            self.pinned_anew(|cpu| self.catch_up(self.core.cpu(cpu)));
            self.machine.relax();
        }
    }

    /// Strict's free: returns when no CPU can reach what was freed at `at`,
    /// where the caller may wait. A batch that is sealed now will do for a
    /// barrier, on whatever CPU that is, unless it is a small one of other pages;
    /// one that was sealed before is too old.
    pub(crate) fn flush_and_wait(self, at: VirtAddr) {
        let Ok(mut here) = CpuGuard::enter(self) else { return };
        here.poll();
        here.drain();
        let covers = match here.seal() {
            Covers::Nothing => false,
            Covers::Pages(pages) => pages.contains(at),
            Covers::Everything => true,
        };
        let sealed = here.sealed.as_ref().map(Pending::barrier);
        drop(here);
        match sealed {
            _ if !covers => self.wait_for_grace(false),
            Some(sealed) => self.wait_for(sealed),
            None => true,
        };
        if let Ok(mut here) = CpuGuard::enter(self) {
            here.poll();
            here.drain();
        }
    }

    /// Gives what lies in magazines, stocks and depots back to the source.
    pub(crate) fn drain_stocks(self) {
        let machine = self.machine;
        self.visit_each(|here| here.magazine.give_some(machine) > 0);
        self.visit_all(|here| here.stock.trim(machine, 0));
        self.trim_depots(0);
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Takes in what other CPUs freed, and reclaims a slice. True = there may be more.
    pub(crate) fn reclaim_some(&mut self) -> bool {
        let more = self.drain_remote_frees();
        self.poll();
        self.reclaim(SLICE) > 0 || more
    }

    /// Drains the expired batch of this, its own, CPU, a slice at a time (L3), and
    /// says how many pages it was.
    pub(crate) fn drain(&mut self) -> usize {
        let mut pages = 0;
        loop {
            self.poll();
            match self.reclaim(SLICE) {
                0 => return pages,
                more => pages += more,
            }
            self.preempt_point();
        }
    }
}
