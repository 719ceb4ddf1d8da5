//! Page tables: the frame that each page is mapped to.
//!
//! The tables form a tree. A **table** is one frame of entries. A **leaf table** (level 1) holds
//! the entries of pages, and an upper table holds links to tables. An **entry** is one aligned
//! word, encoded by the machine's [`Format`]. Its states are drawn in
//! [`machine::format`](crate::machine::format).
//!
//! ```text
//!   Walker ── link_tables ──▶ links missing tables      rare: once per leaf table
//!     │ piece
//!   LeafTable ── PteRange::new ──▶ PteRange             the address is cached in the chunk
//!     │  map  park  take_frames                         one load and one store per page
//!   Walker ── unlink ──▶ the frame of an empty leaf     rare: once 2 MiB are free
//! ```
//!
//! # Rules
//! - **T1** A table is given back only when nobody can be in it. A leaf table lives while any of
//!   its pages is taken. A caller that walks, or uses a `LeafTable`, owns the pages that it looks
//!   at. An unlinked table is kept until grace.
//! - **T2** An entry that the format never writes is bad. It is reported with its level and
//!   cleared, and the walk goes on. An entry in use is never overwritten: `PteRange::map` stops
//!   before it. A present entry above level 1 belongs to the embedder if it links no table, or a
//!   table under which pages cannot be written or executed (`Walker::foreign`). It is neither
//!   overwritten nor cleared. No table is linked where a large page of the library's is mapped or
//!   parked. A table whose link differs from what the format writes is the
//!   embedder's too, and stays linked.
//! - **T3** An entry is read and written whole: by one aligned atomic access of its width, or in
//!   halves of which the one that makes it present is written last. Accessed is
//!   always set, and dirty is set in writable entries, so the MMU never writes an entry.
//!
//! # Why linking cannot fail
//! `link_tables` takes its frames from a [`Prealloc`]. The caller has filled it to
//! `Walker::tables_needed` while it could still fail. No other function here allocates.
//! `Walker::foreign` tells the caller in advance which tables `link_tables` would have to leave
//! out, and only `PteRange::map` can refuse.
//!
//! # Locks
//! None. Two CPUs that miss the same table may both try to link one. An exchange on the parent's
//! entry decides, and the loser keeps its frame. The entry of a page belongs to the owner of the
//! page.
//!
//! # Source
//! Intel SDM vol. 3A, chapter "Paging": §4.2 (the walk), §4.10.2–3 (what a CPU may cache: nothing
//! that is not present). Section numbers are those of the editions in which that chapter is the
//! fourth.

mod cell;
mod check;
mod format;
mod prune;
mod range;

#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use format::{X86_32, X86_64, X86Pae};
pub(crate) use range::{LeafTable, PteRange};

use crate::machine::format::{Entry, Format, Prot, entries};
use crate::machine::prealloc::Prealloc;
use crate::machine::{Level, Machine};
use crate::units::{PAGE_SHIFT, PageRange, Pfn, VirtAddr};
use cell::Cell;
use core::ops::Range;
use core::ptr::NonNull;

/// The entry word of the machine `M`.
pub(crate) type Word<M> = <<M as Machine>::Table as Format>::Word;

/// A walker over the tables of a machine. It maps pages by entries of `LEVEL`: above level 1 these
/// are large pages, and their table is the leaf table.
pub struct Walker<'m, M: Machine, const LEVEL: u8 = 1> {
    machine: &'m M,
}

/// An entry in a place where the library needs to link a table (T2): the embedder's, or a large
/// page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Foreign {
    /// The first page of the range in question that the entry covers.
    pub at: VirtAddr,
    /// The level of the entry.
    pub level: u8,
    /// True for a table that forbids writing or execution, false for a large page.
    pub restricts: bool,
}

/// Pages that have no leaf table, and the entry that is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gap<W> {
    /// The first of the pages.
    pub at: VirtAddr,
    /// The number of pages from there to the end of the entry's range.
    pub pages: usize,
    /// The level of the entry that links no table.
    pub level: u8,
    /// The entry. A bad one has been cleared (T2).
    pub word: W,
}

/// A linked table.
#[derive(Clone, Copy)]
struct Table<F: Format> {
    words: NonNull<F::Word>,
    level: u8,
}

/// The entry for `page` in some table.
struct EntryRef<F: Format> {
    cell: Cell<F>,
    level: u8,
    page: usize,
}

