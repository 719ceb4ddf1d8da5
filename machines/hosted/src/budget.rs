//! The VMA budget: how many mappings the process may still make.
//!
//! Linux limits the mappings of a process (`vm.max_map_count`). At the limit
//! everybody's `mmap` fails, malloc's too, and so does an unmapping that would
//! split one. So we stop before it: a sixteenth of the limit, and what the
//! process had when the instance was built, are left alone.
//!
//! # Rules
//! - **B1** Before each call that may make VMAs, [`Budget::take`] books
//!   [`MOST`]; after it, [`Budget::settle`] corrects that to what it made.
//! - **B2** The instances of a process share its limit: `EVERYBODY` counts all
//!   of them.

use std::fs::{self, File};
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// VMAs that one binding can add: it splits a reservation in two, and lies
/// between.
pub const MOST: usize = 2;

/// Linux's default for `vm.max_map_count`, where it cannot be read.
const USUAL_LIMIT: usize = 65530;

/// VMAs of all instances.
static EVERYBODY: AtomicUsize = AtomicUsize::new(0);

/// Mappings of the process, as an instance sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vmas {
    /// Those of this instance.
    pub used: usize,
    /// The most that this instance may have.
    pub allowed: usize,
    /// The most that Linux lets the process have (`vm.max_map_count`).
    pub limit: usize,
}

/// What one instance may use and has used.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    allowed: usize,
    /// What all instances together may use.
    ceiling: usize,
    limit: usize,
}

impl Budget {
    /// The budget of an instance that has `fixed` VMAs for good, and at most
    /// `wish` in all.
    pub fn new(fixed: usize, wish: Option<usize>) -> Budget {
        let limit = limit();
        let others = count_vmas().saturating_sub(EVERYBODY.fetch_add(fixed, Relaxed) + fixed);
        let ceiling = limit.saturating_sub(limit / 16 + others);
        let allowed = wish.map_or(ceiling, |n| n.min(ceiling));
        Budget { used: AtomicUsize::new(fixed), allowed, ceiling, limit }
    }

    /// Books [`MOST`] VMAs, unless that would be too many.
    pub fn take(&self) -> bool {
        let all = EVERYBODY.fetch_add(MOST, Relaxed) + MOST;
        let ours = self.used.fetch_add(MOST, Relaxed) + MOST;
        let fits = all <= self.ceiling && ours <= self.allowed;
        if !fits {
            self.settle(MOST, 0);
        }
        fits
    }

    /// Turns what was booked into what there is.
    pub fn settle(&self, booked: usize, real: usize) {
        for count in [&EVERYBODY, &self.used] {
            count.fetch_add(real.wrapping_sub(booked), Relaxed);
        }
    }

    /// The numbers.
    pub fn vmas(&self) -> Vmas {
        Vmas { used: self.used.load(Relaxed), allowed: self.allowed, limit: self.limit }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        EVERYBODY.fetch_sub(*self.used.get_mut(), Relaxed);
    }
}

/// The most mappings that Linux lets a process have.
pub fn limit() -> usize {
    let read = || fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok();
    read().unwrap_or(USUAL_LIMIT)
}

/// The mappings that the process has now; 0 where nobody tells. It takes no memory: there may be none.
pub fn count_vmas() -> usize {
    let Ok(mut maps) = File::open("/proc/self/maps") else { return 0 };
    let mut some = [0; 4096];
    let mut count = 0;
    while let Ok(bytes @ 1..) = maps.read(&mut some) {
        count += some[..bytes].iter().filter(|&&byte| byte == b'\n').count();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booking_stops_at_the_budget_and_goes_on_after_a_return() {
        let budget = Budget::new(3, Some(8));
        assert!(budget.take() && budget.take());
        assert_eq!(budget.vmas().used, 7);
        assert!(!budget.take(), "9 of 8");
        assert_eq!(budget.vmas().used, 7, "a refusal changes nothing");
        budget.settle(2, 1);
        assert!(budget.take(), "8 of 8");
    }

    #[test]
    fn the_default_leaves_a_sixteenth_of_the_limit_and_what_the_process_has() {
        let budget = Budget::new(3, None);
        let Vmas { used, allowed, limit } = budget.vmas();
        assert_eq!(used, 3);
        assert!(allowed > 0 && allowed < limit - limit / 16, "{allowed} of {limit}");
        assert_eq!(Budget::new(3, Some(usize::MAX)).vmas().limit, limit);
    }
}
