//! Questions: what an address is, which areas live, the listing.
//!
//! Everything here looks without a lock, from any context, NMI included (R2):
//! it may be told *changing*, and a listing is not one moment's picture, but
//! each line of it was true at some moment during the call.

use crate::area::{Caller, Info, Kind, RegionId, What};
use crate::instance::{Core, MAX_NODES, Vmalloc};
use crate::lookup::SlotRef;
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::region::{Region, UnitEntry};
use crate::space::chunk::{Chunk, ChunkRef};
use crate::space::slot::slots_of;
use crate::units::VirtAddr;
use core::fmt;

impl<M: Machine> Vmalloc<M> {
    /// What `at` is: for page faults, debuggers and the curious.
    ///
    /// # Cost
    /// O(1), no lock, no memory.
    pub fn whatis(&self, at: usize) -> What {
        let at = VirtAddr(at);
        let Some(core) = self.core() else { return What::NotOurs };
        if !core.regions.iter().any(|region| region.holds(at)) {
            return What::NotOurs;
        }
        let above = core.find(self, at.page_start().add_pages(1)).and_then(|next| next.area());
        let above = above.filter(|area| area.start > at);
        let Some(found) = core.find(self, at) else { return beside(None, 0, above, at) };
        let Some(copy) = found.slot().snapshot() else { return What::Changing };
        let info = copy.info(found.start, found.chunk.region());
        let inside = copy.pages() > 0 && info.range().contains(at);
        let state = found.chunk.state(found.index);
        if !found.is_same() || copy.sequence() != found.sequence() {
            return What::Changing;
        }
        match state {
            State::Live if copy.is_building() => What::Changing,
            State::Live if inside => What::Inside { area: info, offset: at.0 - found.start.0 },
            State::Live => beside(Some(info), at.0.saturating_sub(info.range().end().0), above, at),
            _ if inside && copy.is_freed() => What::Freed { was: info, flushed: state == State::Free },
            _ => beside(None, 0, above, at),
        }
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
        let region = self.core()?.regions.get(id.0 as usize)?;
        Some(region.start..region.base.0 + region.bytes)
    }

    /// The live areas, by address.
    ///
    /// # Cost
    /// O(1) an area, no lock.
    pub fn areas(&self) -> impl Iterator<Item = Info> + '_ {
        self.slots().filter_map(|slot| slot.area())
    }

    /// All slots that hold, held or may hold an area, by address.
    pub(crate) fn slots(&self) -> impl Iterator<Item = SlotRef> + '_ {
        let core = self.core();
        let regions = core.into_iter().flat_map(|core| by_address(core));
        regions.flat_map(move |region| Slots { vm: self, region, grain: 0, chunk: None })
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
        for area in self.areas() {
            self.list_area(out, &area)?;
        }
        for found in self.slots().filter(|found| found.chunk.state(found.index) == State::Stale) {
            let Some(copy) = found.slot().snapshot() else { continue };
            let was = copy.info(found.start, found.chunk.region());
            if !found.is_same() || copy.sequence() != found.sequence() {
                continue;
            }
            writeln!(out, "{} unpurged vm_area", Range(&was))?;
        }
        Ok(())
    }

    fn list_area(&self, out: &mut dyn fmt::Write, area: &Info) -> fmt::Result {
        write!(out, "{}", Range(area))?;
        if area.kind != Kind::MapRam {
            write!(out, " {}", Symbol(self.machine(), area.caller))?;
        }
        let owned = area.kind.allocates() || area.kind == Kind::VmapOwned;
        if owned {
            write!(out, " pages={}", area.pages)?;
        }
        if let Some(phys) = area.phys {
            write!(out, " phys={phys:#018x}")?;
        }
        if !area.kind.word().is_empty() {
            write!(out, " {}", area.kind.word())?;
        }
        if owned {
            self.list_nodes(out, area)?;
        }
        writeln!(out)
    }

    /// ` N<node>=<pages>` for each node that the area's frames are of.
    fn list_nodes(&self, out: &mut dyn fmt::Write, area: &Info) -> fmt::Result {
        let mut pages = [0usize; MAX_NODES];
        let frames = (0..area.pages).filter_map(|page| self.frame_at(area.start.add_pages(page).0));
        frames.for_each(|frame| pages[self.machine().frames().node_of(frame).0 as usize % MAX_NODES] += 1);
        for (node, &pages) in pages.iter().enumerate().filter(|&(_, &pages)| pages > 0) {
            write!(out, " N{node}={pages}")?;
        }
        Ok(())
    }
}

