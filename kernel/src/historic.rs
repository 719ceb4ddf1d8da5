//! The address allocators of 2.6 and 3.0, to be measured beside the library's.
//!
//! Nothing is mapped here. An area is a range in a table sorted by address, which is the
//! order of `vmlist`, and a search is a walk over it: the steps that are counted are the
//! steps that are made.
//!
//! | | 2.6 | 3.0 |
//! |---|---|---|
//! | search | from the first area on, to the first hole that fits | from where the last search ended, if that can have missed nothing |
//! | look-up for a free | from the first area on | by halves |
//! | a freed hole | free at once, after a flush of its own | stale until the lazy areas are purged, all with one flush |
//! | full | refused | purged, and tried once more |
//!
//! Source: `get_vm_area` of 2.6: a linear first fit over `vmlist`. `alloc_vmap_area` of
//! 3.0: a cached search start; lazy areas up to fls(online CPUs) × 32 MB.

use crate::error::Error;
use core::ops::Range;
use vmalloc::AllocError;
use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE};

/// The two allocators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// That of 2.6.
    V2_6,
    /// That of 3.0, on a machine with so many CPUs.
    V3_0 {
        /// CPUs that are online.
        cpus: u32,
    },
}

/// An area in the table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Place {
    start: usize,
    end: usize,
    lazy: bool,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Areas that were looked at, to find a hole or an area.
    pub steps: u64,
    /// The most in one call.
    pub longest: u64,
    /// Flushes of all CPUs.
    pub flushes: u64,
    /// The highest address that an area had, less the region's start.
    pub span: usize,
}

/// Where the next search of 3.0 begins.
#[derive(Clone, Copy, Debug)]
struct Cache {
    /// The area that was made last; areas below it need not be looked at.
    at: usize,
    /// The widest hole that searches from there have left below it.
    hole: usize,
    align: usize,
}

/// Areas as one of the two allocators places them, in a table of the caller's.
pub struct Areas<'t> {
    form: Form,
    bounds: Range<usize>,
    table: &'t mut [Place],
    len: usize,
    cache: Option<Cache>,
    lazy_pages: usize,
    counted: Counted,
    /// Steps of the call that runs.
    now: u64,
}

