//! Parts of areas: pages that are mapped and unmapped while the area lives.
//!
//! ```text
//!   reservation   map  ──▶ frames of the caller's ──unmap──▶ absent, and may leave aliases
//!   sparse area   fill ──▶ frames of its own ──empty──▶ parked ──flush──▶ collect ──▶ absent
//!   memory        grow ──▶ frames of its own ──shrink─▶ absent; the frames wait by themselves
//! ```
//!
//! The entries of a reservation hold no frame, as those of `map_ram`.
//!
//! # Rules
//! - G2: A page that was unmapped is mapped again only after a flush: the caller
//!   sees to it (P5).
//! - G3: What is unmapped leaves aliases: the open batch knows of them, and a frame that
//!   its caller gives up before the flush waits by itself ([`aliases`](crate::reclaim::aliases)).
//! - E1: A part is mapped whole or not at all.
//! - L3: A slice a section.

use crate::area::{Caller, Guard, Kind, Req};
use crate::error::{AllocError, FreeError, Shortage};
use crate::frames::{mixed, release};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::machine::event::Event;
use crate::machine::frames::Frames;
use crate::path::alloc::{clear_pages, fill_pages};
use crate::path::backing::{Backing, Fresh, Given, UNCOUNTED};
use crate::path::plan::{Plan, check_node, check_prot};
use crate::path::supply::Call;
use crate::state::core::Ctx;
use crate::state::cpu::SLICE;
use crate::state::enter::CpuGuard;
use crate::state::lookup::{Found, SlotRef};
use crate::state::stats::count;
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};

const RESERVED: Option<Kind> = Some(Kind::Reserved);
const SPARSE: Option<Kind> = Some(Kind::Sparse);

/// Maps `frames` to the pages from `at` on, as `req` says.
pub(crate) fn map<M: Machine>(
    ctx: Ctx<'_, M>,
    at: usize,
    frames: &[Pfn],
    req: &Req,
    caller: Caller,
) -> Result<(), AllocError> {
    check_prot(req.prot)?;
    let range = part_of(at, frames.len())?;
    let found = area(ctx, range, RESERVED)?;
    let backing = Given::<UNCOUNTED>(frames);
    backing.check(ctx.machine, frames.len())?;
    mixed(ctx.machine.frames(), frames).map_or(Ok(()), |frame| Err(AllocError::Mixed(frame)))?;
    let plan = Plan { req, kind: Kind::MapRam, caller, pages: frames.len(), class: None };
    found.slot().share();
    let mut mapped = 0;
    let cpu = CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?;
    let filled = fill_pages((cpu, Call::first(false)), (found.chunk, range), &mut mapped, plan, backing, Ok(0));
    filled.inspect_err(|_| {
        let _ = clear(ctx, &found, PageRange::new(range.start, mapped));
    })
}

/// Unmaps what is mapped of the `pages` pages from `at` on, and returns how many that was.
pub(crate) fn unmap<M: Machine>(ctx: Ctx<'_, M>, at: usize, pages: usize) -> Result<usize, AllocError> {
    let range = part_of(at, pages)?;
    clear(ctx, &area(ctx, range, RESERVED)?, range)
}

/// Maps new frames to pages of a sparse area, as `req` says. What was emptied of them was collected
/// since.
pub(crate) fn fill<M: Machine>(ctx: Ctx<'_, M>, range: PageRange, req: &Req, caller: Caller) -> Result<(), AllocError> {
    check_prot(req.prot)?;
    check_node(ctx.machine, req)?;
    let found = area(ctx, range, SPARSE)?;
    let plan = Plan { req, kind: Kind::Sparse, caller, pages: range.pages, class: None };
    found.slot().share();
    let mut mapped = 0;
    let cpu = CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?;
    let filled = fill_pages((cpu, Call::first(false)), (found.chunk, range), &mut mapped, plan, Fresh, Ok(0));
    if filled.is_ok() && req.gfp.contains(Gfp::ZERO) {
        clear_pages(ctx, *found, range);
    }
    filled.inspect_err(|_| _ = empty(ctx, PageRange::new(range.start, mapped)))
}

