//! The hot path: the entries of adjacent pages in one leaf table.
//!
//! Each method is one loop with one load and one store a page (T3), over groups
//! of entries and then over those that are left. What a page's entry should have
//! been is the caller's to know; what it is not is refused or reported (T2), out
//! of line.

use super::cell::Cell;
use crate::machine::format::{Entry, Format, MemType, Prot, entries};
use crate::units::{PAGE_SHIFT, Pfn, VirtAddr};
use core::fmt;
use core::ptr::NonNull;

/// Entries that are looked at together.
const GROUP: usize = 4;

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
    ///   [`PteRange`] of it, is used.
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
pub struct PteRange<F: Format> {
    first: NonNull<F::Word>,
    at: VirtAddr,
    len: usize,
}

impl<F: Format> PteRange<F> {
    /// The `len` pages from `at`, in their leaf table `table`.
    ///
    /// # Panics
    /// If the pages do not end with the table.
    #[inline]
    pub fn new(table: LeafTable<F>, at: VirtAddr, len: usize) -> PteRange<F> {
        let index = at.0 >> PAGE_SHIFT & (entries::<F>() - 1);
        assert!(len <= entries::<F>() - index, "a piece lies in one table");
        // SAFETY: the index lies in the table.
        PteRange { first: unsafe { table.0.add(index) }, at, len }
    }

    /// Where its first entry is, as a number.
    pub fn into_raw(self) -> usize {
        self.first.as_ptr().expose_provenance()
    }

