//! A format whose entries count themselves: what the library reads and writes
//! of page tables, however it comes to them.
//!
//! Everything else is the format's own. The simulated MMU walks the same
//! memory, and is not counted.

use crate::order::tell;
use crate::section::What;
use core::fmt;
use core::marker::PhantomData;
use vmalloc::machine::format::{Entry, Format, MemType, Prot, Word};
use vmalloc::units::Pfn;

/// `F`, as the library is given it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched<F>(PhantomData<F>);

/// An entry of `F` that tells its CPU's tally when it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct WatchedWord<W>(W);

impl<W: Word> fmt::LowerHex for WatchedWord<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl<W: Word> Word for WatchedWord<W> {
    #[inline]
    unsafe fn load(at: *const Self) -> Self {
        tell(What::Read, 1);
        // SAFETY: W1, handed on: the two have one layout.
        WatchedWord(unsafe { W::load(at.cast()) })
    }

    #[inline]
    unsafe fn store(at: *mut Self, value: Self) {
        tell(What::Written, 1);
        // SAFETY: W1, handed on.
        unsafe { W::store(at.cast(), value.0) }
    }

    #[inline]
    unsafe fn exchange(at: *mut Self, old: Self, new: Self) -> Result<(), Self> {
        tell(What::Written, 1);
        // SAFETY: W1, handed on.
        unsafe { W::exchange(at.cast(), old.0, new.0) }.map_err(WatchedWord)
    }
}

// SAFETY: T0 is that of `F`, word by word.
unsafe impl<F: Format> Format for Watched<F> {
    type Word = WatchedWord<F::Word>;
    const NAME: &'static str = F::NAME;
    const LEVELS: u8 = F::LEVELS;
    const MAX_LEVELS: u8 = F::MAX_LEVELS;
    const LEAF_LEVELS: u8 = F::LEAF_LEVELS;
    const INDEX_BITS: u32 = F::INDEX_BITS;
    const MAX_PFN: u64 = F::MAX_PFN;
    const ABSENT: Self::Word = WatchedWord(F::ABSENT);
    const HIDES: bool = F::HIDES;

    #[inline]
    fn leaf(frame: Pfn, prot: Prot, memory: MemType, level: u8) -> Self::Word {
        WatchedWord(F::leaf(frame, prot, memory, level))
    }

    #[inline]
    fn leaf_like(form: Self::Word, frame: Pfn) -> Self::Word {
        WatchedWord(F::leaf_like(form.0, frame))
    }

    #[inline]
    fn table(frame: Pfn, level: u8) -> Self::Word {
        WatchedWord(F::table(frame, level))
    }

    #[inline]
    fn decode(word: Self::Word, level: u8) -> Entry {
        F::decode(word.0, level)
    }

    #[inline]
    fn park(word: Self::Word) -> Self::Word {
        WatchedWord(F::park(word.0))
    }

    #[inline]
    fn park_all<const N: usize>(words: [Self::Word; N], level: u8) -> Option<[Self::Word; N]> {
        F::park_all(words.map(|word| word.0), level).map(|words| words.map(WatchedWord))
    }

    #[inline]
    fn parked_all<const N: usize>(words: [Self::Word; N], level: u8) -> Option<[Pfn; N]> {
        F::parked_all(words.map(|word| word.0), level)
    }
}
