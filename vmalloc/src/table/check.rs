//! Looking at every entry: the slow proof that the rules hold.

use super::{Table, Walker, address_of, pages_of};
use crate::error::Broken;
use crate::machine::Machine;
use crate::machine::format::{Entry, Format, MemType};
use crate::units::PageRange;
use core::ops::Range;

const MEM_TYPES: [MemType; 5] =
    [MemType::WriteBack, MemType::WriteThrough, MemType::UncachedMinus, MemType::Uncached, MemType::WriteCombining];

impl<M: Machine> Walker<'_, M> {
    /// Whether every entry for `range`, at each level, is one that the format
    /// writes (T2), bit for bit in the leaves (T3).
    ///
    /// # Errors
    /// The first rule that is broken, and at which address.
    ///
    /// # Cost
    /// A visit to each page whose leaf table is linked.
    pub fn check(&self, range: PageRange) -> Result<(), Broken> {
        self.check_in(self.root(), pages_of(range))
    }

    fn check_in(&self, table: Table<M::Table>, pages: Range<usize>) -> Result<(), Broken> {
        for part in table.parts(pages) {
            let word = table.slot(part.start).cell.load();
            let broken = |rule| Err(Broken { rule, at: address_of(part.start).0 });
            match M::Table::decode(word, table.level) {
                Entry::Absent => {}
                Entry::Table(frame) => self.check_in(self.below(table.level, frame), part)?,
                Entry::Leaf { .. } if is_exact::<M::Table>(word) => {}
                Entry::Waiting(_) if is_exact::<M::Table>(M::Table::retire(word)) => {}
                Entry::Bad | Entry::Foreign | Entry::Restricted => return broken("T2"),
                _ => return broken("T3"),
            }
        }
        Ok(())
    }
}

/// Whether `word` is what the format writes for what it says. Decoding looks
/// at the bits that all leaves share only, for speed.
fn is_exact<F: Format>(word: F::Word) -> bool {
    let Entry::Leaf { frame, prot } = F::decode(word, 1) else { return false };
    MEM_TYPES.iter().any(|&memory| F::leaf(frame, prot, memory) == word)
}
