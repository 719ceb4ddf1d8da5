//! Which pages a flush closes, and why none of them is live.
//!
//! ```text
//!   bind(pages)      marked as bound ── waits while a flush is at work across them
//!   unbind(pages)    queued: they go with the next flush
//!   drain(shut)      takes the queue; each run of pages is shut, several in one call if they lie close
//! ```
//!
//! Nothing here calls Linux: `shut` does, and says whether the pages cannot be reached any more.
//!
//! # Rules
//! - **H2** [`Closing::drain`] returns true only if all that was unbound before the call was shut.
//!   What was not is queued again.
//! - **H3** A flush that joins runs first publishes the pages from the first to the last, and then
//!   looks for live pages between them. A binding first marks its pages, and then waits until no such
//!   range meets them. So one of the two sees the other. The marks of a binding that waits stay: a
//!   flush takes those of the pages that went, and no others.

use crate::cpu::yield_now;
use crate::marks::{Group, Marks, pack, unpack};
use crate::sync::{AtomicU64, Ordering::*};
use core::mem;
use core::ops::Range;

/// The most pages between two runs that go in one call. Guarding a guard again costs a few
/// nanoseconds; a call costs some hundred.
const GAP: usize = 32;

/// Pages that are bound, and pages that go.
#[derive(Debug)]
pub struct Closing {
    marks: Marks,
    /// The first run that was unbound since the last flush, if it is in no queue: under Strict it is the
    /// only one. 0 = none.
    lone: AtomicU64,
    /// The pages that a flush is closing (H3).
    range: AtomicU64,
}

impl Closing {
    /// Nothing is bound of `pages` pages.
    pub fn new(pages: usize) -> Result<Closing, i32> {
        Ok(Closing { marks: Marks::new(pages)?, lone: AtomicU64::new(0), range: AtomicU64::new(0) })
    }

    /// What is known of each page.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The pages are bound: none of them is shut before they were unbound (H3).
    #[inline]
    pub fn bind(&self, pages: &Range<usize>) {
        self.marks.set(pages.clone(), |group| &group.bound);
        while self.is_at_work(pages) {
            yield_now();
        }
    }

    #[inline]
    fn is_at_work(&self, pages: &Range<usize>) -> bool {
        let range = unpack(self.range.load(SeqCst));
        range.start < pages.end && pages.start < range.end
    }

    /// The pages, which are bound, go with the next flush.
    #[inline]
    pub fn unbind(&self, pages: Range<usize>) {
        if self.lone.compare_exchange(0, pack(pages.clone()), SeqCst, Relaxed).is_err() {
            self.marks.enqueue(pages);
        }
    }

    /// Shuts what is queued (H2). One caller at a time.
    pub fn drain(&self, mut shut: impl FnMut(&Range<usize>) -> bool) -> bool {
        let lone = self.lone.swap(0, SeqCst);
        if self.marks.is_empty() {
            return lone == 0 || self.close_lone(unpack(lone), shut);
        }
        if lone != 0 {
            self.marks.enqueue(unpack(lone));
        }
        let (mut last, mut parts, mut all) = (0..0, 0, true);
        self.marks.drain(|run| {
            if parts > 0 && run.start - last.end <= GAP && !self.marks.any(last.end..run.start, Group::live) {
                (last.end, parts) = (run.end, parts + 1);
            } else {
                all &= self.close_run(mem::replace(&mut last, run), mem::replace(&mut parts, 1), &mut shut);
            }
        });
        self.close_run(last, parts, &mut shut) && all
    }

    /// Closes a run that was joined of `parts`, or else each of them; true = all of it.
    fn close_run(&self, pages: Range<usize>, parts: usize, shut: &mut impl FnMut(&Range<usize>) -> bool) -> bool {
        match parts {
            0 => true,
            1 => self.close(pages, shut),
            _ => self.close_joined(pages, shut),
        }
    }

    /// Closes a run that is in no queue, and of which no mark says that it goes.
    fn close_lone(&self, pages: Range<usize>, mut shut: impl FnMut(&Range<usize>) -> bool) -> bool {
        let closed = shut(&pages);
        if closed {
            self.marks.clear(pages, |group| &group.bound);
        } else {
            self.marks.enqueue(pages);
        }
        closed
    }

    /// H3.
    fn close_joined(&self, pages: Range<usize>, shut: &mut impl FnMut(&Range<usize>) -> bool) -> bool {
        self.range.store(pack(pages.clone()), SeqCst);
        let is_idle = !self.marks.any(pages.clone(), Group::live);
        let mut all = is_idle && self.close(pages.clone(), shut);
        self.range.store(0, SeqCst);
        if !is_idle {
            all = true;
            self.marks.going(pages, |run| all &= self.close(run, shut));
        }
        all
    }

    /// Closes the pages that go, and those between them, of which none is live.
    fn close(&self, pages: Range<usize>, shut: &mut impl FnMut(&Range<usize>) -> bool) -> bool {
        let closed = shut(&pages);
        if closed {
            self.marks.gone(pages);
        } else {
            self.marks.enqueue_again(pages);
        }
        closed
    }
}
