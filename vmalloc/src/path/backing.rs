//! What an area's pages are mapped to.
//!
//! | | frames | who gives them back |
//! |---|---|---|
//! | [`Fresh`] | the call allocates them | a flush after the free |
//! | [`Fresh`], in place | the pages' own, counted ([`Machine::ALIASES`]) | a flush after the free |
//! | [`Given`], [`COUNTED`] | the caller's; the area becomes one more holder (G3) | the last holder |
//! | [`Given`], [`UNCOUNTED`] | the caller's, for a short time (P4) | nobody: they leave aliases |
//! | [`Device`] | none: adjacent physical memory | nobody |
//! | [`Nothing`] | none: addresses alone | nobody |
//!
//! A machine whose MMU does not read the entries ([`Machine::MIRRORED`]) is told of each
//! run of adjacent frames when its entries are written, and may refuse it.

#[cfg(test)]
mod tests;

use crate::area::Req;
use crate::error::{AllocError, Shortage};
use crate::frames::{Runs, hold_known, release};
use crate::machine::format::Format;
use crate::machine::frames::Frames;
use crate::machine::{Machine, Run};
use crate::path::plan::Plan;
use crate::path::ready::Partial;
use crate::path::supply::Lack;
use crate::state::core::Ctx;
use crate::state::cpu::CpuLocal;
use crate::state::enter::CpuGuard;
use crate::sync::Ordering::Relaxed;
use crate::table::PteRange;
use crate::units::{Node, PAGE_SHIFT, PageRange, Pfn};

/// What an area's pages are mapped to. See the [module](self).
pub(crate) trait Backing<M: Machine>: Copy {
    /// Whether the call allocates the frames: a cached slot's will do.
    const FRESH: bool = false;
    /// Whether an area of one slice lives when its entries are written, and not before: it
    /// is whole then (U1).
    const AT_ONCE: bool = false;
    /// Whether anything is mapped.
    const MAPS: bool = true;
    /// What [`Backing::take`] tells [`Backing::map`].
    type Taken: Copy + Default;

    /// Pages that an area of it may have at most.
    fn limit(self, _machine: &M) -> usize {
        usize::MAX >> PAGE_SHIFT
    }

    /// Checks a request for `pages` pages before anything else.
    ///
    /// # Errors
    /// A frame that cannot be mapped.
    #[inline(always)]
    fn check(self, _machine: &M, _pages: usize) -> Result<(), AllocError> {
        Ok(())
    }

    /// The physical address behind a device; of a reservation, where its run has it.
    #[inline(always)]
    fn phys(self) -> Option<u64> {
        None
    }

    /// Looks for what `pages` pages take, the first of which is the `done`-th; what it
    /// holds for them `map` uses or gives up.
    ///
    /// # Errors
    /// What is lacking.
    #[inline(always)]
    fn take(self, _: &mut CpuGuard<'_, M>, _: Plan<'_>, _done: usize, _pages: usize) -> Result<Self::Taken, Lack> {
        Ok(Self::Taken::default())
    }

    /// Maps the pages that `entries` are of, up to the first that cannot be mapped, and
    /// returns how many.
    ///
    /// # Errors
    /// The machine's refusal, or frames that no CPU keeps are lacking.
    fn map(
        self,
        _: &mut CpuGuard<'_, M>,
        _: Self::Taken,
        entries: PteRange<M::Table>,
        _: Plan<'_>,
        _done: usize,
    ) -> Result<usize, Partial> {
        Ok(entries.pages())
    }
}

/// Frames that the call allocates.
#[derive(Clone, Copy)]
pub(crate) struct Fresh;

/// Where fresh frames come from.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum From {
    /// The CPU's magazine, which has them.
    #[default]
    Magazine,
    /// The source, in runs: mirrored machines, and what the magazine does not serve.
    Source,
    /// The pages themselves.
    InPlace,
}

impl<M: Machine> Backing<M> for Fresh {
    const FRESH: bool = true;
    type Taken = From;

    fn limit(self, machine: &M) -> usize {
        machine.page_limit()
    }

    #[inline(always)]
    fn take(self, cpu: &mut CpuGuard<'_, M>, plan: Plan<'_>, _: usize, pages: usize) -> Result<From, Lack> {
        if !M::ALIASES {
            let charged = cpu.core.charge(pages).then_some(From::InPlace);
            return charged.ok_or(Lack::Short(Shortage::Frames(pages)));
        }
        if cpu.magazine.has(pages) && cpu.serves(plan) && !(M::MIRRORED && pages > 1) {
            return Ok(From::Magazine);
        }
        fetch(cpu.ctx(), cpu, plan.req, pages)
    }

