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

use crate::reserve::Reservation;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::*};
use vmalloc::units::PAGE_SIZE;

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

/// The bits of all pages.
#[derive(Debug)]
pub struct Marks {
    groups: Reservation,
    queue: Reservation,
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
fn masks(pages: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    (pages.start / GROUP..pages.end.div_ceil(GROUP)).map(move |group| {
        let first = pages.start.saturating_sub(group * GROUP);
        let end = (pages.end - group * GROUP).min(GROUP);
        (group, u64::MAX << first & u64::MAX >> (GROUP - end))
    })
}

/// The runs of set bits, from below.
fn runs(mut bits: u64) -> impl Iterator<Item = Range<usize>> {
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
        let groups = Reservation::new(pages.div_ceil(GROUP) * size_of::<Group>(), 1 << 16)?;
        let queue = Reservation::new(pages.div_ceil(QUEUED) * size_of::<AtomicU64>(), PAGE_SIZE)?;
        Ok(Marks { groups, queue, span: AtomicU64::new(NOBODY) })
    }

    /// Gives the first `pages` pages marks.
    pub fn cover(&self, pages: usize) -> Result<(), i32> {
        self.queue.open_to(pages.div_ceil(QUEUED) * size_of::<AtomicU64>())?;
        self.groups.open_to(pages.div_ceil(GROUP) * size_of::<Group>())
    }

    /// Mappings that the marks cost.
    pub const MAPPINGS: usize = 4;

    /// The reservations, whose boundaries may move.
    pub fn reservations(&self) -> [&Reservation; 2] {
        [&self.queue, &self.groups]
    }

    #[inline]
    fn group(&self, n: usize) -> &Group {
        let at = self.groups.at(n * size_of::<Group>()).cast();
        // SAFETY: the reservation's, open since the pages were covered, cleared by Linux, aligned.
        unsafe { at.as_ref() }
    }

    #[inline]
    fn queued(&self, n: usize) -> &AtomicU64 {
        let at = self.queue.at(n * size_of::<AtomicU64>()).cast();
        // SAFETY: as above.
        unsafe { at.as_ref() }
    }

    /// Sets a bit of each page.
    #[inline]
    pub fn set(&self, pages: Range<usize>, which: impl Fn(&Group) -> &AtomicU64) {
        masks(pages).for_each(|(group, mask)| _ = which(self.group(group)).fetch_or(mask, SeqCst));
    }

    /// Clears a bit of each page.
    #[inline]
    pub fn clear(&self, pages: Range<usize>, which: impl Fn(&Group) -> &AtomicU64) {
        for (group, mask) in masks(pages) {
            let bits = which(self.group(group));
            // A load costs less, and nobody sets bits of these pages meanwhile.
            if bits.load(SeqCst) & mask != 0 {
                bits.fetch_and(!mask, SeqCst);
            }
        }
    }

    /// Whether `bits` names any of the pages.
    #[inline]
    pub fn any(&self, pages: Range<usize>, bits: impl Fn(&Group) -> u64) -> bool {
        masks(pages).any(|(group, mask)| bits(self.group(group)) & mask != 0)
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
            self.queued(word).fetch_or(mask, SeqCst);
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
            let groups = self.queued(word).swap(0, SeqCst);
            for group in runs(groups).flatten().map(|bit| word * 64 + bit) {
                self.going(group * GROUP..(group + 1) * GROUP, &mut f);
            }
        }
    }

    /// The pages that go are closed. Pages between them keep their marks: they may be about to be bound.
    pub fn gone(&self, pages: Range<usize>) {
        for (group, mask) in masks(pages) {
            let group = self.group(group);
            let gone = group.going.load(SeqCst) & mask;
            // In this order: a page that is bound and does not go would be live.
            group.bound.fetch_and(!gone, SeqCst);
            group.going.fetch_and(!gone, SeqCst);
        }
    }

    /// Calls `f` with the runs of pages that go.
    pub fn going(&self, pages: Range<usize>, mut f: impl FnMut(Range<usize>)) {
        for (group, mask) in masks(pages) {
            let first = group * GROUP;
            runs(self.group(group).going.load(SeqCst) & mask).for_each(|run| f(first + run.start..first + run.end));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(pages: usize) -> Marks {
        let marks = Marks::new(pages).expect("addresses");
        marks.cover(pages).expect("memory");
        marks
    }

    fn drained(marks: &Marks) -> Vec<Range<usize>> {
        let mut all = Vec::new();
        marks.drain(|run| all.push(run));
        all
    }

    #[test]
    fn masks_name_each_page_once() {
        let all: Vec<_> = masks(62..129).collect();
        assert_eq!(all, [(0, 0b11 << 62), (1, u64::MAX), (2, 1)]);
        assert_eq!(masks(5..5).map(|(_, mask)| mask).sum::<u64>(), 0);
    }

    #[test]
    fn runs_of_bits_come_from_below() {
        let of = |bits| runs(bits).collect::<Vec<_>>();
        assert_eq!(of(0), []);
        assert_eq!(of(!1), vec![1..64]);
        assert_eq!(of(1 << 63 | 0b1101), [0..1, 2..4, 63..64]);
    }

    #[test]
    fn what_goes_is_drained_once_from_below_and_stays_marked() {
        let marks = marks(100_000);
        for run in [99_000..99_001, 4090..4100, 3..5, 62..66] {
            marks.enqueue(run);
        }
        assert_eq!(drained(&marks), [3..5, 62..64, 64..66, 4090..4096, 4096..4100, 99_000..99_001]);
        assert_eq!(drained(&marks), []);
        assert!(marks.has(4099, |group| group.going.load(SeqCst)));
        marks.clear(3..5, |group| &group.going);
        marks.enqueue_again(3..63);
        assert_eq!(drained(&marks), vec![62..64]);
    }

    #[test]
    fn what_is_gone_leaves_the_marks_of_the_pages_in_between() {
        let marks = marks(200);
        marks.set(60..70, |group| &group.bound);
        marks.enqueue(60..62);
        marks.enqueue(65..70);
        marks.gone(60..70);
        let bound: Vec<usize> = (0..200).filter(|&page| marks.has(page, |group| group.bound.load(SeqCst))).collect();
        assert_eq!(bound, [62, 63, 64]);
        assert!(!marks.any(0..200, |group| group.going.load(SeqCst)));
    }

    #[test]
    fn a_page_that_goes_is_not_live() {
        let marks = marks(200);
        marks.set(60..70, |group| &group.bound);
        assert!(marks.any(0..61, Group::live) && !marks.any(70..200, Group::live));
        marks.enqueue(60..69);
        assert!(!marks.any(0..69, Group::live) && marks.has(69, Group::live));
    }
}
