//! Looks: reads of the page tables by callers that are inside no CPU, at addresses that they do not
//! own.
//!
//! # Rules
//! - T1, looks: no table page becomes free memory during a look. A caller that looks is pinned, and
//!   its CPU does not flush meanwhile: a flush that an NMI is asked for is put off until the look
//!   is over. A flush that speaks for all CPUs counts only if no look is under way. Both sides do a
//!   read-modify-write on the same word, so the later one sees the earlier one: a look that begins
//!   later sees the unlinked table as gone.

use crate::sync::{AtomicU32, Ordering::*};

/// How often a flush of all CPUs tests for the end of the looks on one CPU.
const TURNS: usize = 1000;

/// The number of looks that are under way on one CPU.
#[derive(Debug, Default)]
pub struct Looks(AtomicU32);

impl Looks {
    /// Calls `look`, which may follow any link that is there when it is called.
    #[inline]
    pub fn during<R>(&self, look: impl FnOnce() -> R) -> R {
        self.0.fetch_add(1, SeqCst);
        let result = look();
        self.0.fetch_sub(1, SeqCst);
        result
    }

    /// On its own CPU: whether a look is under way. The caller has then interrupted it.
    #[inline]
    pub fn are_under_way(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Every look has ended, also those whose ends were not counted.
    pub fn forget(&self) {
        self.0.store(0, SeqCst);
    }

    /// Whether all looks that began before this call have ended.
    fn have_ended(&self) -> bool {
        self.0.fetch_add(0, SeqCst) == 0
    }

    /// Whether all looks on all CPUs that began before this call have ended. Waits a bounded time
    /// and calls `relax` between two tests. Returns false if a look did not end; the caller itself
    /// may have interrupted it.
    pub fn are_over<'l>(mut all: impl Iterator<Item = &'l Looks>, relax: impl Fn()) -> bool {
        let ended = |looks: &Looks| {
            let ended = looks.have_ended();
            if !ended {
                relax();
            }
            ended
        };
        let turns = if cfg!(loom) { 1 } else { TURNS };
        all.all(|looks| (0..turns).any(|_| ended(looks)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn a_flush_of_all_cpus_waits_for_those_who_look_but_not_for_ever() {
        let (looks, turns) = ([Looks::default(), Looks::default()], Cell::new(0));
        let relax = || {
            turns.set(turns.get() + 1);
            if turns.get() == 7 {
                looks[1].0.fetch_sub(1, SeqCst);
            }
        };
        looks[1].0.fetch_add(1, SeqCst);
        assert!(Looks::are_over(looks.iter(), relax));
        assert_eq!(turns.get(), 7);
        // A caller inside a look cannot wait for the end of that look.
        assert!(!looks[0].during(|| Looks::are_over(looks.iter(), relax)));
        assert_eq!(turns.get(), 7 + TURNS);
    }

    #[test]
    fn looks_whose_callers_are_gone_are_waited_for_until_they_are_forgotten() {
        let looks = [Looks::default()];
        looks[0].0.fetch_add(2, SeqCst);
        assert!(!Looks::are_over(looks.iter(), || ()) && looks[0].are_under_way());
        looks[0].forget();
        assert!(Looks::are_over(looks.iter(), || ()) && !looks[0].are_under_way());
    }
}