impl<'m, M: Machine> Walker<'m, M> {
    /// A walker over `machine`'s tables, for pages.
    ///
    /// # Safety
    /// - T1. While the walker, or a `LeafTable` or `PteRange` from it, is used for some pages,
    ///   no table of these pages is given back. If the caller changes entries of these pages, it
    ///   owns them.
    #[inline]
    pub const unsafe fn new(machine: &'m M) -> Walker<'m, M> {
        Walker { machine }
    }
}

impl<M: Machine, const LEVEL: u8> Walker<'_, M, LEVEL> {
    /// The most frames that [`Walker::link_tables`] takes for any `pages` pages.
    pub(crate) fn tables_needed(&self, pages: usize) -> usize {
        // One table of 2^bits pages for the first page, and one more for each border behind it.
        let bits = table_bits::<M::Table>;
        let worst = |level| 1 + (pages.saturating_add((1 << bits(level)) - 2) >> bits(level));
        if pages == 0 { 0 } else { (LEVEL..self.levels()).map(worst).sum() }
    }

    /// The first entry of the embedder's, or large page, in the way of the tables of `range`.
    ///
    /// # Cost
    /// A visit to each entry for `range` in the linked tables above the leaf tables.
    pub(crate) fn foreign(&self, range: PageRange) -> Option<Foreign> {
        self.foreign_in(self.root(), pages_of(range))
    }

    /// Links the missing tables of `range`. A bad entry is reported and counts as missing. Tables
    /// under an entry of the embedder's or a large page are left out (T2).
    ///
    /// Cannot fail: `prealloc` holds [`Walker::tables_needed`] frames.
    pub(crate) fn link_tables(&self, range: PageRange, prealloc: &mut Prealloc) {
        self.link_tables_in(self.root(), pages_of(range), LEVEL, prealloc)
    }

    /// The number of frames that [`Walker::link_root_tables`] needs for `range` now.
    pub(crate) fn missing_in_root(&self, range: PageRange) -> usize {
        self.root_entries(range).filter(|entry| !matches!(entry.decode(), Entry::Table(_))).count()
    }

    /// Links the tables that the root itself lacks for `range`. These links stay for good, so other
    /// roots may share them (M1). Where the root links leaf tables, these are never unlinked, and
    /// this call makes them ([`Walker::keeps_leaf_tables`]).
    ///
    /// Cannot fail: `prealloc` holds [`Walker::missing_in_root`] frames.
    pub(crate) fn link_root_tables(&self, range: PageRange, prealloc: &mut Prealloc) {
        for entry in self.root_entries(range) {
            self.link(entry, prealloc);
        }
    }

    fn root_entries(&self, range: PageRange) -> impl Iterator<Item = EntryRef<M::Table>> {
        let root = self.root();
        root.parts(pages_of(range)).map(move |part| root.entry(part.start))
    }

    /// Whether the root itself links the leaf tables. Other roots copy its entries, so the leaf
    /// tables then stay while the instance lives (M1).
    pub(crate) fn keeps_leaf_tables(&self) -> bool {
        self.levels() == 2
    }

    /// The leaf table for `at` and its frame, if one is linked.
    pub(crate) fn leaf(&self, at: VirtAddr) -> Option<(Pfn, LeafTable<M::Table, LEVEL>)> {
        match self.descend(page_of(at), LEVEL + 1) {
            (_, _, Entry::Table(frame)) => Some((frame, LeafTable::new(self.below(LEVEL + 1, frame).words))),
            _ => None,
        }
    }

    /// Links the leaf table in `frame` again, if somebody has overwritten an entry above it.
    /// `frame` was linked for `at` before. The overwritten entry is reported; an entry of the
    /// embedder's is left alone (T2).
    ///
    /// Cannot fail: `prealloc` holds one frame per level.
    pub(crate) fn relink(&self, at: VirtAddr, frame: Pfn, prealloc: &mut Prealloc) {
        let (entry, word, says) = self.descend(page_of(at), LEVEL + 1);
        if !matches!(says, Entry::Table(_) | Entry::Bad) {
            self.report_bad_entry(entry.level, at, word);
        }
        self.link_tables_in(self.root(), page_of(at)..page_of(at) + 1, LEVEL + 1, prealloc);
        let (entry, word, says) = self.descend(page_of(at), LEVEL + 1);
        if says == Entry::Bad {
            self.report_bad_entry(entry.level, at, word);
        }
        if entry.level == LEVEL + 1 && matches!(says, Entry::Absent | Entry::Bad) {
            let _ = entry.cell.exchange(word, M::Table::table(frame, entry.level));
        }
    }

