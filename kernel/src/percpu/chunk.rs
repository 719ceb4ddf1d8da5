//! The record of a chunk: which of its bytes are out, and which of its pages are there.
//!
//! A bit stands for [`GRAIN`] bytes of each unit. `taken` has the bits of objects that are out;
//! `bounds` has the first bit of each object, and the first bit behind it.
//!
//! # Rules
//! - **PC1** The bits of objects that are out are disjoint, and each object begins at a bound.
//! - **PC2** No free run is longer than `hint`, and no free bit lies below `first`.
//! - **PC7** All bits of `known` are free. It need not be the longest free run: all are looked at when
//!   a take has halved it and it has less than a sixteenth of the free bits.

use super::RESERVED;
use crate::sync::breaks;
use core::ops::Range;
use core::ptr::null_mut;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// The bytes of a bit.
pub(super) const GRAIN: usize = 4;
/// The pages of a unit at most: the bits of a page tell which are there.
pub(super) const MOST_PAGES: usize = 8;
const WORDS: usize = MOST_PAGES * PAGE_SIZE / GRAIN / 64;
const PAGE_BITS: usize = PAGE_SIZE / GRAIN;
/// The longest run that has no whole word.
const WITHOUT_WORD: usize = 2 * 63;

/// What a record is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// All of a chunk that was added later.
    Whole,
    /// The dynamic part of the first chunk.
    Dynamic,
    /// The reserved part of the first chunk.
    Reserved,
}

