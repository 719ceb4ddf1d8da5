//! The check of the tables: visits every entry.

use super::{Table, Walker, address_of, pages_of};
use crate::error::Broken;
use crate::machine::Machine;
use crate::machine::format::{Entry, Format, MemType};
use crate::units::PageRange;
use core::ops::Range;

const MEM_TYPES: [MemType; 5] =
    [MemType::WriteBack, MemType::WriteThrough, MemType::UncachedMinus, MemType::Uncached, MemType::WriteCombining];

impl<M: Machine, const LEVEL: u8> Walker<'_, M, LEVEL> {
    /// Checks that every entry for `range`, at each level, is one that the format writes (T2), and
    /// that leaves are exact to the bit (T3).
    ///
    /// # Errors
    /// The first broken rule, and the address.
    ///
    /// # Cost
    /// A visit to each page that has a leaf table.
    pub(crate) fn check(&self, range: PageRange) -> Result<(), Broken> {
        self.check_in(self.root(), pages_of(range))
    }

    fn check_in(&self, table: Table<M::Table>, pages: Range<usize>) -> Result<(), Broken> {
        for part in table.parts(pages) {
            let word = table.entry(part.start).cell.load();
            let broken = |rule| Err(Broken { rule, at: address_of(part.start).0 });
            match M::Table::decode(word, table.level) {
                Entry::Absent => {}
                Entry::Table(frame) => self.check_in(self.below(table.level, frame), part)?,
                Entry::Leaf { .. } if is_exact::<M::Table>(word, table.level) => {}
                Entry::Parked(_) if is_exact::<M::Table>(M::Table::park(word), table.level) => {}
                Entry::Bad | Entry::Foreign | Entry::Restricted => return broken("T2"),
                _ => return broken("T3"),
            }
        }
        Ok(())
    }
}

/// Whether `word` is exactly what the format would write. For speed, decoding tests only the bits
/// that all leaves share.
fn is_exact<F: Format>(word: F::Word, level: u8) -> bool {
    let Entry::Leaf { frame, prot } = F::decode(word, level) else { return false };
    MEM_TYPES.iter().any(|&memory| F::leaf(frame, prot, memory, level) == word)
}
