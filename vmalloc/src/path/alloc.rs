//! One allocation, from top to bottom.
//!
//! ```text
//!   plan      the request, checked once                          [plan]
//!   enter     the caller's CPU
//!   prepare   looks: a cached slot, or a clean slot, its entries, frames   [ready]
//!     │ lack      supply what is missing, and look again         [supply]
//!   commit    takes all of it and writes the entries             [ready]
//!   fill      what is more than one slice, by the same verbs
//!   leave · clear · publish
//! ```
//!
//! # Rules
//! - **E1** `prepare` changes nothing that a caller could see, and `commit` can fail in
//!   three ways only: an entry is in use (T2), the machine refuses the mapping, or frames
//!   that come by the run are short, which are supplied. Else, and where the machine refuses
//!   the whole area at last ([`Event::Publish`]),
//!   the slot is undone like a freed one, so that even half of an area is flushed before
//!   its pages are used again.
//! - **G2** A live page is never reached through a stale translation: its entry was last
//!   changed by a first mapping from absent, or was parked and is as it was.
//! - **G6** The page after a live area has had no translation since grace: a slot has one
//!   page more than its area, and nothing ever maps it. The page below a stack is the
//!   stack's own ([`region`](crate::state::region)).
//! - L3: Interrupts come in between two slices of 128 pages.

use crate::area::{Caller, Kind, Req};
use crate::error::AllocError;
use crate::frames::release;
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::machine::event::Event;
use crate::machine::frames::Frames;
use crate::path::backing::{Backing, Fresh, Nothing};
use crate::path::plan::Plan;
use crate::path::ready::{Kit, Partial, Place};
use crate::path::supply::{Call, Lack};
use crate::reclaim::runs::PIECE;
use crate::space::chunk::ChunkRef;
use crate::state::core::Ctx;
use crate::state::cpu::SLICE;
use crate::state::enter::CpuGuard;
use crate::state::lookup::{Found, SlotRef, pointer};
use crate::sync::breaks;
use crate::table::PteRange;
use crate::units::PageRange;
use core::ptr::NonNull;

