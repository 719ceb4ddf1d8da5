//! Shortages: what a call tries before it is refused, in this order.
//!
//! | | Frames and tables | Addresses |
//! |---|---|---|
//! | 1 | own expired batch; then own cached slots and open batch, if this CPU's flush is grace enough | the same |
//! | 2 | purge: everybody's cached slots, batches, empty chunks, magazines (may wait only) | the same |
//! | 3 | the promised reserve ([`Gfp::RESERVE`] only) | – |
//! | 4 | [`Machine::exhausted`] (may wait only) | the same |
//!
//! With [`Gfp::NORETRY`] step 4 is left out. Nobody is inside a CPU while
//! anybody waits (L2).

use crate::area::{Caller, Kind, Req};
use crate::error::{AllocError, Shortage};
use crate::gfp::Gfp;
use crate::machine::event::Event;
use crate::machine::frames::{Frames, Want};
use crate::machine::{Context, Level, Machine};
use crate::path::plan::Plan;
use crate::space::chunk::BATCHES;
use crate::state::core::Ctx;
use crate::state::cpu::{SLICE, WORK};
use crate::state::enter::CpuGuard;
use crate::state::stats::count;
use crate::sync::Ordering::Relaxed;
use crate::units::Pfn;
use arrayvec::ArrayVec;

/// How far a call has come in the table above.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tries {
    step: u8,
    appeals: u8,
}

impl Tries {
    pub(crate) const fn new() -> Tries {
        Tries { step: 0, appeals: 0 }
    }

    /// Something was gained since: all steps are open again, but appeals are
    /// counted by the call.
    pub(crate) fn progress(&mut self) {
        self.step = 0;
    }
}

/// Times that [`Machine::exhausted`] is asked by one call.
const APPEALS: u8 = 8;

