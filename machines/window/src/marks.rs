//! What the machine knows of each page of the window: four bits.
//!
//! | bit | set means |
//! |---|---|
//! | bound | the page may be reached: it is an area's, or waits for a flush |
//! | going | its area is gone, and the next flush takes it away |
//! | sealed | its mapping does not allow stores |
//! | exec | its mapping allows execution |
//!
//! The bits of 64 pages are one [`Group`]. A *queue* has a bit for each group with a page that goes,
//! and the span of the queue's words that may have one: a flush looks at nothing else. The memory of
//! all this is opened along with the window: half a byte a page.
//!
//! # Rules
//! - **P1** A page's `bound` and `going` bits are set by the callers that own the page, and cleared by
//!   the one that drains, once the page has gone. So no lock is needed for them.
//! - **P2** A page that goes is in the queue: its group's bit is set after its own, and the span is
//!   widened after that. The one that drains reads them in the opposite order.
//! - **P3** `sealed` and `exec` change under the lock of the shape.

use crate::reserve::{Clear, Reservation, Table};
use crate::sync::{AtomicU64, Ordering::*};
use core::ops::Range;

/// Pages of a group.
const GROUP: usize = 64;
/// Pages of a word of the queue.
const QUEUED: usize = GROUP * 64;
/// The most pages of a window: 16 TiB. Two numbers of pages fit one word.
pub const MOST: usize = u32::MAX as usize;

/// The span of an empty queue, which any word widens.
const NOBODY: u64 = pack(Range { start: MOST, end: 0 });

/// The bits of 64 pages.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Group {
    /// The page may be reached.
    pub bound: AtomicU64,
    /// The next flush takes the page away.
    pub going: AtomicU64,
    /// The page's mapping does not allow stores.
    pub sealed: AtomicU64,
    /// The page's mapping allows execution.
    pub exec: AtomicU64,
}

// SAFETY: numbers: 0 is a value of each.
unsafe impl Clear for Group {}

/// The bits of all pages.
#[derive(Debug)]
pub struct Marks {
    groups: Table<Group>,
    queue: Table<AtomicU64>,
    /// The span of the queue's words that may have a bit; see [`pack`].
    span: AtomicU64,
}

/// Two numbers in one word, so that both change at once.
pub const fn pack(range: Range<usize>) -> u64 {
    (range.start as u64) << 32 | range.end as u64
}

/// The opposite of [`pack`].
pub const fn unpack(word: u64) -> Range<usize> {
    (word >> 32) as usize..(word as u32) as usize
}

/// The groups that pages lie in, each with the mask of those pages.
pub fn masks(pages: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    (pages.start / GROUP..pages.end.div_ceil(GROUP)).map(move |group| {
        let first = pages.start.saturating_sub(group * GROUP);
        let end = (pages.end - group * GROUP).min(GROUP);
        (group, u64::MAX << first & u64::MAX >> (GROUP - end))
    })
}

/// The runs of set bits, from below.
pub fn runs(mut bits: u64) -> impl Iterator<Item = Range<usize>> {
    let mut below = 0;
    core::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let start = below + bits.trailing_zeros() as usize;
        bits >>= bits.trailing_zeros();
        let pages = bits.trailing_ones();
        bits = bits.checked_shr(pages).unwrap_or(0);
        below = start + pages as usize;
        Some(start..below)
    })
}

impl Marks {
    /// Marks for `pages` pages, none of which has any yet.
    pub fn new(pages: usize) -> Result<Marks, i32> {
        let (groups, queue) = (Table::new(pages.div_ceil(GROUP))?, Table::new(pages.div_ceil(QUEUED))?);
        Ok(Marks { groups, queue, span: AtomicU64::new(NOBODY) })
    }

    /// Gives the first `pages` pages marks.
    pub fn cover(&self, pages: usize) -> Result<(), i32> {
        self.queue.open_to(pages.div_ceil(QUEUED))?;
        self.groups.open_to(pages.div_ceil(GROUP))
    }

    /// Mappings that the marks cost.
    pub const MAPPINGS: usize = 4;

    /// The reservations, whose boundaries may move.
    pub fn reservations(&self) -> [&Reservation; 2] {
        [self.queue.memory(), self.groups.memory()]
    }

