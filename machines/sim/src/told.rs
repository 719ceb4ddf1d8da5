//! What the machine was told of (`sync`): a new entry is none for a CPU before.
//!
//! Where a format wants a barrier between the store of an entry and its first
//! use, a CPU without it may not see the entry, for however long. This one does
//! not when a program asks; when it guesses it may, as real ones.

use std::collections::HashMap;
use vmalloc::units::Pfn;

/// The frames of the pages that the machine was told of.
#[derive(Debug, Default)]
pub(crate) struct Told(HashMap<usize, Pfn>);

impl Told {
    /// `page` is bound to `frame` from here on.
    pub(crate) fn tell(&mut self, page: usize, frame: Pfn) {
        self.0.insert(page, frame);
    }

    /// The entries of `pages` are not present any more.
    pub(crate) fn forget(&mut self, pages: impl Iterator<Item = usize>) {
        pages.for_each(|page| _ = self.0.remove(&page));
    }

    /// Whether the machine was told that `page` is bound to `frame`.
    pub(crate) fn knows(&self, page: usize, frame: Pfn) -> bool {
        self.0.get(&page) == Some(&frame)
    }
}
