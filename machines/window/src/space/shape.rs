//! Pages whose mapping is *odd*: not open for loads and stores alone.
//!
//! ```text
//!   mapping                      of a live page                 of a page that nobody may reach
//!   loads and stores             usual                          usual, with a guard
//!   loads, or with execution     as its area wants it           never: it is usual again
//!   no access                    never                          closed by mprotect: Linux refused a guard
//! ```
//!
//! Linux refuses guards where memory is locked, and before 6.13 everywhere. Pages are closed by
//! `mprotect` then, and emptied by MADV_DONTNEED_LOCKED; a binding opens them by `mprotect`. Each border
//! between pages of different mappings is one mapping more, which is counted ([`Budget`]). A page whose
//! guard is granted later becomes usual again.

use super::{BUDGET_SPENT, Space};
use crate::marks::{Group, Marks};
use crate::os;
use core::ops::Range;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use vmalloc::machine::Run;
use vmalloc::machine::format::Prot;
use vmalloc::units::PageRange;

#[cfg(doc)]
use crate::budget::Budget;

impl Space {
    /// Lets `range`, which is bound, be used as `prot` says.
    ///
    /// # Errors
    /// EFAULT outside of the window, [`BUDGET_SPENT`], or Linux's own number. It may be used as before
    /// then.
    pub fn protect(&self, range: PageRange, prot: Prot) -> Result<(), i32> {
        let pages = self.pages(range).ok_or(libc::EFAULT)?;
        let shape = self.shape.lock();
        self.book(range)?;
        let done = self.step("mprotect", range, || self.mprotect(range, os::protection(prot)));
        match done {
            Ok(()) => self.reshape(pages, prot),
            // Linux may have got as far as a border between two mappings.
            Err(_) => self.each_alike(pages, |pages, bits| {
                if self.mprotect(self.range_of(&pages), bits).is_err() {
                    self.doubt(pages);
                }
            }),
        }
        drop(shape);
        done
    }

    /// Binds pages whose mapping is odd, or becomes odd. Some of them may have guards all the same.
    #[cold]
    pub(super) fn bind_odd(&self, run: Run, pages: Range<usize>) -> Result<(), i32> {
        let shape = self.shape.lock();
        self.book(run.pages)?;
        let done = self.step("mprotect", run.pages, || self.mprotect(run.pages, os::protection(run.prot)));
        done.inspect_err(|_| self.doubt(pages.clone()))?;
        self.reshape(pages, run.prot);
        drop(shape);
        if self.guards { self.remove(run.pages) } else { Ok(()) }
    }

    /// Closes pages that cannot have guards.
    #[cold]
    pub(super) fn seal(&self, range: PageRange, pages: &Range<usize>) -> Result<(), i32> {
        let _shape = self.shape.lock();
        let closed = self.step("mprotect", range, || self.mprotect(range, os::CLOSED));
        closed.inspect_err(|_| self.doubt(pages.clone()))?;
        self.reshape(pages.clone(), Prot::RO);
        // SAFETY: O1. O2: none of the pages is live (H3).
        self.step("MADV_DONTNEED_LOCKED", range, || unsafe { os::discard(range) })
    }

    /// A change was refused, and Linux may have got as far as a border between two mappings: none of the pages
    /// is taken for a usual one until all are known to be.
    #[cold]
    fn doubt(&self, pages: Range<usize>) {
        self.reshape_with(pages, |marks, pages| marks.set(pages, |group| &group.sealed));
    }

    /// Pages that have guards now become usual. They cannot be reached either way, so it may fail.
    #[cold]
    pub(super) fn straighten(&self, range: PageRange, pages: &Range<usize>) {
        let _shape = self.shape.lock();
        if self.mprotect(range, os::OPEN).is_ok() {
            self.reshape(pages.clone(), Prot::RW);
        }
    }

    /// New pages above the boundary that stay closed.
    pub(super) fn seal_new(&self, pages: Range<usize>) {
        self.marks().set(pages.clone(), |group| &group.sealed);
        self.settle_below(&pages);
    }

    pub(super) fn mprotect(&self, range: PageRange, bits: i32) -> Result<(), i32> {
        // SAFETY: O1: the pages are the window's.
        unsafe { os::protect(range, bits) }
    }

    /// Whether a change of protection fits the budget.
    fn book(&self, range: PageRange) -> Result<(), i32> {
        let fits = if self.budget.fits() { Ok(()) } else { Err(BUDGET_SPENT) };
        self.told(("mprotect", fits), range)
    }

    /// The pages have the protection `prot` from here on; under the lock of the shape.
    fn reshape(&self, pages: Range<usize>, prot: Prot) {
        self.reshape_with(pages, |marks, pages| {
            let (stores, runs) = (prot.contains(Prot::WRITE), prot.contains(Prot::EXEC));
            if stores {
                marks.clear(pages.clone(), |g| &g.sealed)
            } else {
                marks.set(pages.clone(), |g| &g.sealed)
            }
            if runs { marks.set(pages, |g| &g.exec) } else { marks.clear(pages, |g| &g.exec) }
        });
    }

    fn reshape_with(&self, pages: Range<usize>, change: impl FnOnce(&Marks, Range<usize>)) {
        let before = self.borders(&pages);
        change(self.marks(), pages.clone());
        self.budget.settle(before, self.borders(&pages));
    }

    /// The border between pages that are new and the one below them.
    pub(super) fn settle_below(&self, pages: &Range<usize>) {
        let _shape = self.shape.lock();
        self.budget.settle(0, self.borders(&(pages.start..pages.start)));
        self.counted.store(pages.end, Relaxed);
    }

    /// Borders between mappings, in and around `pages`.
    fn borders(&self, pages: &Range<usize>) -> usize {
        // The border above them all is settled along with what comes there.
        let end = if pages.end == self.counted.load(Relaxed) && !pages.is_empty() { pages.end } else { pages.end + 1 };
        let odd = |page, bits: fn(&Group) -> u64| self.marks().has(page, bits);
        let kind = |page| (odd(page, |g| g.sealed.load(SeqCst)), odd(page, |g| g.exec.load(SeqCst)));
        (pages.start.max(1)..end).filter(|&page| kind(page) != kind(page - 1)).count()
    }

    /// The protection of a bound page.
    fn bits(&self, page: usize) -> i32 {
        let has = |bits: fn(&Group) -> u64| self.marks().has(page, bits);
        let (sealed, exec) = (has(|g| g.sealed.load(SeqCst)), has(|g| g.exec.load(SeqCst)));
        match (sealed, exec) {
            (true, false) => libc::PROT_READ,
            (true, true) => libc::PROT_READ | libc::PROT_EXEC,
            (false, true) => os::OPEN | libc::PROT_EXEC,
            (false, false) => os::OPEN,
        }
    }

    /// Calls `f` with runs of bound pages whose protections are alike.
    fn each_alike(&self, pages: Range<usize>, mut f: impl FnMut(Range<usize>, i32)) {
        let mut start = pages.start;
        while start < pages.end {
            let bits = self.bits(start);
            let end = (start..pages.end).find(|&page| self.bits(page) != bits).unwrap_or(pages.end);
            f(start..end, bits);
            start = end;
        }
    }
}
