//! The limit of lines about failures.

use crate::sync::plain::{AtomicU64, Ordering::Relaxed};

/// Nanoseconds between two lines.
const QUIET_NS: u64 = 10_000_000_000;

/// When a line was last printed; without a clock, how many might have been.
#[derive(Debug)]
pub(crate) struct Quiet(AtomicU64);

impl Quiet {
    pub(crate) const fn new() -> Quiet {
        Quiet(AtomicU64::new(0))
    }

    /// Whether a line may be printed at the time of `clock`; it then counts as printed. Of several
    /// CPUs that ask at the same moment one may. Without a clock a line may be printed each time
    /// that the number of failures has doubled.
    pub(crate) fn may_print(&self, clock: impl FnOnce() -> Option<u64>) -> bool {
        let last = self.0.load(Relaxed);
        let Some(now) = clock() else { return (self.0.fetch_add(1, Relaxed) + 1).is_power_of_two() };
        let is_due = last == 0 || now.saturating_sub(last) >= QUIET_NS;
        is_due && self.0.compare_exchange(last, now.max(1), Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn one_line_in_ten_seconds_may_be_printed_from_the_first_moment_on() {
        let quiet = Quiet::new();
        let may = [0, 1, 10_000_000_000, 10_000_000_001, 10_000_000_002].map(|now| quiet.may_print(|| Some(now)));
        assert_eq!(may, [true, false, false, true, false]);
    }

    #[test]
    fn without_a_clock_a_line_may_be_printed_each_time_that_the_failures_have_doubled() {
        let quiet = Quiet::new();
        let printed: Vec<u32> = (1..1000).filter(|_| quiet.may_print(|| None)).collect();
        assert_eq!(printed, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    }

    #[test]
    fn of_two_cpus_that_fail_at_the_same_moment_one_prints() {
        let quiet = Quiet::new();
        for now in (1..9).map(|n| Some(n * QUIET_NS)) {
            let mut other = false;
            // The other CPU asks between this one's look and its exchange.
            let one = quiet.may_print(|| {
                other = quiet.may_print(|| now);
                now
            });
            assert_eq!((one, other), (false, true));
        }
    }
}
