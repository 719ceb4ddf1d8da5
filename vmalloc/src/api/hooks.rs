//! What the kernel around an instance calls: timer, worker, kicks, idle CPUs, pressure.

use crate::api::instance::Vmalloc;
use crate::error::AllocError;
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::reclaim::cache::PURGED;
use crate::state::core::Ctx;
use crate::state::cpu::PerCpu;
use crate::state::enter::CpuGuard;
use crate::state::visit::Quiesced;
use crate::sync::Ordering::Relaxed;

/// What a tick found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tick {
    /// More is to be done: call [`Vmalloc::work`] from a task soon.
    pub work: bool,
}

impl<M: Machine> Vmalloc<M> {
    /// The CPU's answer to a kick: flushes if it is behind. From any context,
    /// NMI included; takes no lock. Where an NMI has interrupted a look at entries
    /// ([`Vmalloc::hold_frame`] and its like), that call flushes when it is over.
    ///
    /// # Cost
    /// Three reads of memory, or a flush.
    pub fn on_kick(&self) {
        let Some(ctx) = self.ctx() else { return };
        ctx.pinned_anew(|cpu| ctx.catch_up(ctx.core.cpu(cpu)));
    }

    /// The calling CPU takes part from here on. It holds no translation of the
    /// regions that is older than its last [`Vmalloc::cpu_offline`] (M9).
    pub fn cpu_online(&self) {
        self.on_this_cpu(|ctx, cpu| ctx.core.flush_epochs.wake(&cpu.epoch, |what| ctx.flush_machine(what)));
    }

    /// The calling CPU leaves, and touches no area until it is online again.
    /// What it keeps is drained by the next purge of any CPU.
    pub fn cpu_offline(&self) {
        self.on_this_cpu(|ctx, cpu| {
            ctx.core.flush_epochs.sleep(&cpu.epoch, |what| ctx.flush_machine(what));
            cpu.served.store(cpu.counters.served(), Relaxed);
            ctx.core.flush_epochs.leave(&cpu.epoch);
        });
    }

    /// The calling CPU goes idle: nobody needs to kick it until
    /// [`Vmalloc::idle_exit`], before which it touches no area (G5).
    pub fn idle_enter(&self) {
        self.on_this_cpu(|ctx, cpu| ctx.core.flush_epochs.sleep(&cpu.epoch, |what| ctx.flush_machine(what)));
    }

    /// The calling CPU is no longer idle: it flushes if it is behind (G5).
    pub fn idle_exit(&self) {
        self.on_this_cpu(|ctx, cpu| ctx.core.flush_epochs.wake(&cpu.epoch, |what| ctx.flush_machine(what)));
    }

    fn on_this_cpu(&self, f: impl FnOnce(Ctx<'_, M>, &PerCpu)) {
        let Some(ctx) = self.ctx() else { return };
        ctx.pinned_anew(|cpu| f(ctx, ctx.core.cpu(cpu)));
    }

    /// The timer's call, on every CPU: bounded, from hard interrupts too.
    ///
    /// # Cost
    /// A slice of pages, a few empty chunks and table pages.
    pub fn tick(&self) -> Tick {
        self.on_kick();
        let Some(ctx) = self.ctx() else { return Tick { work: false } };
        let work = CpuGuard::enter(ctx).is_ok_and(|mut cpu| cpu.tick());
        Tick { work: ctx.tick_for_sleeper() || work }
    }

    /// The worker's call, from a task: drains what the ticks left, and gives
    /// surplus frames back. Returns the frames given back.
    pub fn work(&self) -> usize {
        let Some(ctx) = self.ctx() else { return 0 };
        while CpuGuard::enter(ctx).is_ok_and(|mut cpu| cpu.evict_overdue()) {}
        while CpuGuard::enter(ctx).is_ok_and(|mut cpu| cpu.reclaim_some()) {}
        (0..ctx.core.cpus()).for_each(|index| ctx.help_sleeper(index, usize::MAX));
        ctx.fill_reserve();
        ctx.trim_depots(ctx.core.depot_share())
    }

    /// Purges everything on all CPUs: flushes, waits for grace, and makes what
    /// waited usable again. Returns the pages that were reclaimed. Where the machine is told of
    /// mappings ([`Machine::MIRRORED`]), magazines and depots are emptied too: somebody else can
    /// have the memory of what is free.
    ///
    /// Waits where [`Machine::context`] says Task; elsewhere it does what can
    /// be done without waiting.
    pub fn purge(&self) -> usize {
        self.ctx().map_or(0, Ctx::purge)
    }

    /// No stale alias of any frame survives this call (`vm_unmap_aliases`).
    /// False = it cannot be told: the caller may not wait, or a flush failed.
    pub fn unmap_aliases(&self) -> bool {
        self.ctx().is_none_or(|ctx| {
            ctx.evict_all(PURGED);
            ctx.wait_for_grace(true)
        })
    }

    /// Enters every CPU, in order, and keeps everybody else out until what it returns is dropped:
    /// nobody is inside the library then, and none of its locks is held. For a fork and for
    /// debuggers. Calls that only look ([`Vmalloc::whatis`], [`Vmalloc::areas`],
    /// [`Vmalloc::list`]) work meanwhile. Calls on other CPUs wait, NMIs and calls of this CPU are
    /// refused, and what these free is left to the owners.
    ///
    /// # Errors
    /// [`AllocError::WrongContext`] in the middle of another call; [`AllocError::NotInitialised`].
    ///
    /// # Cost
    /// O(CPUs), and interrupts are off on this CPU until the end.
    pub fn quiesce(&self) -> Result<Quiesced<'_, M>, AllocError> {
        Quiesced::enter(self.ctx().ok_or(AllocError::NotInitialised)?).map_err(AllocError::WrongContext)
    }

    /// Gives up to `frames` frames back to the machine's source, from what is
    /// free, waits for a flush, or lies in a magazine. Returns how many.
    pub fn reclaim(&self, frames: usize) -> usize {
        let Some(ctx) = self.ctx().filter(|&ctx| CpuGuard::enter(ctx).is_ok()) else { return 0 };
        let before = self.machine().frames().free_now();
        ctx.purge();
        if self.machine().frames().free_now() < before.saturating_add(frames) {
            ctx.drain_stocks();
        }
        self.machine().frames().free_now().saturating_sub(before)
    }
}
