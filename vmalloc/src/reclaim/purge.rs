//! Purge: the steps that reclaim freed areas, for all CPUs at once.
//!
//! # One purge
//! 1. Each CPU drains its remote frees: slots that other CPUs freed become stale (R1).
//! 2. Each CPU seals its open batch: a tag, a flush of this CPU, kicks for the others (G1).
//! 3. At grace the batch is expired.
//! 4. The batch is drained slot by slot: frames go to the magazine and the slot is free again. Then
//!    its table pages are freed (G3).
//!
//! Allocations, frees and ticks take these steps a bit at a time. [`Ctx::purge`] takes all of them,
//! for all CPUs.

use crate::flush::Pending;
use crate::machine::event::Event;
use crate::machine::{Context, Machine};
use crate::reclaim::cache::{Evict, PURGED};
use crate::reclaim::close::Covers;
use crate::state::core::Ctx;
use crate::state::cpu::WORK;
use crate::state::enter::CpuGuard;
use crate::state::visit::Visit;
use crate::sync::Ordering::Relaxed;
use crate::units::{CpuSet, VirtAddr};

/// The least number of rounds after which a purge may give up: one for the batches, one for the
/// tables that they freed, and more for the tables of the uppermost runs.
const PURGE_ROUNDS: usize = 4;

impl<M: Machine> Ctx<'_, M> {
    /// Purges everything on all CPUs. Returns the pages that were reclaimed.
    pub(crate) fn purge(self) -> usize {
        self.evict_all(PURGED);
        let before = self.core.reclaimed_pages();
        for round in 1.. {
            // Draining may unlink tables and so fill the other batch. The loop ends when nothing is
            // left, or when a round gains nothing.
            let tables = self.core.tables.load(Relaxed);
            let left = self.purge_round();
            if !left || (round >= PURGE_ROUNDS && self.core.tables.load(Relaxed) >= tables) {
                break;
            }
        }
        let pages = self.core.reclaimed_pages().wrapping_sub(before);
        if M::MIRRORED {
            // Somebody else can have the memory of what is free: what is in magazines is not.
            self.drain_stocks();
        }
        let _ = self.machine.note(Event::Purge(pages));
        pages
    }

    /// Evicts the cached slots of all CPUs, and drains all remote frees.
    pub(crate) fn evict_all(self, why: Evict) {
        // Each has a section of its own (L3).
        self.visit_each(|cpu| cpu.drain_remote_frees());
        self.visit_each(|cpu| cpu.evict(why) > 0);
    }

    /// One round. Returns whether another round may reclaim more.
    fn purge_round(self) -> bool {
        let graced = self.flush_round();
        self.visit_each(|cpu| cpu.release_empties(true));
        for region in &self.core.regions {
            self.visit_each(|cpu| cpu.sweep(region.id));
        }
        let mut left = false;
        self.visit_each(|cpu| {
            left |= !cpu.is_drained();
            false
        });
        left && graced
    }

    /// Seals what can be sealed, waits for grace, and reclaims. Returns false if grace did not
    /// come.
    pub(crate) fn flush_round(self) -> bool {
        let mut tables = false;
        self.visit_each(|cpu| cpu.reclaim_some());
        self.visit_each(|cpu| {
            cpu.seal_open(None);
            tables |= cpu.sealed.as_ref().is_some_and(|sealed| !cpu.tables[sealed.peek().index].is_empty());
            false
        });
        let graced = self.wait_for_grace(tables);
        self.visit_each(|cpu| cpu.reclaim_some());
        graced
    }

    /// Calls `f` inside each CPU in turn, on each as long as `f` returns that there is more (L3).
    pub(crate) fn visit_each(self, mut f: impl FnMut(&mut CpuGuard<'_, M>) -> bool) {
        for index in 0..self.core.cpus() {
            while Visit::enter(self, index).is_ok_and(|mut cpu| f(&mut cpu)) {}
        }
    }

    /// Waits until everything sealed so far has had grace. Returns false if the caller must not
    /// wait, or if a flush failed.
    pub(crate) fn wait_for_grace(self, idle_too: bool) -> bool {
        let barrier = self.core.flush_epochs.seal((), idle_too);
        self.pinned_anew(|_| self.flush_here());
        self.wait_for(barrier)
    }

    /// Waits until `barrier` has had grace, and flushes this CPU meanwhile if it is asked (L2).
    /// Returns false if the caller must not wait, or if a flush failed.
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

    /// The end of a free under Strict: if the caller may wait, returns when no CPU can reach the
    /// area freed at `at`. A batch that is sealed now serves as the barrier, on whatever CPU that
    /// is, unless it is a small one of other pages. A batch that was sealed before is too old.
    pub(crate) fn flush_and_wait(self, at: VirtAddr) {
        let Ok(mut cpu) = CpuGuard::enter(self) else { return };
        cpu.poll();
        cpu.drain();
        let covers = match cpu.seal() {
            Covers::Nothing => false,
            Covers::Pages(pages) => pages.contains(at),
            Covers::Everything => true,
        };
        let sealed = cpu.sealed.as_ref().map(Pending::barrier);
        drop(cpu);
        match sealed {
            _ if !covers => self.wait_for_grace(false),
            Some(sealed) => self.wait_for(sealed),
            None => true,
        };
        if let Ok(mut cpu) = CpuGuard::enter(self) {
            cpu.poll();
            cpu.drain();
        }
    }

    /// Gives the frames in magazines, preallocs and depots back to the source.
    pub(crate) fn drain_stocks(self) {
        self.visit_each(|cpu| {
            cpu.prealloc.trim(self.machine, 0);
            cpu.magazine.give_some(self.machine) > 0
        });
        self.trim_depots(0);
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Drains remote frees and reclaims a slice. Returns whether there may be more.
    pub(crate) fn reclaim_some(&mut self) -> bool {
        let more = self.drain_remote_frees();
        self.poll();
        self.reclaim(WORK) > 0 || more
    }

    /// Drains the expired batch of the caller's own CPU, one slice in a section (L3). Returns the
    /// pages reclaimed.
    pub(crate) fn drain(&mut self) -> usize {
        self.in_sections(|cpu| {
            cpu.poll();
            cpu.reclaim(WORK)
        })
    }
}
