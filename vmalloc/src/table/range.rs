//! The hot path: the entries of adjacent pages in one leaf table.
//!
//! `LEVEL` is that of the entries. Above level 1, what is called a page here is a large one, and its
//! frame is the first of 2^[`ORDER`](PteRange::ORDER) frames. The code is the same.
//!
//! Each method is one loop with one load and one store per page (T3). The loop takes entries in
//! groups first and one by one at the end. The caller says in which state the entries must be. An
//! entry in another state is refused or reported (T2), out of line.

use super::cell::Cell;
use super::table_bits;
use crate::machine::format::{Entry, Format, MemType, Prot, entries};
use crate::units::{PAGE_SHIFT, Pfn, VirtAddr};
use core::ptr::NonNull;

/// The entries in a group.
const GROUP: usize = 4;

/// A linked leaf table, for callers that own pages of it (T1). A caller may store it as a number,
/// because a table does not move while it is linked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafTable<F: Format, const LEVEL: u8 = 1>(NonNull<F::Word>);

impl<F: Format, const LEVEL: u8> LeafTable<F, LEVEL> {
    #[inline]
    pub(super) const fn new(words: NonNull<F::Word>) -> Self {
        LeafTable(words)
    }

    /// The table as a number, which is not 0.
    #[inline]
    pub fn into_raw(self) -> usize {
        self.0.as_ptr().expose_provenance()
    }

    /// The table with the number `raw`.
    ///
    /// # Safety
    /// - T1. `raw` came from [`LeafTable::into_raw`] of the same format. The table has been linked
    ///   ever since, and stays linked while this value or a [`PteRange`] of it is used.
    #[inline]
    pub unsafe fn from_raw(raw: usize) -> Self {
        let words = core::ptr::with_exposed_provenance_mut(raw);
        // SAFETY: it was a NonNull before `into_raw`.
        LeafTable(unsafe { NonNull::new_unchecked(words) })
    }
}

/// Adjacent pages whose entries lie in one leaf table.
#[derive(Clone, Copy, Debug)]
pub struct PteRange<F: Format, const LEVEL: u8 = 1> {
    first: NonNull<F::Word>,
    at: VirtAddr,
    len: usize,
}

impl<F: Format, const LEVEL: u8> PteRange<F, LEVEL> {
    /// The order of the frames that one entry maps, and that [`PteRange::take_frames`] takes out of
    /// it.
    pub const ORDER: u32 = {
        assert!(LEVEL <= F::LEAF_LEVELS, "the format has leaves at this level");
        table_bits::<F>(LEVEL - 1)
    };
    const SHIFT: u32 = PAGE_SHIFT + Self::ORDER;

    /// The `len` pages from `at`, in their leaf table `table`.
    ///
    /// # Panics
    /// If the pages reach beyond the table, or are large and begin in the middle of one.
    #[inline]
    pub fn new(table: LeafTable<F, LEVEL>, at: VirtAddr, len: usize) -> Self {
        let index = at.0 >> Self::SHIFT & (entries::<F>() - 1);
        assert!(
            len <= entries::<F>() - index && is_whole::<F>(at.0 >> PAGE_SHIFT, LEVEL),
            "the pages lie in one table"
        );
        // SAFETY: the index lies inside the table.
        PteRange { first: unsafe { table.0.add(index) }, at, len }
    }

    /// The address of the first entry, as a number.
    pub fn into_raw(self) -> usize {
        self.first.as_ptr().expose_provenance()
    }

    /// The `len` pages from `at`, which is the `page`-th page of the range with the number `raw`.
    ///
    /// # Safety
    /// - T1. `raw` came from [`PteRange::into_raw`] of the same format, on a range that contains
    ///   these pages. The table has been linked ever since, and stays linked while this range is
    ///   used.
    #[inline(always)]
    pub unsafe fn within(raw: usize, page: usize, at: VirtAddr, len: usize) -> Self {
        let first: *mut F::Word = core::ptr::with_exposed_provenance_mut(raw);
        // SAFETY: T1: `raw` came from a NonNull, and the range contains these pages.
        PteRange { first: unsafe { NonNull::new_unchecked(first.add(page)) }, at, len }
    }

    /// The first page.
    #[inline]
    pub const fn start(self) -> VirtAddr {
        self.at
    }

    /// The number of pages.
    #[inline]
    pub const fn pages(self) -> usize {
        self.len
    }