impl<M: Machine> CpuGuard<'_, M> {
    /// Tries the next step; the caller then looks again.
    ///
    /// # Errors
    /// The call's own, when nothing is left to try.
    #[cold]
    #[inline(never)]
    pub(crate) fn resolve_shortage(
        &mut self,
        plan: Plan<'_>,
        short: Shortage,
        tries: &mut Tries,
    ) -> Result<(), AllocError> {
        // What was tried before has reclaimed a slice or two (L3).
        self.preempt_point();
        loop {
            tries.step += 1;
            let gained = match tries.step {
                1 => self.reclaim_own(),
                2 => self.may_wait(plan) && self.purge_with_stocks(),
                3 => plan.req.gfp.contains(Gfp::RESERVE) && self.take_reserve(short),
                _ => return self.ask_machine(plan, short, tries),
            };
            if gained {
                return Ok(());
            }
        }
    }

    /// Step 1: true = something was reclaimed.
    fn reclaim_own(&mut self) -> bool {
        while self.drain_remote_frees() {
            self.preempt_point();
        }
        self.poll();
        let mut pages = self.drain();
        if pages == 0 {
            pages = self.evict_own() + self.drain();
        }
        self.seal();
        pages += self.drain();
        pages > 0
    }

    /// Whether the caller may wait: asked from outside, where nothing of ours
    /// keeps it from waiting.
    fn may_wait(&mut self, plan: Plan<'_>) -> bool {
        let machine = self.machine;
        plan.req.gfp.contains(Gfp::WAIT) && self.outside(|| machine.context()) == Context::Task
    }

    /// Step 2. It empties the magazines for want of addresses too: the call that finds addresses
    /// after it may lack frames for their bookkeeping, and purges only once.
    fn purge_with_stocks(&mut self) -> bool {
        let ctx = self.ctx();
        self.outside(|| {
            ctx.purge();
            ctx.drain_stocks();
        });
        count(&self.cpu.counters.purges, 1);
        self.drain();
        true
    }

    /// Step 3: moves what is short from the reserve to this CPU.
    fn take_reserve(&mut self, short: Shortage) -> bool {
        let (machine, core) = (self.machine, self.core);
        let (Shortage::Frames(wanted) | Shortage::Tables(wanted)) = short else { return false };
        let (is_frames, node) = (short == Shortage::Frames(wanted), self.node);
        let mut frames = ArrayVec::<Pfn, SLICE>::new();
        let wanted = if is_frames { wanted.saturating_sub(self.magazine.len()) } else { wanted };
        let mut reserve = core.reserve.lock();
        if reserve.len() < wanted || (is_frames && (!M::ALIASES || wanted > SLICE)) {
            return false;
        }
        for frame in core::iter::from_fn(|| reserve.take(machine)).take(wanted) {
            if is_frames { frames.push(frame) } else { self.prealloc.put(machine, frame) }
        }
        drop(reserve);
        for frame in frames {
            // SAFETY: it came from the source by way of the reserve.
            unsafe { self.magazine.push(machine, core.depot(node), frame) }
        }
        true
    }

    /// Step 4: from the beginning, if the machine says so.
    fn ask_machine(&mut self, plan: Plan<'_>, short: Shortage, tries: &mut Tries) -> Result<(), AllocError> {
        let machine = self.machine;
        let gfp = plan.req.gfp;
        let may_appeal = !gfp.contains(Gfp::NORETRY) && tries.appeals < APPEALS && self.may_wait(plan);
        *tries = Tries { step: 0, appeals: tries.appeals.saturating_add(1) };
        if may_appeal && self.outside(|| machine.exhausted(short, Context::Task, gfp)) {
            return Ok(());
        }
        Err(self.failure(plan, short))
    }

    /// More waits for flushes than should: a caller that may wait does (G4). Empty chunks
    /// stay: nobody is short of anything.
    #[cold]
    #[inline(never)]
    pub(crate) fn wait_for_flushes(&mut self, plan: Plan<'_>) {
        if !self.is_pressed_now() || !self.may_wait(plan) {
            return;
        }
        count(&self.cpu.counters.purges, 1);
        let ctx = self.ctx();
        // Grace is enough: expired batches are drained bit by bit, as always. One round for the batch
        // that was sealed already, one for the open one.
        for _ in 0..BATCHES {
            self.poll();
            self.seal_open(None);
            self.outside(|| ctx.wait_for_grace(false));
            self.in_sections(|cpu| {
                cpu.poll();
                if cpu.is_pressed_now() { cpu.reclaim(WORK) } else { 0 }
            });
            if !self.is_pressed() {
                return;
            }
        }
        self.outside(|| ctx.flush_round());
    }

    fn failure(&mut self, plan: Plan<'_>, short: Shortage) -> AllocError {
        let (machine, waiting) = (self.machine, self.core.look().all);
        // Any freed area may lie beside a hole that is too narrow.
        let enough = if let Shortage::Frames(n) | Shortage::Tables(n) = short { n } else { 1 };
        let waits = waiting >= enough && !self.may_wait(plan);
        match short {
            _ if waits => AllocError::WouldWait(self.outside(|| machine.context()), short),
            Shortage::Addresses { pages, widest } => AllocError::NoAddresses { pages, widest },
            Shortage::Frames(_) => {
                let here = if self.serves(plan) { self.magazine.len() } else { 0 };
                let free = || machine.frames().free_for(plan.req.want(self.node)).map(|free| free + here);
                let got = if M::ALIASES { free() } else { Some(self.core.in_place.load(Relaxed)) };
                let got = got.map(|got| got.min(plan.pages - 1));
                AllocError::NoFrames { wanted: plan.pages, got, node: plan.req.node }
            }
            Shortage::Tables(wanted) => {
                let free = machine.frames().free_for(Want::bookkeeping(self.node));
                AllocError::NoTables { wanted, got: free.map(|free| free.min(wanted - 1)) }
            }
        }
    }
}

impl<M: Machine> Ctx<'_, M> {
    /// Counts and logs a refusal (`warn_alloc`): silent with
    /// [`Gfp::NOWARN`], and at most one line in 10 s. The line names the call and its caller;
    /// `kind` is what was to be made, `None` = a frame.
    /// A caller in the middle of another call is refused silently: that call may
    /// hold what the log takes (L4).
    #[cold]
    #[inline(never)]
    pub(crate) fn refused(self, req: &Req, kind: Option<Kind>, caller: Caller, error: AllocError) -> AllocError {
        let _ = self.machine.note(Event::Failure { bytes: req.bytes, error });
        let Ok(cpu) = CpuGuard::enter(self) else { return error };
        count(&cpu.cpu.counters.failures, 1);
        drop(cpu);
        if req.gfp.contains(Gfp::NOWARN) || !self.core.warned.may_print(|| self.machine.clock_ns()) {
            return error;
        }
        let call = match kind {
            None => "frame",
            Some(Kind::Reserved) => "reserve",
            Some(kind) => kind.word(),
        };
        let (bytes, gfp, caller) = (req.bytes, req.gfp, req.caller.unwrap_or(caller));
        let line = format_args!("{call}: allocation failure: {bytes} bytes, mode:{gfp:?}, by {caller:?}: {error}");
        self.machine.log(Level::Warn, line);
        error
    }
}