/// An address outside of any area's pages, between `below` and `above`.
fn beside(below: Option<Info>, past: usize, above: Option<Info>, at: VirtAddr) -> What {
    match above.map_or(0, |area| area.start.0 - at.0) {
        0 if below.is_none() => What::Free,
        short => What::Guard { below, past, above, short },
    }
}

/// The traditional range and size, with the guard: `0x…-0x… %7ld`.
struct Range<'a>(&'a Info);

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, size) = (self.0.start.0, self.0.size());
        write!(f, "{start:#018x}-{:#018x} {size:7}", start + size)
    }
}

/// A caller, as the machine prints it.
struct Symbol<'a, M>(&'a M, Caller);

impl<M: Machine> fmt::Display for Symbol<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Caller::At(place) => write!(f, "{}:{}", place.file(), place.line()),
            Caller::Return(pc) => self.0.symbol(pc, f),
        }
    }
}

/// The regions, lowest first.
fn by_address<M: Machine>(core: &Core<M>) -> impl Iterator<Item = &Region<M::Lock>> {
    let mut after = 0;
    core::iter::from_fn(move || {
        let next = core.regions.iter().filter(|region| region.base.0 >= after).min_by_key(|region| region.base)?;
        after = next.base.0 + next.bytes;
        Some(next)
    })
}

/// The state of a slot, as a finder sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Free,
    Live,
    /// Freed, and not flushed yet.
    Stale,
}

impl Chunk {
    /// The state of a slot, as a finder sees it.
    pub(crate) fn state(&self, slot: u32) -> State {
        if self.areas() >> slot & 1 != 0 {
            State::Live
        } else if self.free_slots() >> slot & 1 != 0 {
            State::Free
        } else {
            State::Stale
        }
    }
}

/// The slots of a region, by address.
struct Slots<'v, M: Machine> {
    vm: &'v Vmalloc<M>,
    region: &'v Region<M::Lock>,
    grain: u32,
    /// A class chunk, its sequence, and the next of its slots.
    chunk: Option<(ChunkRef, u32, u32)>,
}

impl<M: Machine> Iterator for Slots<'_, M> {
    type Item = SlotRef;

    fn next(&mut self) -> Option<SlotRef> {
        loop {
            if let Some((chunk, life, index)) = self.chunk {
                let left = chunk.all_slots() & u64::MAX.checked_shl(index).unwrap_or(0);
                if let Some(index) = slots_of(left).next() {
                    self.chunk = Some((chunk, life, index + 1));
                    return Some(SlotRef::in_chunk(chunk, life, index));
                }
                self.chunk = None;
            }
            let (grain, value) = self.region.units.next(self.vm.machine(), self.grain)?;
            let entry = UnitEntry(value);
            let chunk = entry.chunk()?;
            let life = chunk.sequence();
            self.grain = grain + 1;
            if entry.slot().is_some() {
                let Some(slot) = SlotRef::at(self.region, entry, self.region.address(grain)) else { continue };
                let (start, grains) = slot.slot().run();
                if slot.is_same() {
                    self.grain = start.saturating_add(grains).max(grain + 1);
                }
                return Some(slot);
            }
            let units = chunk.units();
            // A header that has become another chunk tells nothing of what lay here.
            if chunk.sequence() == life {
                self.grain = grain + units.max(1);
                self.chunk = Some((chunk, life, 0));
            }
        }
    }
}