/// What came of looking and taking once.
enum Attempt<'v, M: Machine> {
    /// The area is whole, unless the machine refuses it.
    Done(Result<NonNull<u8>, AllocError>),
    /// Something is lacking, and nothing has changed.
    Lacks(CpuGuard<'v, M>, Lack),
    /// The area has begun: its slot, and what came of its first slice.
    Begun(CpuGuard<'v, M>, Found, Result<usize, Partial>),
    /// There is a cached slot that takes several slices to restore.
    Parked(CpuGuard<'v, M>, Place),
    /// An entry of a cached slot was not what it had to be (T2): no area can be made of it.
    Spoilt(Found),
}

/// Makes an area of any kind, on `backing`.
#[inline(always)]
pub(crate) fn alloc<M: Machine, B: Backing<M>>(
    ctx: Option<Ctx<'_, M>>,
    req: &Req,
    kind: Kind,
    caller: Caller,
    backing: B,
) -> Result<NonNull<u8>, AllocError> {
    let Some(ctx) = ctx else { return Err(AllocError::NotInitialised) };
    let caches = B::FRESH && ctx.core.caches();
    if caches && let Some(area) = alloc_cached(ctx, req, kind, caller) {
        return Ok(area);
    }
    // One slice at most: the caller's own code gets this much, and the rest is out of line.
    if let Some(plan) = Plan::usual(ctx, req, kind, caller, backing)
        && plan.pages <= SLICE
        && let Ok(cpu) = CpuGuard::enter(ctx)
    {
        match attempt(cpu, plan, backing, Call::first(caches)) {
            Attempt::Done(Ok(area)) => return Ok(area),
            // Nothing has changed: it is looked at again, and supplied.
            Attempt::Lacks(..) | Attempt::Parked(..) => (),
            begun => return go_on(ctx, req.clone(), kind, caller, backing, Some(begun)),
        }
    }
    go_on(ctx, req.clone(), kind, caller, backing, None)
}

/// Makes an area of a cached slot, the newest of its class mostly, if there is one that
/// takes one slice at most.
#[inline(never)]
fn alloc_cached<M: Machine>(ctx: Ctx<'_, M>, req: &Req, kind: Kind, caller: Caller) -> Option<NonNull<u8>> {
    let plan = Plan::usual(ctx, req, kind, caller, Fresh)?;
    let mut cpu = CpuGuard::enter(ctx).ok()?;
    match cpu.take_newest_cached(plan)? {
        (place, true) => {
            let found = cpu.reuse_taken(place, plan);
            reused(cpu, found, plan)
        }
        _ => alloc_cached_older(cpu.moved(), req, kind, caller),
    }
}

/// As [`alloc_cached`], where the newest slot has another size.
#[inline(never)]
fn alloc_cached_older<M: Machine>(
    mut cpu: CpuGuard<'_, M>,
    req: &Req,
    kind: Kind,
    caller: Caller,
) -> Option<NonNull<u8>> {
    let plan = Plan::usual(cpu.ctx(), req, kind, caller, Fresh)?;
    let place = cpu.cached(plan).filter(|&place| cpu.reuses_at_once(place, plan))?;
    let found = cpu.reuse(place, plan);
    reused(cpu, found, plan)
}

/// Leaves the CPU with an area of a cached slot, if its entries were what they had to be.
#[inline(always)]
fn reused<M: Machine>(cpu: CpuGuard<'_, M>, found: Found, plan: Plan<'_>) -> Option<NonNull<u8>> {
    let ctx = cpu.ctx();
    drop(cpu);
    if found.slot().is_reported() {
        drop(AreaBuilder { ctx, found, pages: plan.pages, mapped: plan.pages });
        return None;
    }
    finish::<M, Fresh>(ctx, plan, found, false, Dirty::Walked).ok()
}

/// Prepares and commits, and leaves the CPU if that is all.
#[inline(always)]
fn attempt<'v, M: Machine, B: Backing<M>>(
    mut cpu: CpuGuard<'v, M>,
    plan: Plan<'_>,
    backing: B,
    call: Call,
) -> Attempt<'v, M> {
    let ctx = cpu.ctx();
    match cpu.prepare(plan, backing, call) {
        Ok(Kit::Cached(place)) => {
            let found = cpu.reuse(place, plan);
            drop(cpu);
            match found.slot().is_reported() {
                false => Attempt::Done(finish::<M, Fresh>(ctx, plan, found, false, Dirty::Walked)),
                true => Attempt::Spoilt(found),
            }
        }
        Ok(Kit::Clean(kit)) => {
            let entries = kit.entries();
            match cpu.commit(kit, plan, backing) {
                (found, Ok(pages), whole) if pages == plan.pages => {
                    drop(cpu);
                    let dirty = entries.filter(|_| M::ALIASES).map_or(Dirty::Clean, Dirty::At);
                    Attempt::Done(finish::<M, B>(ctx, plan, found, whole, dirty))
                }
                (found, first, _) => Attempt::Begun(cpu.moved(), found, first),
            }
        }
        Ok(Kit::Parked(place)) => Attempt::Parked(cpu.moved(), place),
        Err(lack) => Attempt::Lacks(cpu.moved(), lack),
    }
}

/// Goes on with a call that did not come through at once: an unusual request, or one that
/// lacks something. It has a request of its own: a call that comes through need not have its in memory.
///
/// # Errors
/// The call's own, which the log is told of.
#[cold]
#[inline(never)]
fn go_on<M: Machine, B: Backing<M>>(
    ctx: Ctx<'_, M>,
    req: Req,
    kind: Kind,
    caller: Caller,
    backing: B,
    first: Option<Attempt<'_, M>>,
) -> Result<NonNull<u8>, AllocError> {
    let made = Plan::checked(ctx, &req, kind, caller, backing).and_then(|plan| {
        plan.check_run(&ctx.core.regions[req.region.0 as usize])?;
        let made = supply(ctx, plan, backing, first);
        if made.as_ref().is_err_and(|error| may_be_granted_later(ctx, error)) {
            ctx.purge();
            return supply(ctx, plan, backing, None);
        }
        made
    });
    made.map_err(|error| ctx.refused(&req, Some(kind), caller, error))
}

