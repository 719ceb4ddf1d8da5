//! How the runs of a case ended, counted as Linux counts them.

use crate::{Case, Error, Ground, Suite};
use core::fmt;
use vmalloc::machine::Machine;

/// Runs, by how they ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Results {
    /// All went well.
    pub passed: u32,
    /// Something went wrong.
    pub failed: u32,
    /// It failed as it is expected to ([`Case::may_be_refused`]).
    pub xfailed: u32,
}

impl Results {
    /// No run yet.
    pub const NONE: Results = Results { passed: 0, failed: 0, xfailed: 0 };
}

/// `passed: 3 failed: 0 xfailed: 0`, as Linux sums up.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "passed: {} failed: {} xfailed: {}", self.passed, self.failed, self.xfailed)
    }
}

impl<M: Machine, G: Ground> Suite<'_, M, G> {
    /// How all runs of this suite ended so far.
    pub fn results(&self) -> Results {
        self.results.get()
    }

    /// Counts a run of `case`.
    pub(crate) fn note(&self, case: Case, ran: &Result<(), Error>) {
        let Results { mut passed, mut failed, mut xfailed } = self.results.get();
        match ran {
            Err(_) => failed += 1,
            Ok(()) if self.refused.get() && case.may_be_refused() => xfailed += 1,
            Ok(()) => passed += 1,
        }
        self.results.set(Results { passed, failed, xfailed });
    }
}