    #[inline(always)]
    fn map(
        self,
        cpu: &mut CpuGuard<'_, M>,
        from: From,
        entries: PteRange<M::Table>,
        plan: Plan<'_>,
        _: usize,
    ) -> Result<usize, Partial> {
        if !M::ALIASES {
            let first = Pfn::containing(entries.start().0 as u64);
            let mapped = entries.map_run(first, plan.req.prot, plan.req.memory);
            cpu.core.in_place.fetch_add(entries.pages() - mapped, Relaxed);
            return mirror(cpu.machine, entries, mapped, plan.req, |page| first.offset(page as u64));
        }
        if from == From::Source {
            return map_runs(cpu.machine, cpu.node, entries, plan.req);
        }
        let first = if M::MIRRORED { cpu.magazine.top(1)[0] } else { Pfn(0) };
        let frames = cpu.magazine.top(entries.pages());
        let mapped = entries.map(frames, plan.req.prot, plan.req.memory);
        // From here on the frames are the entries', mirrored or not.
        cpu.magazine.commit(mapped);
        mirror(cpu.machine, entries, mapped, plan.req, |page| first.offset(page as u64))
    }
}

/// Frames that are somebody's: each gains a holder if they are counted; otherwise their
/// caller holds them for as long as they are mapped (P4).
#[derive(Clone, Copy)]
pub(crate) struct Given<'a, const HELD: bool>(pub(crate) &'a [Pfn]);

/// Each frame gains a holder.
pub(crate) const COUNTED: bool = true;
/// No frame does.
pub(crate) const UNCOUNTED: bool = false;

impl<M: Machine, const HELD: bool> Backing<M> for Given<'_, HELD> {
    const AT_ONCE: bool = !HELD;
    type Taken = ();

    fn limit(self, machine: &M) -> usize {
        machine.frames().total()
    }

    #[inline(always)]
    fn check(self, _machine: &M, _pages: usize) -> Result<(), AllocError> {
        nameable::<M>(self.0)
    }

    #[inline(always)]
    fn take(self, cpu: &mut CpuGuard<'_, M>, _: Plan<'_>, done: usize, pages: usize) -> Result<(), Lack> {
        if HELD {
            hold_known(cpu.machine.frames(), &self.0[done..done + pages]);
        }
        Ok(())
    }

    #[inline(always)]
    fn map(
        self,
        cpu: &mut CpuGuard<'_, M>,
        _: (),
        entries: PteRange<M::Table>,
        plan: Plan<'_>,
        done: usize,
    ) -> Result<usize, Partial> {
        let (frames, prot, memory) = (&self.0[done..done + entries.pages()], plan.req.prot, plan.req.memory);
        let mapped = entries.map(frames, prot, memory);
        if HELD && mapped < frames.len() {
            unhold(cpu.machine, &frames[mapped..]);
        }
        mirror(cpu.machine, entries, mapped, plan.req, |page| frames[page])
    }
}

/// Adjacent physical memory from this frame on.
#[derive(Clone, Copy)]
pub(crate) struct Device(pub(crate) Pfn);

impl<M: Machine> Backing<M> for Device {
    type Taken = ();

    /// A device is no memory, and ends where entries can still name it.
    fn check(self, machine: &M, pages: usize) -> Result<(), AllocError> {
        let last = self.0.0.checked_add(pages as u64 - 1).map_or(Pfn(u64::MAX), Pfn);
        nameable::<M>(&[last])?;
        let mut frames = (0..pages as u64).map(|page| self.0.offset(page));
        let memory = frames.find(|&frame| machine.frames().is_ram(frame));
        memory.map_or(Ok(()), |frame| Err(AllocError::IsRam(frame)))
    }

    fn phys(self) -> Option<u64> {
        Some(self.0.phys())
    }

    fn map(
        self,
        cpu: &mut CpuGuard<'_, M>,
        _: (),
        entries: PteRange<M::Table>,
        plan: Plan<'_>,
        done: usize,
    ) -> Result<usize, Partial> {
        let first = self.0.offset(done as u64);
        let mapped = entries.map_run(first, plan.req.prot, plan.req.memory);
        mirror(cpu.machine, entries, mapped, plan.req, |page| first.offset(page as u64))
    }
}

/// Addresses alone, so many bytes from the start of their run.
#[derive(Clone, Copy)]
pub(crate) struct Nothing(pub(crate) u64);

impl<M: Machine> Backing<M> for Nothing {
    const MAPS: bool = false;
    type Taken = ();

    #[inline(always)]
    fn phys(self) -> Option<u64> {
        Some(self.0)
    }
}