/// Unmaps what is mapped of these pages of a sparse area, and returns how many pages that was. Their
/// frames stay in the entries.
pub(crate) fn empty<M: Machine>(ctx: Ctx<'_, M>, range: PageRange) -> usize {
    let Ok(found) = area(ctx, range, SPARSE) else { return 0 };
    let park = |slice| CpuGuard::enter(ctx).map_or(0, |mut cpu| cpu.park_mapped(&found, slice));
    range.slices(SLICE).map(park).sum()
}

/// After a flush: takes the frames that wait in entries of these pages of a sparse area.
pub(crate) fn collect<M: Machine>(ctx: Ctx<'_, M>, range: PageRange) {
    let Ok(found) = area(ctx, range, SPARSE) else { return };
    for slice in range.slices(SLICE) {
        let Ok(mut cpu) = CpuGuard::enter(ctx) else { return };
        cpu.collect_parked(found.chunk, found.index, slice);
    }
}

/// Whether frames of the area can wait for a flush by themselves: they have descriptors.
fn can_wait<M: Machine>(ctx: Ctx<'_, M>, at: VirtAddr) -> bool {
    M::ALIASES && ctx.frame_at(at).and_then(|frame| ctx.machine.frames().page(frame)).is_some()
}

/// Gives the pages of an area of memory beyond its first `bytes` bytes back. Where frames have
/// no descriptors they stay.
pub(crate) fn shrink<M: Machine>(ctx: Ctx<'_, M>, at: VirtAddr, bytes: usize) -> Result<(), FreeError> {
    let found = ctx.find_start(at)?;
    let (pages, left) = (found.freeable(Kind::owns, None)?, bytes.div_ceil(PAGE_SIZE));
    if left == 0 || left >= pages || !can_wait(ctx, at) {
        return Ok(());
    }
    let Ok(mut cpu) = CpuGuard::enter(ctx) else { return Ok(()) };
    if !found.claim() {
        return Err(ctx.core.double_free(&found));
    }
    let page = |frame| ctx.machine.frames().page(frame);
    for slice in PageRange::new(at.add_pages(left), pages - left).slices(SLICE) {
        cpu.preempt_point();
        cpu.clear_mapped(&found, slice, |cpu, frame| {
            if page(frame).is_some_and(release) {
                cpu.give_up(frame, page(frame));
            }
        });
        cpu.reclaim_after();
    }
    // The pages after it may still be reached: no area may reuse the slot before grace (G6).
    found.slot().share();
    found.slot().resize(left, bytes);
    count(&cpu.cpu.counters.free_pages, (pages - left) as u64);
    found.chunk.unclaim(1 << found.index);
    let _ = ctx.machine.note(Event::Resize { start: at, from: pages, to: left });
    Ok(())
}

/// Maps new frames behind an area's last page, as `req` says, where its slot has room for them.
pub(crate) fn grow<M: Machine>(ctx: Ctx<'_, M>, at: VirtAddr, req: &Req) -> Result<(), AllocError> {
    check_prot(req.prot)?;
    let (bad, pages) = (AllocError::BadRange { start: at, end: at }, req.bytes.div_ceil(PAGE_SIZE));
    let found = check_node(ctx.machine, req).and_then(|()| ctx.find_start(at).map_err(|_| bad))?;
    let was = found.area().filter(|was| was.kind.owns() && was.pages <= pages).ok_or(bad)?;
    let widest = ctx.core.room(&found, usize::from(was.guard == Guard::After));
    if pages > widest || !can_wait(ctx, at) {
        return Err(AllocError::NoAddresses { pages, widest });
    }
    // G2: Pages that it has given back may still be reached.
    let is_stale = found.slot().is_shared() && !ctx.core.flush_epochs.has_no_aliases();
    if is_stale && !crate::sync::breaks!(GrowStale) && !ctx.wait_for_grace(true) {
        return Err(AllocError::WouldWait(ctx.machine.context(), Shortage::Addresses { pages, widest }));
    }
    let mut cpu = CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?;
    let told = Event::Resize { start: at, from: was.pages, to: pages };
    cpu.outside(|| ctx.machine.note(told)).map_err(AllocError::Refused)?;
    count(&cpu.cpu.counters.alloc_pages, (pages - was.pages) as u64);
    let plan = Plan { req, kind: was.kind, caller: was.caller, pages, class: None };
    let (mut mapped, whole) = (was.pages, (found.chunk, PageRange::new(at, pages)));
    let filled = fill_pages((cpu, Call::first(false)), whole, &mut mapped, plan, Fresh, Ok(0));
    if filled.is_ok() && req.gfp.contains(Gfp::ZERO) {
        clear_pages(ctx, *found, PageRange::new(at.add_pages(was.pages), pages - was.pages));
    }
    found.slot().resize(pages, req.bytes);
    // What is mapped of it goes back.
    filled.inspect_err(|_| _ = shrink(ctx, at, was.bytes))
}

