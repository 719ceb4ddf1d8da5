//! The tick: the work that is due by time.

use crate::machine::Machine;
use crate::machine::prealloc::Prealloc;
use crate::reclaim::tables::KEEP;
use crate::space::class::Class;
use crate::state::core::Ctx;
use crate::state::cpu::WORK;
use crate::state::enter::CpuGuard;
use crate::state::visit::Visit;
use crate::sync::Ordering::Relaxed;

/// The number of ticks after which an open batch is sealed (G4).
const OLD: u8 = 2;

impl<M: Machine> CpuGuard<'_, M> {
    /// Gives up empty chunks: a quarter of the surplus (the tick) or all of them, a few at a time
    /// (L3). Returns whether there are more.
    pub(crate) fn release_empties(&mut self, all: bool) -> bool {
        let mut work = 0;
        for region in self.core.regions.iter().map(|region| region.id) {
            for class in Class::all() {
                let empties = self.cpu_chunks(region).empties(class);
                if empties == 0 && !all {
                    continue;
                }
                let surplus = if all { usize::MAX } else { empties.saturating_sub(class.spares()).div_ceil(4) };
                for _ in 0..surplus {
                    if work >= WORK {
                        return true;
                    }
                    let Some(chunk) = self.cpu_chunks(region).take_empty(Some(class), all) else { break };
                    work += chunk.units() + self.release_chunk(chunk);
                }
            }
        }
        false
    }

    /// Does what is due on this CPU. Bounded, because interrupts call it too. Returns whether there
    /// is more.
    pub(crate) fn tick(&mut self) -> bool {
        let more = self.tick_batches();
        self.preempt_point();
        // Each may look through some leaf tables, so one that has more to do ends it for now (L3).
        let _ = self.release_empties(false) || self.core.regions.iter().any(|region| self.sweep(region.id));
        // The next chunks find cleared frames. Without memory their calls ask again.
        let _ = self.populate(KEEP);
        let is_over = self.core.depots(|depot| depot.frames()) > self.core.depot_share();
        self.age() || more || self.is_pressed() || is_over
    }

    /// The part of a tick that concerns batches, in one section, so that a visitor may take it.
    fn tick_batches(&mut self) -> bool {
        let remote_frees = self.drain_remote_frees();
        self.poll();
        self.reclaim(WORK);
        let waits = self.sealed.is_some() || self.open.waits() || !self.tables[self.open.index].is_empty();
        self.open.ticks = if waits { (self.open.ticks + 1).min(OLD) } else { 0 };
        if self.open.ticks == OLD {
            self.start_round();
        } else if self.core.round.load(Relaxed) != self.round {
            self.join_round();
        }
        self.publish_waiting();
        remote_frees || self.expired.is_some()
    }
}

impl<M: Machine> Ctx<'_, M> {
    /// Whether a CPU sleeps while something waits there, such as remote frees (G4).
    fn needs_help(self, index: u32) -> bool {
        let cpu = self.core.cpu(index);
        cpu.epoch.is_asleep() && (!cpu.remote_frees.is_empty() || cpu.waits.load(Relaxed) > 0)
    }

    /// Does what is due in the batches of one CPU that needs help. Returns whether there is more.
    pub(crate) fn tick_for_sleeper(self) -> bool {
        let sleeper = (0..self.core.cpus()).find(|&index| self.needs_help(index));
        sleeper.is_some_and(|index| Visit::enter(self, index).is_ok_and(|mut cpu| cpu.tick_batches()))
    }

    /// Drains and reclaims on a CPU that needs help, `budget` pages of work at least.
    pub(crate) fn help_sleeper(self, index: u32, budget: usize) {
        let mut done = 0;
        while done < budget && self.needs_help(index) {
            let Ok(mut cpu) = Visit::enter(self, index) else { return };
            cpu.drain_remote_frees();
            cpu.poll();
            let work = cpu.reclaim(WORK);
            cpu.seal_if_due();
            if work == 0 {
                return;
            }
            done += work;
        }
    }

    /// Fills the reserve again after it was used, a few frames at a time (L3). If there are none now,
    /// a later call fills it.
    pub(crate) fn fill_reserve(self) {
        let missing = || self.core.reserve_frames.saturating_sub(self.core.reserve.lock().len()).min(WORK / 2);
        let mut filled = Ok(());
        while filled.is_ok()
            && let Ok(cpu) = CpuGuard::enter(self)
            && let missing @ 1.. = missing()
        {
            let mut more = Prealloc::new();
            filled = more.fill(self.machine, cpu.node, missing);
            let mut reserve = self.core.reserve.lock();
            while let Some(frame) = more.take(self.machine) {
                reserve.put(self.machine, frame);
            }
        }
    }

    /// Gives frames of depots back to the source until each has at most `keep`, a few at a time
    /// (L3). Returns how many.
    pub(crate) fn trim_depots(self, keep: usize) -> usize {
        let some = || {
            let _cpu = CpuGuard::enter(self).ok()?;
            Some(self.core.depots(|depot| depot.trim(self.machine, keep))).filter(|&given| given > 0)
        };
        core::iter::from_fn(some).sum()
    }
}