/// Whether an entry can name the frame.
fn is_nameable<M: Machine>(frame: Pfn) -> bool {
    frame.0 < <M::Table as Format>::MAX_PFN
}

/// Whether given frames can be mapped, and entries can name all of them: the highest bit of any
/// tells.
#[inline(always)]
fn nameable<M: Machine>(frames: &[Pfn]) -> Result<(), AllocError> {
    const { assert!(<M::Table as Format>::MAX_PFN.is_power_of_two()) };
    if !M::ALIASES {
        return Err(AllocError::NoAliases);
    }
    let all = frames.iter().fold(0, |all, frame| all | frame.0);
    if is_nameable::<M>(Pfn(all)) { Ok(()) } else { Err(unnameable::<M>(frames)) }
}

#[cold]
#[inline(never)]
fn unnameable<M: Machine>(frames: &[Pfn]) -> AllocError {
    let first = frames.iter().find(|&&frame| !is_nameable::<M>(frame));
    AllocError::BadFrame(first.copied().unwrap_or(Pfn(u64::MAX)))
}

/// Holds that were not needed are given up; their frames are somebody's.
#[cold]
#[inline(never)]
fn unhold<M: Machine>(machine: &M, frames: &[Pfn]) {
    for page in frames.iter().filter_map(|&frame| machine.frames().page(frame)) {
        let last = release(page);
        debug_assert!(!last, "P1: the caller holds it");
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Whether this CPU's own frames will do for what is asked for.
    #[inline(always)]
    pub(crate) fn serves(&self, plan: Plan<'_>) -> bool {
        let any = plan.req.wants_any() && self.magazine.serves_any();
        any || self.magazine.serves(plan.req.want(self.node))
    }
}

/// Fetches frames into the magazine, where it is the magazine that serves the request.
#[cold]
#[inline(never)]
fn fetch<M: Machine>(ctx: Ctx<'_, M>, own: &mut CpuLocal, req: &Req, pages: usize) -> Result<From, Lack> {
    let want = req.want(own.node);
    if !own.magazine.serves(want) || (M::MIRRORED && pages > 1) {
        return Ok(From::Source);
    }
    let fetched = own.magazine.reserve(ctx.machine, ctx.core.depot(own.node), want, pages);
    fetched.map(|()| From::Magazine).map_err(|_| Lack::Short(Shortage::Frames(pages)))
}

/// Maps frames by the run.
#[cold]
#[inline(never)]
fn map_runs<M: Machine>(machine: &M, node: Node, entries: PteRange<M::Table>, req: &Req) -> Result<usize, Partial> {
    let pages = entries.pages();
    let runs = Runs::take(machine.frames(), req.want(node), pages).map_err(|_| Lack::Short(Shortage::Frames(pages)))?;
    let mut mapped = 0;
    for run in runs.iter() {
        let these = entries.part(mapped, run.frames).map_run(run.first, req.prot, req.memory);
        mapped += these;
        if these < run.frames {
            // SAFETY: they were taken a moment ago, and not mapped.
            unsafe { runs.give_back_from(mapped, machine.frames()) };
            return Ok(mapped);
        }
    }
    let mut at = 0;
    for run in runs.iter() {
        mirror_run(machine, entries.part(at, run.frames), run.first, req, mapped)?;
        at += run.frames;
    }
    Ok(mapped)
}

/// Makes pages reachable where the MMU does not read the entries, by runs of adjacent frames,
/// and returns how many were mapped. `frame` names a page's frame.
#[inline(always)]
fn mirror<M: Machine>(
    machine: &M,
    entries: PteRange<M::Table>,
    mapped: usize,
    req: &Req,
    frame: impl Fn(usize) -> Pfn,
) -> Result<usize, Partial> {
    let mut start = 0;
    while M::MIRRORED && mapped == entries.pages() && start < mapped {
        let adjacent = |&i: &usize| frame(i).0 == frame(start).0 + (i - start) as u64;
        let pages = (start..mapped).take_while(adjacent).count();
        mirror_run(machine, entries.part(start, pages), frame(start), req, mapped)?;
        start += pages;
    }
    Ok(mapped)
}

fn mirror_run<M: Machine>(
    machine: &M,
    entries: PteRange<M::Table>,
    first: Pfn,
    req: &Req,
    mapped: usize,
) -> Result<(), Partial> {
    let pages = PageRange::new(entries.start(), entries.pages());
    let refused = machine.mirror(Run { pages, first, prot: req.prot });
    refused.map_err(|number| Partial { mapped, lack: Lack::Final(AllocError::Refused(number)) })
}
