//! What a call lacked is supplied, out of line, and the call looks again.
//!
//! | Lack | supplied by |
//! |---|---|
//! | pages that wait for a flush are too many | waiting for one, where the caller may |
//! | a cached slot | what other CPUs freed |
//! | a clean slot | what other CPUs freed; the expired batch; a new chunk; a run of its own |
//! | a leaf table | linking one (R3) |
//! | frames, memory for tables, addresses | the ladder of [`shortage`](crate::path::shortage) |
//!
//! Supplying consumes the guard: it may leave the CPU and come back on another one.

use crate::error::{AllocError, Shortage};
use crate::machine::Machine;
use crate::path::plan::Plan;
use crate::path::ready::{Partial, Place};
use crate::path::shortage::Tries;
use crate::reclaim::tables::Unlinked;
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::state::cpu::{SLICE, WORK};
use crate::state::enter::CpuGuard;
use crate::units::PageRange;

/// What a call lacks.
pub(crate) enum Lack {
    /// Grace: more pages wait for a flush than should (G4).
    Grace,
    /// A cached slot, which may be among what other CPUs freed.
    RemoteFrees,
    /// A clean slot.
    Slot,
    /// The leaf table over these pages of a chunk.
    Table(ChunkRef, PageRange),
    /// Frames, tables or addresses.
    Short(Shortage),
    /// Nothing that anybody could supply.
    Final(AllocError),
}

impl From<Lack> for Partial {
    fn from(lack: Lack) -> Partial {
        Partial { mapped: 0, lack }
    }
}

/// How far one call has come with its supplies.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// Freed areas stay cached: one of them will do, if there is any.
    pub(crate) caches: bool,
    /// One of them would have done, and there was none.
    pub(crate) missed: bool,
    /// The slot with a run of its own that it was supplied with: the area begins in it
    /// before the CPU is left, since only the owner of a chunk may take slots of it.
    pub(crate) place: Option<Place>,
    /// Remote frees were drained for it.
    pub(crate) drained: bool,
    /// It was supplied with anything else.
    pub(crate) supplied: bool,
    /// For a slot.
    pub(crate) slots: Tries,
    /// For what its next slice takes.
    pub(crate) tries: Tries,
}

impl Call {
    /// A call's first attempt, which has looked at the cache already, if anything is cached.
    #[inline(always)]
    pub(crate) const fn first(missed: bool) -> Call {
        Call {
            caches: false,
            missed,
            place: None,
            drained: false,
            supplied: false,
            slots: Tries::new(),
            tries: Tries::new(),
        }
    }
}

impl<'v, M: Machine> CpuGuard<'v, M> {
    /// Supplies what is lacking.
    ///
    /// # Errors
    /// Nothing helps: the call's own error.
    #[cold]
    #[inline(never)]
    pub(crate) fn supply(
        mut self,
        plan: Plan<'_>,
        mut call: Call,
        lack: Lack,
    ) -> Result<(CpuGuard<'v, M>, Call), AllocError> {
        // Only what waited before the call makes it wait, with what other CPUs freed.
        match lack {
            Lack::RemoteFrees => call.drained = true,
            _ => call.supplied = true,
        }
        let supplied = match lack {
            Lack::Grace => {
                self.wait_for_flushes(plan);
                Ok(())
            }
            Lack::RemoteFrees => {
                self.drain_remote_frees();
                Ok(())
            }
            Lack::Slot => self.take_slot(plan, &mut call),
            Lack::Table(chunk, slice) => match self.link(chunk, slice) {
                Ok(()) => Ok(()),
                Err(Unlinked::Short(short)) => self.resolve_shortage(plan, short, &mut call.tries),
                Err(Unlinked::InTheWay(foreign)) if foreign.restricts => Err(AllocError::Restricted(foreign.at)),
                Err(Unlinked::InTheWay(foreign)) => Err(AllocError::InUse(foreign.at)),
            },
            Lack::Short(short) => self.resolve_shortage(plan, short, &mut call.tries),
            Lack::Final(error) => Err(error),
        };
        supplied.map(|()| (self, call))
    }

    /// A slot for the plan becomes the next one of its class, or the call's own.
    fn take_slot(&mut self, plan: Plan<'_>, call: &mut Call) -> Result<(), AllocError> {
        match self.find_slot(plan) {
            Ok(place) => {
                call.place = place;
                Ok(())
            }
            Err(short) => self.resolve_shortage(plan, short, &mut call.slots),
        }
    }

