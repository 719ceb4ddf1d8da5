//! Questions: what an address is, which areas live, the listing.
//!
//! Everything here looks without a lock, from any context, NMI included (R2):
//! it may be told *changing*, and a listing is not one moment's picture, but
//! each line of it was true at some moment during the call.

use crate::api::instance::Vmalloc;
use crate::area::{Caller, Info, Kind, RegionId, What};
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::state::core::{Ctx, MAX_NODES};
use crate::state::enter::CpuGuard;
use crate::state::slots::State;
use crate::units::VirtAddr;
use core::fmt;

impl<M: Machine> Vmalloc<M> {
    /// What `at` is: for page faults, debuggers and the curious.
    ///
    /// # Cost
    /// O(1), no lock, no memory.
    pub fn whatis(&self, at: usize) -> What {
        let Some(ctx) = self.ctx().filter(|_| self.contains(at)) else { return What::NotOurs };
        let at = VirtAddr(at);
        let next = || ctx.find(at.page_start().add_pages(1)).and_then(|next| next.area());
        let above = || next().filter(|area| area.start > at);
        let Some(found) = ctx.find(at) else { return beside(ctx, None, 0, above(), at) };
        let state = found.chunk.state(found.index);
        let Some((copy, info)) = found.record() else { return What::Changing };
        let inside = copy.pages > 0 && info.range().contains(at);
        match state {
            State::Live if copy.is_building() => What::Changing,
            State::Live if inside => What::Inside { area: info, offset: at.0 - found.start.0 },
            State::Live => beside(ctx, Some(info), at.0.saturating_sub(info.range().end().0), above(), at),
            _ if inside && copy.is_freed() => What::Freed { was: info, flushed: state == State::Free },
            _ => beside(ctx, None, 0, above(), at),
        }
    }

    /// Whether `at` lies in a region of this instance: whether a fault there is its business. Before
    /// `init` nothing does.
    ///
    /// # Cost
    /// A comparison a region; no lock, no memory, from any context.
    pub fn contains(&self, at: usize) -> bool {
        self.ctx().is_some_and(|ctx| ctx.core.regions.iter().any(|region| region.holds(VirtAddr(at))))
    }

    /// The live area that holds `at`, interior addresses too
    /// (`find_vm_area`).
    pub fn find(&self, at: usize) -> Option<Info> {
        match self.whatis(at) {
            What::Inside { area, .. } => Some(area),
            _ => None,
        }
    }

    /// The addresses of a region, as `init` was told them (VMALLOC_START and
    /// VMALLOC_END); `None` where there is no such region.
    pub fn region_bounds(&self, id: RegionId) -> Option<core::ops::Range<usize>> {
        let region = self.ctx()?.core.regions.get(id.0 as usize)?;
        Some(region.start..region.base.0 + region.bytes)
    }

    /// The pages of the widest hole of a region, guards included: a wider area finds no place
    /// before others are freed. `None` where there is no such region, and in the middle of another
    /// call.
    ///
    /// # Cost
    /// O(1), under the region's lock.
    pub fn widest_hole(&self, id: RegionId) -> Option<usize> {
        let ctx = self.ctx()?;
        let region = ctx.core.regions.get(id.0 as usize)?;
        let _cpu = CpuGuard::enter(ctx).ok()?;
        Some(region.shared.lock().arena.widest(ctx.machine) << region.grain_shift)
    }

    /// The live areas, by address.
    ///
    /// # Cost
    /// O(1) an area, no lock.
    pub fn areas(&self) -> impl Iterator<Item = Info> + '_ {
        self.ctx().into_iter().flat_map(Ctx::areas)
    }

    /// Prints the live areas in the form of `/proc/vmallocinfo`, by address,
    /// and then the areas that wait for a flush.
    ///
    /// # Errors
    /// Those of `out`.
    ///
    /// # Cost
    /// O(1) an area and a page of memory.
    pub fn list(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.areas().try_for_each(|area| self.list_area(out, &area))?;
        let slots = self.ctx().into_iter().flat_map(Ctx::slots);
        for found in slots.filter(|found| found.chunk.state(found.index) == State::Stale) {
            let Some((_, was)) = found.record() else { continue };
            write_range(out, &was)?;
            writeln!(out, " unpurged vm_area")?;
        }
        Ok(())
    }

    fn list_area(&self, out: &mut dyn fmt::Write, area: &Info) -> fmt::Result {
        write_range(out, area)?;
        match area.caller {
            _ if area.kind == Kind::MapRam => {}
            Caller::At(place) => write!(out, " {}:{}", place.file(), place.line())?,
            Caller::Return(pc) => write!(out, " {}", fmt::from_fn(|f| self.machine().symbol(pc, f)))?,
        }
        let owned = if area.kind.owns() { area.pages } else { 0 };
        if owned > 0 {
            write!(out, " pages={owned}")?;
        }
        area.phys.map_or(Ok(()), |phys| write!(out, " phys={phys:#018x}"))?;
        if !area.kind.word().is_empty() {
            write!(out, " {}", area.kind.word())?;
        }
        self.list_nodes(out, area.start, owned)?;
        writeln!(out)
    }

    /// ` N<node>=<pages>` for each node that frames of `owned` pages are of.
    fn list_nodes(&self, out: &mut dyn fmt::Write, start: VirtAddr, owned: usize) -> fmt::Result {
        let mut pages = [0usize; MAX_NODES];
        let frames = (0..owned).filter_map(|page| self.frame_at(start.add_pages(page).0));
        frames.for_each(|frame| pages[self.machine().frames().node_of(frame).0 as usize % MAX_NODES] += 1);
        let mut present = pages.iter().enumerate().filter(|&(_, &pages)| pages > 0);
        present.try_for_each(|(node, pages)| write!(out, " N{node}={pages}"))
    }
}

/// An address outside of any area's pages, between `below` and `above`.
fn beside<M: Machine>(ctx: Ctx<'_, M>, below: Option<Info>, past: usize, above: Option<Info>, at: VirtAddr) -> What {
    match above.map_or(0, |area| area.start.0 - at.0) {
        0 if below.is_none() => {
            ctx.core.last_frees().find(at).map_or(What::Free, |was| What::Freed { was, flushed: true })
        }
        short => What::Guard { below, past, above, short },
    }
}

/// The traditional range and size, with the guard: `0x…-0x… %7ld`. Addresses have the digits of
/// their machine's pointers: 8 below 4 GiB.
fn write_range(out: &mut dyn fmt::Write, area: &Info) -> fmt::Result {
    let (start, size) = (area.start.0, area.size());
    let width = if u32::try_from(start + size).is_ok() { 10 } else { 18 };
    write!(out, "{start:#0width$x}-{:#0width$x} {size:7}", start + size)
}
