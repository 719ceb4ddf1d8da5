//! The window: pages that are their own frames, and how they are opened and closed.
//!
//! ```text
//!    first page                 boundary                                        end
//!    │ guard │ area │ guard │ … │ no access, no page table, no memory           │
//!            └ all one mapping, open for loads and stores ┘
//! ```
//!
//! A page that nobody may reach has a *guard*: a mark in the process's page table that makes each
//! access fault and that costs no mapping. The boundary moves up by pieces of 2 MiB, what one page
//! table spans. A piece gets its guards while it is closed, and is opened then: no page of it can be
//! reached at any moment.
//!
//! - **bind**: the guards of a run are removed. Its pages are clear, and Linux finds memory for them when
//!   they are first touched.
//! - **unbind**: the pages are queued. A flush gives them guards again, which gives their memory back
//!   to Linux. Runs that lie close together, with nothing live in between, go in one call: the guards
//!   between them only become guards again.
//!
//! Linux refuses guards where memory is locked (EINVAL), and before 6.13 everywhere. [`shape`] says how
//! such pages are closed.
//!
//! # Rules
//! - **H1** A failed binding leaves nothing reachable.
//! - H2: [`Space::drain`] shuts what [`closing`](crate::closing) names, and says what cannot be
//!   reached any more.
//!
//! # Locks
//! `draining`, then `shape`; the locks of the reservations last and alone.

mod shape;
#[cfg(test)]
mod tests;

use crate::budget::Budget;
use crate::closing::Closing;
use crate::lock::{Held, Lock};
use crate::machine::LogSink;
use crate::marks::{Group, Marks};
use crate::os;
use crate::reserve::Reservation;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use vmalloc::machine::format::Prot;
use vmalloc::machine::{Level, Run};
use vmalloc::units::{PAGE_SHIFT, PageRange};

/// The boundary moves by this number of bytes.
pub const PIECE: usize = 1 << 21;

/// The error number where the budget of mappings is spent: EDQUOT.
pub const BUDGET_SPENT: i32 = libc::EDQUOT;

/// The window of one machine.
#[derive(Debug)]
pub struct Space {
    window: Reservation,
    closing: Closing,
    /// Whether Linux has guards.
    guards: bool,
    /// Whether a piece could not have guards: pieces are not opened as a whole any more.
    locked: AtomicBool,
    /// Held while the queue is worked off.
    draining: Lock<()>,
    /// Held while protections change.
    shape: Lock<()>,
    /// Pages, from the first on, whose borders are counted: those of a piece are before the boundary moves over
    /// it. It changes under the lock of the shape.
    counted: AtomicUsize,
    budget: Budget,
    log: LogSink,
    #[cfg(debug_assertions)]
    faults: vmalloc::machine::faulty::Faults,
}