    /// Looks through what waits for a slot of the class, then takes addresses from the
    /// region.
    fn find_slot(&mut self, plan: Plan<'_>) -> Result<Option<Place>, Shortage> {
        self.catch_up_with_clock();
        self.drain_remote_frees();
        self.preempt_point();
        self.poll();
        let Some(class) = plan.class else { return self.take_within(plan).map(Some) };
        if self.reclaim_for(plan) {
            return Ok(None);
        }
        if let Some(place) = self.take_larger(plan, class) {
            return Ok(Some(place));
        }
        match self.grow(plan.req.region, class, plan.within(&self.core.regions[plan.req.region.0 as usize])) {
            // No room for a chunk with one slot: the area alone may fit.
            Err(Shortage::Addresses { .. }) => self.take_own_run(plan).map(Some),
            grown => grown.map(|()| None),
        }
    }

    /// Reclaims until there is a slot, but not more than half a slice, or of large
    /// areas as many pages as they have: what waits belongs to all sizes, and a
    /// chunk costs less than a batch. False = there is none.
    fn reclaim_for(&mut self, plan: Plan<'_>) -> bool {
        const HALF: usize = WORK / 2;
        let mut left = if plan.pages > SLICE { plan.pages } else { HALF };
        loop {
            let work = self.reclaim(left.min(WORK));
            let found = plan.class.is_some_and(|class| self.cpu_chunks(plan.req.region).next(class).is_some());
            left = left.saturating_sub(work);
            if found || work == 0 || left == 0 {
                return found;
            }
            self.preempt_point();
        }
    }

    /// Takes a free slot of a somewhat larger class: one that is a little too large costs fewer
    /// addresses than a chunk that is nearly empty.
    fn take_larger(&mut self, plan: Plan<'_>, class: Class) -> Option<Place> {
        let chunks = self.cpu_chunks(plan.req.region);
        class.larger(plan.pages).find_map(|larger| chunks.take(Some(larger)))
    }

    /// Takes a place for an area that is confined to a range, or that no class serves: a slot of a
    /// chunk that lies in the range, else a run of its own.
    fn take_within(&mut self, plan: Plan<'_>) -> Result<Place, Shortage> {
        let (id, region) = (plan.req.region, &self.core.regions[plan.req.region.0 as usize]);
        let class = region.class_of(plan.pages, plan.req.align);
        // A run that is no longer than a slot wastes less than any chunk.
        let run = region.fit(&plan.run(region)).grains << region.grain_shift;
        let Some(class) = class.filter(|class| class.stride() < run) else { return self.take_own_run(plan) };
        let within = plan.within(region);
        let range = region.pages_of(within.0, within.1.saturating_sub(within.0));
        let found = |cpu: &mut Self| cpu.cpu_chunks(id).take_within(class, range);
        if let Some(place) = found(self) {
            return Ok(place);
        }
        self.reclaim(WORK);
        self.preempt_point();
        if let Some(place) = found(self) {
            return Ok(place);
        }
        match self.grow(id, class, within) {
            Ok(()) => found(self).ok_or(Shortage::Tables(1)),
            Err(Shortage::Addresses { .. }) => self.take_own_run(plan),
            Err(short) => Err(short),
        }
    }

    /// Takes a slot of a run chunk, with a run of its own.
    fn take_own_run(&mut self, plan: Plan<'_>) -> Result<Place, Shortage> {
        self.reclaim(WORK);
        let region = &self.core.regions[plan.req.region.0 as usize];
        let fit = plan.run(region);
        let run = self.take_run(region, &fit)?;
        self.place_run(region.id, run).inspect_err(|_| _ = self.release_run(region.id, run, fit.below))
    }

    /// Puts a slot back that was taken and of which nothing was mapped: it is clean.
    pub(crate) fn put_back(&mut self, (chunk, slot): Place) {
        if chunk.is_runs() {
            self.release_run_of(chunk, slot);
        }
        self.cpu_chunks(chunk.region()).put_back(chunk, slot);
    }

    /// Machines without a timer: the tick runs here when the clock has moved.
    fn catch_up_with_clock(&mut self) {
        let Some(now) = self.machine.clock_ns() else { return };
        if M::THREADS && now.wrapping_sub(self.ticked_ns) > TICK_NS {
            self.ticked_ns = now;
            self.tick();
        }
    }
}

/// Between two ticks of a machine that has no timer.
const TICK_NS: u64 = 4_000_000;
