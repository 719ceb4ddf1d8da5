//! x86-64: four or five levels of tables with 512 entries of 64 bits.
//!
//! ```text
//!   63  62..52  51 ........ 12  11..10  9     8  7    6  5  4    3    2  1  0
//!   NX  0       frame           0       mark  G  PAT  D  A  PCD  PWT  0  W  P   leaf
//!   NX  0       frame inverted  0       1     1  PAT  D  1  PCD  PWT  0  W  0   parked
//!   0   -       frame           -       -     -  0    -  -  -    -    -  1  1   table
//! ```
//!
//! A large page, of 2 MiB at level 2 and of 1 GiB at level 3, differs from a leaf of level 1 in
//! this: bit 7 is 1, the PAT is at bit 12, the rest of the frame's lowest 9 or 18 bits are 0, and
//! bit 10 is 1, because the library wrote it. The embedder's large pages have 0 there.
//!
//! The library writes links with zeros at the dashes, and with accessed set.
//!
//! # Source
//! Intel SDM vol. 3A §4.5.4, tables 4-14 to 4-20 (the entries), §4.5.5 (LA57); "L1 Terminal Fault"
//! guidance for the inverted frame.

use super::{bit, cache_bits};
use crate::machine::format::{Entry, Format, MemType, Prot};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, Pfn};

/// The page tables of x86-64. The machine chooses four levels (the default) or five.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum X86_64 {}

const NO_EXEC: u64 = 1 << 63;
/// Ignored bits and protection keys, which are not used.
const HIGH: u64 = 0x7ff << 52;
const FRAME: u64 = ((1 << 40) - 1) << PAGE_SHIFT;
const TABLE_FIXED: u64 = bit::TABLE_FIXED as u64 | NO_EXEC;
const TABLE: u64 = bit::TABLE as u64;
const PRESENT: u64 = bit::PRESENT as u64;
/// A page of 2 MiB or 1 GiB.
const LARGE: u64 = PRESENT | bit::LARGE as u64;

/// The bits of a frame's address that are an offset in a page of `level`.
#[inline]
const fn offset(level: u8) -> u64 {
    (1 << (PAGE_SHIFT + X86_64::INDEX_BITS * (level as u32 - 1))) - PAGE_SIZE as u64
}

/// The bits that are the same in all leaves of `level`.
#[inline]
const fn leaf_fixed(level: u8) -> u64 {
    let large = if level == 1 { 0 } else { LARGE | offset(level) & !(bit::LARGE_PAT as u64) };
    bit::LEAF_FIXED as u64 | HIGH | large
}

/// Their values.
#[inline]
const fn leaf(level: u8) -> u64 {
    (if level == 1 { bit::LEAF } else { bit::LEAF | bit::LARGE | bit::OWN }) as u64
}

#[inline]
const fn frame(word: u64, level: u8) -> Pfn {
    Pfn((word & FRAME & !offset(level)) >> PAGE_SHIFT)
}

#[inline]
const fn prot(word: u64) -> Prot {
    let write = (word & bit::WRITE as u64 != 0) as u8 * Prot::WRITE.bits();
    let exec = (word & NO_EXEC == 0) as u8 * Prot::EXEC.bits();
    Prot::from_bits_truncate(write | exec)
}

// SAFETY: T0. The bits are those of the SDM, and `decode` inverts the other functions. Parked words
// and 0 lack the present bit, so the MMU caches neither.
unsafe impl Format for X86_64 {
    type Word = u64;
    const NAME: &'static str = "x86-64";
    const LEVELS: u8 = 4;
    const MAX_LEVELS: u8 = 5;
    const LEAF_LEVELS: u8 = 3;
    const INDEX_BITS: u32 = 9;
    const MAX_PFN: u64 = 1 << 40;
    const ABSENT: u64 = 0;
    const HIDES: bool = true;

    #[inline]
    fn leaf(frame: Pfn, prot: Prot, memory: MemType, level: u8) -> u64 {
        let write = if prot.contains(Prot::WRITE) { bit::WRITE | bit::DIRTY } else { 0 };
        let exec = if prot.contains(Prot::EXEC) { 0 } else { NO_EXEC };
        Self::leaf_like(exec | leaf(level) | (write | cache_bits(memory, level)) as u64, frame)
    }

    #[inline]
    fn leaf_like(form: u64, frame: Pfn) -> u64 {
        debug_assert!(frame.0 < Self::MAX_PFN);
        frame.phys() | form
    }

    #[inline]
    fn table(frame: Pfn, _level: u8) -> u64 {
        debug_assert!(frame.0 < Self::MAX_PFN);
        frame.phys() | (bit::TABLE | bit::ACCESSED) as u64
    }

    #[inline]
    fn decode(word: u64, level: u8) -> Entry {
        let is_leaf = |word| level <= Self::LEAF_LEVELS && word & leaf_fixed(level) == leaf(level);
        match (level, word & TABLE_FIXED) {
            (2.., TABLE) => Entry::Table(frame(word, 1)),
            _ if is_leaf(word) => Entry::Leaf { frame: frame(word, level), prot: prot(word) },
            _ if is_leaf(Self::park(word)) => Entry::Parked(frame(!word, level)),
            _ if word == Self::ABSENT => Entry::Absent,
            (2.., _) if word & LARGE == LARGE => Entry::Foreign,
            (2.., _) if word & PRESENT != 0 => Entry::Restricted,
            _ => Entry::Bad,
        }
    }

    #[inline]
    fn park(word: u64) -> u64 {
        word ^ (FRAME | bit::PARK as u64)
    }

    #[inline]
    fn park_all<const N: usize>(words: [u64; N], level: u8) -> Option<[u64; N]> {
        // If a fixed bit differs, the subtraction leaves at least the lowest such bit set.
        let bare = words.map(|word| word.wrapping_sub(leaf(level)));
        are_bare(bare, level).then(|| bare.map(|word| Self::park(word ^ leaf(level))))
    }

    #[inline]
    fn parked_all<const N: usize>(words: [u64; N], level: u8) -> Option<[Pfn; N]> {
        let bare = words.map(|word| Self::park(word) ^ leaf(level));
        are_bare(bare, level).then(|| bare.map(|word| frame(word, level)))
    }
}

/// Whether no word has a fixed bit left.
#[inline]
fn are_bare<const N: usize>(words: [u64; N], level: u8) -> bool {
    words.iter().fold(0, |left, word| left | word) & leaf_fixed(level) == 0
}
