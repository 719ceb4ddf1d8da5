//! What the tests of single structures share.

use super::format::{Entry, Format, MemType, Prot};
use crate::units::Pfn;

/// The format of a machine without page tables. Its entries only name frames:
/// [`Prealloc`](super::prealloc::Prealloc) chains them so.
pub struct NoTables;

// SAFETY: T0: no MMU reads it, and nothing in it is present.
unsafe impl Format for NoTables {
    type Word = u64;
    const NAME: &'static str = "none";
    const LEVELS: u8 = 1;
    const MAX_LEVELS: u8 = 1;
    const INDEX_BITS: u32 = 0;
    const MAX_PFN: u64 = u64::MAX >> 1;
    const ABSENT: u64 = 0;
    const HIDES: bool = false;

    fn leaf(frame: Pfn, _prot: Prot, _memory: MemType) -> u64 {
        Self::leaf_like(1, frame)
    }
    fn leaf_like(form: u64, frame: Pfn) -> u64 {
        frame.0 << 1 | form
    }
    fn table(_frame: Pfn) -> u64 {
        unreachable!("no tables here")
    }
    fn decode(word: u64, _level: u8) -> Entry {
        if word == 0 { Entry::Absent } else { Entry::Waiting(Pfn(word >> 1)) }
    }
    fn retire(word: u64) -> u64 {
        word
    }
}
