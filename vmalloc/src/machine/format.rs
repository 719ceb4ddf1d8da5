//! What a page-table format is: how entries are encoded.
//!
//! Levels count from the leaves: level 1 holds the entries of pages, level
//! [`Format::LEVELS`] is the root. An entry is in one of these states:
//!
//! ```text
//!   absent ──link──▶ table                       (levels 2 and up)
//!   absent ──bind──▶ leaf ──retire──▶ waiting ──collect──▶ absent
//!                    leaf ──clear──▶ absent    (the frame is somebody's)
//! ```
//!
//! A *waiting* entry is not present, so no walker may cache it, but it still
//! names its frame: that is where frames wait for grace. Its frame bits are
//! stored inverted where the format has room, so that a speculative read
//! through it finds nothing (L1TF).

use crate::units::Pfn;
use core::fmt::LowerHex;

bitflags::bitflags! {
    /// What may be done with the bytes of an area. Reading is always allowed.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Prot: u8 {
        /// Stores are allowed.
        const WRITE = 1;
        /// Execution is allowed.
        const EXEC = 2;
        /// Read and write: what data wants.
        const RW = Self::WRITE.bits();
        /// Read only.
        const RO = 0;
        /// Read and execute.
        const RX = Self::EXEC.bits();
    }
}

/// How the CPU caches what is behind an entry.
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

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// The next lower table is in this frame.
    Table(Pfn),
    /// The page (or, above level 1, the larger page) is bound to this frame.
    Leaf {
        /// The (first) frame.
        frame: Pfn,
        /// What may be done with it.
        prot: Prot,
    },
    /// Was a leaf; its frame waits for grace.
    Waiting(Pfn),
    /// Present above level 1, and no table: a larger page of the embedder's.
    /// Left alone (T2).
    Foreign,
    /// A table, above level 1, under which a page could not be written or not be
    /// executed. Left alone, and nothing is bound under it (T2).
    Restricted,
    /// Nothing that this format writes: reported, cleared, walked past (T2).
    Bad,
}

/// An entry as memory holds it: `u32` or `u64`.
pub trait Word: Copy + Eq + LowerHex + Send + Sync + 'static {
    /// One aligned atomic read of the entry's whole width (T3).
    ///
    /// # Safety
    /// - W1. `at` is aligned and readable and writable for the word, and all
    ///   others access it through this trait only.
    unsafe fn load(at: *const Self) -> Self;
    /// One aligned atomic write of the entry's whole width, with release
    /// order (T3).
    ///
    /// # Safety
    /// W1.
    unsafe fn store(at: *mut Self, value: Self);
    /// Writes `new` if the entry is still `old`; else returns what it is.
    ///
    /// # Errors
    /// The present value, where it is not `old`.
    ///
    /// # Safety
    /// W1.
    unsafe fn exchange(at: *mut Self, old: Self, new: Self) -> Result<(), Self>;
}

/// A page-table format.
///
/// # Safety
/// - T0. `retire_all` and `waiting_all` do what `decode` and `retire` do word by
///   word. `decode` inverts `leaf`, `table` and `retire`, but for protections
///   that the format cannot express: those it tells as the MMU sees them.
///   It says `Table` above level 1 only, of every entry that the MMU walks on
///   from without a restriction, and never `Bad` there of a present one. `ABSENT` and retired words are ones
///   that the MMU does not cache; index bits are those of the MMU.
pub unsafe trait Format: 'static {
    /// An entry.
    type Word: Word;
    /// The format's name, for people.
    const NAME: &'static str;
    /// Levels, unless the machine says otherwise.
    const LEVELS: u8;
    /// The most levels that the format can have.
    const MAX_LEVELS: u8;
    /// Address bits that select an entry, the same at each level.
    const INDEX_BITS: u32;
    /// Frames that an entry can name.
    const MAX_PFN: u64;
    /// The entry that says nothing. All bits zero: fresh tables are cleared
    /// memory.
    const ABSENT: Self::Word;
    /// Whether a waiting entry hides its frame from speculation (inverted, as
    /// long as memory ends below half of [`Format::MAX_PFN`]), so that it may
    /// wait for long: what the policy Park needs.
    const HIDES: bool;

    /// The entry that binds a page to `frame`. Accessed is preset, dirty with
    /// [`Prot::WRITE`] only (T3).
    fn leaf(frame: Pfn, prot: Prot, memory: MemType) -> Self::Word;
    /// The leaf for `frame` that is as `form`, which is one for frame 0.
    fn leaf_like(form: Self::Word, frame: Pfn) -> Self::Word;
    /// The entry that links the table in `frame`.
    fn table(frame: Pfn) -> Self::Word;
    /// What `word` says at `level`.
    fn decode(word: Self::Word, level: u8) -> Entry;
    /// The waiting form of a leaf entry, and back: its own inverse.
    fn retire(word: Self::Word) -> Self::Word;

    /// Retires leaves of level 1; `None` if one of the words is not a leaf. The
    /// default is right for every format; one that can tell of many words at
    /// once what they say is faster.
    #[inline]
    fn retire_all<const N: usize>(words: [Self::Word; N]) -> Option<[Self::Word; N]> {
        let leaves = words.iter().all(|&word| matches!(Self::decode(word, 1), Entry::Leaf { .. }));
        leaves.then(|| words.map(Self::retire))
    }
    /// The frames that wait in entries; `None` if none waits in one of them. The
    /// default as above.
    #[inline]
    fn waiting_all<const N: usize>(words: [Self::Word; N]) -> Option<[Pfn; N]> {
        let mut frames = [Pfn(0); N];
        for (place, word) in frames.iter_mut().zip(words) {
            let Entry::Waiting(frame) = Self::decode(word, 1) else { return None };
            *place = frame;
        }
        Some(frames)
    }
}

/// Entries in one table of `F`.
pub const fn entries<F: Format>() -> usize {
    1 << F::INDEX_BITS
}