    /// Its `len` pages from page `first` on.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn part(self, first: usize, len: usize) -> Self {
        assert!(first <= self.len && len <= self.len - first, "a part of the range");
        // SAFETY: the pages are the range's, or none.
        PteRange { first: unsafe { self.first.add(first) }, at: self.page(first), len }
    }

    /// Maps each page to its frame in `frames`. Stops before the first page whose entry is in use
    /// (T2), or whose frame is no multiple of the frames of a large page. Returns the number of
    /// pages mapped.
    ///
    /// # Panics
    /// If the numbers of frames and pages differ.
    #[inline(always)]
    pub fn map(self, frames: &[Pfn], prot: Prot, memory: MemType) -> usize {
        assert!(frames.len() == self.len, "a frame for each page");
        let frames = frames.as_ptr();
        // SAFETY: there is a frame for each page.
        let frame = move |n| unsafe { *frames.add(n) };
        self.change(Map { frame, form: F::leaf(Pfn(0), prot, memory, LEVEL) })
    }

    /// As [`PteRange::map`], with the adjacent frames from `first` on.
    #[inline]
    pub fn map_run(self, first: Pfn, prot: Prot, memory: MemType) -> usize {
        let frame = move |n| first.offset((n << Self::ORDER) as u64);
        self.change(Map { frame, form: F::leaf(Pfn(0), prot, memory, LEVEL) })
    }

    /// Parks the pages: each is unmapped, and its frame stays in the entry. Reports a page that was
    /// not mapped, and clears its entry if that is bad (T2).
    #[inline(always)]
    pub fn park(self, report: impl FnMut(VirtAddr, F::Word)) {
        self.change_here(Unmap::<true>, report);
    }

    /// Unmaps the pages and clears their entries. The frames belong to somebody else. Reports as
    /// [`PteRange::park`] does.
    #[inline(always)]
    pub fn clear(self, report: impl FnMut(VirtAddr, F::Word)) {
        self.change_all(Unmap::<false>, report);
    }

    /// Maps parked pages to their frames again. Reports as [`PteRange::park`] does.
    #[inline]
    pub fn restore(self, report: impl FnMut(VirtAddr, F::Word)) {
        self.change_here(Restore, report);
    }

    /// After grace: moves the frames of parked entries into `places`, in order, and clears the
    /// entries. Returns how many. Reports an entry that is not parked, and clears it if it is bad
    /// (T2).
    ///
    /// # Panics
    /// If there are fewer places than pages.
    #[inline]
    pub fn take_frames(self, places: &mut [Pfn], report: impl FnMut(VirtAddr, F::Word)) -> usize {
        assert!(places.len() >= self.len, "a place for each page");
        self.change_all(TakeFrames(places.as_mut_ptr()), report)
    }

    /// Gives mapped pages another protection, and keeps their frames and memory types. Reports as
    /// [`PteRange::park`] does.
    pub fn protect(self, prot: Prot, mut report: impl FnMut(VirtAddr, F::Word)) {
        for n in 0..self.len {
            let word = self.cell(n).load();
            match protected::<F>(word, prot, LEVEL) {
                Some(word) => self.cell(n).store(word),
                None => self.unexpected(n, word, &mut report),
            }
        }
    }

    /// Whether [`PteRange::protect`] would report nothing.
    pub fn is_protectable(self) -> bool {
        (0..self.len).all(|n| protected::<F>(self.cell(n).load(), Prot::RO, LEVEL).is_some())
    }

    /// The frame of the first page, and its memory type.
    pub fn memory(self) -> Option<(Pfn, MemType)> {
        memory_of::<F>(self.cell(0).load(), LEVEL)
    }

    /// Whether each page is mapped as ordinary memory, for reading and writing, to a frame that
    /// `fits`.
    pub fn is_plain(self, fits: impl Fn(Pfn) -> bool) -> bool {
        let plain = |frame| F::leaf(frame, Prot::RW, MemType::WriteBack, LEVEL);
        (0..self.len).map(|n| self.cell(n).load()).all(|word| match F::decode(word, LEVEL) {
            Entry::Leaf { frame, .. } => word == plain(frame) && fits(frame),
            _ => false,
        })
    }

    /// The pages that are mapped, and their frames.
    #[inline]
    pub fn frames(self) -> impl Iterator<Item = (VirtAddr, Pfn)> {
        (0..self.len).filter_map(move |n| match F::decode(self.cell(n).load(), LEVEL) {
            Entry::Leaf { frame, .. } => Some((self.page(n), frame)),
            _ => None,
        })
    }

    /// Changes all entries but those that `change` refuses, which are reported. Returns how many.
    #[inline(always)]
    fn change_all(self, change: impl Change<F>, report: impl FnMut(VirtAddr, F::Word)) -> usize {
        let n = self.change(change);
        if n == self.len { n } else { self.change_rest(n, change, report) }
    }

    /// As `change_all`, with the groups in the caller's own code.
    #[inline(always)]
    fn change_here(self, change: impl Change<F>, report: impl FnMut(VirtAddr, F::Word)) {
        let n = self.change_from(self.change_whole_groups(change), change);
        if n < self.len {
            self.change_rest(n, change, report);
        }
    }

    /// Goes on at page `n`, which `change` has refused.
    #[cold]
    #[inline(never)]
    fn change_rest(self, mut n: usize, change: impl Change<F>, mut report: impl FnMut(VirtAddr, F::Word)) -> usize {
        let mut changed = n;
        while n < self.len {
            self.unexpected(n, self.cell(n).load(), &mut report);
            let more = self.part(n + 1, self.len - n - 1).change(change.after(changed));
            (n, changed) = (n + 1 + more, changed + more);
        }
        changed
    }

    /// Changes entries, in groups while possible. Returns the first page that `change` refuses, or
    /// the number of pages.
    #[inline(always)]
    fn change(self, change: impl Change<F>) -> usize {
        self.change_from(if self.len < GROUP { 0 } else { Self::change_groups(self.first, self.len, change) }, change)
    }

    /// As [`PteRange::change`], the groups being done.
    #[inline(always)]
    fn change_from(self, mut n: usize, change: impl Change<F>) -> usize {
        while n < self.len && self.change_group::<1>(n, change) {
            n += 1;
        }
        n
    }

    /// Changes the `len` entries from `first` on by the group. The loop is out of line, so that it
    /// has all registers and costs the caller none.
    #[inline(never)]
    fn change_groups(first: NonNull<F::Word>, len: usize, change: impl Change<F>) -> usize {
        Self { first, at: VirtAddr(0), len }.change_whole_groups(change)
    }

    #[inline(always)]
    fn change_whole_groups(self, change: impl Change<F>) -> usize {
        let mut n = 0;
        while n < self.len / GROUP * GROUP && self.change_group::<GROUP>(n, change) {
            n += GROUP;
        }
        n
    }

    /// Changes the entries of `N` pages, or none of them.
    #[inline(always)]
    fn change_group<const N: usize>(self, first: usize, change: impl Change<F>) -> bool {
        let cells: [Cell<F>; N] = core::array::from_fn(|i| self.cell(first + i));
        let next = change.next::<N, LEVEL>(first, cells.each_ref().map(Cell::load));
        if let Some(words) = next {
            cells.iter().zip(words).for_each(|(cell, word)| cell.store(word));
        }
        next.is_some()
    }

    /// Reports the unexpected entry of page `n`, and clears it if it is bad (T2).
    #[cold]
    #[inline(never)]
    fn unexpected(self, n: usize, word: F::Word, report: &mut impl FnMut(VirtAddr, F::Word)) {
        report(self.page(n), word);
        if F::decode(word, LEVEL) == Entry::Bad {
            self.cell(n).store(F::ABSENT);
        }
    }

    #[inline]
    fn page(self, n: usize) -> VirtAddr {
        VirtAddr(self.at.0.wrapping_add(n << Self::SHIFT))
    }

    /// The entry of page `n`.
    #[inline]
    fn cell(self, n: usize) -> Cell<F> {
        debug_assert!(n < self.len);
        // SAFETY: the pages lie inside the table (`new`). W1 holds for its words while the table's
        // handle may be used (T1).
        unsafe { Cell::new(self.first.add(n)) }
    }
}

