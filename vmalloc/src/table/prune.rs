//! Removing empty tables from the tree (T1).

use super::{EntryRef, Table, Walker, Word, address_of, page_of, pages_of, table_bits};
use crate::machine::Machine;
use crate::machine::format::{Entry, Format, entries};
use crate::units::{PageRange, Pfn, VirtAddr};
use core::ops::Range;

impl<M: Machine, const LEVEL: u8> Walker<'_, M, LEVEL> {
    /// Unlinks the leaf table of `at` and returns its frame. The caller keeps the frame until
    /// grace, because a CPU may still walk into it.
    ///
    /// A table with entries in use stays linked; that is a bug of the caller and is reported. A
    /// table that somebody else has linked stays too (T2).
    pub(crate) fn unlink(&self, at: VirtAddr) -> Option<Pfn> {
        let (entry, word, Entry::Table(frame)) = self.descend(page_of(at), LEVEL + 1) else { return None };
        if !links::<M>(word, frame, entry.level) {
            return None;
        }
        if let Some(used) = first_used(self.below(LEVEL + 1, frame), entry.page) {
            self.report_bad_entry(LEVEL, address_of(used.page), used.cell.load());
            return None;
        }
        entry.cell.exchange(word, M::Table::ABSENT).ok().map(|()| frame)
    }

    /// Unlinks every empty table below the root that covers nothing outside `range` and that the
    /// library has linked, and passes its frame to `give`. Only for tear-down, when no CPU walks
    /// here any more.
    ///
    /// An upper table that reaches beyond `range` stays, because other roots may link it. An owner
    /// of the only root widens the range first ([`Walker::widened`]).
    pub(crate) fn free_tables(&self, range: PageRange, give: &mut dyn FnMut(Pfn)) {
        self.free_in(self.root(), pages_of(range), give)
    }

    fn free_in(&self, table: Table<M::Table>, pages: Range<usize>, give: &mut dyn FnMut(Pfn)) {
        for part in table.parts(pages) {
            let entry = table.entry(part.start);
            let whole = part.len() == 1 << table_bits::<M::Table>(table.level - 1);
            let word = entry.cell.load();
            match M::Table::decode(word, entry.level) {
                Entry::Table(frame) => {
                    let empty = self.is_emptied(self.below(entry.level, frame), part, give);
                    if empty && whole && links::<M>(word, frame, entry.level) {
                        entry.cell.store(M::Table::ABSENT);
                        give(frame);
                    }
                }
                Entry::Bad => self.clear_bad(&entry, word),
                _ => {}
            }
        }
    }

    /// Frees the tables below `table` and returns whether `table` is empty then.
    fn is_emptied(&self, table: Table<M::Table>, pages: Range<usize>, give: &mut dyn FnMut(Pfn)) -> bool {
        let first = pages.start;
        if table.level > 1 {
            self.free_in(table, pages, give);
        }
        first_used(table, first).is_none()
    }
}

/// Whether `word` is the link of `level` that the format writes for the table in `frame`. If not, the embedder
/// has linked that table (T2).
fn links<M: Machine>(word: Word<M>, frame: Pfn, level: u8) -> bool {
    word == M::Table::table(frame, level)
}

/// The first entry of `table` that is not absent. The table covers `page`.
fn first_used<F: Format>(table: Table<F>, page: usize) -> Option<EntryRef<F>> {
    let bits = table_bits::<F>(table.level);
    let first = table.entry(page >> bits << bits);
    let used = first.absent();
    (used < entries::<F>()).then(|| table.entry(first.page + (used << table_bits::<F>(table.level - 1))))
}
