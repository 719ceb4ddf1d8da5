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

/// What some more loops cost: divide by their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// How many more.
    pub loops: usize,
    /// What they cost.
    pub cost: Span,
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
        let cost = Span { clock: twice.clock.wrapping_sub(once.clock), counts: twice.counts.since(&once.counts) };
        Ok(Difference { loops, cost })
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