/// A change of entries from one state to another.
trait Change<F: Format>: Copy {
    /// The new words for the entries from page `first` on, which hold `words`; `None` if one of
    /// them is unexpected.
    fn next<const N: usize, const LEVEL: u8>(self, first: usize, words: [F::Word; N]) -> Option<[F::Word; N]>;

    /// The change of the pages after a refused one, where `changed` pages before it were changed.
    fn after(self, _changed: usize) -> Self {
        self
    }
}

/// absent → leaf, of the frame that `frame` returns for each page.
#[derive(Clone, Copy)]
struct Map<G, W> {
    frame: G,
    form: W,
}
/// leaf → parked, or absent.
#[derive(Clone, Copy)]
struct Unmap<const PARK: bool>;
/// parked → leaf.
#[derive(Clone, Copy)]
struct Restore;
/// parked → absent. There is a place for the frame of each page.
#[derive(Clone, Copy)]
struct TakeFrames(*mut Pfn);

/// Whether a page of `level` may begin at the page `number`, or its frames at that frame.
#[inline(always)]
const fn is_whole<F: Format>(number: usize, level: u8) -> bool {
    number.is_multiple_of(1 << table_bits::<F>(level - 1))
}

/// The leaf `word` with another protection: its frame and memory type stay.
fn protected<F: Format>(word: F::Word, prot: Prot, level: u8) -> Option<F::Word> {
    memory_of::<F>(word, level).map(|(frame, memory)| F::leaf(frame, prot, memory, level))
}

