//! Entering a CPU: the guard through which a call reaches everything of the CPU.

use crate::flush::Looks;
use crate::machine::{Context, Flush, Machine, Pinned};
use crate::state::core::{Core, Ctx};
use crate::state::cpu::{CpuLocal, PerCpu};
use crate::sync::breaks;
use crate::units::PageRange;
use core::ops::{Deref, DerefMut};

/// A call that is inside a CPU (L1). It leaves when the guard is dropped.
pub(crate) struct CpuGuard<'v, M: Machine> {
    pub(crate) machine: &'v M,
    pub(crate) core: &'v Core<M>,
    pub(crate) cpu: &'v PerCpu,
    pub(super) pinned: Option<Pinned>,
}

impl<'v, M: Machine> CpuGuard<'v, M> {
    /// Enters the calling CPU.
    ///
    /// # Errors
    /// The caller's context, if it interrupted a call that holds anything (L4).
    #[inline(always)]
    pub(crate) fn enter(ctx: Ctx<'v, M>) -> Result<CpuGuard<'v, M>, Context> {
        let Ctx { machine, core } = ctx;
        let pinned = machine.pin();
        if M::THREADS && machine.is_nested() {
            return Err(refuse(machine, pinned));
        }
        let cpu = core.cpu(pinned.cpu);
        let (cpu, pinned) = match cpu.take(pinned.cpu + 1) {
            Ok(_) => (cpu, pinned),
            Err(_) => wait(ctx, pinned)?,
        };
        Ok(CpuGuard { machine, core, cpu, pinned: Some(pinned) })
    }

    /// The same guard, moved. The original's address then does not escape into a cold call, so the
    /// optimiser keeps its fields in registers.
    #[inline(always)]
    pub(crate) fn moved(mut self) -> Self {
        let moved = CpuGuard { machine: self.machine, core: self.core, cpu: self.cpu, pinned: self.pinned.take() };
        core::mem::forget(self);
        moved
    }

    /// The context that the CPU was entered with.
    #[inline(always)]
    pub(crate) fn ctx(&self) -> Ctx<'v, M> {
        Ctx { machine: self.machine, core: self.core }
    }

    /// Leaves, calls `f` from outside, and enters a CPU again, perhaps another one.
    pub(crate) fn outside<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.leave();
        let result = f();
        self.enter_again(self.machine.pin());
        result
    }

    /// Leaves and enters again, so that interrupts can come in (L3).
    #[inline]
    pub(crate) fn preempt_point(&mut self) {
        self.leave();
        let pinned = self.machine.pin();
        let cpu = self.core.cpu(pinned.cpu);
        match cpu.take(pinned.cpu + 1) {
            Ok(_) => (self.cpu, self.pinned) = (cpu, Some(pinned)),
            Err(_) => self.enter_again(pinned),
        }
    }

    /// Repeats `step`, each in a section of its own (L3), until one has nothing to do. Returns the
    /// work of all.
    pub(crate) fn in_sections(&mut self, step: impl Fn(&mut Self) -> usize) -> usize {
        let mut work = 0;
        loop {
            match step(self) {
                0 => return work,
                more => work += more,
            }
            self.preempt_point();
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_again(&mut self, mut pinned: Pinned) {
        loop {
            // An NMI that was inside before is refused while another caller visits its CPU. It asks
            // again, because the visitor's section is short (L3).
            if let Ok((cpu, pinned)) = wait(self.ctx(), pinned) {
                (self.cpu, self.pinned) = (cpu, Some(pinned));
                return;
            }
            self.machine.relax();
            pinned = self.machine.pin();
        }
    }

    #[inline]
    fn leave(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            self.cpu.release();
            // SAFETY: our own pin; `CpuGuard`s do not nest (L1).
            unsafe { self.machine.unpin(pinned) }
        }
    }
}

impl<M: Machine> Ctx<'_, M> {
    /// Calls `look`, which may read the entries of any live area. Meanwhile no table page is freed
    /// (T1 looks).
    pub(crate) fn looking<R>(self, look: impl FnOnce() -> R) -> R {
        self.pinned(|index| {
            let cpu = self.core.cpu(index);
            let result = cpu.looks.during(look);
            // An NMI may have put the flush off until now. A signal handler leaves it to others
            // (L4).
            if cpu.epoch.is_asked() && !(M::THREADS && self.machine.is_nested()) {
                self.catch_up(cpu);
            }
            result
        })
    }

    /// Waits for the looks that began before this call. Returns whether all of them have ended.
    pub(crate) fn nobody_looks(self) -> bool {
        let all = (0..self.core.cpus()).map(|cpu| &self.core.cpu(cpu).looks);
        Looks::are_over(all, || self.machine.relax())
    }

    /// Flushes the calling CPU, `cpu`, if it is behind. If a look is under way, the flush happens
    /// when the look is over (T1 looks).
    pub(crate) fn catch_up(self, cpu: &PerCpu) {
        if !cpu.looks.are_under_way() {
            self.core.flush_epochs.catch_up(&cpu.epoch, |what| self.flush_machine(what));
        } else if self.core.flush_epochs.is_behind(&cpu.epoch) {
            cpu.epoch.put_off();
        }
    }

    /// Discards the translations of `what` on this CPU; `None` means all.
    pub(crate) fn flush_machine(self, what: Option<PageRange>) {
        match what {
            _ if breaks!(SkipFlush) => (),
            Some(pages) => self.machine.flush(Flush::Ranges(&[pages])),
            None => self.machine.flush(Flush::Everything),
        }
    }
}

/// Takes the calling CPU, and waits for the caller inside: a visitor, or another thread.
#[cold]
#[inline(never)]
fn wait<'v, M: Machine>(ctx: Ctx<'v, M>, mut pinned: Pinned) -> Result<(&'v PerCpu, Pinned), Context> {
    loop {
        let cpu = ctx.core.cpu(pinned.cpu);
        match cpu.take(pinned.cpu + 1) {
            Ok(_) => return Ok((cpu, pinned)),
            Err(holder) if must_not_wait(ctx.machine, &pinned, holder) => return Err(refuse(ctx.machine, pinned)),
            Err(_) => ctx.machine.relax(),
        }
        pinned = ctx.machine.busy(pinned);
    }
}

/// Whether a caller that found its CPU held by `holder` must not wait: it interrupted the holder
/// itself, or it is an NMI (L4).
pub(super) fn must_not_wait<M: Machine>(machine: &M, pinned: &Pinned, holder: u32) -> bool {
    !M::THREADS && (holder == pinned.cpu + 1 || machine.context() == Context::Nmi)
}

/// Unpins a caller that interrupted another call, and returns its context.
#[cold]
pub(super) fn refuse<M: Machine>(machine: &M, pinned: Pinned) -> Context {
    let context = if M::THREADS { Context::Nmi } else { machine.context() };
    // SAFETY: our own pin, the youngest.
    unsafe { machine.unpin(pinned) };
    context
}

impl<M: Machine> Drop for CpuGuard<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.leave()
    }
}

impl<M: Machine> Deref for CpuGuard<'_, M> {
    type Target = CpuLocal;

    #[inline]
    fn deref(&self) -> &CpuLocal {
        // SAFETY: we are inside, so nobody else is (L1).
        unsafe { &*self.cpu.own.get() }
    }
}

impl<M: Machine> DerefMut for CpuGuard<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut CpuLocal {
        // SAFETY: we are inside, so nobody else is (L1).
        unsafe { &mut *self.cpu.own.get() }
    }
}
