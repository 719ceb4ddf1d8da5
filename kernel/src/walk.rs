//! The walk by level: pgd, p4d, pud, pmd, pte.
//!
//! ```text
//!   table level   5     4     3     2     1
//!   5 levels     pgd   p4d   pud   pmd   pte
//!   4 levels           pgd   pud   pmd   pte      p4d is folded: its entry is the pgd's
//!   3 levels                 pgd   pmd   pte      p4d and pud are folded
//!   2 levels                       pgd   pte      p4d, pud and pmd are folded
//! ```
//!
//! A folded level has the entry of the level above, so that code written for five
//! levels walks any number of them. The tables are the library's, in any format.
//!
//! Source: `pgd_offset_k`, `p4d_offset`, `pud_offset`, `pmd_offset`, `pte_offset_kernel`;
//! `pgd_ERROR` and its siblings: `bad pmd %p(%016lx).`

use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::vfree::Pointer;
use core::fmt;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{Entry, Format, Word};
use vmalloc::units::{PAGE_SHIFT, PageRange, Pfn};

/// A level by its traditional name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The entries of pages.
    Pte,
    /// Above them.
    Pmd,
    /// Above those.
    Pud,
    /// With five levels only.
    P4d,
    /// The root.
    Pgd,
}

impl Level {
    /// All levels, from the root down.
    pub const DOWN: [Level; 5] = [Level::Pgd, Level::P4d, Level::Pud, Level::Pmd, Level::Pte];

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Pte => "pte",
            Level::Pmd => "pmd",
            Level::Pud => "pud",
            Level::P4d => "p4d",
            Level::Pgd => "pgd",
        }
    }

    /// The level of the table that holds its entries, of `levels` in all; those from there
    /// up are folded into the root.
    const fn table(self, levels: u8) -> u8 {
        let own = self as u8 + 1;
        if matches!(self, Level::Pgd) || own > levels { levels } else { own }
    }
}

/// An entry of a table.
pub struct EntryRef<F: Format> {
    /// The level that was asked for.
    pub level: Level,
    /// The level of its table, counted from 1.
    pub table: u8,
    at: NonNull<F::Word>,
}

impl<F: Format> Clone for EntryRef<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for EntryRef<F> {}

impl<F: Format> PartialEq for EntryRef<F> {
    fn eq(&self, other: &Self) -> bool {
        (self.level, self.at) == (other.level, other.at)
    }
}

impl<F: Format> fmt::Debug for EntryRef<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entry at {:p}: {:?}", self.level.name(), self.at, self.says())
    }
}

impl<F: Format> EntryRef<F> {
    /// What is written there.
    pub fn word(&self) -> F::Word {
        // SAFETY: W1: Y7: the entry's table is linked while this is used.
        unsafe { F::Word::load(self.at.as_ptr()) }
    }

    /// What it says.
    pub fn says(&self) -> Entry {
        F::decode(self.word(), self.table)
    }

    /// Whether nothing is written there (`pmd_none`).
    pub fn none(&self) -> bool {
        self.word() == F::ABSENT
    }

    /// Whether it is something that no table of this kind has (`pmd_bad`). A larger page of
    /// somebody else's is not bad.
    pub fn bad(&self) -> bool {
        self.says() == Entry::Bad
    }

    /// Whether it ends the walk with memory (`pmd_leaf`, `pte_present`).
    pub fn leaf(&self) -> bool {
        matches!(self.says(), Entry::Leaf { .. } | Entry::Foreign)
    }

    /// Clears it, if it is `word` still (`pte_clear`).
    fn clear(&self, word: F::Word) {
        // SAFETY: W1: Y7, and the caller's page.
        let _ = unsafe { F::Word::exchange(self.at.as_ptr(), word, F::ABSENT) };
    }
}

/// The entries that lead to a page, from the root down to the one that ends the walk.
pub struct Path<F: Format> {
    entries: [Option<EntryRef<F>>; 5],
}

impl<F: Format> Path<F> {
    /// The entry of a level; `None` below the one that ends the walk.
    pub fn entry(&self, level: Level) -> Option<EntryRef<F>> {
        self.down().find(|entry| entry.level == level)
    }

    /// From the root down.
    pub fn down(&self) -> impl DoubleEndedIterator<Item = EntryRef<F>> + '_ {
        self.entries.iter().flatten().copied()
    }

    /// From the last entry up.
    pub fn up(&self) -> impl Iterator<Item = EntryRef<F>> + '_ {
        self.down().rev()
    }
}

