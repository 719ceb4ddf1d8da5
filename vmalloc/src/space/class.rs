//! Classes: the strides of slots.
//!
//! A class is a **stride** in pages: the room for one area and its guard. There are 56 exact
//! classes: one for each size of 1..=16 pages, and then 8 for each doubling up to 512 pages. There
//! are 9 aligned classes, whose strides are the powers of two from 2 to 512 pages.
//!
//! - **K1** `capacity + 1 == stride`: the last page of a slot is a guard and is never mapped.
//! - **K2** A chunk of a class is a whole number of units, and at most 8 MiB and a unit. That
//!   bounds what one live area can pin.
//! - **K4** A CPU's first chunk of a class is due to cover about 128 pages, and each further one half
//!   as much again, up to 2,048. A class that is hardly used pins little. Where more than 2 % of
//!   the pages would be left over at its end, a chunk has more places, up to four times as many. It
//!   covers at most an eighth of the range that it may lie in, but a unit at least. Where no hole is
//!   that long, it has half as many places, and half of those, down to one slot.
//! - **K3** A slot of an aligned class starts at a multiple of its stride.
//! - **K7** A chunk of an aligned class leaves the place of its first slot empty. The page below
//!   each slot therefore belongs to the chunk and is never mapped: it is the last page of the slot
//!   before (K1), or of the empty place. Stacks rely on this, and live in aligned classes only.

/// log2 of the pages in a unit.
pub const UNIT_SHIFT: u32 = 6;
/// Pages in a unit.
pub const UNIT_PAGES: usize = 1 << UNIT_SHIFT;
/// The most slots in a chunk: the bits of a mask.
pub const MAX_SLOTS: usize = 64;
/// The largest area that fits a slot of a class, in pages.
pub const MAX_SLOT_PAGES: usize = 512;
/// The most pages that the slots of one chunk cover (K2).
pub const MAX_CHUNK_PAGES: usize = 2048;

/// The pages that a CPU's first chunk of a class covers, if one slot is not larger (K4).
const FIRST_CHUNK_PAGES: usize = 128;
/// The pages that its later chunks are due to cover at most (K4).
const GROWN_CHUNK_PAGES: usize = 2048;
/// The pages left over at a chunk's end that need no more places, in 1024ths (K4).
const SNUG: usize = 21;

/// The first class of a doubling.
const DOUBLING: u8 = 16;
const EXACT: usize = 56;
const ALIGNED: usize = 9;
/// The number of classes.
pub const CLASSES: usize = EXACT + ALIGNED;

/// A class, by index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class(u8);

const STRIDES: [u16; CLASSES] = {
    let mut strides = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        strides[class] = match class {
            0..16 => class as u16 + 2,
            16..EXACT => {
                let (doubling, step) = ((class - 16) / 8, (class - 16) % 8 + 1);
                (16 << doubling) + ((2 << doubling) * step) as u16 + 1
            }
            _ => 2 << (class - EXACT),
        };
        class += 1;
    }
    strides
};

const BY_PAGES: [u8; MAX_SLOT_PAGES + 1] = {
    let mut by_pages = [0; MAX_SLOT_PAGES + 1];
    let (mut pages, mut class) = (1, 0);
    while pages <= MAX_SLOT_PAGES {
        while STRIDES[class] as usize <= pages {
            class += 1;
        }
        by_pages[pages] = class as u8;
        pages += 1;
    }
    by_pages
};

impl Class {
    /// All classes.
    pub fn all() -> impl Iterator<Item = Class> {
        (0..CLASSES as u8).map(Class)
    }

    /// The tightest class for `pages` pages at a multiple of `align` pages (a power of two); `None`
    /// if the area needs a run of its own.
    #[inline]
    pub fn of(pages: usize, align: usize) -> Option<Class> {
        if pages > MAX_SLOT_PAGES {
            return None;
        }
        if align <= 1 {
            return Some(Class(BY_PAGES[pages]));
        }
        let stride = (pages + 1).next_power_of_two().max(align);
        (stride <= MAX_SLOT_PAGES).then(|| Class((EXACT as u32 + stride.ilog2() - 1) as u8))
    }

    /// The index of the class, below [`CLASSES`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The class with this index.
    pub const fn from_index(index: usize) -> Class {
        assert!(index < CLASSES);
        Class(index as u8)
    }

    /// The class with this index, if there is one.
    #[inline]
    pub const fn checked(index: u8) -> Option<Class> {
        if (index as usize) < CLASSES { Some(Class(index)) } else { None }
    }

    /// The pages from one slot to the next.
    #[inline]
    pub const fn stride(self) -> usize {
        STRIDES[self.0 as usize] as usize
    }

    /// The classes whose slots may serve an area of `pages` pages before a chunk of this one is made:
    /// the next one, or two where steps are finer, with at most a fifth of a slot unused.
    pub fn larger(self, pages: usize) -> impl Iterator<Item = Class> {
        let (first, steps) = (self.0 + 1, if self.0 < DOUBLING { 1 } else { 2 });
        let exact = if self.is_aligned() { 0..0 } else { first..(first + steps).min(EXACT as u8) };
        exact.map(Class).filter(move |class| 4 * (class.stride() - 1 - pages) <= pages)
    }

    /// The number of places in the next chunk of this class for a CPU that has `chunks` of them
    /// (K4).
    pub fn slots_after(self, chunks: u32) -> usize {
        // Seven halves reach the most.
        let pages = (0..chunks.min(7)).fold(FIRST_CHUNK_PAGES, |pages, _| pages + pages / 2).min(GROWN_CHUNK_PAGES);
        let due = (pages / self.stride()).clamp(self.fewest(), MAX_SLOTS);
        let most = (4 * due).min(MAX_SLOTS).min(MAX_CHUNK_PAGES / self.stride()).max(due);
        let snug = |slots: &usize| self.left_over(*slots) <= SNUG;
        (due..=most).find(snug).or_else(|| (due..=most).min_by_key(|&slots| self.left_over(slots))).unwrap_or(due)
    }

