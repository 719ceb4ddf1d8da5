//! The hot path: the entries of adjacent pages in one leaf table.
//!
//! Each method is one loop with one load or one store a page (T3). What a
//! page's entry should have been is the caller's to know; what it is not is
//! reported (T2), out of line.

use super::cell::Cell;
use crate::machine::format::{Entry, Format, MemType, Prot, entries};
use crate::units::{PAGE_SHIFT, Pfn, VirtAddr};
use core::fmt;
use core::ptr::NonNull;

/// A linked leaf table, for callers that hold pages of it (T1). It may be
/// kept as a number: where the table is does not change while it is linked.
pub struct LeafTable<F: Format>(NonNull<F::Word>);

impl<F: Format> LeafTable<F> {
    #[inline]
    pub(super) const fn new(words: NonNull<F::Word>) -> LeafTable<F> {
        LeafTable(words)
    }

    /// The handle as a number, which is not 0.
    #[inline]
    pub fn into_raw(self) -> usize {
        self.0.as_ptr().expose_provenance()
    }

    /// The handle whose number is `raw`.
    ///
    /// # Safety
    /// - T1. `raw` came from [`LeafTable::into_raw`] of this format, and the
    ///   table has been linked ever since and stays so while the handle, or a
    ///   [`Piece`] of it, is used.
    #[inline]
    pub unsafe fn from_raw(raw: usize) -> LeafTable<F> {
        let words = core::ptr::with_exposed_provenance_mut(raw);
        // SAFETY: it was a NonNull before `into_raw`.
        LeafTable(unsafe { NonNull::new_unchecked(words) })
    }
}

impl<F: Format> Clone for LeafTable<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for LeafTable<F> {}

impl<F: Format> PartialEq for LeafTable<F> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<F: Format> Eq for LeafTable<F> {}

impl<F: Format> fmt::Debug for LeafTable<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaf table at {:p}", self.0)
    }
}

/// Adjacent pages whose entries lie in one leaf table.
pub struct Piece<F: Format> {
    first: NonNull<F::Word>,
    at: VirtAddr,
    len: usize,
}

impl<F: Format> Piece<F> {
    /// The `len` pages from `at`, in their leaf table `table`.
    ///
    /// # Panics
    /// If the pages do not end with the table.
    #[inline]
    pub fn new(table: LeafTable<F>, at: VirtAddr, len: usize) -> Piece<F> {
        let index = at.0 >> PAGE_SHIFT & (entries::<F>() - 1);
        assert!(len <= entries::<F>() - index, "a piece lies in one table");
        // SAFETY: the index lies in the table.
        Piece { first: unsafe { table.0.add(index) }, at, len }
    }

    /// The first page.
    #[inline]
    pub const fn start(self) -> VirtAddr {
        self.at
    }

    /// Pages in the piece.
    #[inline]
    pub const fn pages(self) -> usize {
        self.len
    }

    /// Refuses unless all entries are absent.
    ///
    /// # Errors
    /// The first page whose entry is not.
    #[inline]
    pub fn vacant(self) -> Result<(), VirtAddr> {
        let used = |&n: &usize| self.cell(n).load() != F::ABSENT;
        (0..self.len).find(used).map_or(Ok(()), |n| Err(self.page(n)))
    }

    /// Binds each page to its frame of `frames`. The piece is vacant: what
    /// the entries were before is not looked at.
    ///
    /// # Panics
    /// If there are not as many frames as pages.
    #[inline]
    pub fn bind(self, frames: &[Pfn], prot: Prot, memory: MemType) {
        self.write(frames, |frame| F::leaf(frame, prot, memory))
    }

    /// Binds the pages to the frames from `first` on, as [`Piece::bind`].
    #[inline]
    pub fn bind_run(self, first: Pfn, prot: Prot, memory: MemType) {
        for (cell, n) in self.cells().zip(0..) {
            cell.store(F::leaf(first.offset(n), prot, memory))
        }
    }

    /// As [`Piece::bind`], but in the waiting form: no CPU sees the pages
    /// before [`Piece::unstage`], and [`Piece::collect`] undoes it without a
    /// flush.
    ///
    /// # Panics
    /// If there are not as many frames as pages.
    #[inline]
    pub fn stage(self, frames: &[Pfn], prot: Prot, memory: MemType) {
        self.write(frames, |frame| F::retire(F::leaf(frame, prot, memory)))
    }