/// The entries of a machine's tables.
pub type EntryOf<M> = EntryRef<<M as Machine>::Table>;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    fn entry_at(&self, table: Pfn, level: Level, of: u8, at: usize) -> EntryOf<M> {
        let shift = PAGE_SHIFT + <M::Table as Format>::INDEX_BITS * (of as u32 - 1);
        let index = at >> shift & ((1 << <M::Table as Format>::INDEX_BITS) - 1);
        let words = self.machine().virt(table).cast::<<M::Table as Format>::Word>();
        // SAFETY: the index lies in the table.
        EntryRef { level, table: of, at: unsafe { words.add(index) } }
    }

    /// The root's entry for `at`.
    ///
    /// # Safety
    /// Y7.
    pub unsafe fn pgd_offset_k(&self, at: usize) -> EntryOf<M> {
        let levels = self.machine().levels();
        self.entry_at(self.machine().root(), Level::Pgd, levels, at)
    }

    /// The entry of `level`, the next below that of `upper`, which links a table; `None`
    /// where it links none. Folded levels have the entry above.
    ///
    /// # Safety
    /// Y7.
    unsafe fn offset(&self, upper: &EntryOf<M>, level: Level, at: usize) -> Option<EntryOf<M>> {
        let of = level.table(self.machine().levels());
        if of == upper.table {
            return Some(EntryRef { level, ..*upper });
        }
        match upper.says() {
            Entry::Table(frame) => Some(self.entry_at(frame, level, of, at)),
            _ => None,
        }
    }

    /// The p4d entry below a pgd's.
    ///
    /// # Safety
    /// Y7.
    pub unsafe fn p4d_offset(&self, pgd: &EntryOf<M>, at: usize) -> Option<EntryOf<M>> {
        // SAFETY: Y7, handed on.
        unsafe { self.offset(pgd, Level::P4d, at) }
    }

    /// The pud entry below a p4d's.
    ///
    /// # Safety
    /// Y7.
    pub unsafe fn pud_offset(&self, p4d: &EntryOf<M>, at: usize) -> Option<EntryOf<M>> {
        // SAFETY: Y7, handed on.
        unsafe { self.offset(p4d, Level::Pud, at) }
    }

    /// The pmd entry below a pud's.
    ///
    /// # Safety
    /// Y7.
    pub unsafe fn pmd_offset(&self, pud: &EntryOf<M>, at: usize) -> Option<EntryOf<M>> {
        // SAFETY: Y7, handed on.
        unsafe { self.offset(pud, Level::Pmd, at) }
    }

    /// The pte entry below a pmd's.
    ///
    /// # Safety
    /// Y7.
    pub unsafe fn pte_offset_kernel(&self, pmd: &EntryOf<M>, at: usize) -> Option<EntryOf<M>> {
        // SAFETY: Y7, handed on.
        unsafe { self.offset(pmd, Level::Pte, at) }
    }

    /// The whole way to the page of `at`.
    ///
    /// # Safety
    /// Y7.
    pub unsafe fn walk(&self, at: usize) -> Path<M::Table> {
        // SAFETY: Y7, handed on.
        let mut entry = Some(unsafe { self.pgd_offset_k(at) });
        let mut entries = [None; 5];
        for (place, level) in entries.iter_mut().zip(Level::DOWN) {
            if level != Level::Pgd {
                // SAFETY: Y7, handed on.
                entry = entry.and_then(|upper| unsafe { self.offset(&upper, level, at) });
            }
            *place = entry;
        }
        Path { entries }
    }

    /// Walks to each page of a part of the caller's area, reports entries that make no
    /// sense by level and text, clears them and walks past: above the pages as bad, at the
    /// pages as what a swapped out page would be.
    ///
    /// # Safety
    /// Y3, Y7.
    pub(crate) unsafe fn scrub(&self, pages: PageRange) {
        let (mut at, end) = (pages.start.0, pages.end().0);
        while at < end {
            // SAFETY: Y7, handed on.
            let path = unsafe { self.walk(at) };
            let Some(last) = path.up().next() else { return };
            self.scrub_entry(&last);
            let bits = PAGE_SHIFT + <M::Table as Format>::INDEX_BITS * (last.table as u32 - 1);
            match ((at >> bits) + 1).checked_shl(bits) {
                Some(next) if next > at => at = next,
                _ => return,
            }
        }
    }

    fn scrub_entry(&self, entry: &EntryOf<M>) {
        let word = entry.word();
        match <M::Table as Format>::decode(word, entry.table) {
            Entry::Bad if entry.table > 1 => {
                let (level, at) = (entry.level.name(), Pointer(entry.at.addr().get()));
                self.printk(Kern::Err, format_args!("bad {level} {at}({word:016x})."));
                entry.clear(word);
            }
            Entry::Bad | Entry::Parked(_) => {
                self.printk(Kern::Crit, format_args!("Whee.. Swapped out page in kernel page table"));
                entry.clear(word);
            }
            _ => (),
        }
    }
}