    /// What is left over at the end of a chunk with this number of places, in 1024ths of its slots.
    const fn left_over(self, slots: usize) -> usize {
        let pages = slots * self.stride();
        (self.units(slots) * UNIT_PAGES - pages) * 1024 / pages
    }

    /// The number of places in the smallest chunk (K7).
    pub const fn fewest(self) -> usize {
        1 + self.is_aligned() as usize
    }

    /// The slots of a chunk with this number of places: all of them, except the first in an aligned
    /// class (K7).
    pub const fn mask(self, slots: usize) -> u64 {
        (u64::MAX >> (MAX_SLOTS - slots)) & !(self.is_aligned() as u64)
    }

    /// The number of places in a further chunk of a CPU that has many.
    pub fn slots(self) -> usize {
        self.slots_after(u32::MAX)
    }

    /// The units of a chunk with this number of places (K2).
    pub const fn units(self, slots: usize) -> usize {
        (slots * self.stride()).div_ceil(UNIT_PAGES)
    }

    /// The empty chunks that a CPU keeps however long it does not use them: one if a chunk of the
    /// class is small, else none.
    pub fn spares(self) -> usize {
        (self.units(self.slots()) <= MAX_SLOT_PAGES / UNIT_PAGES) as usize
    }

    /// The alignment of a chunk's first page, in pages (K3).
    pub const fn align(self) -> usize {
        if self.is_aligned() { self.stride() } else { 1 }
    }

    const fn is_aligned(self) -> bool {
        self.0 as usize >= EXACT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn every_size_gets_the_tightest_slot_with_room_for_its_guard() {
        for pages in 1..=MAX_SLOT_PAGES {
            let class = Class::of(pages, 1).unwrap();
            assert!(class.stride() > pages, "K1");
            let wasted = class.stride() - 1 - pages;
            assert!(wasted == 0 || wasted * 8 < pages, "{pages} pages in a stride of {}", class.stride());
            assert!(class.index() == 0 || Class::from_index(class.index() - 1).stride() <= pages, "tightest");
        }
        assert_eq!(Class::of(MAX_SLOT_PAGES + 1, 1), None);
    }

    #[test]
    fn aligned_slots_start_at_multiples_of_their_stride() {
        assert_eq!(Class::of(4, 4).unwrap().stride(), 8);
        assert_eq!(Class::of(1, 256).unwrap().stride(), 256);
        assert_eq!([Class::of(511, 2), Class::of(1, 512)].map(|class| class.unwrap().stride()), [512, 512]);
        assert_eq!(Class::of(512, 2), None, "K1 would need a stride of 1024");
        for class in Class::all().filter(|c| c.align() > 1) {
            assert!(class.stride().is_power_of_two() && class.align() == class.stride(), "K3");
        }
    }

    #[test]
    fn an_aligned_chunk_has_an_empty_place_and_at_least_one_slot() {
        for class in Class::all() {
            for slots in (0..10).map(|chunks| class.slots_after(chunks)) {
                let (mask, aligned) = (class.mask(slots), class.align() > 1);
                assert_eq!((mask & 1 == 0, mask.count_ones() as usize), (aligned, slots - aligned as usize), "K7");
                assert!(mask != 0 && mask.leading_zeros() as usize == MAX_SLOTS - slots);
            }
        }
    }

    #[test]
    fn a_chunk_is_an_exact_number_of_units_and_at_most_8_mib() {
        for class in Class::all() {
            for slots in (0..10).map(|chunks| class.slots_after(chunks)) {
                let pages = class.units(slots) * UNIT_PAGES;
                assert!(pages >= slots * class.stride() && pages < MAX_CHUNK_PAGES + UNIT_PAGES, "K2");
                assert!((1..=MAX_SLOTS).contains(&slots));
            }
        }
    }

    #[test]
    fn chunks_begin_small_and_grow_by_half() {
        let places = |pages| [0, 1, 2, 3, 4, 5, 6, 99].map(|chunks| Class::of(pages, 1).unwrap().slots_after(chunks));
        assert_eq!(places(15), [8, 12, 20, 28, 40, 60, 64, 64], "K4: strides of 16 fill units");
        assert_eq!(places(31), [11, 19, 19, 19, 19, 29, 44, 62], "K4: 11 leave 21 pages of 384, 12 would leave 52");
        assert_eq!(places(1), [64; 8], "64 at most");
        assert_eq!(places(512), [3; 8], "K2");
    }

    #[test]
    fn a_chunk_leaves_less_than_a_quarter_over() {
        for class in Class::all() {
            // The worst: four slots of 65 pages in five units.
            let left = class.left_over(class.slots_after(0));
            assert!(left <= 60 * 1024 / 260, "{left} of 1024 in {class:?}");
        }
    }

    #[test]
    fn larger_classes_serve_what_leaves_a_fifth_of_them_unused_at_most() {
        let larger = |pages| Class::of(pages, 1).unwrap().larger(pages).map(Class::stride).collect::<Vec<_>>();
        assert_eq!([2, 3, 4].map(larger), [vec![], vec![], vec![6]]);
        assert_eq!([112, 128].map(larger), [vec![121, 129], vec![145, 161]]);
        assert_eq!([65, 129].map(larger), [vec![81], vec![161]], "89 and 177 would leave more");
        assert_eq!([480, 512].map(larger), [vec![513], vec![]], "there is no larger one");
        assert_eq!(Class::of(8, 8).unwrap().larger(8).count(), 0, "aligned");
    }
}
