//! Patterns: bytes that tell which page of which area they belong to.
//!
//! Each 8-byte word of a page follows from (seed, round, area, page, word), so
//! a page that belongs to somebody else, or to an earlier round, differs in
//! nearly every word.

use vmalloc::units::PAGE_SIZE;

/// The bytes of a page.
pub type Page = [u8; PAGE_SIZE];

const WORD: usize = 8;
/// Odd, and far from any simple fraction of 2⁶⁴.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the pages of an area look like.
#[derive(Clone, Copy, Debug)]
pub struct Pattern(u64);

impl Pattern {
    /// The pattern of area `area` in round `round`.
    pub fn new(seed: u64, round: u32, area: u32) -> Pattern {
        Pattern(mixed(mixed(seed) ^ (u64::from(round) << 32 | u64::from(area))))
    }

    /// Writes page `index` into `page`.
    pub fn fill(self, index: usize, page: &mut Page) {
        for (word, value) in page.chunks_exact_mut(WORD).zip(self.words(index)) {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Bytes of `page` that differ from page `index`.
    pub fn wrong(self, index: usize, page: &Page) -> u64 {
        let differing = page.chunks_exact(WORD).zip(self.words(index)).map(|(word, value)| {
            let value = value.to_le_bytes();
            if word == value { 0 } else { word.iter().zip(value).filter(|(a, b)| **a != *b).count() as u64 }
        });
        differing.sum()
    }

    fn words(self, index: usize) -> impl Iterator<Item = u64> {
        let first = mixed(self.0.wrapping_add(index as u64));
        (0..).map(move |word: u64| first.wrapping_add(word.wrapping_mul(STRIDE)))
    }
}

/// Each bit of the result depends on each bit of `x` (the finalizer of
/// SplitMix64).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(STRIDE);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(pattern: Pattern, index: usize) -> Page {
        let mut page = [0; PAGE_SIZE];
        pattern.fill(index, &mut page);
        page
    }

    #[test]
    fn a_page_is_right_for_itself_and_wrong_for_all_others() {
        let own = Pattern::new(1, 2, 3);
        let filled = page(own, 4);
        assert_eq!(own.wrong(4, &filled), 0);
        let others = [(1, 2, 3, 5), (1, 2, 4, 4), (1, 3, 3, 4), (2, 2, 3, 4)];
        for (seed, round, area, index) in others {
            let wrong = Pattern::new(seed, round, area).wrong(index, &filled);
            assert!(wrong > PAGE_SIZE as u64 * 9 / 10, "only {wrong} bytes differ");
        }
        assert!(own.wrong(4, &[0; PAGE_SIZE]) > PAGE_SIZE as u64 * 9 / 10);
    }

    #[test]
    fn wrong_bytes_are_counted_one_by_one() {
        let own = Pattern::new(1, 1, 1);
        let mut filled = page(own, 0);
        for at in [0, 9, 10, PAGE_SIZE - 1] {
            filled[at] ^= 0x40;
        }
        assert_eq!(own.wrong(0, &filled), 4);
    }
}
