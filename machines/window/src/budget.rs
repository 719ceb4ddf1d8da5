//! The mappings of the process, and what was refused last.
//!
//! An area costs no mapping. Pages whose protection differs from that of the window do: read-only
//! and executable ones, and those that had to be closed by `mprotect` because Linux refuses guards
//! there. At `vm.max_map_count` everybody's `mmap` fails, so this machine stops before it: a
//! sixteenth of the limit, and what the process had when the machine was built, are left alone.

use crate::lock::Lock;
use crate::os;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use vmalloc::units::PageRange;

/// Mappings that one change of protection can add.
const MOST: usize = 2;
/// Changes of protection between two counts of the process's mappings, at least.
const COUNT_AFTER: usize = 256;
/// Linux's default for `vm.max_map_count`, where it cannot be read.
const USUAL_LIMIT: usize = 65530;

/// Mappings of the process, as this machine sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mappings {
    /// Those of this machine: a few that it always has, and one for each border between pages of
    /// different protection.
    pub used: usize,
    /// The most that this machine may have.
    pub allowed: usize,
    /// The most that Linux lets the process have (`vm.max_map_count`).
    pub limit: usize,
}

/// A call that Linux, or the budget, refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The call.
    pub call: &'static str,
    /// Its error number.
    pub number: i32,
    /// The pages that it was about.
    pub pages: PageRange,
    /// The mappings that the process had.
    pub mappings: usize,
    /// The most that Linux lets it have (`vm.max_map_count`).
    pub limit: usize,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { call, number, pages, mappings, limit } = self;
        write!(f, "{call} of {} pages at {}: error {number} ({})", pages.pages, pages.start, os::name(*number))?;
        write!(f, "; the process has {mappings} mappings, vm.max_map_count is {limit}")
    }
}

/// What one machine may use and has used.
#[derive(Debug)]
pub struct Budget {
    fixed: usize,
    borders: AtomicUsize,
    allowed: usize,
    limit: usize,
    /// The mappings of the whole process when they were counted last, and the changes of protection
    /// since then. Pages alike can be several mappings: their users locked some of them, or their memory
    /// came to them apart.
    counted: AtomicUsize,
    since: AtomicUsize,
    refusals: AtomicU64,
    last: Lock<Option<Refusal>>,
}

impl Budget {
    /// The budget of a machine that has `fixed` mappings for good, and at most `wish` in all.
    pub fn new(fixed: usize, wish: Option<usize>) -> Budget {
        let limit = os::most_mappings().unwrap_or(USUAL_LIMIT);
        let counted = os::mappings();
        let ceiling = limit.saturating_sub(limit / 16 + counted.saturating_sub(fixed));
        let allowed = wish.map_or(ceiling, |wish| wish.min(ceiling));
        Budget {
            fixed,
            borders: AtomicUsize::new(0),
            allowed,
            limit,
            counted: AtomicUsize::new(counted),
            since: AtomicUsize::new(0),
            refusals: AtomicU64::new(0),
            last: Lock::new(None),
        }
    }

    /// The numbers.
    pub fn mappings(&self) -> Mappings {
        let used = self.fixed + self.borders.load(Relaxed);
        Mappings { used, allowed: self.allowed, limit: self.limit }
    }

    /// Whether a change of protection fits, by what this machine knows and by what the process has.
    pub fn fits(&self) -> bool {
        let Mappings { used, allowed, .. } = self.mappings();
        used + MOST <= allowed && (self.has_room() || self.count())
    }

    /// The same by the last count, unless that is old: a count takes longer the more there are.
    fn has_room(&self) -> bool {
        let (counted, since) = (self.counted.load(Relaxed), self.since.fetch_add(1, Relaxed) + 1);
        since < COUNT_AFTER.max(counted / 8) && counted + MOST * since <= self.limit - self.limit / 16
    }

    #[cold]
    fn count(&self) -> bool {
        self.counted.store(os::mappings(), Relaxed);
        self.since.store(0, Relaxed);
        self.has_room()
    }

    /// There were `before` borders between some pages, and there are `after`.
    pub fn settle(&self, before: usize, after: usize) {
        self.borders.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    /// Counts and keeps a refusal. Returns it if it is to be told: each time that their number has
    /// doubled.
    #[cold]
    pub fn refuse(&self, call: &'static str, pages: PageRange, number: i32) -> Option<Refusal> {
        let refused = self.refusals.fetch_add(1, Relaxed) + 1;
        let is_told = refused.is_power_of_two();
        // Counting the process's mappings takes a while.
        let mappings = if is_told { os::mappings() } else { self.mappings().used };
        let refusal = Refusal { call, number, pages, mappings, limit: self.limit };
        *self.last.lock() = Some(refusal);
        is_told.then_some(refusal)
    }

    /// The last refusal, unless the caller may not wait and somebody is changing it, and how many there were.
    pub fn last(&self, may_wait: bool) -> (Option<Refusal>, u64) {
        let last = if may_wait { *self.last.lock() } else { self.last.try_lock().and_then(|last| *last) };
        (last, self.refusals.load(Relaxed))
    }

    /// The lock around the last refusal.
    pub fn lock(&self) -> &Lock<Option<Refusal>> {
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc::units::VirtAddr;

    #[test]
    fn borders_count_until_the_budget_is_spent() {
        let budget = Budget::new(3, Some(8));
        assert!(budget.fits());
        budget.settle(0, 3);
        assert!(budget.fits(), "8 of 8");
        budget.settle(1, 2);
        assert_eq!((budget.fits(), budget.mappings().used), (false, 7));
        budget.settle(4, 0);
        assert_eq!(budget.mappings().used, 3);
    }

    #[test]
    fn the_default_leaves_a_sixteenth_of_the_limit_and_what_the_process_has() {
        let Mappings { used, allowed, limit } = Budget::new(3, None).mappings();
        assert_eq!(used, 3);
        assert!(allowed > 0 && allowed < limit - limit / 16, "{allowed} of {limit}");
    }

    #[test]
    fn a_refusal_names_the_call_its_number_and_the_mappings() {
        let budget = Budget::new(3, Some(8));
        let pages = PageRange::new(VirtAddr(0x7000), 2);
        let told: Vec<bool> = (0..5).map(|_| budget.refuse("mprotect", pages, libc::ENOMEM).is_some()).collect();
        assert_eq!(told, [true, true, false, true, false]);
        let (last, count) = budget.last(true);
        let text = last.expect("just now").to_string();
        let limit = budget.mappings().limit;
        let wanted = "mprotect of 2 pages at 0x7000: error 12 (ENOMEM, no memory or too many mappings)";
        assert!(
            text.starts_with(wanted) && text.ends_with(&format!("3 mappings, vm.max_map_count is {limit}")),
            "{text}"
        );
        assert_eq!(count, 5);
    }
}
