//! Filling: the pages of an area that is being made are bound to frames, slice by
//! slice.
//!
//! Where entries and frames are at hand, as on the straight path; else frames
//! come from depot and source, by the run where the machine likes runs, or from
//! the caller.
//!
//! # Rules
//! - E1: A slice for which frames are short is as it was; resolve_shortage, and try again.
//! - T2: An entry that is in use is left alone, and the area is given up.
//! - L3: Between two slices interrupts may come in.

use crate::area::Backing;
use crate::cpu::{CpuGuard, SLICE};
use crate::error::{AllocError, Shortage};
use crate::frames::{Runs, hold};
use crate::machine::frames::{Frames, Want};
use crate::machine::{Machine, Run};
use crate::plan::Plan;
use crate::pressure::Tries;
use crate::space::chunk::ChunkRef;
use crate::sync::breaks;
use crate::table::Foreign;
use crate::units::{PageRange, Pfn};
use crate::vmalloc::AreaBuilder;

/// Why a slice could not be filled.
pub(crate) enum Refusal {
    /// Something ran short; nothing of the slice is bound.
    Short(Shortage),
    /// So many pages of the slice are bound, and nothing helps.
    Final(usize, AllocError),
}

/// An entry in use where none may be is an error, and never overwritten (T2).
#[inline]
fn all_bound(slice: PageRange, bound: usize) -> Result<(), Refusal> {
    if bound == slice.pages {
        return Ok(());
    }
    Err(Refusal::Final(bound, AllocError::InUse(slice.start.add_pages(bound))))
}

