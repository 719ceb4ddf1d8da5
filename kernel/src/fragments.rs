//! How broken up the addresses of a region are.
//!
//! The widest hole is what the library knows at any time. The others are found by a walk over
//! the areas: what lies between two of them is a hole, also where it waits for a flush.

use crate::host::Host;
use crate::kernel::Kernel;
use core::fmt;
use vmalloc::area::RegionId;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE};
use vmalloc::{Info, Kind};

/// Sizes of holes that are told apart: 1 page, 2..3, 4..7, and so on.
pub const HOLE_SIZES: usize = (usize::BITS - PAGE_SHIFT) as usize;

/// The holes of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragmentation {
    /// The pages of the widest hole in which an area can be made now.
    pub widest: usize,
    /// The pages of all holes between areas.
    pub free: usize,
    /// How many holes there are of 2^n pages and more, up to twice as many.
    pub holes: [usize; HOLE_SIZES],
}

impl Fragmentation {
    /// Of a hundred free pages, those outside of the widest hole: 0 = all are in one piece.
    pub fn percent(&self) -> usize {
        let outside = self.free.saturating_sub(self.widest) as u128;
        (outside * 100).checked_div(self.free as u128).unwrap_or(0) as usize
    }

    fn add(&mut self, bytes: usize) {
        let pages = bytes / PAGE_SIZE;
        if let Some(size) = pages.checked_ilog2() {
            self.holes[size as usize] += 1;
            self.free += pages;
        }
    }
}

impl fmt::Display for Fragmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, widest, percent) = (self.free, self.widest, self.percent());
        writeln!(f, "{free} pages free, {widest} in the widest hole, {percent} % elsewhere")?;
        let sizes = self.holes.iter().enumerate().filter(|(_, holes)| **holes > 0);
        sizes.into_iter().try_for_each(|(size, holes)| writeln!(f, "{:>12} pages and more: {holes}", 1usize << size))
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// The holes of a region; `None` where there is no such region, and in the middle of another
    /// call.
    ///
    /// # Cost
    /// O(areas). The widest hole alone is O(1):
    /// [`Vmalloc::widest_hole`](vmalloc::Vmalloc::widest_hole).
    pub fn fragmentation(&self, region: RegionId) -> Option<Fragmentation> {
        let bounds = self.vm.region_bounds(region)?;
        let mut found = Fragmentation { widest: self.vm.widest_hole(region)?, free: 0, holes: [0; HOLE_SIZES] };
        let mut end = bounds.start;
        for area in self.vm.areas().filter(|area| area.region == region) {
            found.add(first_page(&area).saturating_sub(end));
            end = area.start.0 + area.size();
        }
        found.add(bounds.end.saturating_sub(end));
        Some(found)
    }
}

/// The first page of an area, with the guard below a stack.
fn first_page(area: &Info) -> usize {
    area.start.0 - if area.kind == Kind::Stack { PAGE_SIZE } else { 0 }
}