    /// The `len` pages from `at`, which is `page` pages after the first one of the
    /// piece whose number is `raw`.
    ///
    /// # Safety
    /// - T1. `raw` came from [`PteRange::into_raw`] of this format, of a piece that has
    ///   these pages, and its table has been linked ever since and stays so while
    ///   this piece is used.
    #[inline(always)]
    pub unsafe fn within(raw: usize, page: usize, at: VirtAddr, len: usize) -> PteRange<F> {
        let first: *mut F::Word = core::ptr::with_exposed_provenance_mut(raw);
        // SAFETY: T1: it was a NonNull before `into_raw`, and has these pages.
        PteRange { first: unsafe { NonNull::new_unchecked(first.add(page)) }, at, len }
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

    /// Binds each page to its frame of `frames`, up to the first whose entry is
    /// in use (T2), and says how many pages that is.
    ///
    /// # Panics
    /// If there are not as many frames as pages.
    #[inline(always)]
    pub fn map(self, frames: &[Pfn], prot: Prot, memory: MemType) -> usize {
        assert!(frames.len() == self.len, "a frame for each page");
        let form = F::leaf(Pfn(0), prot, memory);
        // SAFETY: there is a frame for each page of the piece.
        let frame = |n: usize| unsafe { *frames.get_unchecked(n) };
        self.change_from(0, &mut Map(|n| F::leaf_like(form, frame(n))))
    }

    /// As [`PteRange::map`], and stops before the first frames that no entry can name.
    ///
    /// # Panics
    /// As [`PteRange::map`].
    #[inline(always)]
    pub fn map_given(self, frames: &[Pfn], prot: Prot, memory: MemType) -> usize {
        assert!(frames.len() == self.len, "a frame for each page");
        self.change_few(&mut MapGiven(F::leaf(Pfn(0), prot, memory), frames.as_ptr()))
    }

    /// Binds the pages to the frames from `first` on, as [`PteRange::map`].
    #[inline]
    pub fn map_run(self, first: Pfn, prot: Prot, memory: MemType) -> usize {
        let form = F::leaf(Pfn(0), prot, memory);
        self.change_from(0, &mut Map(|n| F::leaf_like(form, first.offset(n as u64))))
    }

    /// Unbinds the pages: each frame waits in its entry. A page that was not
    /// bound is reported; a bad entry is cleared as well (T2).
    #[inline(always)]
    pub fn park(self, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        self.change_all(&mut Park, report)
    }

    /// Unbinds the pages and leaves nothing in their entries: the frames are
    /// somebody's. What is unexpected is told as by [`PteRange::park`].
    #[inline(always)]
    pub fn clear(self, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        self.change_all_few(&mut Clear, report)
    }

    /// Binds the pages to the frames that wait in their entries.
    #[inline]
    pub fn restore(self, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        self.change_all(&mut Restore, report)
    }

    /// After grace: takes the frames that wait in the entries, which are absent
    /// then, into `places`, in order, and says how many they are. An entry where
    /// none waits is reported; a bad one is cleared as well (T2).
    ///
    /// # Panics
    /// If there are fewer places than pages.
    #[inline]
    pub fn take_frames(self, places: &mut [Pfn], report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) -> usize {
        assert!(places.len() >= self.len, "a place for each page");
        let first = places.as_mut_ptr();
        let mut take = TakeFrames(first);
        self.change_all(&mut take, report);
        (take.0.addr() - first.addr()) / size_of::<Pfn>()
    }

    /// Whether each page is bound as ordinary memory, for reading and writing,
    /// to a frame that `fits`.
    pub fn is_plain(self, fits: impl Fn(Pfn) -> bool) -> bool {
        let plain = |frame| F::leaf(frame, Prot::RW, MemType::WriteBack);
        (0..self.len).map(|n| self.cell(n).load()).all(|word| match F::decode(word, 1) {
            Entry::Leaf { frame, .. } => word == plain(frame) && fits(frame),
            _ => false,
        })
    }

    /// The pages that are bound, and their frames.
    #[inline]
    pub fn frames(self) -> impl Iterator<Item = (VirtAddr, Pfn)> {
        (0..self.len).filter_map(move |n| match F::decode(self.cell(n).load(), 1) {
            Entry::Leaf { frame, .. } => Some((self.page(n), frame)),
            _ => None,
        })
    }

    /// Changes all entries, and reports those that `change` refuses.
    #[inline(always)]
    fn change_all(self, change: &mut impl Change<F>, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        let n = self.change_from(0, change);
        self.change_rest(n, change, report)
    }

    /// As [`PteRange::change_all`], for few pages mostly.
    #[inline(always)]
    fn change_all_few(self, change: &mut impl Change<F>, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
        let n = self.change_few(change);
        self.change_rest(n, change, report)
    }

    /// Changes the entries from page `n` on, which was refused.
    #[inline(always)]
    fn change_rest(
        self,
        mut n: usize,
        change: &mut impl Change<F>,
        report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized),
    ) {
        while n < self.len {
            self.unexpected(n, self.cell(n).load(), report);
            n = self.change_from(n + 1, change);
        }
    }

    /// Changes entries from page `n` on, in groups while there are, and says
    /// which page is the first that `change` refuses.
    #[inline(always)]
    fn change_from(self, n: usize, change: &mut impl Change<F>) -> usize {
        let n = self.change_groups(n, change);
        self.change_singly(n, change)
    }

    /// As [`PteRange::change_from`] the first page, where there are few mostly: groups
    /// are out of line, and leave their registers to others.
    #[inline(always)]
    fn change_few(self, change: &mut impl Change<F>) -> usize {
        let n = if self.len < GROUP { 0 } else { self.change_many(change) };
        self.change_singly(n, change)
    }

    #[cold]
    #[inline(never)]
    fn change_many(self, change: &mut impl Change<F>) -> usize {
        self.change_groups(0, change)
    }

    #[inline(always)]
    fn change_groups(self, mut n: usize, change: &mut impl Change<F>) -> usize {
        let end = n + (self.len - n) / GROUP * GROUP;
        while n < end && self.change_group::<GROUP>(n, change) {
            n += GROUP;
        }
        n
    }

