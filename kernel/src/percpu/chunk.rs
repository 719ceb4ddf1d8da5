//! The record of a chunk: which of its bytes are out, and which of its pages are there.
//!
//! A bit stands for [`GRAIN`] bytes of each unit. `taken` has the bits of objects that are out;
//! `bounds` has the first bit of each object, and the first bit behind it.
//!
//! # Rules
//! - **PC1** The bits of objects that are out are disjoint, and each object begins at a bound.
//! - **PC2** No free run is longer than `hint`, and no free bit lies below `first`.

use core::ptr::null_mut;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// The bytes of a bit.
pub(super) const GRAIN: usize = 4;
/// The pages of a unit at most: the bits of a page tell which are there.
pub(super) const MOST_PAGES: usize = 8;
const WORDS: usize = MOST_PAGES * PAGE_SIZE / GRAIN / 64;
const PAGE_BITS: usize = PAGE_SIZE / GRAIN;

/// The record of a chunk, which lies in a frame of its own.
pub(super) struct Chunk {
    pub(super) next: *mut Chunk,
    pub(super) previous: *mut Chunk,
    pub(super) frame: Pfn,
    /// The common base of its parts.
    pub(super) base: usize,
    /// Bits of a unit.
    bits: usize,
    hint: usize,
    first: usize,
    /// Bits that are out.
    used: usize,
    /// Pages that are there for all CPUs.
    pub(super) populated: u8,
    /// Pages that a caller is populating.
    pub(super) populating: u8,
    taken: [u64; WORDS],
    bounds: [u64; WORDS],
}

const _: () = assert!(size_of::<Chunk>() <= PAGE_SIZE);