/// The record of a chunk, which lies in a frame of its own.
pub(super) struct Chunk {
    pub(super) next: *mut Chunk,
    pub(super) previous: *mut Chunk,
    pub(super) frame: Pfn,
    /// The common base of its parts.
    pub(super) base: usize,
    pub(super) part: Part,
    /// Where the part begins.
    start: usize,
    /// Bits of a unit, up to the end of the part.
    bits: usize,
    hint: usize,
    first: usize,
    /// A free run.
    known: Range<usize>,
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
            part: Part::Whole,
            start: 0,
            bits,
            hint: bits,
            first: 0,
            known: 0..bits,
            used: 0,
            populated: 0,
            populating: 0,
            taken: [0; WORDS],
            bounds: [0; WORDS],
        }
    }

    /// Objects are taken of `bits` alone from here on (PC5). Nothing has been taken before.
    pub(super) fn become_part(&mut self, part: Part, bits: Range<usize>) {
        set_bits(&mut self.taken, 0, bits.start, true);
        (self.part, self.start, self.bits, self.hint) = (part, bits.start, bits.end, bits.len());
        (self.first, self.known) = (bits.start, bits);
    }

    /// Whether it may be given up (PC4, PC5).
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0 && self.populating == 0 && self.part == Part::Whole
    }

    /// The list that it belongs to: by the free run that is known.
    pub(super) fn list(&self) -> usize {
        if self.part == Part::Reserved { RESERVED } else { list_of(self.known.len()) }
    }

    /// Where `bits` bits aligned to `align` begin in the free run that is known, if they fit and
    /// [`Chunk::take`] might take them.
    pub(super) fn fits(&self, bits: usize, align: usize, populated: bool) -> Option<usize> {
        let start = (self.known.start + align - 1) & !(align - 1);
        (start + bits <= self.known.end && self.barred(start, bits, populated) == 0).then_some(start)
    }

    /// The pages of these bits of which nobody may take any at the moment.
    fn barred(&self, start: usize, bits: usize, populated: bool) -> u8 {
        pages_of(start, bits) & if populated { !self.populated } else { self.populating }
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
            let barred = self.barred(start, bits, populated);
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

    /// The pages of these bits that are absent: the caller populates them (PC3).
    pub(super) fn begin_populating(&mut self, start: usize, bits: usize) -> u8 {
        let absent = pages_of(start, bits) & !self.populated;
        let told_early = breaks!(PagesToldEarly);
        self.populating |= if told_early { 0 } else { absent };
        self.populated |= if told_early { absent } else { 0 };
        absent
    }

    /// Takes bits that are free.
    pub(super) fn mark(&mut self, start: usize, bits: usize) {
        set_bits(&mut self.taken, start, bits, true);
        set_bits(&mut self.bounds, start, bits, false);
        for bound in [start, start + bits].into_iter().filter(|&bound| bound < self.bits) {
            self.bounds[bound / 64] |= 1 << (bound % 64);
        }
        self.used += bits;
        if start < self.known.end && self.known.start < start + bits {
            self.split_known(start, start + bits);
        }
    }

    /// The longer part of the known run that is left, or the longest free run (PC7).
    fn split_known(&mut self, start: usize, end: usize) {
        let (was, front, back) = (self.list(), self.known.start..start, end..self.known.end);
        self.known = if front.len() > back.len() { front } else { back };
        if self.list() < was && 16 * self.known.len() < self.bits - self.start - self.used {
            self.find_longest();
        }
    }

    /// The longest free run that has a whole word becomes the known one, if it is longer. Others are
    /// not looked at.
    fn find_longest(&mut self) {
        let (mut word, mut longest) = (self.first / 64, self.known.clone());
        while word * 64 < self.bits {
            if self.taken[word] != 0 {
                word += 1;
                continue;
            }
            let run = self.run_start(word * 64).0..next_bit(&self.taken, word * 64, self.bits, true);
            word = run.end.div_ceil(64);
            longest = if run.len() > longest.len() { run } else { longest };
        }
        (self.hint, self.known) = (longest.len().max(WITHOUT_WORD), longest);
    }

    /// Where the free run that has the bit `start` begins, or a bit of it: two words are looked at.
    /// And whether it begins there.
    fn run_start(&self, start: usize) -> (usize, bool) {
        let word = start / 64;
        let end_of = |word: usize, set: u64| word * 64 + 64 - set.leading_zeros() as usize;
        match (self.taken[word] & ((1 << (start % 64)) - 1), word) {
            (0, 0) => (0, true),
            (0, _) => (end_of(word - 1, self.taken[word - 1]), self.taken[word - 1] != 0 || word == 1),
            (set, _) => (end_of(word, set), true),
        }
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
        if self.used == 0 {
            (self.hint, self.known) = (self.bits, self.start..self.bits);
            return true;
        }
        let (from, begins) = self.run_start(start);
        let run = from..next_bit(&self.taken, start, self.bits, true);
        self.hint = self.hint.max(if begins { run.len() } else { self.bits });
        self.known = if run.len() > self.known.len() { run } else { self.known.clone() };
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
    if from >= end {
        return end;
    }
    let flip = if set { 0 } else { u64::MAX };
    let mut at = from / 64;
    let mut word = (words[at] ^ flip) & (u64::MAX << (from % 64));
    while word == 0 {
        at += 1;
        if at * 64 >= end {
            return end;
        }
        word = words[at] ^ flip;
    }
    (at * 64 + word.trailing_zeros() as usize).min(end)
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
    fn a_run_that_is_known_to_be_free_is_free_and_what_fits_there_begins_aligned() {
        for part in [0..2 * PAGE_BITS, 37..1500] {
            let (mut chunk, mut live, mut seed) = (Chunk::new(0, Pfn(0), 2), Vec::new(), 3u64);
            chunk.become_part(Part::Dynamic, part.clone());
            let mut row: Vec<bool> = (0..2 * PAGE_BITS).map(|bit| !part.contains(&bit)).collect();
            let mut draw = |below: usize| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) as usize % below
            };
            let mut made = 0;
            for step in 0..20_000 {
                let (bits, align) = (1 + draw(200), 1 << draw(8));
                if draw(100) < 60 {
                    if let Some(start) = chunk.fits(bits, align, false) {
                        assert!(
                            start.is_multiple_of(align) && !row[start..start + bits].contains(&true),
                            "step {step}"
                        );
                        chunk.mark(start, bits);
                        row[start..start + bits].fill(true);
                        live.push((start, bits));
                        made += 1;
                    }
                } else if !live.is_empty() {
                    let (start, bits) = live.swap_remove(draw(live.len()));
                    assert!(chunk.give(start));
                    row[start..start + bits].fill(false);
                }
                assert!(!row[chunk.known.clone()].contains(&true), "PC7: step {step}: {:?}", chunk.known);
                let longest = row.split(|&taken| taken).map(<[bool]>::len).max();
                assert!(longest <= Some(chunk.hint), "PC2: step {step}");
                if live.is_empty() {
                    assert_eq!(chunk.known, part, "all of it is free");
                }
            }
            assert!(made > 4000, "{made}");
        }
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