    #[inline(always)]
    fn change_singly(self, mut n: usize, change: &mut impl Change<F>) -> usize {
        while n < self.len && self.change_group::<1>(n, change) {
            n += 1;
        }
        n
    }

    /// Changes the entries of `N` pages, all or none.
    #[inline(always)]
    fn change_group<const N: usize>(self, first: usize, change: &mut impl Change<F>) -> bool {
        let cells: [Cell<F>; N] = core::array::from_fn(|i| self.cell(first + i));
        let next = change.next(first, cells.each_ref().map(Cell::load));
        if let Some(words) = next {
            cells.iter().zip(words).for_each(|(cell, word)| cell.store(word));
        }
        next.is_some()
    }

    /// The entry of page `n` is not what it had to be (T2).
    #[cold]
    #[inline(never)]
    fn unexpected(self, n: usize, word: F::Word, report: &mut (impl FnMut(VirtAddr, F::Word) + ?Sized)) {
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
}

/// What is done to entries.
trait Change<F: Format> {
    /// What the entries from page `first` on, which say `words`, become; `None`
    /// if one of them is not what it had to be.
    fn next<const N: usize>(&mut self, first: usize, words: [F::Word; N]) -> Option<[F::Word; N]>;
}

/// absent → leaf: the one that it says for a page.
struct Map<W>(W);
/// absent → leaf: as the form that it says, for the frames at the place that it says.
struct MapGiven<W>(W, *const Pfn);
/// leaf → waiting.
struct Park;
/// leaf → absent.
struct Clear;
/// waiting → leaf.
struct Restore;
/// waiting → absent; the frames go to the place that it says, and behind.
struct TakeFrames(*mut Pfn);

impl<F: Format, W: Fn(usize) -> F::Word> Change<F> for Map<W> {
    #[inline(always)]
    fn next<const N: usize>(&mut self, first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        let absent = words.iter().fold(true, |absent, &word| absent & (word == F::ABSENT));
        absent.then(|| core::array::from_fn(|i| (self.0)(first + i)))
    }
}

impl<F: Format> Change<F> for MapGiven<F::Word> {
    #[inline(always)]
    fn next<const N: usize>(&mut self, first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        const { assert!(F::MAX_PFN.is_power_of_two(), "the highest bit of all tells") };
        // SAFETY: `map_given` has a frame for each page.
        let frames = unsafe { self.1.add(first).cast::<[Pfn; N]>().read() };
        let absent = words.iter().fold(true, |absent, &word| absent & (word == F::ABSENT));
        let named = frames.iter().fold(0, |all, frame| all | frame.0) < F::MAX_PFN;
        (absent & named).then(|| frames.map(|frame| F::leaf_like(self.0, frame)))
    }
}

impl<F: Format> Change<F> for Park {
    #[inline(always)]
    fn next<const N: usize>(&mut self, _first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        F::retire_all(words)
    }
}

impl<F: Format> Change<F> for Clear {
    #[inline(always)]
    fn next<const N: usize>(&mut self, _first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        F::retire_all(words).map(|_| [F::ABSENT; N])
    }
}

impl<F: Format> Change<F> for Restore {
    #[inline(always)]
    fn next<const N: usize>(&mut self, _first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        F::waiting_all(words).map(|_| words.map(F::retire))
    }
}

impl<F: Format> Change<F> for TakeFrames {
    #[inline(always)]
    fn next<const N: usize>(&mut self, _first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        let frames = F::waiting_all(words)?;
        // SAFETY: `take_frames` was given a place for each page, and a page gives
        // one frame at most.
        unsafe {
            self.0.cast::<[Pfn; N]>().write(frames);
            self.0 = self.0.add(N);
        }
        Some([F::ABSENT; N])
    }
}

impl<F: Format> Clone for PteRange<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for PteRange<F> {}

impl<F: Format> fmt::Debug for PteRange<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages at {} in the {:?}", self.len, self.at, LeafTable::<F>(self.first))
    }
}