impl Chunk {
    pub(super) fn new(base: usize, frame: Pfn, unit_pages: usize) -> Chunk {
        let bits = unit_pages * PAGE_BITS;
        Chunk {
            next: null_mut(),
            previous: null_mut(),
            frame,
            base,
            bits,
            hint: bits,
            first: 0,
            used: 0,
            populated: 0,
            populating: 0,
            taken: [0; WORDS],
            bounds: [0; WORDS],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0 && self.populating == 0
    }

    /// The list that it belongs to: by the longest free run that it may have.
    pub(super) fn list(&self) -> usize {
        list_of(self.hint)
    }

    /// Takes `bits` bits aligned to `align` whose pages are there, or may be made: not in a page
    /// that another caller is populating, and with `populated` only in pages that are there.
    pub(super) fn take(&mut self, bits: usize, align: usize, populated: bool) -> Option<usize> {
        if bits > self.hint {
            return None;
        }
        self.first = next_bit(&self.taken, self.first, self.bits, false);
        let (mut from, mut whole) = (self.first, true);
        loop {
            let start = next_bit(&self.taken, from, self.bits, false).next_multiple_of(align);
            if start + bits > self.bits {
                // A longer run would have had an aligned place, if nothing was left out.
                self.hint = if whole { self.hint.min(bits + align - 2) } else { self.hint };
                return None;
            }
            let end = next_bit(&self.taken, start, start + bits, true);
            let barred = pages_of(start, bits) & if populated { !self.populated } else { self.populating };
            if end < start + bits {
                from = end;
            } else if barred != 0 {
                whole = false;
                from = (barred.trailing_zeros() as usize + 1) * PAGE_BITS;
            } else {
                self.mark(start, bits);
                return Some(start);
            }
        }
    }

    fn mark(&mut self, start: usize, bits: usize) {
        set_bits(&mut self.taken, start, bits, true);
        set_bits(&mut self.bounds, start, bits, false);
        set_bits(&mut self.bounds, start, 1, true);
        if start + bits < self.bits {
            set_bits(&mut self.bounds, start + bits, 1, true);
        }
        self.used += bits;
    }

    /// The bits of the object that begins at `start`, if it is out.
    pub(super) fn object(&self, start: usize) -> Option<usize> {
        let is = |words: &[u64; WORDS]| words[start / 64] >> (start % 64) & 1 != 0;
        let out = start < self.bits && is(&self.taken) && is(&self.bounds);
        out.then(|| next_bit(&self.bounds, start + 1, self.bits, true) - start)
    }

    /// Makes an object's bits free again. False where none is out there.
    pub(super) fn give(&mut self, start: usize) -> bool {
        let Some(bits) = self.object(start) else { return false };
        set_bits(&mut self.taken, start, bits, false);
        self.used -= bits;
        self.first = self.first.min(start);
        // The bit before it that is out is looked for in two words: PC2 needs a bound alone.
        let end = next_bit(&self.taken, start, self.bits, true);
        let before = (0..=start / 64).rev().take(2).find(|&word| {
            let below = if word == start / 64 { (1u64 << (start % 64)) - 1 } else { u64::MAX };
            self.taken[word] & below != 0
        });
        let run = before.map_or(self.bits, |word| end - word * 64);
        self.hint = self.hint.max(run).min(self.bits);
        true
    }
}

/// The list of chunks whose longest free run may have so many bits.
pub(super) fn list_of(bits: usize) -> usize {
    (usize::BITS - bits.leading_zeros()) as usize
}

/// The pages that `bits` bits from `start` on touch.
pub(super) fn pages_of(start: usize, bits: usize) -> u8 {
    let (first, last) = (start / PAGE_BITS, (start + bits - 1) / PAGE_BITS);
    ((2u32 << last) - (1 << first)) as u8
}

/// The first bit from `from` on that is `set`, or `end`.
fn next_bit(words: &[u64; WORDS], from: usize, end: usize, set: bool) -> usize {
    let flip = if set { 0 } else { u64::MAX };
    let mut at = from;
    while at < end {
        let word = (words[at / 64] ^ flip) >> (at % 64);
        if word != 0 {
            return (at + word.trailing_zeros() as usize).min(end);
        }
        at = (at / 64 + 1) * 64;
    }
    end
}

fn set_bits(words: &mut [u64; WORDS], start: usize, bits: usize, to: bool) {
    let (mut at, end) = (start, start + bits);
    while at < end {
        let these = (64 - at % 64).min(end - at);
        let mask = (u64::MAX >> (64 - these)) << (at % 64);
        words[at / 64] = if to { words[at / 64] | mask } else { words[at / 64] & !mask };
        at += these;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_chunk_agrees_with_a_row_of_bools_through_random_steps() {
        let mut chunk = Chunk::new(0, Pfn(0), 2);
        let (mut row, mut live) = ([false; 2 * PAGE_BITS], Vec::new());
        let mut seed = 9u64;
        let mut draw = |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        for step in 0..40_000 {
            if draw(100) < 55 {
                let (longest, align) = (1 << draw(9), 1 << draw(9));
                let bits = 1 + draw(longest);
                let fits = |&start: &usize| row.get(start..start + bits).is_some_and(|run| !run.contains(&true));
                let expected = (0..row.len()).step_by(align).find(fits);
                assert_eq!(chunk.take(bits, align, false), expected, "step {step}: {bits} bits by {align}");
                if let Some(start) = expected {
                    row[start..start + bits].fill(true);
                    live.push((start, bits));
                }
            } else if !live.is_empty() {
                let (start, bits) = live.swap_remove(draw(live.len()));
                assert_eq!(chunk.object(start), Some(bits), "PC1");
                assert!(bits == 1 || !chunk.give(start + 1), "no object begins inside of another");
                assert!(chunk.give(start) && !chunk.give(start), "it is out once");
                row[start..start + bits].fill(false);
            }
            assert_eq!(chunk.used, row.iter().filter(|&&taken| taken).count());
        }
        assert!(live.len() > 3);
    }

    #[test]
    fn who_must_not_wait_gets_bytes_of_pages_that_are_there_and_nobody_those_that_somebody_makes() {
        let mut chunk = Chunk::new(0, Pfn(0), 3);
        assert_eq!(chunk.take(4, 1, true), None, "no page is there");
        chunk.populated = 0b100;
        assert_eq!(chunk.take(4, 1, true), Some(2 * PAGE_BITS));
        chunk.populating = 0b001;
        assert_eq!(chunk.take(4, 1, false), Some(PAGE_BITS));
        chunk.populating = 0;
        assert_eq!(chunk.take(4, 1, false), Some(0), "what was left out before is found");
        assert_eq!(pages_of(PAGE_BITS - 1, 2), 0b011);
    }
}