    /// Binds the pages to the frames that wait in their entries.
    #[inline]
    pub fn unstage(self, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        self.change(report, |word| match F::decode(word, 1) {
            Entry::Waiting(_) => Some(F::retire(word)),
            _ => None,
        })
    }

    /// Unbinds the pages: each frame waits in its entry. A page that was not
    /// bound is reported; a bad entry is cleared as well (T2).
    #[inline]
    pub fn retire(self, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        self.change(report, |word| match F::decode(word, 1) {
            Entry::Leaf { .. } => Some(F::retire(word)),
            _ => None,
        })
    }

    /// After grace: hands out the frames that wait in the entries, which are
    /// absent then. An entry where none waits is reported; a bad one is
    /// cleared as well (T2).
    #[inline]
    pub fn collect(self, mut take: impl FnMut(Pfn), report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        self.change(report, |word| match F::decode(word, 1) {
            Entry::Waiting(frame) => {
                take(frame);
                Some(F::ABSENT)
            }
            _ => None,
        })
    }

    /// Makes all entries absent, whatever they were.
    #[inline]
    pub fn clear(self) {
        self.cells().for_each(|cell| cell.store(F::ABSENT))
    }

    /// Whether each page is bound as ordinary memory, for reading and writing,
    /// to a frame that `fits`.
    pub fn is_plain(self, fits: impl Fn(Pfn) -> bool) -> bool {
        let plain = |frame| F::leaf(frame, Prot::RW, MemType::WriteBack);
        self.cells().map(|cell| cell.load()).all(|word| match F::decode(word, 1) {
            Entry::Leaf { frame, .. } => word == plain(frame) && fits(frame),
            _ => false,
        })
    }

    /// The pages that are bound, and their frames.
    #[inline]
    pub fn frames(self) -> impl Iterator<Item = (VirtAddr, Pfn)> {
        self.cells().enumerate().filter_map(move |(n, cell)| match F::decode(cell.load(), 1) {
            Entry::Leaf { frame, .. } => Some((self.page(n), frame)),
            _ => None,
        })
    }

    #[inline]
    fn write(self, frames: &[Pfn], word: impl Fn(Pfn) -> F::Word) {
        assert!(frames.len() == self.len, "a frame for each page");
        for (cell, &frame) in self.cells().zip(frames) {
            cell.store(word(frame))
        }
    }

    /// Replaces each entry by what `next` says, and reports those for which
    /// it says nothing.
    #[inline]
    fn change(
        self,
        report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized),
        mut next: impl FnMut(F::Word) -> Option<F::Word>,
    ) {
        for (n, cell) in self.cells().enumerate() {
            let word = cell.load();
            match next(word) {
                Some(next) => cell.store(next),
                None => self.odd(n, word, report),
            }
        }
    }

    /// The entry of page `n` is not what it had to be (T2).
    #[cold]
    #[inline(never)]
    fn odd(self, n: usize, word: F::Word, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        report(self.page(n), word);
        if F::decode(word, 1) == Entry::Bad {
            self.cell(n).store(F::ABSENT);
        }
    }

    #[inline]
    fn page(self, n: usize) -> VirtAddr {
        VirtAddr(self.at.0.wrapping_add(n << PAGE_SHIFT))
    }

    /// The entry of page `n`, which is one of the piece.
    #[inline]
    fn cell(self, n: usize) -> Cell<F> {
        debug_assert!(n < self.len);
        // SAFETY: the pages lie in the table (`new`), whose words W1 holds
        // for while the handle that it came from may be used (T1).
        unsafe { Cell::new(self.first.add(n)) }
    }

    #[inline]
    fn cells(self) -> impl ExactSizeIterator<Item = Cell<F>> {
        (0..self.len).map(move |n| self.cell(n))
    }
}

impl<F: Format> Clone for Piece<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Piece<F> {}

impl<F: Format> fmt::Debug for Piece<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages at {} in the {:?}", self.len, self.at, LeafTable::<F>(self.first))
    }
}
