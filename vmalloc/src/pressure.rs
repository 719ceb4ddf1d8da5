//! Shortages: what a call tries before it is refused, in this order.
//!
//! | | Frames and tables | Addresses |
//! |---|---|---|
//! | 1 | own expired batch; then own cached slots and open batch, if this CPU's flush is grace enough | the same |
//! | 2 | purge: everybody's cached slots, batches, empty chunks, magazines (may wait only) | purge: everybody's cached slots, batches and empty chunks |
//! | 3 | the promised reserve ([`Gfp::RESERVE`] only) | – |
//! | 4 | [`Machine::exhausted`] | [`Machine::exhausted`] |
//!
//! With [`Gfp::NORETRY`] step 4 is left out. Nobody is inside a CPU while
//! anybody waits (L2).

use crate::area::{Backing, Req};
use crate::cpu::{CpuGuard, SLICE};
use crate::error::{AllocError, Shortage};
use crate::gfp::Gfp;
use crate::instance::{Core, Vmalloc};
use crate::machine::frames::Frames;
use crate::machine::prealloc::Prealloc;
use crate::machine::{Context, Level, Machine};
use crate::plan::Plan;
use crate::space::chunk::BATCHES;
use crate::stats::count;
use crate::sync::Ordering::Relaxed;
use core::ptr::NonNull;

/// How far a call has come in the table above.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tries {
    step: u8,
    appeals: u8,
}

impl Tries {
    /// Something was gained since: all steps are open again, but appeals are
    /// counted by the call.
    pub(crate) fn progress(&mut self) {
        self.step = 0;
    }
}

/// Times that [`Machine::exhausted`] is asked by one call.
const APPEALS: u8 = 8;
/// Nanoseconds between two lines about failures.
const QUIET_NS: u64 = 10_000_000_000;

impl<M: Machine> Vmalloc<M> {
    /// Tries the next step; the caller then tries its own again.
    ///
    /// # Errors
    /// The call's own, when nothing is left to try.
    #[cold]
    #[inline(never)]
    pub(crate) fn resolve_shortage(
        &self,
        here: &mut CpuGuard<'_, M>,
        plan: &Plan<'_>,
        short: Shortage,
        tries: &mut Tries,
    ) -> Result<(), AllocError> {
        loop {
            tries.step += 1;
            let gained = match tries.step {
                1 => here.reclaim_own(),
                2 => self.may_wait(here, plan) && self.purge_for(here, short),
                3 => plan.req.gfp.contains(Gfp::RESERVE) && here.take_reserve(short),
                _ => return self.ask_machine(here, plan, short, tries),
            };
            if gained {
                return Ok(());
            }
        }
    }

    /// What the machine refused it may grant when nothing is cached any more: a
    /// process has so many mappings and no more.
    #[cold]
    #[inline(never)]
    pub(crate) fn build_again(
        &self,
        core: &Core<M>,
        plan: &Plan<'_>,
        backing: &Backing<'_>,
        error: AllocError,
    ) -> Result<NonNull<u8>, AllocError> {
        let refused = matches!(error, AllocError::Refused(_));
        if !(refused && (0..core.cpus()).any(|index| core.cpu(index).bound.slots() > 0)) {
            return Err(error);
        }
        self.purge();
        self.build(core, plan, backing)
    }

    /// Step 4: from the beginning, if the machine says so.
    fn ask_machine(
        &self,
        here: &mut CpuGuard<'_, M>,
        plan: &Plan<'_>,
        short: Shortage,
        tries: &mut Tries,
    ) -> Result<(), AllocError> {
        let may_appeal = !plan.req.gfp.contains(Gfp::NORETRY) && tries.appeals < APPEALS;
        *tries = Tries { step: 0, appeals: tries.appeals + 1 };
        if may_appeal && here.outside(|| self.machine().exhausted(short)) {
            return Ok(());
        }
        Err(self.failure(here, plan, short))
    }

    /// Whether the caller may wait: asked from outside, where nothing of ours
    /// keeps it from waiting.
    fn may_wait(&self, here: &mut CpuGuard<'_, M>, plan: &Plan<'_>) -> bool {
        plan.req.gfp.contains(Gfp::WAIT) && here.outside(|| self.machine().context()) == Context::Task
    }

    /// Step 2.
    fn purge_for(&self, here: &mut CpuGuard<'_, M>, short: Shortage) -> bool {
        let core = here.core;
        here.outside(|| {
            self.purge();
            if !matches!(short, Shortage::Addresses { .. }) {
                self.drain_stocks(core);
            }
        });
        count(&here.cpu.counters.purges, 1);
        here.drain();
        true
    }

