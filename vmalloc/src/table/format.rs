//! The x86 formats: the encoding of their entries.
//!
//! The x86 formats share a present bit, links that leave all restrictions to the leaves, accessed
//! and dirty bits that are set in advance (T3), and a software **mark**, which is a bit that the
//! MMU ignores and that tells a parked entry from garbage.
//!
//! Decoding a leaf compares the bits that all leaves of the format share: one mask and one
//! comparison, for the hot path. [`Walker::check`](super::Walker::check) makes the exact test.
//!
//! # Source
//! Intel SDM vol. 3A: §4.3 (32-bit paging), §4.4 (PAE), §4.5 (4 and 5 levels), §4.8 (accessed and dirty),
//! §4.9.2 (how PAT, PCD and PWT select a memory type).

mod x86_32;
mod x86_64;
mod x86_pae;

pub use x86_32::X86_32;
pub use x86_64::X86_64;
pub use x86_pae::X86Pae;

use crate::machine::format::{MemType, Word};
use crate::sync::plain::Ordering::{AcqRel, Acquire, Release};
use crate::sync::plain::{AtomicU32, AtomicU64};

/// The bits at the same places in all x86 formats.
mod bit {
    pub const PRESENT: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const PWT: u32 = 1 << 3;
    pub const PCD: u32 = 1 << 4;
    pub const ACCESSED: u32 = 1 << 5;
    pub const DIRTY: u32 = 1 << 6;
    /// In a leaf of level 1.
    pub const PAT: u32 = 1 << 7;
    /// Above level 1: a large page.
    pub const LARGE: u32 = 1 << 7;
    pub const GLOBAL: u32 = 1 << 8;
    /// Ignored by the MMU. The library sets it in a parked entry.
    pub const MARK: u32 = 1 << 9;
    /// Ignored by the MMU and not used, apart from [`OWN`].
    pub const SPARE: u32 = 3 << 10;
    /// Ignored by the MMU. The library sets it in its large pages, to tell them from the embedder's.
    pub const OWN: u32 = 1 << 10;
    /// [`PAT`] in a large page.
    pub const LARGE_PAT: u32 = 1 << 12;

    /// The bits that are the same in all leaves, and their values.
    pub const LEAF_FIXED: u32 = PRESENT | USER | ACCESSED | GLOBAL | MARK | SPARE;
    pub const LEAF: u32 = PRESENT | ACCESSED | GLOBAL;
    pub const PARKED: u32 = LEAF ^ PARK;
    /// The bits that parking flips, apart from the frame.
    pub const PARK: u32 = PRESENT | MARK;
    /// The bits that are the same in all links, and their values. The tables above a region may be
    /// the embedder's, which chooses how they are cached, who may use them, and the bits that the
    /// MMU ignores.
    pub const TABLE_FIXED: u32 = PRESENT | WRITE | LARGE;
    pub const TABLE: u32 = PRESENT | WRITE;
}

/// The index into the PAT for each [`MemType`]. Linux programs the PAT as WB, WC, UC−, UC, WB, WP,
/// UC−, WT.
#[inline]
const fn cache_bits(memory: MemType, level: u8) -> u32 {
    match memory {
        MemType::WriteBack => 0,
        MemType::WriteCombining => bit::PWT,
        MemType::UncachedMinus => bit::PCD,
        MemType::Uncached => bit::PCD | bit::PWT,
        MemType::WriteThrough if level == 1 => bit::PAT | bit::PCD | bit::PWT,
        MemType::WriteThrough => bit::LARGE_PAT | bit::PCD | bit::PWT,
    }
}

macro_rules! word {
    ($word:ty, $atomic:ty) => {
        impl Word for $word {
            #[inline]
            unsafe fn load(at: *const $word) -> $word {
                // SAFETY: W1.
                unsafe { <$atomic>::from_ptr(at.cast_mut()) }.load(Acquire)
            }
            #[inline]
            unsafe fn store(at: *mut $word, value: $word) {
                // SAFETY: W1.
                unsafe { <$atomic>::from_ptr(at) }.store(value, Release)
            }
            #[inline]
            unsafe fn exchange(at: *mut $word, old: $word, new: $word) -> Result<(), $word> {
                // SAFETY: W1.
                unsafe { <$atomic>::from_ptr(at) }.compare_exchange(old, new, AcqRel, Acquire).map(drop)
            }
        }
    };
}

word!(u32, AtomicU32);
word!(u64, AtomicU64);