/// Supplies what is lacking, and tries again, until the area is whole or nothing helps.
fn supply<M: Machine, B: Backing<M>>(
    ctx: Ctx<'_, M>,
    plan: Plan<'_>,
    backing: B,
    first: Option<Attempt<'_, M>>,
) -> Result<NonNull<u8>, AllocError> {
    let caches = B::FRESH && ctx.core.caches();
    let (mut latest, mut call) = (first, Call { caches, ..Call::first(caches) });
    loop {
        let attempted = match latest {
            Some(attempt) => attempt,
            None => attempt(CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?, plan, backing, call),
        };
        latest = Some(match attempted {
            Attempt::Done(area) => return area,
            Attempt::Lacks(mut cpu, lack) => {
                (cpu, call) = cpu.supply(plan, call, lack)?;
                match call.place.take() {
                    Some(place) => {
                        let found = cpu.begin(place, plan, backing);
                        Attempt::Begun(cpu, found, Ok(if B::MAPS { 0 } else { plan.pages }))
                    }
                    None => attempt(cpu, plan, backing, call),
                }
            }
            Attempt::Begun(cpu, found, first) => {
                let area = AreaBuilder { ctx, found, pages: plan.pages, mapped: 0 };
                return fill((cpu, call), area, plan, backing, first);
            }
            Attempt::Parked(cpu, place) => {
                let found = cpu.reuse_in_slices(place, plan);
                if !found.slot().is_reported() {
                    return finish::<M, Fresh>(ctx, plan, found, false, Dirty::Walked);
                }
                Attempt::Spoilt(found)
            }
            Attempt::Spoilt(found) => {
                drop(AreaBuilder { ctx, found, pages: plan.pages, mapped: plan.pages });
                latest = None;
                continue;
            }
        });
    }
}

/// Whether the machine has refused a mapping that it may grant when nothing is cached any
/// more: a process has a limited number of them.
fn may_be_granted_later<M: Machine>(ctx: Ctx<'_, M>, error: &AllocError) -> bool {
    let core = ctx.core;
    matches!(error, AllocError::Refused(_)) && (0..core.cpus()).any(|index| core.cpu(index).cache_size.slots() > 0)
}