    /// The start of the linked leaf table that is mapped at `from`, if there is one, and the address
    /// before `end` at which to go on, if anything is left: the next entry in use of the table that
    /// was looked at, or its end.
    pub(crate) fn next_leaf(&self, from: VirtAddr, end: VirtAddr) -> (Option<VirtAddr>, Option<VirtAddr>) {
        let page = page_of(from);
        if from >= end {
            return (None, None);
        }
        let (entry, _, says) = self.descend(page, LEVEL + 1);
        let bits = table_bits::<M::Table>(entry.level - 1);
        let first = page >> bits << bits;
        let next = first + (entry.absent().max(1) << bits);
        let leaf = matches!(says, Entry::Table(_)).then(|| address_of(first));
        (leaf, (next < page_of(end)).then(|| address_of(next)))
    }

    /// The entries of `range`, which lies under one leaf table.
    ///
    /// # Errors
    /// No leaf table is linked. The error says why, and for how many pages. A bad link is cleared
    /// and reported here. The caller reports any other, because it knows whether there must be a
    /// table (T2).
    pub(crate) fn piece(&self, range: PageRange) -> Result<PteRange<M::Table, LEVEL>, Gap<Word<M>>> {
        let (entry, word, says) = self.descend(page_of(range.start), LEVEL + 1);
        if let Entry::Table(frame) = says {
            let table = LeafTable::new(self.below(LEVEL + 1, frame).words);
            return Ok(PteRange::new(table, range.start, range.pages >> table_bits::<M::Table>(LEVEL - 1)));
        }
        if says == Entry::Bad {
            self.clear_bad(&entry, word);
        }
        let (level, covered) = (entry.level, 1 << table_bits::<M::Table>(entry.level - 1));
        Err(Gap { at: range.start, pages: covered - (entry.page & (covered - 1)), level, word })
    }

    /// The leaf entry of the page at `at`, or the upper entry that ends the walk: of a large page, the
    /// entry names the first frame. Changes and reports nothing.
    #[inline]
    pub fn entry(&self, at: VirtAddr) -> Entry {
        self.descend(page_of(at), 1).2
    }

    /// The frame that the page at `at` is mapped to, and its protection.
    #[inline]
    pub fn translate(&self, at: VirtAddr) -> Option<(Pfn, Prot)> {
        let (entry, _, Entry::Leaf { frame, prot }) = self.descend(page_of(at), 1) else { return None };
        let within = entry.page & ((1 << table_bits::<M::Table>(entry.level - 1)) - 1);
        Some((frame.offset(within as u64), prot))
    }

    /// `range`, widened to whole entries of the root.
    pub(crate) fn widened(&self, range: PageRange) -> PageRange {
        let bits = table_bits::<M::Table>(self.levels() - 1);
        let pages = pages_of(range);
        let first = pages.start >> bits << bits;
        PageRange::new(address_of(first), (pages.end - first).next_multiple_of(1 << bits))
    }

    /// Logs a bad entry (T2). Callers pass on what [`PteRange::park`] and [`PteRange::take_frames`]
    /// report, at level 1.
    #[cold]
    pub(crate) fn report_bad_entry(&self, level: u8, at: VirtAddr, word: Word<M>) {
        self.machine.log(Level::Error, format_args!("bad entry at level {level} for {at}: {word:#x}"))
    }

    fn levels(&self) -> u8 {
        let levels = self.machine.levels();
        debug_assert!((2..=M::Table::MAX_LEVELS).contains(&levels));
        levels
    }

    fn root(&self) -> Table<M::Table> {
        self.below(self.levels() + 1, self.machine.root())
    }

    /// The table in `frame`, linked by an entry of `level`.
    #[inline]
    fn below(&self, level: u8, frame: Pfn) -> Table<M::Table> {
        Table { words: self.machine.virt(frame).cast(), level: level - 1 }
    }

    /// Follows the links for `page` down to the entry at `level`, or to the first entry that links
    /// no table.
    #[inline]
    fn descend(&self, page: usize, level: u8) -> (EntryRef<M::Table>, Word<M>, Entry) {
        let mut entry = self.root().entry(page);
        loop {
            let word = entry.cell.load();
            match M::Table::decode(word, entry.level) {
                Entry::Table(frame) if entry.level > level => entry = self.below(entry.level, frame).entry(page),
                says => return (entry, word, says),
            }
        }
    }

