//! What a loop costs.

use crate::{Case, Error, Ground, Suite};
use vmalloc::Counts;
use vmalloc::machine::Machine;

/// What passed while loops ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// By the ground's clock.
    pub clock: u64,
    /// By the instance.
    pub counts: Counts,
}

/// Loops that take about `wanted`, where `loops` took `took`.
pub fn loops_for(wanted: u64, loops: usize, took: u64) -> usize {
    let more = loops as u128 * u128::from(wanted) / u128::from(took.max(1));
    usize::try_from(more).unwrap_or(usize::MAX).max(1)
}

/// What some more loops cost: divide by their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// How many more.
    pub loops: usize,
    /// What they cost.
    pub cost: Span,
}

impl Span {
    /// What passed in this span beyond a shorter one: what is rare may have
    /// happened in that one alone.
    fn beyond(&self, shorter: &Span) -> Span {
        Span { clock: self.clock.wrapping_sub(shorter.clock), counts: self.counts.beyond(&shorter.counts) }
    }
}

impl<M: Machine, G: Ground> Suite<'_, M, G> {
    /// Runs `case` with as many loops three times: unmeasured, so that
    /// everything is warm; then with `loops` and with twice as many. The
    /// difference of the last two is the cost of `loops` loops: what the case
    /// lays in and gives back is in both.
    ///
    /// # Errors
    /// Those of [`Suite::run`].
    pub fn difference(&self, case: Case, loops: usize) -> Result<Difference, Error> {
        self.run(case, loops)?;
        let once = self.span(case, loops)?;
        let twice = self.span(case, 2 * loops)?;
        Ok(Difference { loops, cost: twice.beyond(&once) })
    }

    /// Runs `case`, measured as a whole; all that earlier ones left is purged
    /// before.
    ///
    /// # Errors
    /// Those of [`Suite::run`].
    pub fn span(&self, case: Case, loops: usize) -> Result<Span, Error> {
        self.vm.purge();
        let before = self.vm.stats().counts;
        let start = self.ground.now();
        self.run(case, loops)?;
        let end = self.ground.now();
        Ok(Span { clock: end.wrapping_sub(start), counts: self.vm.stats().counts.since(&before) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(clock: u64, allocs: u64, chunks_made: u64) -> Span {
        Span { clock, counts: Counts { allocs, chunks_made, ..Counts::default() } }
    }

    #[test]
    fn loops_are_as_many_as_take_the_time() {
        assert_eq!(loops_for(1_000_000_000, 5_000, 20_000_000), 250_000);
        assert_eq!(loops_for(1_000, 1, 5_000), 1, "one at least");
        assert_eq!(loops_for(1_000, 7, 0), 7_000, "a clock that did not move");
        assert_eq!(loops_for(u64::MAX, usize::MAX, 1), usize::MAX);
    }

    #[test]
    fn what_happened_less_often_in_the_longer_span_did_not_happen() {
        assert_eq!(span(900, 20, 3).beyond(&span(500, 10, 5)), span(400, 10, 0));
    }
}
