//! Where the bytes of an allocation lie in its pages, and the canary in the rest of them.
//!
//! ```text
//!   End:    guard │ canary │ the bytes │ gap of the alignment: canary │ guard
//!   Start:  guard │ the bytes │ canary │ guard
//! ```
//!
//! An access beyond the pages faults at once. A store into the canary is found when the allocation is
//! freed. A load of the canary is not found.

use crate::os::PAGE;
use core::ops::Range;

/// Every byte of a canary. No text, no small number, no end of a string.
const CANARY: u8 = 0xc5;
const WORD: u64 = u64::from_ne_bytes([CANARY; 8]);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// Its bytes; there may be none.
    pub size: usize,
    /// Its start is a multiple of it, a power of two.
    pub align: usize,
}

impl Want {
    /// The pages that it takes.
    pub fn pages(self) -> usize {
        self.size.max(1).div_ceil(PAGE)
    }

    /// Where it starts in an area of its pages. An alignment wider than a page is the area's.
    pub fn offset(self, at_end: bool) -> usize {
        if !at_end || self.align > PAGE {
            return 0;
        }
        (self.pages() * PAGE - self.size.max(1)) & !(self.align - 1)
    }
}

/// The bytes of an allocation, and the pages around them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The address of the first byte.
    pub start: usize,
    /// The bytes.
    pub size: usize,
    /// The address of the first page.
    pub area: usize,
    /// The pages.
    pub pages: usize,
}

impl Place {
    /// The address behind the last byte.
    pub fn end(&self) -> usize {
        self.start + self.size
    }

    /// All addresses of its pages.
    pub fn all(&self) -> Range<usize> {
        self.area..self.area + self.pages * PAGE
    }

    fn rests(&self) -> [Range<usize>; 2] {
        [self.area..self.start, self.end()..self.all().end]
    }

    /// Writes the canary.
    ///
    /// # Safety
    /// The pages are open and the caller's.
    pub unsafe fn fill(&self) {
        for rest in self.rests() {
            let at = core::ptr::with_exposed_provenance_mut::<u8>(rest.start);
            // SAFETY: the caller's promise.
            unsafe { at.write_bytes(CANARY, rest.len()) };
        }
    }

    /// The bytes of the canary that are no more what they were.
    ///
    /// # Safety
    /// The pages are open, and nobody else writes.
    pub unsafe fn overwritten(&self) -> Option<Overwritten> {
        let mut found: Option<Overwritten> = None;
        for rest in self.rests() {
            let at = core::ptr::with_exposed_provenance::<u8>(rest.start);
            // SAFETY: the caller's promise.
            let bytes = unsafe { core::slice::from_raw_parts(at, rest.len()) };
            if is_whole(bytes) {
                continue;
            }
            let wrong = || bytes.iter().enumerate().filter(|&(_, &byte)| byte != CANARY);
            let first = found.map_or(wrong().next().map_or(0, |(n, _)| n) + rest.start, |found| found.first);
            found = Some(Overwritten { first, bytes: found.map_or(0, |found| found.bytes) + wrong().count() });
        }
        found
    }
}

/// Where a canary was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overwritten {
    /// The address of the first wrong byte.
    pub first: usize,
    /// The wrong bytes.
    pub bytes: usize,
}

fn is_whole(bytes: &[u8]) -> bool {
    // SAFETY: any eight bytes are a number.
    let (head, words, tail) = unsafe { bytes.align_to::<u64>() };
    let is_right = |byte: &u8| *byte == CANARY;
    // Without an early end, so that it is done with wide registers.
    let wrong = words.iter().fold(0, |wrong, word| wrong | (word ^ WORD));
    wrong == 0 && head.iter().all(is_right) && tail.iter().all(is_right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_at_the_end_as_far_as_the_alignment_allows() {
        let at = |size, align| Want { size, align }.offset(true);
        assert_eq!([at(1, 1), at(1, 16), at(0, 16), at(4096, 16)], [4095, 4080, 4080, 0]);
        assert_eq!([at(100, 16), at(5000, 4096), at(5000, 8)], [3984, 0, 3192]);
        assert_eq!(Want { size: 100, align: 8192 }.offset(true), 0);
    }

    #[test]
    fn a_canary_tells_what_was_written() {
        #[repr(align(4096))]
        struct Page(core::cell::UnsafeCell<[u8; PAGE]>);
        let page = Page(core::cell::UnsafeCell::new([0; PAGE]));
        let area = page.0.get().expose_provenance();
        let set = |n: usize, byte: u8| {
            // SAFETY: the page is ours.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(area + n).write(byte) }
        };
        let place = Place { start: area + 3984, size: 100, area, pages: 1 };
        // SAFETY: the page is ours.
        unsafe { place.fill() };
        // SAFETY: as above.
        assert_eq!(unsafe { place.overwritten() }, None);
        (3984..4084).for_each(|n| set(n, 1));
        // SAFETY: as above.
        assert_eq!(unsafe { place.overwritten() }, None);
        (4084..4087).for_each(|n| set(n, 0));
        set(3983, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { place.overwritten() }, Some(Overwritten { first: area + 3983, bytes: 4 }));
    }
}
