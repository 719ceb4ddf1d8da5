//! Looks: walks to the entries of whatever area lives then, by callers that are
//! inside no CPU.
//!
//! # Rules
//! - T1, looks: While anybody looks no table page becomes free memory. Who looks is
//!   pinned, so its CPU does not flush meanwhile: what an NMI is to discard there is
//!   put off until the look is over. And a flush that speaks for all CPUs
//!   counts only if nobody looks. Both sides exchange the same word: who begins later
//!   sees what was unlinked before.

use crate::sync::{AtomicU32, Ordering::*};

/// Turns that a flush of all CPUs waits for those who look.
const TURNS: usize = 1000;

/// The looks on one CPU that are under way.
#[derive(Debug, Default)]
pub struct Looks(AtomicU32);

impl Looks {
    /// Calls `look`, which may follow what is linked when it is called.
    #[inline]
    pub fn during<R>(&self, look: impl FnOnce() -> R) -> R {
        self.0.fetch_add(1, SeqCst);
        let result = look();
        self.0.fetch_sub(1, SeqCst);
        result
    }

    /// On its own CPU: whether there are any, which the caller has interrupted then.
    #[inline]
    pub fn are_under_way(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Whether all that began before this call have ended.
    fn have_ended(&self) -> bool {
        self.0.fetch_add(0, SeqCst) == 0
    }

    /// Whether all looks that began before this call have ended, on all CPUs; `relax`
    /// is called between two questions. False = somebody, perhaps the caller's own
    /// interrupted call, did not end.
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
        // Who looks itself has interrupted somebody who does.
        assert!(!looks[0].during(|| Looks::are_over(looks.iter(), relax)));
        assert_eq!(turns.get(), 7 + TURNS);
    }
}
