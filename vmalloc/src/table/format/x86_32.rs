//! x86-32 without PAE: two levels of tables with 1024 entries of 32 bits.
//!
//! ```text
//!   31 .. 12  11..10  9     8  7    6  5  4    3    2  1  0
//!   frame     0       mark  G  PAT  D  A  PCD  PWT  0  W  P   leaf
//!   frame     0       1     1  PAT  D  1  PCD  PWT  0  W  0   parked
//!   frame     -       -     -  0    -  -  -    -    -  1  1   table
//! ```
//!
//! The library writes links with zeros at the dashes, and with accessed set.
//!
//! The format has no room to invert the frame of a parked entry, and no bit that forbids execution:
//! every mapped page is executable, and decoding says so.
//!
//! # Source
//! Intel SDM vol. 3A §4.3, tables 4-5 and 4-6.

use super::{bit, cache_bits};
use crate::machine::format::{Entry, Format, MemType, Prot};
use crate::units::{PAGE_SHIFT, Pfn};

/// The two-level page tables of 32-bit x86.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum X86_32 {}

/// A page of 4 MiB.
const LARGE: u32 = bit::PRESENT | bit::LARGE;

const fn frame(word: u32) -> Pfn {
    Pfn((word >> PAGE_SHIFT) as u64)
}

const fn base(frame: Pfn) -> u32 {
    debug_assert!(frame.0 < X86_32::MAX_PFN);
    (frame.0 as u32) << PAGE_SHIFT
}

#[inline]
const fn prot(word: u32) -> Prot {
    if word & bit::WRITE != 0 { Prot::RW.union(Prot::EXEC) } else { Prot::RX }
}

// SAFETY: T0. The bits are those of the SDM, and `decode` inverts the other functions. Parked words
// and 0 lack the present bit, so the MMU caches neither.
unsafe impl Format for X86_32 {
    type Word = u32;
    const NAME: &'static str = "x86-32";
    const LEVELS: u8 = 2;
    const MAX_LEVELS: u8 = 2;
    const LEAF_LEVELS: u8 = 1;
    const INDEX_BITS: u32 = 10;
    const MAX_PFN: u64 = 1 << 20;
    const ABSENT: u32 = 0;
    const HIDES: bool = false;

    #[inline]
    fn leaf(frame: Pfn, prot: Prot, memory: MemType, _level: u8) -> u32 {
        let write = if prot.contains(Prot::WRITE) { bit::WRITE | bit::DIRTY } else { 0 };
        Self::leaf_like(bit::LEAF | write | cache_bits(memory, 1), frame)
    }

    #[inline]
    fn leaf_like(form: u32, frame: Pfn) -> u32 {
        base(frame) | form
    }

    #[inline]
    fn table(frame: Pfn, _level: u8) -> u32 {
        base(frame) | bit::TABLE | bit::ACCESSED
    }

    #[inline]
    fn decode(word: u32, level: u8) -> Entry {
        match (level, word & bit::LEAF_FIXED, word & bit::TABLE_FIXED) {
            (1, bit::LEAF, _) => Entry::Leaf { frame: frame(word), prot: prot(word) },
            (1, bit::PARKED, _) => Entry::Parked(frame(word)),
            (2.., _, bit::TABLE) => Entry::Table(frame(word)),
            _ if word == Self::ABSENT => Entry::Absent,
            (2.., ..) if word & LARGE == LARGE => Entry::Foreign,
            (2.., ..) if word & bit::PRESENT != 0 => Entry::Restricted,
            _ => Entry::Bad,
        }
    }

    #[inline]
    fn park(word: u32) -> u32 {
        word ^ bit::PARK
    }
}