/// A call and its result.
type Step = (&'static str, Result<(), i32>);

impl Space {
    /// A window of `bytes` bytes, with nothing bound. `log` is told of refusals.
    pub fn new(bytes: usize, guards: bool, wish: Option<usize>, log: LogSink) -> Result<Space, i32> {
        let window = Reservation::new(bytes, PIECE)?;
        let closing = Closing::new(window.range().pages)?;
        // SAFETY: O1: the window is ours.
        unsafe { os::small_pages(window.range()) };
        Ok(Space {
            window,
            closing,
            guards,
            locked: AtomicBool::new(!guards),
            draining: Lock::new(()),
            shape: Lock::new(()),
            counted: AtomicUsize::new(0),
            budget: Budget::new(4 + Marks::MAPPINGS, wish),
            log,
            #[cfg(debug_assertions)]
            faults: Default::default(),
        })
    }

    /// The window's pages.
    pub fn range(&self) -> PageRange {
        self.window.range()
    }

    /// The window ends behind `bytes` from now on, or behind the boundary. Returns the pages behind it.
    pub fn cut(&self, bytes: usize) -> PageRange {
        self.window.cut(bytes)
    }

    /// Bytes below the boundary.
    pub fn open(&self) -> usize {
        self.window.open()
    }

    /// Whether Linux has guards.
    pub fn has_guards(&self) -> bool {
        self.guards
    }

    /// The mappings, and what was refused.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Decides which step fails, for tests.
    #[cfg(debug_assertions)]
    pub fn faults(&self) -> &vmalloc::machine::faulty::Faults {
        &self.faults
    }

    /// Calls `f` with each lock, in order.
    pub fn each_lock(&self, f: &mut dyn FnMut(&dyn Held)) {
        f(&self.draining);
        f(self.window.opening());
        self.marks().reservations().iter().for_each(|reservation| f(reservation.opening()));
        f(&self.shape);
        f(self.budget.lock());
    }

    /// Makes `run` reachable.
    ///
    /// # Errors
    /// EFAULT outside of the window, [`BUDGET_SPENT`], or Linux's own number; H1.
    #[inline]
    pub fn bind(&self, run: Run) -> Result<(), i32> {
        let pages = self.pages(run.pages).ok_or(libc::EFAULT)?;
        self.window.open_with(pages.end << PAGE_SHIFT, |piece| self.open_piece(piece))?;
        self.closing.bind(&pages);
        let plain = run.prot == Prot::RW && !self.marks().any(pages.clone(), Group::odd);
        let bound = if plain { self.remove(run.pages) } else { self.bind_odd(run, pages.clone()) };
        bound.inspect_err(|_| self.unbind_now(pages))
    }

    /// The entries of `range` are cleared: it goes with the next flush.
    #[inline]
    pub fn unbind(&self, range: PageRange) {
        // Above the boundary, or behind the window's end, lie pages of a binding that failed to move it. Those below
        // may be bound all the same: a slice of an area may have been bound in parts.
        let first = self.first(range);
        let pages = first..first.saturating_add(range.pages).min(self.open() >> PAGE_SHIFT);
        if pages.is_empty() {
            return;
        }
        self.closing.unbind(pages);
    }

    /// Takes away what is queued (H2).
    pub fn drain(&self) -> bool {
        let _alone = self.draining.lock();
        self.closing.drain(|pages| self.shut(pages))
    }

    /// What is known of each page.
    fn marks(&self) -> &Marks {
        self.closing.marks()
    }

    /// Pages, counted from the window's start.
    #[inline]
    fn pages(&self, range: PageRange) -> Option<Range<usize>> {
        let (all, first) = (self.window.range().pages, self.first(range));
        (first < all && range.pages <= all - first).then(|| first..first + range.pages)
    }

    /// The first page's number; below the window's start a very high one.
    #[inline]
    fn first(&self, range: PageRange) -> usize {
        range.start.0.wrapping_sub(self.window.range().start.0) >> PAGE_SHIFT
    }

    fn range_of(&self, pages: &Range<usize>) -> PageRange {
        PageRange::new(self.window.range().start.add_pages(pages.start), pages.len())
    }

    /// The boundary moves over `piece`: guards first, so that nothing can be reached.
    fn open_piece(&self, piece: PageRange) -> Result<(), i32> {
        let pages = self.pages(piece).ok_or(libc::EFAULT)?;
        self.marks().cover(pages.end)?;
        if !self.locked.load(Relaxed) {
            // SAFETY: O1, O2: nothing was ever bound there.
            match self.tried("MADV_GUARD_INSTALL", || unsafe { os::install_guards(piece) }) {
                (_, Ok(())) => {
                    let opened = self.step("mprotect", piece, || self.mprotect(piece, os::OPEN));
                    return opened.inspect(|()| self.settle_below(&pages));
                }
                (_, Err(libc::EINVAL)) => self.expect_locks(),
                refused => return self.told(refused, piece),
            }
        }
        self.seal_new(pages);
        Ok(())
    }

    /// Memory is locked: pieces stay closed from here on, and a binding opens what it needs.
    fn expect_locks(&self) {
        self.locked.store(true, Relaxed);
        (self.log)(Level::Info, format_args!("locked memory has no guards: areas cost up to two mappings each"));
    }

    #[inline]
    fn remove(&self, range: PageRange) -> Result<(), i32> {
        // SAFETY: O1: the pages are the window's.
        self.step("MADV_GUARD_REMOVE", range, || unsafe { os::remove_guards(range) })
    }

    /// After a binding that failed: its pages are closed now, or by a later flush.
    #[cold]
    fn unbind_now(&self, pages: Range<usize>) {
        self.closing.unbind(pages);
        self.drain();
    }

    /// No page can be reached afterwards, if it succeeds.
    fn shut(&self, pages: &Range<usize>) -> bool {
        let range = self.range_of(pages);
        self.guard(range, pages).or_else(|_| self.seal(range, pages)).is_ok()
    }

    /// Guards, which is all unless the pages' mapping is odd.
    fn guard(&self, range: PageRange, pages: &Range<usize>) -> Result<(), i32> {
        if !self.guards {
            return Err(libc::EINVAL);
        }
        // SAFETY: O1. O2: none of the pages is live (H3).
        let (call, done) = self.tried("MADV_GUARD_INSTALL", || unsafe { os::install_guards(range) });
        if done.is_ok() && self.marks().any(pages.clone(), Group::odd) {
            self.straighten(range, pages);
        }
        // Locked memory is no refusal that anybody has to hear of.
        if done == Err(libc::EINVAL) { done } else { self.told((call, done), range) }
    }

    /// A fallible step, whose refusal is counted.
    #[inline]
    fn step(&self, call: &'static str, range: PageRange, f: impl FnOnce() -> Result<(), i32>) -> Result<(), i32> {
        let tried = self.tried(call, f);
        if tried.1.is_ok() { tried.1 } else { self.told(tried, range) }
    }

    #[inline]
    fn tried(&self, call: &'static str, f: impl FnOnce() -> Result<(), i32>) -> Step {
        #[cfg(debug_assertions)]
        if self.faults.strike() {
            return (call, Err(libc::ENOMEM));
        }
        (call, f())
    }

    fn told(&self, (call, done): Step, range: PageRange) -> Result<(), i32> {
        let refusal = done.err().and_then(|number| self.budget.refuse(call, range, number));
        refusal.into_iter().for_each(|refusal| (self.log)(Level::Warn, format_args!("{refusal}")));
        done
    }
}