/// The embedder's entry is where a table has to be (T2).
impl From<Foreign> for Refusal {
    fn from(foreign: Foreign) -> Refusal {
        let why = if foreign.restricts { AllocError::Restricted } else { AllocError::InUse };
        Refusal::Final(0, why(foreign.at))
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Binds every page of the hole.
    #[inline(always)]
    pub(crate) fn fill(
        &mut self,
        hole: &mut AreaBuilder<'_, M>,
        plan: &Plan<'_>,
        backing: &Backing<'_>,
    ) -> Result<(), AllocError> {
        let pages = PageRange::new(hole.found.start, plan.pages);
        self.fill_pages((hole.found.chunk, pages), &mut hole.bound, plan, backing)
    }

    /// Binds pages of a slot of `chunk`, a slice at a time (L3). `bound` counts them, also
    /// where it ends early.
    #[inline(always)]
    pub(crate) fn fill_pages(
        &mut self,
        (chunk, pages): (ChunkRef, PageRange),
        bound: &mut usize,
        plan: &Plan<'_>,
        backing: &Backing<'_>,
    ) -> Result<(), AllocError> {
        let mut tries = Tries::default();
        loop {
            let slice = PageRange::new(pages.start.add_pages(*bound), (pages.pages - *bound).min(SLICE));
            let filled = match self.bind_at_hand(chunk, slice, *bound, plan, backing) {
                Some(pages) => all_bound(slice, pages),
                None => self.bind(chunk, slice, *bound, plan, backing),
            };
            match filled {
                Ok(()) => {
                    *bound += slice.pages;
                    tries.progress();
                }
                Err(Refusal::Short(short)) => {
                    let relieved = self.vm.resolve_shortage(self, plan, short, &mut tries);
                    relieved.map_err(|error| error.beyond(*bound))?;
                    continue;
                }
                Err(Refusal::Final(pages, error)) => {
                    *bound += pages;
                    return Err(error);
                }
            }
            if *bound == pages.pages {
                return Ok(());
            }
            self.preempt_point();
        }
    }

    /// Binds the pages of `slice`, the first of which is the `done`-th that is filled.
    #[inline(never)]
    fn bind(
        &mut self,
        chunk: ChunkRef,
        slice: PageRange,
        done: usize,
        plan: &Plan<'_>,
        backing: &Backing<'_>,
    ) -> Result<(), Refusal> {
        if !matches!(backing, Backing::Nothing) {
            self.link(chunk, slice, done)?;
        }
        match *backing {
            Backing::Fresh => self.bind_fresh(chunk, slice, plan),
            Backing::Frames(frames) => self.bind_given(chunk, slice, &frames[done..done + slice.pages], plan),
            Backing::Device(first) => self.bind_device(chunk, slice, first.offset(done as u64), plan),
            Backing::Nothing => Ok(()),
        }
    }

    #[inline]
    fn bind_fresh(&mut self, chunk: ChunkRef, slice: PageRange, plan: &Plan<'_>) -> Result<(), Refusal> {
        let want = plan.want(self.node);
        if !self.magazine.serves(want) || (M::MIRRORED && slice.pages > 1) {
            return self.bind_runs(chunk, slice, plan, want);
        }
        let (machine, core) = (self.vm.machine(), self.core);
        let depot = core.depot(self.node);
        if self.magazine.reserve(machine, depot, want, slice.pages).is_err() {
            return Err(Refusal::Short(Shortage::Frames(slice.pages)));
        }
        let bound = self.write_entries(chunk, slice, self.magazine.top(slice.pages), plan);
        let first = self.magazine.top(slice.pages)[0];
        // From here on the frames are the entries', mirrored or not.
        self.magazine.commit(bound);
        all_bound(slice, bound)?;
        if M::MIRRORED { self.mirror(slice, Run { pages: slice, first, prot: plan.req.prot }) } else { Ok(()) }
    }

    /// Binds frames by the run: mirrored machines, and requests that the
    /// magazine does not serve.
    #[cold]
    fn bind_runs(&mut self, chunk: ChunkRef, slice: PageRange, plan: &Plan<'_>, want: Want) -> Result<(), Refusal> {
        let machine = self.vm.machine();
        let runs = Runs::take(machine.frames(), want, slice.pages)
            .map_err(|_| Refusal::Short(Shortage::Frames(slice.pages)))?;
        let mut bound = 0;
        for run in runs.iter() {
            let pages = PageRange::new(slice.start.add_pages(bound), run.frames);
            let these = self.write_run(chunk, pages, run.first, plan);
            bound += these;
            if these < run.frames {
                // SAFETY: they were taken a moment ago, and not bound.
                unsafe { runs.give_back_from(bound, machine.frames()) };
                return all_bound(slice, bound);
            }
        }
        let mut at = slice.start;
        for run in runs.iter() {
            let pages = PageRange::new(at, run.frames);
            self.mirror(slice, Run { pages, first: run.first, prot: plan.req.prot })?;
            at = pages.end();
        }
        Ok(())
    }

    /// Binds frames that are somebody's; each gains a holder, but for a short
    /// time (G3).
    fn bind_given(
        &mut self,
        chunk: ChunkRef,
        slice: PageRange,
        frames: &[Pfn],
        plan: &Plan<'_>,
    ) -> Result<(), Refusal> {
        let source = self.vm.machine().frames();
        let held = if plan.kind.keeps() { frames } else { &[] };
        held.iter().filter_map(|&frame| source.page(frame)).for_each(hold);
        let bound = self.write_entries(chunk, slice, frames, plan);
        if bound < held.len() {
            self.unhold(&held[bound..]);
        }
        all_bound(slice, bound)?;
        let mut start = 0;
        while M::MIRRORED && start < frames.len() {
            let adjacent = |&i: &usize| frames[i].0 == frames[start].0 + (i - start) as u64;
            let end = (start..frames.len()).take_while(adjacent).last().map_or(start + 1, |last| last + 1);
            let pages = PageRange::new(slice.start.add_pages(start), end - start);
            self.mirror(slice, Run { pages, first: frames[start], prot: plan.req.prot })?;
            start = end;
        }
        Ok(())
    }

    fn bind_device(&mut self, chunk: ChunkRef, slice: PageRange, first: Pfn, plan: &Plan<'_>) -> Result<(), Refusal> {
        let bound = self.write_run(chunk, slice, first, plan);
        all_bound(slice, bound)?;
        self.mirror(slice, Run { pages: slice, first, prot: plan.req.prot })
    }

    /// Binds the slice's pages to `frames`, up to the first whose entry is in
    /// use, and says how many.
    #[inline]
    fn write_entries(&self, chunk: ChunkRef, slice: PageRange, frames: &[Pfn], plan: &Plan<'_>) -> usize {
        let mut bound = 0;
        self.core.each_piece(self.vm, (chunk, None), slice, |piece| {
            if piece.start() != slice.start.add_pages(bound) {
                return false;
            }
            let these = &frames[bound..bound + piece.pages()];
            let pages = piece.map(these, plan.req.prot, plan.req.memory);
            bound += pages;
            pages == these.len()
        });
        self.written(chunk, slice, plan);
        bound
    }

    fn write_run(&self, chunk: ChunkRef, slice: PageRange, first: Pfn, plan: &Plan<'_>) -> usize {
        let mut bound = 0;
        for piece in self.core.pieces(self.vm, (chunk, None), slice) {
            if piece.start() != slice.start.add_pages(bound) {
                break;
            }
            let pages = piece.map_run(first.offset(bound as u64), plan.req.prot, plan.req.memory);
            bound += pages;
            if pages < piece.pages() {
                break;
            }
        }
        self.written(chunk, slice, plan);
        bound
    }

    #[inline]
    pub(crate) fn written(&self, chunk: ChunkRef, slice: PageRange, plan: &Plan<'_>) {
        self.vm.machine().sync(slice);
        if breaks!(MapGuard) {
            let guard = self.core.look(self.vm, chunk, slice.end());
            guard.map(|piece| piece.map_run(self.vm.machine().root(), plan.req.prot, plan.req.memory));
        }
    }

    /// Makes a run of the slice, which is bound, reachable, where the MMU does
    /// not read the entries.
    #[inline]
    fn mirror(&mut self, slice: PageRange, run: Run) -> Result<(), Refusal> {
        self.vm.machine().mirror(run).map_err(|number| Refusal::Final(slice.pages, AllocError::Refused(number)))
    }
}