/// The frame of the leaf `word`, and its memory type.
fn memory_of<F: Format>(word: F::Word, level: u8) -> Option<(Pfn, MemType)> {
    let Entry::Leaf { frame, prot } = F::decode(word, level) else { return None };
    let memory = MemType::ALL.into_iter().find(|&memory| F::leaf(frame, prot, memory, level) == word)?;
    Some((frame, memory))
}

fn all_absent<F: Format, const N: usize>(words: [F::Word; N]) -> bool {
    words.iter().fold(true, |absent, &word| absent & (word == F::ABSENT))
}

impl<F: Format, G: Fn(usize) -> Pfn + Copy> Change<F> for Map<G, F::Word> {
    #[inline(always)]
    fn next<const N: usize, const LEVEL: u8>(self, first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        let leaf = |i| F::leaf_like(self.form, (self.frame)(first + i));
        let fits = |i| is_whole::<F>((self.frame)(first + i).0 as usize, LEVEL);
        (all_absent::<F, N>(words) && (0..N).all(fits)).then(|| core::array::from_fn(leaf))
    }
}

impl<F: Format, const PARK: bool> Change<F> for Unmap<PARK> {
    #[inline(always)]
    fn next<const N: usize, const LEVEL: u8>(self, _first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        F::park_all(words, LEVEL).map(|parked| if PARK { parked } else { [F::ABSENT; N] })
    }
}

impl<F: Format> Change<F> for Restore {
    #[inline(always)]
    fn next<const N: usize, const LEVEL: u8>(self, _first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        F::parked_all(words, LEVEL).map(|_| words.map(F::park))
    }
}

impl<F: Format> Change<F> for TakeFrames {
    #[inline(always)]
    fn next<const N: usize, const LEVEL: u8>(self, first: usize, words: [F::Word; N]) -> Option<[F::Word; N]> {
        let frames = F::parked_all(words, LEVEL)?;
        // SAFETY: `take_frames` has a place for each page, and each page yields at most one frame.
        unsafe { self.0.add(first).cast::<[Pfn; N]>().write(frames) }
        Some([F::ABSENT; N])
    }

    fn after(self, changed: usize) -> Self {
        // SAFETY: as above; the places after those of the pages that were changed.
        TakeFrames(unsafe { self.0.add(changed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{X86_32, X86_64, X86Pae};

    fn keeps_all_but_the_protection<F: Format>() {
        let prots = [Prot::RO, Prot::RW, Prot::RX, Prot::RWX];
        for (level, memory) in (1..=F::LEAF_LEVELS).flat_map(|level| MemType::ALL.map(|memory| (level, memory))) {
            let frame = Pfn(3 << (F::INDEX_BITS * (level as u32 - 1)));
            for (was, now) in prots.into_iter().flat_map(|was| prots.map(|now| (was, now))) {
                let word = protected::<F>(F::leaf(frame, was, memory, level), now, level);
                assert_eq!(word, Some(F::leaf(frame, now, memory, level)), "{} {was:?} {now:?} {memory:?}", F::NAME);
            }
            let parked = F::park(F::leaf(frame, Prot::RW, memory, level));
            assert_eq!([F::ABSENT, parked].map(|word| protected::<F>(word, Prot::RO, level)), [None, None]);
        }
    }

    #[test]
    fn a_new_protection_leaves_frame_and_memory_type_alone() {
        keeps_all_but_the_protection::<X86_64>();
        keeps_all_but_the_protection::<X86_32>();
        keeps_all_but_the_protection::<X86Pae>();
    }
}