/// Maps the rest of an area whose first slice was not all of it, or not mapped to the
/// end.
fn fill<M: Machine, B: Backing<M>>(
    inside: (CpuGuard<'_, M>, Call),
    mut area: AreaBuilder<'_, M>,
    plan: Plan<'_>,
    backing: B,
    first: Result<usize, Partial>,
) -> Result<NonNull<u8>, AllocError> {
    // On an error the CPU is left before `area` is dropped.
    let (mut cpu, mut call) = inside;
    let pages = PageRange::new(area.found.start, plan.pages);
    let mut set = PIECE;
    while let Err(short) = cpu.set_pieces(&area.found, &mut set) {
        cpu.resolve_shortage(plan, short, &mut call.tries)?;
    }
    fill_pages((cpu, call), (area.found.chunk, pages), &mut area.mapped, plan, backing, first)?;
    let dirty = if M::ALIASES { Dirty::Walked } else { Dirty::Clean };
    finish::<M, B>(area.ctx, plan, area.complete(), false, dirty)
}

/// Completes a reservation that has begun, and of whose run only the first piece is set.
pub(crate) fn finish_reserved<M: Machine>(
    ctx: Ctx<'_, M>,
    plan: Plan<'_>,
    found: Found,
    backing: Nothing,
) -> Result<NonNull<u8>, AllocError> {
    let area = AreaBuilder { ctx, found, pages: plan.pages, mapped: 0 };
    let cpu = CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?;
    fill((cpu, Call::first(false)), area, plan, backing, Ok(plan.pages))
}

/// Maps `pages` of a slot of `chunk`, a slice at a time (L3), and leaves the CPU. `first`
/// is what came of the first slice, and `mapped` counts pages, also where it ends early.
pub(crate) fn fill_pages<M: Machine, B: Backing<M>>(
    (mut cpu, mut call): (CpuGuard<'_, M>, Call),
    (chunk, pages): (ChunkRef, PageRange),
    mapped: &mut usize,
    plan: Plan<'_>,
    backing: B,
    first: Result<usize, Partial>,
) -> Result<(), AllocError> {
    let mut slice = first;
    loop {
        match slice {
            Ok(these) => {
                *mapped += these;
                if *mapped == pages.pages {
                    return Ok(());
                }
                call.tries.progress();
                cpu.preempt_point();
            }
            Err(Partial { mapped: these, lack }) => {
                *mapped += these;
                (cpu, call) = cpu.supply(plan, call, lack).map_err(|error| error.beyond(*mapped))?;
            }
        }
        let rest = PageRange::new(pages.start.add_pages(*mapped), pages.pages - *mapped);
        slice = match cpu.prepare_slice(chunk, rest, *mapped, plan, backing) {
            Ok(slice) => cpu.commit_slice(chunk, slice, *mapped, plan, backing),
            Err(lack) => Err(lack.into()),
        };
    }
}

/// The frames are in place: the machine is told, the area is cleared if asked for and if its
/// pages are `dirty`, and whole.
///
/// # Errors
/// The machine refuses the area, which is undone.
#[inline(always)]
pub(crate) fn finish<M: Machine, B: Backing<M>>(
    ctx: Ctx<'_, M>,
    plan: Plan<'_>,
    found: Found,
    whole: bool,
    dirty: Dirty<M>,
) -> Result<NonNull<u8>, AllocError> {
    let Plan { pages, kind, caller, .. } = plan;
    let noted = ctx.machine.note(Event::Publish { start: found.start, pages, kind, caller });
    noted.map_err(|number| {
        drop(AreaBuilder { ctx, found, pages, mapped: if B::MAPS { pages } else { 0 } });
        AllocError::Refused(number)
    })?;
    if whole {
        return Ok(pointer(found.start));
    }
    if B::FRESH && plan.req.gfp.contains(Gfp::ZERO) {
        if breaks!(PublishUncleared) {
            found.publish();
        }
        match dirty {
            Dirty::Clean => (),
            Dirty::At(entries) => clear(ctx, entries),
            Dirty::Walked => clear_pages(ctx, found, PageRange::new(found.start, pages)),
        }
    }
    if !B::FRESH && plan.adopts() {
        adopt(ctx, found, pages);
    }
    Ok(found.publish())
}

/// What of an area is not clear.
#[derive(Clone, Copy)]
pub(crate) enum Dirty<M: Machine> {
    /// Nothing.
    Clean,
    /// The pages of these entries, which are all of it.
    At(PteRange<M::Table>),
    /// All of it, in entries that have to be looked up.
    Walked,
}

/// Clears the pages of entries, through whatever way the machine has.
#[inline(never)]
fn clear<M: Machine>(ctx: Ctx<'_, M>, entries: PteRange<M::Table>) {
    entries.frames().for_each(|(at, frame)| ctx.machine.zero(frame, at));
}

/// Clears pages of an area, through whatever way the machine has.
#[inline(never)]
pub(crate) fn clear_pages<M: Machine>(ctx: Ctx<'_, M>, found: Found, pages: PageRange) {
    for piece in ctx.pieces(found.place(), pages) {
        piece.frames().for_each(|(at, frame)| ctx.machine.zero(frame, at));
    }
}

/// The caller of the area gives its hold on the frames up: the area is the only holder
/// now.
#[cold]
fn adopt<M: Machine>(ctx: Ctx<'_, M>, found: Found, pages: usize) {
    let source = ctx.machine.frames();
    for piece in ctx.pieces(found.place(), PageRange::new(found.start, pages)) {
        for page in piece.frames().filter_map(|(_, frame)| source.page(frame)) {
            let last = release(page);
            debug_assert!(!last, "G3: `Given` made the area a holder");
        }
    }
    found.slot().adopt();
}

/// A slot that a call has begun to fill. Dropping it, from outside of all CPUs, undoes
/// what was done (E1): the slot is retired like a freed one, of which only the part that
/// is mapped has frames.
struct AreaBuilder<'v, M: Machine> {
    ctx: Ctx<'v, M>,
    found: Found,
    pages: usize,
    /// Pages that have been mapped.
    mapped: usize,
}

impl<M: Machine> AreaBuilder<'_, M> {
    /// Everything is mapped.
    fn complete(self) -> Found {
        let found = self.found;
        core::mem::forget(self);
        found
    }
}

impl<M: Machine> Drop for AreaBuilder<'_, M> {
    #[cold]
    fn drop(&mut self) {
        let AreaBuilder { ctx, found, mapped, pages } = *self;
        let Ok(mut cpu) = CpuGuard::enter(ctx) else { return ctx.abandon_deferred(&found, mapped) };
        cpu.uncount_alloc(pages);
        found.slot().truncate(mapped);
        let is_long = found.chunk.is_runs() && found.slot().run().1 > PIECE;
        if mapped == 0 && !is_long && found.chunk.owner() == cpu.index {
            return cpu.put_back((found.chunk, found.index));
        }
        let how = loop {
            let how = cpu.way_of(&found, mapped);
            if cpu.claim(&SlotRef::of(found), how, mapped) {
                break how;
            }
            // U1: nobody else can free it. But a late free of what was there before claims it
            // for a moment.
            if breaks!(HoleForgotten) {
                return;
            }
            cpu.outside(|| ctx.machine.relax());
        };
        cpu.unmap(&found, how, PageRange::new(found.start, mapped));
    }
}
