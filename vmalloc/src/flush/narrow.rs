//! The pages of the youngest batch, where they are few: what a CPU that is only
//! this batch behind has to discard.
//!
//! # Rules
//! - G1, ranges: A tag's pages are told under the tag, after it was taken.
//!   A CPU that has published the tag before may discard these alone and
//!   publish the tag; everybody else, and whoever comes before they are told,
//!   discards everything.
//!   So the tag of a small batch is no barrier for what was cleared elsewhere.
//! - **G8** One writer at a time; one that finds another does not tell, so that
//!   everybody discards everything. Readers take a snapshot between two equal
//!   tags, and a tag is told once.

use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*, fence};
use crate::units::{PageRange, VirtAddr};

/// The youngest batch's pages, if they are few.
#[derive(Debug)]
pub(super) struct Narrow {
    writing: AtomicBool,
    /// Whose pages these are; 0 = nobody's.
    tag: AtomicU64,
    start: AtomicUsize,
    pages: AtomicUsize,
}

impl Default for Narrow {
    fn default() -> Narrow {
        Narrow {
            writing: AtomicBool::new(false),
            tag: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
        }
    }
}

impl Narrow {
    /// Tells that the batch of `tag` holds `pages` and no others.
    pub(super) fn tell(&self, tag: u64, pages: PageRange) {
        if self.writing.swap(true, Acquire) {
            return;
        }
        self.tag.store(0, Relaxed);
        // G8: who reads a field of ours reads 0, or our tag, after it.
        fence(Release);
        self.start.store(pages.start.0, Relaxed);
        self.pages.store(pages.pages, Relaxed);
        self.tag.store(tag, Release);
        self.writing.store(false, Release);
    }

    /// The pages of the batch of `tag`, if they were told.
    pub(super) fn of(&self, tag: u64) -> Option<PageRange> {
        if self.tag.load(Acquire) != tag {
            return None;
        }
        let pages = PageRange::new(VirtAddr(self.start.load(Relaxed)), self.pages.load(Relaxed));
        fence(Acquire);
        (self.tag.load(Relaxed) == tag).then_some(pages)
    }
}
