//! Page-table formats: the encoding of entries.
//!
//! Levels count from the leaves: level 1 holds the entries of pages, level [`Format::LEVELS`] is
//! the root. An entry is in one of these states:
//!
//! ```text
//!   absent ──link──▶ table                       (levels 2 and up)
//!   absent ──map───▶ leaf ──park───▶ parked ──take_frames──▶ absent
//!                    leaf ◀─restore─ parked
//!                    leaf ──clear──▶ absent      (the frame belongs to somebody else)
//! ```
//!
//! A *parked* entry is not present, so no walker may cache it, but it still
//! names its frame. Frames wait for grace in parked entries. If the format has room, a parked entry
//! stores the frame inverted, so that a speculative read through it finds nothing (L1TF).

use crate::units::Pfn;
use core::fmt::{Debug, LowerHex};

bitflags::bitflags! {
    /// The accesses to an area that are allowed. Reading always is.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Prot: u8 {
        /// Stores are allowed.
        const WRITE = 1;
        /// Execution is allowed.
        const EXEC = 2;
        /// Stores and execution at once are meant. Without it a request for both is refused
        /// ([`AllocError::WriteExec`](crate::AllocError::WriteExec)). Entries do not have it.
        const BOTH = 4;
        /// Read and write, for data.
        const RW = Self::WRITE.bits();
        /// Read only.
        const RO = 0;
        /// Read and execute.
        const RX = Self::EXEC.bits();
        /// Read, write and execute, on purpose.
        const RWX = Self::WRITE.bits() | Self::EXEC.bits() | Self::BOTH.bits();
    }
}

impl Prot {
    /// Whether it allows stores and execution at once, and nobody has said that both are meant.
    pub(crate) const fn is_careless(self) -> bool {
        self.bits() & Prot::RWX.bits() == Prot::WRITE.bits() | Prot::EXEC.bits()
    }
}

/// How the CPU caches the memory behind an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum MemType {
    /// Write-back: memory.
    #[default]
    WriteBack = 0,
    /// Write-through.
    WriteThrough = 1,
    /// Uncached, unless a range register says write-combining (UC−).
    UncachedMinus = 2,
    /// Uncached.
    Uncached = 3,
    /// Write-combining.
    WriteCombining = 4,
}

impl MemType {
    /// All of them.
    pub(crate) const ALL: [MemType; 5] =
        [MemType::WriteBack, MemType::WriteThrough, MemType::UncachedMinus, MemType::Uncached, MemType::WriteCombining];
}

/// The meaning of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Not in use.
    Absent,
    /// A link to the next lower table, which is in this frame.
    Table(Pfn),
    /// The page (above level 1: a large page of the library's) is mapped to this frame.
    Leaf {
        /// The frame; of a large page, the first one.
        frame: Pfn,
        /// The allowed accesses.
        prot: Prot,
    },
    /// Parked: was a leaf, and its frame (of a large page, the first one) waits for grace.
    Parked(Pfn),
    /// Above level 1: present, and neither a table nor a leaf that this format writes. It is a large
    /// page of the embedder's, and is left alone (T2).
    Foreign,
    /// Above level 1: a table under which pages cannot be written, or cannot be executed. It is
    /// left alone, and nothing is mapped under it (T2).
    Restricted,
    /// A word that this format never writes. It is reported and cleared, and the walk goes on (T2).
    Bad,
}

/// An entry as it lies in memory: `u32`, `u64`, or two halves whose order of writing keeps what
/// the MMU and other CPUs read whole.
pub trait Word: Copy + Eq + Debug + LowerHex + Send + Sync + 'static {
    /// Reads the whole entry, by one aligned atomic access or as if by one (T3).
    ///
    /// # Safety
    /// - W1. `at` is aligned, and readable and writable for the word. Everybody else accesses it
    ///   through this trait only.
    unsafe fn load(at: *const Self) -> Self;
    /// Writes the whole entry, with release order, by one aligned atomic access, or so that the
    /// MMU finds it absent or as one of the two in between (T3).
    ///
    /// # Safety
    /// W1.
    unsafe fn store(at: *mut Self, value: Self);
    /// Writes `new`, which is absent or a link, if the entry is `old`.
    ///
    /// # Errors
    /// The entry, if it is not `old`.
    ///
    /// # Safety
    /// W1.
    unsafe fn exchange(at: *mut Self, old: Self, new: Self) -> Result<(), Self>;
}

