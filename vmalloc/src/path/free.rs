//! One free, from top to bottom.
//!
//! ```text
//!   enter   the caller's CPU                       an NMI inside a call: leaves it to the owner
//!   look    address → unit → chunk → slot, checked
//!   decide  once, for one of three ends:
//!     cache   the slot stays mapped for the next area of its size      [reclaim::cache]
//!     batch   its entries are cleared, and it waits for a flush        [state::batch]
//!     claim   another CPU's slot, or one that takes several sections   [reclaim::remote]
//!   step    amortised reclaim: about twice what was added
//! ```
//!
//! A CPU's own area of a class, of one slice, ends in one section, and nobody else can have
//! freed it meanwhile: no claim, no locked instruction but the entry's. All others are
//! claimed first, so a double free on another CPU is told at once (R1).

use crate::area::{Caller, Kind};
use crate::error::FreeError;
use crate::machine::Machine;
use crate::reclaim::cache::Retire;
use crate::reclaim::release::Way;
use crate::state::core::Ctx;
use crate::state::cpu::{SLICE, WORK};
use crate::state::enter::CpuGuard;
use crate::state::entries::at_hand_from;
use crate::state::lookup::Found;
use crate::table::PteRange;
use crate::units::{PageRange, VirtAddr};

/// Frees an area of a kind that `frees` accepts, of `count` pages where the caller names
/// them.
#[inline(always)]
pub(crate) fn free<M: Machine>(
    ctx: Option<Ctx<'_, M>>,
    at: VirtAddr,
    by: Caller,
    frees: fn(Kind) -> bool,
    count: Option<usize>,
) -> Result<(), FreeError> {
    let Some(ctx) = ctx else { return Err(FreeError::NotInitialised) };
    let retire = ctx.core.retire();
    let cached = match retire {
        Retire::Park if frees(Kind::Vmalloc) => free_parking(ctx, at, by),
        Retire::Keep if frees(Kind::Vmalloc) => free_keeping(ctx, at, by),
        _ => false,
    };
    if cached {
        return Ok(());
    }
    let Ok(mut cpu) = CpuGuard::enter(ctx) else { return ctx.free_deferred(at, by, frees, count) };
    let Some((found, kind, entries)) = cpu.batched(at, frees, count, retire) else {
        return cpu.moved().free_by_claim(at, by, frees, count);
    };
    cpu.free_to_batch(&found, kind, entries, by);
    Ok(())
}

/// The first end: the slot stays cached, parked. False = it does not.
#[inline(never)]
fn free_parking<M: Machine>(ctx: Ctx<'_, M>, at: VirtAddr, by: Caller) -> bool {
    free_cached(ctx, at, by, Retire::Park)
}

/// As [`free_parking`], kept as it is.
#[inline(never)]
fn free_keeping<M: Machine>(ctx: Ctx<'_, M>, at: VirtAddr, by: Caller) -> bool {
    free_cached(ctx, at, by, Retire::Keep)
}

#[inline(always)]
fn free_cached<M: Machine>(ctx: Ctx<'_, M>, at: VirtAddr, by: Caller, retire: Retire) -> bool {
    let Ok(mut cpu) = CpuGuard::enter(ctx) else { return false };
    match cpu.cacheable(at, retire) {
        Some(Cacheable { found, pages, park }) => {
            cpu.free_to_cache(&found, park, pages, by);
            true
        }
        None => false,
    }
}

/// An area whose slot may stay cached, and its entries where they have to be parked.
struct Cacheable<M: Machine> {
    found: Found,
    pages: usize,
    park: Option<PteRange<M::Table>>,
}

impl<M: Machine> CpuGuard<'_, M> {
    /// The area at `at`, if its slot may stay cached, in one section.
    #[inline(always)]
    fn cacheable(&mut self, at: VirtAddr, retire: Retire) -> Option<Cacheable<M>> {
        let (found, page) = self.own_area(at)?;
        let pages = found.slot().plain_pages()?;
        // From inside: after another policy was set nothing more stays.
        if pages > self.core.budget || self.core.retire() != retire {
            return None;
        }
        let park = if retire == Retire::Park { Some(one_slice::<M>(&found, page, pages)?) } else { None };
        Some(Cacheable { found, pages, park })
    }

    /// The area at `at`, if it waits for a flush in this CPU's batch, in one section; its
    /// kind and entries. `None` where it takes a claim, several sections, or an error.
    #[inline(always)]
    fn batched(
        &mut self,
        at: VirtAddr,
        frees: fn(Kind) -> bool,
        count: Option<usize>,
        retire: Retire,
    ) -> Option<(Found, Kind, PteRange<M::Table>)> {
        let (found, page) = self.own_area(at)?;
        let (kind, pages) = found.slot().built()?;
        let asked = frees(kind) && count.is_none_or(|count| count == pages);
        let may_stay = retire != Retire::Clear && kind.allocates();
        if !asked || may_stay || !kind.is_whole() || self.core.is_strict() {
            return None;
        }
        Some((found, kind, one_slice::<M>(&found, page, pages)?))
    }

    /// live → stale.
    #[inline(always)]
    fn free_to_batch(mut self, found: &Found, kind: Kind, entries: PteRange<M::Table>, by: Caller) {
        let (ctx, pages, place) = (self.ctx(), entries.pages(), (found.chunk, found.index));
        let report = move |at, word| ctx.report_bad_entry_once(place, at, word);
        self.note_free(Way::AtOnce, found, pages, by);
        if kind == Kind::MapRam {
            self.open.add_bare(found.chunk, found.index, pages);
            found.slot().freed_by(by);
            entries.clear(report);
            self.note_alias();
        } else {
            self.open.add(found.chunk, 1 << found.index, pages);
            found.slot().freed_by(by);
            entries.park(report);
        }
        self.machine.unmapped(PageRange::new(found.start, pages));
        if self.open.is_due() {
            self.moved().step_and_leave(pages)
        }
    }

    #[inline(never)]
    fn step_and_leave(mut self, pages: usize) {
        self.reclaim_step_after(pages)
    }

    /// Another CPU's area, one that takes several sections or that waits for its flush, or
    /// none at all.
    #[inline(never)]
    fn free_by_claim(
        mut self,
        at: VirtAddr,
        by: Caller,
        frees: fn(Kind) -> bool,
        count: Option<usize>,
    ) -> Result<(), FreeError> {
        let ctx = self.ctx();
        let found = ctx.find_start(at)?;
        let pages = found.freeable(frees, count)?;
        let owner = found.chunk.owner();
        self.release(&found, pages, by)?;
        if ctx.core.is_strict() {
            drop(self);
            ctx.flush_and_wait(found.start);
        } else if owner != self.index {
            self.leave_to(owner, pages);
        }
        Ok(())
    }

    /// Leaves. Every 64 pages that this CPU posts, it also takes the steps of their owner, if that
    /// CPU sleeps: nobody else would (G4).
    fn leave_to(mut self, owner: u32, pages: usize) {
        let (ctx, posted) = (self.ctx(), self.posted + pages + 1);
        self.posted = posted % WORK;
        drop(self);
        ctx.help_sleeper(owner, 2 * (posted - posted % WORK));
    }
}

/// The entries of an area's pages, if they are one slice, and at hand.
#[inline(always)]
fn one_slice<M: Machine>(found: &Found, page: usize, pages: usize) -> Option<PteRange<M::Table>> {
    if pages > SLICE {
        return None;
    }
    at_hand_from::<M>(found.chunk, PageRange::new(found.start, pages), || page)
}
