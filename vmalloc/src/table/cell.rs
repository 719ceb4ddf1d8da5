//! One entry in memory. Only this module touches the memory of tables.

use crate::machine::format::{Format, Word};
use core::ptr::NonNull;

/// An entry of a linked table.
pub(super) struct Cell<F: Format>(NonNull<F::Word>);

impl<F: Format> Cell<F> {
    /// The entry at `word`.
    ///
    /// # Safety
    /// W1 holds for `word` while the cell is used (T1).
    #[inline]
    pub(super) const unsafe fn new(word: NonNull<F::Word>) -> Cell<F> {
        Cell(word)
    }

    /// How many of the `len` entries from this one on are absent, up to the first that is not.
    ///
    /// # Safety
    /// W1, as for [`Cell::new`], for all of them.
    pub(super) unsafe fn absent(&self, len: usize) -> usize {
        const GROUP: usize = 16;
        // SAFETY: the caller's promise.
        let is_absent = |n: usize| unsafe { F::Word::load(self.0.add(n).as_ptr()) } == F::ABSENT;
        let mut n = 0;
        while n + GROUP <= len && (n..n + GROUP).fold(true, |all, n| all & is_absent(n)) {
            n += GROUP;
        }
        while n < len && is_absent(n) {
            n += 1;
        }
        n
    }

    #[inline]
    pub(super) fn load(&self) -> F::Word {
        // SAFETY: W1, promised to `new`.
        unsafe { F::Word::load(self.0.as_ptr()) }
    }

    #[inline]
    pub(super) fn store(&self, word: F::Word) {
        // SAFETY: W1, promised to `new`.
        unsafe { F::Word::store(self.0.as_ptr(), word) }
    }

    /// Writes `new` if the entry is `old`, else returns the entry.
    pub(super) fn exchange(&self, old: F::Word, new: F::Word) -> Result<(), F::Word> {
        // SAFETY: W1, promised to `new`.
        unsafe { F::Word::exchange(self.0.as_ptr(), old, new) }
    }
}
