//! Visiting another CPU (L4), or all of them.
//!
//! A visitor holds its own CPU as well, so that an NMI that interrupts it is refused. It takes the
//! CPU with the lower index first. If the other one is taken, it releases the first and tries
//! again. So visitors of each other never deadlock, and one of them always makes progress.
//!
//! [`Quiesced`] holds every CPU, taken in the order of their indices: nobody is inside the library,
//! and no lock of the instance is held.

use crate::machine::{Context, Machine, Pinned};
use crate::state::core::Ctx;
use crate::state::cpu::PerCpu;
use crate::state::enter::{CpuGuard, must_not_wait, refuse};
use crate::sync::breaks;
use core::ops::{Deref, DerefMut};

/// A call that is inside a CPU that need not be its own (L4). It leaves when this is dropped. It
/// must not call `preempt_point`, because that would enter its own CPU instead.
pub(crate) struct Visit<'v, M: Machine> {
    /// The caller's own CPU, if that is another one.
    own: Option<&'v PerCpu>,
    guard: CpuGuard<'v, M>,
}

impl<'v, M: Machine> Visit<'v, M> {
    /// Enters CPU `index`. The caller is inside no CPU (L1).
    ///
    /// # Errors
    /// The caller's context, if it interrupted a call that holds anything (L4).
    pub(crate) fn enter(ctx: Ctx<'v, M>, index: u32) -> Result<Visit<'v, M>, Context> {
        let Ctx { machine, core } = ctx;
        loop {
            let pinned = machine.pin();
            if M::THREADS && machine.is_nested() {
                return Err(refuse(machine, pinned));
            }
            let cpu = core.cpu(index);
            let alone = M::THREADS || breaks!(VisitAlone);
            let own = (!alone && pinned.cpu != index).then(|| core.cpu(pinned.cpu));
            let both = if pinned.cpu < index { [own, Some(cpu)] } else { [Some(cpu), own] };
            match take(both, pinned.cpu + 1) {
                Ok(()) => return Ok(Visit { own, guard: CpuGuard { machine, core, cpu, pinned: Some(pinned) } }),
                Err(holder) if must_not_wait(machine, &pinned, holder) => return Err(refuse(machine, pinned)),
                Err(_) => (),
            }
            // SAFETY: our own pin, the youngest.
            unsafe { machine.unpin(pinned) };
            machine.relax();
        }
    }
}

/// Takes both CPUs or neither.
///
/// # Errors
/// The holder of the one that is taken.
fn take(both: [Option<&PerCpu>; 2], holder: u32) -> Result<(), u32> {
    let take = |cpu: Option<&PerCpu>| cpu.map_or(Ok(0), |cpu| cpu.take(holder));
    take(both[0])?;
    take(both[1]).inspect_err(|_| both[0].into_iter().for_each(PerCpu::release))?;
    Ok(())
}

impl<M: Machine> Drop for Visit<'_, M> {
    /// `guard` is dropped after this. Meanwhile only the visited CPU is held.
    fn drop(&mut self) {
        if let Some(own) = self.own {
            own.release();
        }
    }
}

impl<'v, M: Machine> Deref for Visit<'v, M> {
    type Target = CpuGuard<'v, M>;

    fn deref(&self) -> &CpuGuard<'v, M> {
        &self.guard
    }
}

impl<M: Machine> DerefMut for Visit<'_, M> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.guard
    }
}

/// Every CPU of an instance is held ([`Vmalloc::quiesce`](crate::Vmalloc::quiesce)). Dropping this
/// lets the others go on.
pub struct Quiesced<'v, M: Machine> {
    ctx: Ctx<'v, M>,
    pinned: Pinned,
}

impl<'v, M: Machine> Quiesced<'v, M> {
    /// Enters every CPU.
    ///
    /// # Errors
    /// The caller's context, if it interrupted a call that holds anything (L4).
    pub(crate) fn enter(ctx: Ctx<'v, M>) -> Result<Quiesced<'v, M>, Context> {
        let Ctx { machine, core } = ctx;
        let pinned = machine.pin();
        if M::THREADS && machine.is_nested() {
            return Err(refuse(machine, pinned));
        }
        for index in 0..core.cpus() - u32::from(breaks!(QuiesceAllButOne)) {
            while let Err(holder) = core.cpu(index).take(pinned.cpu + 1) {
                if must_not_wait(machine, &pinned, holder) {
                    (0..index).for_each(|taken| core.cpu(taken).release());
                    return Err(refuse(machine, pinned));
                }
                machine.relax();
            }
        }
        Ok(Quiesced { ctx, pinned })
    }

    /// In the child of a fork: nobody looks at frames ([`Vmalloc::frame_at`](crate::Vmalloc::frame_at)
    /// and its like). The threads that did are not there to end it, and table pages would wait for them
    /// for ever.
    ///
    /// # Safety
    /// - N3. No other thread or CPU can call the instance: the caller is the only thread of the child.
    pub unsafe fn forget_looks(&self) {
        let core = self.ctx.core;
        (0..core.cpus()).for_each(|index| core.cpu(index).looks.forget());
    }
}

impl<M: Machine> Drop for Quiesced<'_, M> {
    fn drop(&mut self) {
        let Ctx { machine, core } = self.ctx;
        (0..core.cpus()).for_each(|index| core.cpu(index).release());
        let Pinned { cpu, saved } = self.pinned;
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(Pinned { cpu, saved }) };
    }
}