impl<'t> Areas<'t> {
    /// No areas, in `bounds`; `table` has room for as many as there may be at once.
    pub fn new(form: Form, bounds: Range<usize>, table: &'t mut [Place]) -> Areas<'t> {
        let counted = Counted::default();
        Areas { form, bounds, table, len: 0, cache: None, lazy_pages: 0, counted, now: 0 }
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// Takes `size` bytes and a guard page at a multiple of `align`.
    ///
    /// # Errors
    /// EINVAL for no bytes or a bad alignment; EBUSY where no hole is wide enough. Nothing has
    /// changed then but lazy areas, which may be purged.
    pub fn get(&mut self, size: usize, align: usize) -> Result<usize, Error> {
        let align = align.max(PAGE_SIZE);
        if !align.is_power_of_two() {
            return Err(AllocError::BadAlign(align).into());
        }
        let size = match size.checked_next_multiple_of(PAGE_SIZE).and_then(|size| size.checked_add(PAGE_SIZE)) {
            Some(PAGE_SIZE) | None => return Err(AllocError::ZeroSize.into()),
            Some(size) => size,
        };
        let mut found = self.search(size, align);
        if found.is_none() && self.purge() {
            found = self.search(size, align);
        }
        self.ended();
        let no_addresses = AllocError::NoAddresses { pages: size >> PAGE_SHIFT, widest: self.widest() };
        let (at, place) = found.ok_or(no_addresses)?;
        self.insert(at, place, size, align)?;
        Ok(place)
    }

    /// As [`Areas::get`], for a device: aligned by its size, as 2.6 did it.
    ///
    /// # Errors
    /// As there.
    pub fn get_device(&mut self, size: usize) -> Result<usize, Error> {
        self.get(size, ioremap_align(size))
    }

    /// Gives the area at `start` back.
    ///
    /// # Errors
    /// [`Error::NoArea`]; nothing has changed then.
    pub fn free(&mut self, start: usize) -> Result<(), Error> {
        let found = self.look_up(start);
        self.ended();
        let at = found.filter(|&at| !self.table[at].lazy).ok_or(Error::NoArea(start))?;
        let pages = (self.table[at].end - self.table[at].start) >> PAGE_SHIFT;
        match self.form {
            Form::V2_6 => {
                self.counted.flushes += 1;
                self.remove(at);
            }
            Form::V3_0 { cpus } => {
                self.table[at].lazy = true;
                self.lazy_pages += pages;
                if self.lazy_pages > lazy_max_pages(cpus) {
                    self.purge();
                }
            }
        }
        Ok(())
    }

    /// The first area to look at, and the address to begin with.
    fn begin(&mut self, size: usize, align: usize) -> (usize, usize) {
        if matches!(self.form, Form::V3_0 { .. })
            && let Some(cache) = self.cache
            && size > cache.hole
            && align >= cache.align
            && cache.at < self.len
        {
            return (cache.at, self.table[cache.at].end);
        }
        self.cache = None;
        (0, self.bounds.start)
    }

    /// The first hole that fits: where in the table its area goes, and its address.
    fn search(&mut self, size: usize, align: usize) -> Option<(usize, usize)> {
        let (first, from) = self.begin(size, align);
        let mut skipped = self.cache.map_or(0, |cache| cache.hole);
        let mut address = from.checked_next_multiple_of(align)?;
        let mut at = first;
        while at < self.len {
            self.now += 1;
            let Place { start, end, .. } = self.table[at];
            if end > address {
                if address.checked_add(size)? <= start {
                    break;
                }
                skipped = skipped.max(start.saturating_sub(address));
                address = end.checked_next_multiple_of(align)?;
            }
            at += 1;
        }
        self.cache = Some(Cache { at: 0, hole: skipped, align });
        (address.checked_add(size)? <= self.bounds.end).then_some((at, address))
    }

    fn insert(&mut self, at: usize, start: usize, size: usize, align: usize) -> Result<(), Error> {
        if self.len == self.table.len() {
            return Err(Error::TooLarge { bytes: self.len + 1, limit: self.len });
        }
        self.table.copy_within(at..self.len, at + 1);
        self.table[at] = Place { start, end: start + size, lazy: false };
        self.len += 1;
        self.cache = Some(Cache { at, hole: self.cache.map_or(0, |cache| cache.hole), align });
        self.counted.span = self.counted.span.max(start + size - self.bounds.start);
        Ok(())
    }

    fn remove(&mut self, at: usize) {
        self.table.copy_within(at + 1..self.len, at);
        self.len -= 1;
        // A hole below the cached start would be missed.
        self.cache = None;
    }

    /// The area that starts there: by a walk, or by halves.
    fn look_up(&mut self, start: usize) -> Option<usize> {
        if self.form == Form::V2_6 {
            let found = self.table[..self.len].iter().position(|place| place.start >= start);
            self.now += found.map_or(self.len, |at| at + 1) as u64;
            return found.filter(|&at| self.table[at].start == start);
        }
        let (mut low, mut high) = (0, self.len);
        while low < high {
            self.now += 1;
            let middle = low + (high - low) / 2;
            match self.table[middle].start {
                there if there == start => return Some(middle),
                there if there < start => low = middle + 1,
                _ => high = middle,
            }
        }
        None
    }

    /// Takes the lazy areas out, with one flush; false = there are none.
    fn purge(&mut self) -> bool {
        if self.lazy_pages == 0 {
            return false;
        }
        self.counted.flushes += 1;
        let mut left = 0;
        for at in 0..self.len {
            if !self.table[at].lazy {
                self.table[left] = self.table[at];
                left += 1;
            }
        }
        (self.len, self.lazy_pages, self.cache) = (left, 0, None);
        true
    }

    /// A call ends: its steps are counted.
    fn ended(&mut self) {
        let steps = core::mem::take(&mut self.now);
        self.counted.steps += steps;
        self.counted.longest = self.counted.longest.max(steps);
    }

    /// Pages in the widest hole.
    fn widest(&self) -> usize {
        let mut end = self.bounds.start;
        let mut widest = 0;
        for place in &self.table[..self.len] {
            widest = widest.max(place.start - end);
            end = place.end;
        }
        widest.max(self.bounds.end.saturating_sub(end)) >> PAGE_SHIFT
    }

    /// The areas that are there, stale ones too, by address: start, end, and whether it is
    /// stale.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, bool)> + '_ {
        self.table[..self.len].iter().map(|place| (place.start, place.end, place.lazy))
    }
}

/// Pages that may be stale before they are purged.
fn lazy_max_pages(cpus: u32) -> usize {
    // fls(cpus): the position of the highest bit, counted from 1.
    (u32::BITS - cpus.leading_zeros()) as usize * ((32 << 20) >> PAGE_SHIFT)
}

/// The alignment of a device's area in 2.6: 1 << clamp(fls(size), 12, 19).
fn ioremap_align(size: usize) -> usize {
    let fls = usize::BITS - size.leading_zeros();
    1 << fls.clamp(PAGE_SHIFT, 7 + PAGE_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    const BASE: usize = 0x10_0000;
    const P: usize = PAGE_SIZE;

    fn table() -> Vec<Place> {
        std::vec![Place::default(); 500]
    }

    #[test]
    fn first_fit_takes_the_lowest_hole_and_a_freed_one_is_free_at_once() {
        let mut table = table();
        let mut areas = Areas::new(Form::V2_6, BASE..BASE + 64 * P, &mut table);
        let at: Vec<usize> = (0..4).map(|_| areas.get(3 * P, 1).unwrap()).collect();
        assert_eq!(at, [0, 4, 8, 12].map(|page| BASE + page * P), "a guard page between any two");
        assert_eq!(areas.counted().steps, 1 + 2 + 3, "each looks at all that were there");
        areas.free(at[1]).unwrap();
        assert_eq!(areas.counted(), Counted { steps: 8, longest: 3, flushes: 1, span: 16 * P });
        assert_eq!(areas.get(2 * P, 1), Ok(at[1]));
        assert_eq!(areas.free(at[1] + P), Err(Error::NoArea(at[1] + P)));
        assert_eq!(areas.get(60 * P, 1).unwrap_err().errno() as i32, 16);
        assert_eq!(areas.get(0, 1).unwrap_err().errno() as i32, 22);
        assert_eq!(areas.get(P, 3 * P).unwrap_err().errno() as i32, 22);
    }

    #[test]
    fn devices_are_aligned_as_2_6_did_it() {
        assert_eq!([1, P - 1, P, 2 * P, 127 * P, 5000 * P].map(ioremap_align), [P, P, 2 * P, 4 * P, 128 * P, 128 * P]);
        let mut table = table();
        let mut areas = Areas::new(Form::V2_6, BASE + P..BASE + 64 * P, &mut table);
        assert_eq!(areas.get_device(3 * P), Ok(BASE + 4 * P));
    }

    #[test]
    fn in_3_0_a_freed_hole_is_stale_until_many_are_purged_together() {
        let mut table = table();
        let mut areas = Areas::new(Form::V3_0 { cpus: 1 }, BASE..BASE + 40_000 * P, &mut table);
        let first = areas.get(4000 * P, 1).unwrap();
        areas.get(P, 1).unwrap();
        areas.free(first).unwrap();
        assert_eq!(areas.counted().flushes, 0);
        assert_ne!(areas.get(4000 * P, 1), Ok(first), "nobody gets it yet");
        assert_eq!(areas.free(first), Err(Error::NoArea(first)), "a double free");
        let second = areas.get(5000 * P, 1).unwrap();
        areas.free(second).unwrap();
        assert_eq!(areas.counted().flushes, 1, "8,192 pages may be stale on one CPU");
        assert_eq!(areas.get(4000 * P, 1), Ok(first));
    }

    #[test]
    fn in_3_0_a_search_begins_where_the_last_one_ended_if_it_misses_nothing() {
        let mut table = table();
        let mut areas = Areas::new(Form::V3_0 { cpus: 4 }, BASE..BASE + 40_000 * P, &mut table);
        (0..300).for_each(|_| _ = areas.get(P, 1).unwrap());
        assert!(areas.counted().longest <= 2, "{:?}", areas.counted());
        let mut table = self::table();
        let mut old = Areas::new(Form::V2_6, BASE..BASE + 40_000 * P, &mut table);
        (0..300).for_each(|_| _ = old.get(P, 1).unwrap());
        assert_eq!(old.counted().steps, 300 * 299 / 2);
    }

    #[test]
    fn both_place_areas_apart_and_where_a_plain_search_finds_the_first_hole() {
        for form in [Form::V2_6, Form::V3_0 { cpus: 1 }] {
            let mut table = table();
            let end = BASE + 3000 * P;
            let mut areas = Areas::new(form, BASE..end, &mut table);
            let (mut live, mut rng) = (Vec::new(), 7u64);
            for _ in 0..3000 {
                rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let dice = (rng >> 33) as usize;
                if dice % 3 < 2 && live.len() < 200 {
                    let (size, align) = ((1 + dice / 8 % 20) * P, P << (dice / 256 % 3));
                    let taken: Vec<(usize, usize, bool)> = areas.iter().collect();
                    let fits = |at: usize| taken.iter().all(|&(s, e, _)| at + size + P <= s || e <= at);
                    let lowest = (BASE..end - size - P).step_by(P).find(|at| at.is_multiple_of(align) && fits(*at));
                    let Ok(at) = areas.get(size, align) else { continue };
                    // Stale areas may have been purged on the way.
                    assert!(form != Form::V2_6 || Some(at) == lowest, "{at:#x}, not {lowest:?}");
                    live.push(at);
                } else if !live.is_empty() {
                    areas.free(live.swap_remove(dice / 8 % live.len())).unwrap();
                }
                let places: Vec<(usize, usize, bool)> = areas.iter().collect();
                assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "apart, and sorted");
                assert_eq!(places.iter().filter(|place| !place.2).count(), live.len());
            }
        }
    }
}
