//! The pages of the newest batch, if they are few. A CPU that is behind by this batch only discards
//! just these pages.
//!
//! # Rules
//! - G1, ranges: the pages of a tag are stored after the tag was taken. A CPU that has published
//!   the previous epoch may discard these pages only, and then publish the tag. Any other CPU
//!   discards everything, and so does a CPU that comes before the pages are stored. Grace for the
//!   tag of a small batch therefore proves nothing about other pages.
//! - **G8** There is one writer at a time. A writer that finds another one stores nothing, and
//!   every CPU then discards everything. Readers take a snapshot between two equal reads of the
//!   tag. A tag is stored once.

use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*, fence};
use crate::units::{PageRange, VirtAddr};

/// The pages of the newest batch, if they are few.
#[derive(Debug, Default)]
pub(super) struct Narrow {
    writing: AtomicBool,
    /// The tag that the pages belong to; 0 for none.
    tag: AtomicU64,
    start: AtomicUsize,
    pages: AtomicUsize,
}

impl Narrow {
    /// Stores that the batch of `tag` holds `pages` and no others.
    pub(super) fn store(&self, tag: u64, pages: PageRange) {
        if self.writing.swap(true, Acquire) {
            return;
        }
        self.tag.store(0, Relaxed);
        // G8: a reader that sees one of the new fields also sees 0 or the new tag afterwards.
        fence(Release);
        self.start.store(pages.start.0, Relaxed);
        self.pages.store(pages.pages, Relaxed);
        self.tag.store(tag, Release);
        self.writing.store(false, Release);
    }

    /// The pages of the batch of `tag`, if they are stored.
    pub(super) fn of(&self, tag: u64) -> Option<PageRange> {
        if self.tag.load(Acquire) != tag {
            return None;
        }
        let pages = PageRange::new(VirtAddr(self.start.load(Relaxed)), self.pages.load(Relaxed));
        fence(Acquire);
        (self.tag.load(Relaxed) == tag).then_some(pages)
    }
}