fn clear<M: Machine>(ctx: Ctx<'_, M>, found: &SlotRef, range: PageRange) -> Result<usize, AllocError> {
    let mut cleared = 0;
    for slice in range.slices(SLICE) {
        let mut cpu = CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?;
        cleared += cpu.clear_mapped(found, slice, |_, _| ());
    }
    Ok(cleared)
}

/// The live area, of this kind if one is given, that holds all of `range`.
pub(super) fn area<M: Machine>(ctx: Ctx<'_, M>, range: PageRange, kind: Option<Kind>) -> Result<SlotRef, AllocError> {
    let bad = AllocError::BadRange { start: range.start, end: range.end() };
    let found = ctx.find(range.start).filter(|found| found.is_area()).ok_or(bad)?;
    let first = (range.start.0 - found.start.0) >> PAGE_SHIFT;
    let fits = first.checked_add(range.pages).is_some_and(|end| end <= found.slot().pages());
    let is_right = kind.is_none_or(|kind| found.slot().kind() == kind);
    if fits && is_right && found.is_same() { Ok(found) } else { Err(bad) }
}

/// The pages that a caller names.
pub(super) fn part_of(at: usize, pages: usize) -> Result<PageRange, AllocError> {
    let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| at.checked_add(bytes));
    match end {
        Some(_) if at.is_multiple_of(PAGE_SIZE) && pages > 0 => Ok(PageRange::new(VirtAddr(at), pages)),
        end => Err(AllocError::BadRange { start: VirtAddr(at), end: VirtAddr(end.unwrap_or(usize::MAX)) }),
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Clears the entries of a slice that are mapped, calls `gone` with each frame, which CPUs may
    /// still reach, and returns how many.
    pub(crate) fn clear_mapped(&mut self, found: &Found, slice: PageRange, gone: impl Fn(&mut Self, Pfn)) -> usize {
        let (ctx, mut cleared) = (self.ctx(), 0);
        for piece in ctx.each_look(found.chunk, slice).filter_map(|(_, piece)| piece) {
            for (at, frame) in piece.frames() {
                let (page, first) = (PageRange::new(at, 1), (at.0 - piece.start().0) >> PAGE_SHIFT);
                piece.part(first, 1).clear(|at, word| ctx.report_bad_entry(found.slot(), at, word));
                ctx.machine.unmapped(page);
                self.note_alias();
                gone(self, frame);
                cleared += 1;
            }
        }
        cleared
    }

    /// Parks the entries of a slice of a sparse area that are mapped, and returns how many. They leave no
    /// aliases: a parked entry keeps its frame until a flush.
    pub(crate) fn park_mapped(&mut self, found: &Found, slice: PageRange) -> usize {
        let (ctx, mut parked) = (self.ctx(), 0);
        for piece in ctx.each_look(found.chunk, slice).filter_map(|(_, piece)| piece) {
            parked += piece.frames().count();
            piece.park(|at, word| ctx.report_bad_entry(found.slot(), at, word));
            ctx.machine.unmapped(PageRange::new(piece.start(), piece.pages()));
        }
        parked
    }
}