    /// Sets a bit of each page.
    #[inline]
    pub fn set(&self, pages: Range<usize>, which: impl Fn(&Group) -> &AtomicU64) {
        masks(pages).for_each(|(group, mask)| _ = which(self.groups.at(group)).fetch_or(mask, SeqCst));
    }

    /// Clears a bit of each page.
    #[inline]
    pub fn clear(&self, pages: Range<usize>, which: impl Fn(&Group) -> &AtomicU64) {
        for (group, mask) in masks(pages) {
            let bits = which(self.groups.at(group));
            // A load costs less, and nobody sets bits of these pages meanwhile.
            if bits.load(SeqCst) & mask != 0 {
                bits.fetch_and(!mask, SeqCst);
            }
        }
    }

    /// Whether `bits` names any of the pages.
    #[inline]
    pub fn any(&self, pages: Range<usize>, bits: impl Fn(&Group) -> u64) -> bool {
        masks(pages).any(|(group, mask)| bits(self.groups.at(group)) & mask != 0)
    }

    /// The bit of one page.
    pub fn has(&self, page: usize, bits: impl Fn(&Group) -> u64) -> bool {
        self.any(page..page + 1, bits)
    }

    /// The pages go with the next flush (P2).
    #[inline]
    pub fn enqueue(&self, pages: Range<usize>) {
        self.set(pages.clone(), |group| &group.going);
        self.queue_groups(pages);
    }

    /// Pages that a flush could not take away are in the queue again.
    pub fn enqueue_again(&self, pages: Range<usize>) {
        self.queue_groups(pages);
    }

    fn queue_groups(&self, pages: Range<usize>) {
        let groups = pages.start / GROUP..pages.end.div_ceil(GROUP);
        // A word of the queue is to groups what a group is to pages.
        for (word, mask) in masks(groups) {
            self.queue.at(word).fetch_or(mask, SeqCst);
            self.widen(word);
        }
    }

    fn widen(&self, word: usize) {
        let wider = |span| {
            let Range { start, end } = unpack(span);
            let wide = pack(start.min(word)..end.max(word + 1));
            (wide != span).then_some(wide)
        };
        // An error means that the span is wide enough.
        let _ = self.span.fetch_update(SeqCst, SeqCst, wider);
    }

    /// Whether nothing is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.span.load(SeqCst) == NOBODY
    }

    /// Empties the queue, and calls `f` with the runs of pages in it, from below. Their bits stay. One
    /// caller at a time.
    pub fn drain(&self, mut f: impl FnMut(Range<usize>)) {
        for word in unpack(self.span.swap(NOBODY, SeqCst)) {
            let groups = self.queue.at(word).swap(0, SeqCst);
            for group in runs(groups).flatten().map(|bit| word * 64 + bit) {
                self.going(group * GROUP..(group + 1) * GROUP, &mut f);
            }
        }
    }

    /// The pages that go are closed. Pages between them keep their marks: they may be about to be bound.
    /// In between a page may look live, to nobody: only the one that drains looks.
    pub fn gone(&self, pages: Range<usize>) {
        for (group, mask) in masks(pages) {
            let group = self.groups.at(group);
            let gone = group.going.load(SeqCst) & mask;
            group.bound.fetch_and(!gone, SeqCst);
            group.going.fetch_and(!gone, SeqCst);
        }
    }

    /// Calls `f` with the runs of pages that go.
    pub fn going(&self, pages: Range<usize>, mut f: impl FnMut(Range<usize>)) {
        for (group, mask) in masks(pages) {
            let first = group * GROUP;
            runs(self.groups.at(group).going.load(SeqCst) & mask).for_each(|run| f(first + run.start..first + run.end));
        }
    }
}

impl Group {
    /// Pages of live areas.
    #[inline]
    pub fn live(&self) -> u64 {
        self.bound.load(SeqCst) & !self.going.load(SeqCst)
    }

    /// Pages whose mapping is not open for loads and stores alone.
    #[inline]
    pub fn odd(&self) -> u64 {
        self.sealed.load(SeqCst) | self.exec.load(SeqCst)
    }
}