    /// More waits for flushes than should: who may wait does (G4). Empty chunks
    /// stay: nobody is short of anything.
    #[cold]
    #[inline(never)]
    pub(crate) fn wait_for_flushes(&self, here: &mut CpuGuard<'_, M>, plan: &Plan<'_>) {
        if !self.may_wait(here, plan) {
            return;
        }
        count(&here.cpu.counters.purges, 1);
        // One round for the batch that was sealed already, one for the open one.
        for _ in 0..BATCHES {
            here.outside(|| self.flush_round(here.core));
            if !here.is_pressed() {
                return;
            }
        }
    }

    fn failure(&self, here: &mut CpuGuard<'_, M>, plan: &Plan<'_>, short: Shortage) -> AllocError {
        let waiting = here.core.waiting.load(Relaxed);
        match short {
            Shortage::Addresses { pages, widest } => AllocError::NoAddresses { pages, widest },
            Shortage::Frames(n) | Shortage::Tables(n) if waiting >= n && !self.may_wait(here, plan) => {
                AllocError::WouldWait(here.outside(|| self.machine().context()))
            }
            Shortage::Frames(_) => {
                let got = self.machine().frames().free_now().min(plan.pages - 1);
                AllocError::NoFrames { wanted: plan.pages, got, node: plan.req.node.unwrap_or_default() }
            }
            Shortage::Tables(wanted) => {
                AllocError::NoTables { wanted, got: self.machine().frames().free_now().min(wanted - 1) }
            }
        }
    }

    /// Counts and logs a refusal (`warn_alloc`): silent with
    /// [`Gfp::NOWARN`], and at most one line in 10 s.
    /// A caller in the middle of another call is refused silently: that call may
    /// hold what the log takes (L4).
    #[cold]
    pub(crate) fn refused(&self, core: &Core<M>, req: &Req, error: &AllocError) {
        let Ok(here) = CpuGuard::enter(self, core) else { return };
        count(&here.cpu.counters.failures, 1);
        drop(here);
        let now = self.machine().clock_ns().unwrap_or(u64::MAX);
        let last = core.warned_ns.load(Relaxed);
        let quiet = last != 0 && now != u64::MAX && now.saturating_sub(last) < QUIET_NS;
        if req.gfp.contains(Gfp::NOWARN) || quiet {
            return;
        }
        core.warned_ns.store(now.max(1), Relaxed);
        let line = format_args!("vmalloc: allocation failure: {} bytes, mode:{:?}: {error}", req.bytes, req.gfp);
        self.machine().log(Level::Warn, line);
    }

    /// Lays the promised reserve in again, after it was used.
    pub(crate) fn fill_reserve(&self, core: &Core<M>) {
        let machine = self.machine();
        // A reserve that cannot be filled now is filled by a later call.
        let Ok(here) = CpuGuard::enter(self, core) else { return };
        let missing = core.reserve_frames.saturating_sub(core.reserve.lock().len());
        let mut more = Prealloc::new();
        let _ = more.fill(machine, here.node, missing);
        let mut reserve = core.reserve.lock();
        while let Some(frame) = more.take(machine) {
            reserve.put(machine, frame);
        }
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Step 1: true = something was reclaimed.
    fn reclaim_own(&mut self) -> bool {
        while self.drain_remote_frees() {
            self.preempt_point();
        }
        self.poll();
        let mut pages = self.drain();
        if pages == 0 {
            pages = self.shed_own() + self.drain();
        }
        self.seal();
        pages += self.drain();
        pages > 0
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

    /// Step 3: moves what is short from the reserve to this CPU.
    fn take_reserve(&mut self, short: Shortage) -> bool {
        let (machine, core) = (self.vm.machine(), self.core);
        let (Shortage::Frames(wanted) | Shortage::Tables(wanted)) = short else { return false };
        let taken = {
            let mut reserve = core.reserve.lock();
            let enough = reserve.len() >= wanted;
            let frames = core::iter::from_fn(|| reserve.take(machine)).take(if enough { wanted } else { 0 });
            frames.map(|frame| self.stock.put(machine, frame)).count()
        };
        if taken < wanted {
            return false;
        }
        let node = self.node;
        for _ in 0..if matches!(short, Shortage::Frames(_)) { wanted } else { 0 } {
            let Some(frame) = self.stock.take(machine) else { return false };
            // SAFETY: it came from the source by way of the reserve.
            unsafe { self.magazine.push(machine, core.depot(node), frame) }
        }
        true
    }
}
