//! x86-64: four or five levels of tables with 512 entries of 64 bits.
//!
//! ```text
//!   63  62..52  51 ........ 12  11..10  9     8  7    6  5  4    3    2  1  0
//!   NX  0       frame           0       mark  G  PAT  D  A  PCD  PWT  0  W  P   leaf
//!   NX  0       frame inverted  0       1     1  PAT  D  1  PCD  PWT  0  W  0   parked
//!   0   -       frame           -       -     -  0    -  -  -    -    -  1  1   table
//! ```
//!
//! The library writes links with zeros at the dashes, and with accessed set.
//!
//! # Source
//! Intel SDM vol. 3A §4.5.4, tables 4-14 to 4-20 (the entries), §4.5.5 (LA57); "L1 Terminal Fault"
//! guidance for the inverted frame.

use super::{bit, cache_bits};
use crate::machine::format::{Entry, Format, MemType, Prot};
use crate::units::{PAGE_SHIFT, Pfn};

/// The page tables of x86-64. The machine chooses four levels (the default) or five.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum X86_64 {}

const NO_EXEC: u64 = 1 << 63;
/// Ignored bits and protection keys, which are not used.
const HIGH: u64 = 0x7ff << 52;
const FRAME: u64 = ((1 << 40) - 1) << PAGE_SHIFT;
const LEAF_FIXED: u64 = bit::LEAF_FIXED as u64 | HIGH;
const LEAF: u64 = bit::LEAF as u64;
const PARKED: u64 = bit::PARKED as u64;
const TABLE_FIXED: u64 = bit::TABLE_FIXED as u64 | NO_EXEC;
const TABLE: u64 = bit::TABLE as u64;
const PRESENT: u64 = bit::PRESENT as u64;
/// A page of 2 MiB or 1 GiB.
const LARGE: u64 = PRESENT | bit::LARGE as u64;

#[inline]
const fn frame(word: u64) -> Pfn {
    Pfn((word & FRAME) >> PAGE_SHIFT)
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
    const INDEX_BITS: u32 = 9;
    const MAX_PFN: u64 = 1 << 40;
    const ABSENT: u64 = 0;
    const HIDES: bool = true;

    #[inline]
    fn leaf(frame: Pfn, prot: Prot, memory: MemType) -> u64 {
        let write = if prot.contains(Prot::WRITE) { bit::WRITE | bit::DIRTY } else { 0 };
        let exec = if prot.contains(Prot::EXEC) { 0 } else { NO_EXEC };
        Self::leaf_like(exec | (bit::LEAF | write | cache_bits(memory)) as u64, frame)
    }

    #[inline]
    fn leaf_like(form: u64, frame: Pfn) -> u64 {
        debug_assert!(frame.0 < Self::MAX_PFN);
        frame.phys() | form
    }

    #[inline]
    fn table(frame: Pfn) -> u64 {
        debug_assert!(frame.0 < Self::MAX_PFN);
        frame.phys() | (bit::TABLE | bit::ACCESSED) as u64
    }

    #[inline]
    fn decode(word: u64, level: u8) -> Entry {
        match (level, word & LEAF_FIXED, word & TABLE_FIXED) {
            (1, LEAF, _) => Entry::Leaf { frame: frame(word), prot: prot(word) },
            (1, PARKED, _) => Entry::Parked(frame(!word)),
            (2.., _, TABLE) => Entry::Table(frame(word)),
            _ if word == Self::ABSENT => Entry::Absent,
            (2.., ..) if word & LARGE == LARGE => Entry::Foreign,
            (2.., ..) if word & PRESENT != 0 => Entry::Restricted,
            _ => Entry::Bad,
        }
    }

    #[inline]
    fn park(word: u64) -> u64 {
        word ^ (FRAME | bit::PARK as u64)
    }

    #[inline]
    fn park_all<const N: usize>(words: [u64; N]) -> Option<[u64; N]> {
        // If a fixed bit differs, the subtraction leaves at least the lowest such bit set.
        let bare = words.map(|word| word.wrapping_sub(LEAF));
        are_bare(bare).then(|| bare.map(|word| word ^ (FRAME | PARKED)))
    }

    #[inline]
    fn parked_all<const N: usize>(words: [u64; N]) -> Option<[Pfn; N]> {
        let bare = words.map(|word| word ^ (FRAME | PARKED));
        are_bare(bare).then(|| bare.map(frame))
    }
}

/// Whether no word has a fixed bit left.
#[inline]
fn are_bare<const N: usize>(words: [u64; N]) -> bool {
    words.iter().fold(0, |left, word| left | word) & LEAF_FIXED == 0
}