/// A page-table format. The type needs no values: it derives `Clone`, `Copy`, `PartialEq`, `Eq` and
/// `Debug`, so that what holds its entries can.
///
/// # Safety
/// - T0. `park_all` and `parked_all` equal `decode` and `park`, word by word. `decode` inverts
///   `leaf`, `table` and `park`; if the format cannot express a protection, it returns the one
///   that the MMU applies. Above level 1, `decode` returns `Table` for every entry through which
///   the MMU walks on without a restriction, and never `Bad` for a present entry. At level 1 it
///   never returns `Table`, and above [`Format::LEAF_LEVELS`] it never returns `Leaf` or `Parked`. The MMU does not cache `ABSENT` and parked words. Index bits are those
///   of the MMU.
pub unsafe trait Format: Copy + Eq + Debug + 'static {
    /// The type of an entry.
    type Word: Word;
    /// The name of the format, for people.
    const NAME: &'static str;
    /// The number of levels, unless the machine chooses another.
    const LEVELS: u8;
    /// The most levels that the format can have.
    const MAX_LEVELS: u8;
    /// The levels, from 1 on, at which the library may write leaves. Never that of the root, whose
    /// entries other roots have copied (M1).
    const LEAF_LEVELS: u8;
    /// The address bits that select an entry, the same number at each level.
    const INDEX_BITS: u32;
    /// The number of frames that an entry can name.
    const MAX_PFN: u64;
    /// The entry that is not in use. All bits are zero, because a new table is cleared memory.
    const ABSENT: Self::Word;
    /// Whether a parked entry hides its frame from speculation: it is stored inverted, and memory
    /// ends below half of [`Format::MAX_PFN`]. An entry may then stay parked for long, as under the
    /// policy Park.
    const HIDES: bool;

    /// The entry of `level` that maps a page to `frame`. Above level 1 that is a large page, and
    /// `frame` is the first of its frames, a multiple of their number. Accessed is set, and dirty is
    /// set with [`Prot::WRITE`] only (T3).
    fn leaf(frame: Pfn, prot: Prot, memory: MemType, level: u8) -> Self::Word;
    /// The leaf for `frame` that otherwise equals `form`, which is a leaf for frame 0.
    fn leaf_like(form: Self::Word, frame: Pfn) -> Self::Word;
    /// The entry of `level`, 2 or more, that links the table in `frame`.
    fn table(frame: Pfn, level: u8) -> Self::Word;
    /// The meaning of `word` at `level`.
    fn decode(word: Self::Word, level: u8) -> Entry;
    /// Parks a leaf, or restores a parked entry: the function is its own inverse.
    fn park(word: Self::Word) -> Self::Word;

    /// Parks leaves of `level`; `None` if a word is not a leaf. The default is right for every
    /// format. A format that can test many words at once is faster.
    #[inline]
    fn park_all<const N: usize>(words: [Self::Word; N], level: u8) -> Option<[Self::Word; N]> {
        let leaves = words.iter().all(|&word| matches!(Self::decode(word, level), Entry::Leaf { .. }));
        leaves.then(|| words.map(Self::park))
    }
    /// The frames of parked entries of `level`; `None` if a word is not parked. The default is as above.
    #[inline]
    fn parked_all<const N: usize>(words: [Self::Word; N], level: u8) -> Option<[Pfn; N]> {
        let mut frames = [Pfn(0); N];
        for (place, word) in frames.iter_mut().zip(words) {
            let Entry::Parked(frame) = Self::decode(word, level) else { return None };
            *place = frame;
        }
        Some(frames)
    }
}

/// The number of entries in a table of `F`.
pub const fn entries<F: Format>() -> usize {
    1 << F::INDEX_BITS
}
