//! x86-32 with PAE: three levels of tables with entries of 64 bits, whose frames may lie above
//! 4 GiB.
//!
//! A table has 512 entries, and the root has four: one for each GiB. The root's entries have no
//! bits but the frame, present, and the two for caching; all others are reserved. The entries of
//! the other two levels are those of x86-64, with pages of 2 MiB at level 2.
//!
//! ```text
//!   63 .. 52  51 .. 12  11..9  8..5  4    3    2..1  0
//!   0         frame     -      0     PCD  PWT  0     P   the root's link
//! ```
//!
//! # Halves
//! A kernel of 32 bits writes an entry by two stores of 32 bits, since wider ones need floating
//! point or a locked instruction. The MMU may read the entry between the two, so their order
//! matters: the half with the present bit comes last where an entry becomes present, and first
//! where it ceases to be. A page whose protection changes loses rights before it gains others.
//! Readers look at the low half twice.
//!
//! A link's frame lies below 4 GiB, where a kernel of 32 bits has its direct mapping. The high
//! half of a link, and of the absent entry, is 0, so an exchange on the low half decides.
//!
//! A CPU reads the root's four entries when it is given the root. The embedder links them itself,
//! or hands the root out after `init`, which links what a region needs.
//!
//! # Source
//! Intel SDM vol. 3A §4.4, tables 4-8 to 4-11; §8.1.1 (which accesses are atomic).

use super::{X86_64, bit};
use crate::machine::format::{Entry, Format, MemType, Prot, Word};
use crate::sync::plain::AtomicU32;
use crate::sync::plain::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::units::{PAGE_SHIFT, Pfn};
use core::fmt;

/// The three-level page tables of 32-bit x86 with PAE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum X86Pae {}

/// An entry, which is read and written by the half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct Halves {
    low: u32,
    high: u32,
}

/// Frames below 4 GiB.
const LOW: u64 = 1 << (32 - PAGE_SHIFT);
/// NX, in the high half.
const NO_EXEC: u32 = 1 << 31;
/// The bits that are the same in all links of the root; PRESENT is 1, the others are 0.
const ROOT_FIXED: u64 = 0xfff << 52 | 0x1e7;

impl Halves {
    pub(in crate::table) const fn new(word: u64) -> Halves {
        Halves { low: word as u32, high: (word >> 32) as u32 }
    }

    pub(in crate::table) const fn word(self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    /// Writes both halves over an entry whose low half is `old`, in the order that leaves no torn
    /// entry present.
    #[inline]
    pub(in crate::table) fn write(self, old: u32, low: impl Fn(u32), high: impl Fn(u32)) {
        let allows_exec = self.high & NO_EXEC == 0 && old & bit::PRESENT != 0;
        let low_first = self.low & bit::PRESENT == 0 || allows_exec;
        if low_first {
            low(self.low);
        }
        high(self.high);
        if !low_first {
            low(self.low);
        }
    }

    /// # Safety
    /// W1.
    #[inline]
    unsafe fn cells<'a>(at: *mut Halves) -> (&'a AtomicU32, &'a AtomicU32) {
        // SAFETY: W1, and both halves are accessed by way of this function alone.
        unsafe { (AtomicU32::from_ptr(&raw mut (*at).low), AtomicU32::from_ptr(&raw mut (*at).high)) }
    }
}

impl fmt::LowerHex for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.word(), f)
    }
}

impl Word for Halves {
    #[inline]
    unsafe fn load(at: *const Halves) -> Halves {
        // SAFETY: W1.
        let (low, high) = unsafe { Halves::cells(at.cast_mut()) };
        loop {
            let word = Halves { low: low.load(Acquire), high: high.load(Acquire) };
            if low.load(Acquire) == word.low {
                return word;
            }
        }
    }

    #[inline]
    unsafe fn store(at: *mut Halves, value: Halves) {
        // SAFETY: W1.
        let (low, high) = unsafe { Halves::cells(at) };
        value.write(low.load(Relaxed), |half| low.store(half, Release), |half| high.store(half, Release));
    }

    unsafe fn exchange(at: *mut Halves, old: Halves, new: Halves) -> Result<(), Halves> {
        debug_assert!(new.high == 0, "an absent entry, or a link");
        // SAFETY: W1.
        let (low, high) = unsafe { Halves::cells(at) };
        if old.high != 0 && low.load(Acquire) == old.low {
            // A bad entry, which is not present. Whoever replaces it clears this half.
            high.store(0, Release);
        }
        let exchanged = low.compare_exchange(old.low, new.low, AcqRel, Acquire);
        // SAFETY: W1.
        exchanged.map(drop).map_err(|_| unsafe { Halves::load(at) })
    }
}

// SAFETY: T0. The bits are those of the SDM, and `decode` inverts the other functions. Parked words
// and 0 lack the present bit, so the MMU caches neither. An entry between two stores lacks it too,
// or names the frame of both.
unsafe impl Format for X86Pae {
    type Word = Halves;
    const NAME: &'static str = "x86-32 with PAE";
    const LEVELS: u8 = 3;
    const MAX_LEVELS: u8 = 3;
    const LEAF_LEVELS: u8 = 2;
    const INDEX_BITS: u32 = X86_64::INDEX_BITS;
    const MAX_PFN: u64 = X86_64::MAX_PFN;
    const ABSENT: Halves = Halves::new(X86_64::ABSENT);
    const HIDES: bool = X86_64::HIDES;

    #[inline]
    fn leaf(frame: Pfn, prot: Prot, memory: MemType, level: u8) -> Halves {
        Halves::new(X86_64::leaf(frame, prot, memory, level))
    }

    #[inline]
    fn leaf_like(form: Halves, frame: Pfn) -> Halves {
        Halves::new(X86_64::leaf_like(form.word(), frame))
    }

    fn table(frame: Pfn, level: u8) -> Halves {
        assert!(frame.0 < LOW, "a table lies below 4 GiB");
        let link = if level == Self::LEVELS { frame.phys() | bit::PRESENT as u64 } else { X86_64::table(frame, level) };
        Halves::new(link)
    }

    #[inline]
    fn decode(word: Halves, level: u8) -> Entry {
        match word.word() {
            link if level < Self::LEVELS => X86_64::decode(link, level),
            link if link & ROOT_FIXED == bit::PRESENT as u64 => Entry::Table(Pfn::containing(link)),
            0 => Entry::Absent,
            link if link & bit::PRESENT as u64 != 0 => Entry::Foreign,
            _ => Entry::Bad,
        }
    }

    #[inline]
    fn park(word: Halves) -> Halves {
        Halves::new(X86_64::park(word.word()))
    }
}