    fn foreign_in(&self, table: Table<M::Table>, pages: Range<usize>) -> Option<Foreign> {
        table.parts(pages).find_map(|part| {
            let found = |restricts| Some(Foreign { at: address_of(part.start), level: table.level, restricts });
            match table.entry(part.start).decode() {
                Entry::Table(frame) if table.level > LEVEL + 1 => self.foreign_in(self.below(table.level, frame), part),
                Entry::Foreign | Entry::Leaf { .. } | Entry::Parked(_) => found(false),
                Entry::Restricted => found(true),
                _ => None,
            }
        })
    }

    /// Links the tables under `table`, down to level `lowest`.
    fn link_tables_in(&self, table: Table<M::Table>, pages: Range<usize>, lowest: u8, prealloc: &mut Prealloc) {
        if table.level == lowest {
            return;
        }
        for part in table.parts(pages) {
            if let Some(lower) = self.link(table.entry(part.start), prealloc) {
                self.link_tables_in(lower, part, lowest, prealloc);
            }
        }
    }

    /// The table that `entry` links. Links a new one if there is none; returns `None` if the entry
    /// is the embedder's or a large page.
    fn link(&self, entry: EntryRef<M::Table>, prealloc: &mut Prealloc) -> Option<Table<M::Table>> {
        loop {
            let word = entry.cell.load();
            match M::Table::decode(word, entry.level) {
                Entry::Table(frame) => return Some(self.below(entry.level, frame)),
                Entry::Absent => {}
                Entry::Foreign | Entry::Restricted | Entry::Leaf { .. } | Entry::Parked(_) => return None,
                Entry::Bad => self.report_bad_entry(entry.level, address_of(entry.page), word),
            }
            let frame = prealloc.take(self.machine);
            debug_assert!(frame.is_some(), "prepare with too small a prealloc");
            let frame = frame?;
            match entry.cell.exchange(word, M::Table::table(frame, entry.level)) {
                Ok(()) => return Some(self.below(entry.level, frame)),
                Err(_) => prealloc.put(self.machine, frame),
            }
        }
    }

    /// Reports the bad `word` of `entry` and clears it, unless somebody has replaced it meanwhile.
    /// There is nothing below a bad entry.
    #[cold]
    fn clear_bad(&self, entry: &EntryRef<M::Table>, word: Word<M>) {
        self.report_bad_entry(entry.level, address_of(entry.page), word);
        let _ = entry.cell.exchange(word, M::Table::ABSENT);
    }
}

impl<M: Machine, const LEVEL: u8> Clone for Walker<'_, M, LEVEL> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine, const LEVEL: u8> Copy for Walker<'_, M, LEVEL> {}

impl<F: Format> Table<F> {
    /// The entry for `page`.
    #[inline]
    fn entry(self, page: usize) -> EntryRef<F> {
        let index = page >> table_bits::<F>(self.level - 1) & (entries::<F>() - 1);
        // SAFETY: the table is linked (T1), so M2 makes the words of its frame accessible, and the
        // index lies inside the table.
        let cell = unsafe { Cell::new(self.words.add(index)) };
        EntryRef { cell, level: self.level, page }
    }

    /// `pages`, cut at the borders between this table's entries.
    fn parts(self, pages: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        cut(pages, table_bits::<F>(self.level - 1))
    }
}

impl<F: Format> EntryRef<F> {
    fn decode(&self) -> Entry {
        F::decode(self.cell.load(), self.level)
    }

    /// The number of adjacent absent entries of its table, from this one on.
    fn absent(&self) -> usize {
        let index = self.page >> table_bits::<F>(self.level - 1) & (entries::<F>() - 1);
        // SAFETY: as for `Table::entry`: it is the `index`-th.
        unsafe { self.cell.absent(entries::<F>() - index) }
    }
}

/// log2 of the pages that one table of `level` covers.
#[inline]
const fn table_bits<F: Format>(level: u8) -> u32 {
    level as u32 * F::INDEX_BITS
}

#[inline]
const fn page_of(at: VirtAddr) -> usize {
    at.0 >> PAGE_SHIFT
}

#[inline]
const fn address_of(page: usize) -> VirtAddr {
    VirtAddr(page << PAGE_SHIFT)
}

/// The page numbers of `range`. Unlike addresses they do not wrap at the top.
fn pages_of(range: PageRange) -> Range<usize> {
    let first = page_of(range.start);
    first..first + range.pages
}

/// `pages`, cut at the multiples of 2^`bits`.
fn cut(pages: Range<usize>, bits: u32) -> impl Iterator<Item = Range<usize>> {
    let mut rest = pages;
    core::iter::from_fn(move || {
        let start = rest.start;
        rest.start = (((start >> bits) + 1) << bits).min(rest.end);
        (start < rest.end).then_some(start..rest.start)
    })
}
