//! Counting what was found, and telling it.

use crate::tool::{Outcome, Verdict};
use crate::{Kind, Way};
use std::fmt::{self, Display, Formatter};

/// What was found of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Found, or rightly left alone.
    pub good: usize,
    /// Those that died unnamed.
    pub unnamed: usize,
    /// All.
    pub all: usize,
}

impl Count {
    /// Counts those of `outcomes` that are `meant`.
    pub fn of(outcomes: &[Outcome], meant: impl Fn(&Outcome) -> bool) -> Count {
        let mut count = Count::default();
        for outcome in outcomes.iter().filter(|outcome| meant(outcome)) {
            count.all += 1;
            count.good += usize::from(is_good(outcome));
            count.unnamed += usize::from(outcome.verdict == Verdict::Unnamed);
        }
        count
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.good, self.all)
    }
}

/// Whether a run ended as it should.
pub fn is_good(outcome: &Outcome) -> bool {
    matches!(outcome.verdict, Verdict::Found | Verdict::Right)
}

/// A table by kind and way, and what went wrong one by one.
pub struct Told<'a>(pub &'a [Outcome]);

impl Display for Told<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:16}", "")?;
        Way::ALL.iter().try_for_each(|way| write!(f, "{:>12}", way.word()))?;
        writeln!(f)?;
        for kind in Kind::ALL {
            write!(f, "{:16}", kind.word())?;
            for way in Way::ALL {
                let count = Count::of(self.0, |of| (of.case.kind, of.case.way) == (kind, way));
                write!(f, "{:>12}", count.to_string())?;
            }
            writeln!(f)?;
        }
        self.0.iter().filter(|outcome| !is_good(outcome)).try_for_each(|outcome| writeln!(f, "{}", line(outcome)))?;
        self.sum(f)
    }
}

impl Told<'_> {
    fn sum(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bugs = Count::of(self.0, |of| of.case.kind != Kind::None);
        let correct = Count::of(self.0, |of| of.case.kind == Kind::None);
        let unnamed = bugs.unnamed;
        writeln!(f, "{bugs} bugs found ({unnamed} more died unnamed); {correct} correct programs left alone")
    }
}

/// One run, as its program would be called.
fn line(outcome: &Outcome) -> String {
    let case = &outcome.case;
    let verdict = match outcome.verdict {
        Verdict::Found => "found",
        Verdict::Unnamed => "died unnamed",
        Verdict::Missed => "MISSED",
        Verdict::Right => "left alone",
        Verdict::Accused => "ACCUSED",
    };
    let reported = if outcome.reported.is_empty() { "nothing".to_owned() } else { outcome.reported.join(", ") };
    let called = format!("{}: planted {} {} {}", case.language, case.kind.word(), case.size, case.way.word());
    format!("{called}: {verdict} ({}, reported: {reported})", outcome.ended)
}

/// Whether `found` of `all` is a share of `expected`, within five standard deviations of chance.
pub fn is_share(found: usize, all: usize, expected: f64) -> bool {
    let deviation = (all as f64 * expected * (1.0 - expected)).sqrt();
    (found as f64 - all as f64 * expected).abs() <= 5.0 * deviation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Case;

    fn outcome(kind: Kind, verdict: Verdict) -> Outcome {
        let case = Case { language: "C", kind, size: 7, way: Way::Fork };
        Outcome { case, verdict, ended: "signal: 11".to_owned(), reported: vec![] }
    }

    #[test]
    fn what_went_wrong_is_told_so_that_it_can_be_run_again() {
        let outcomes = [
            outcome(Kind::Canary, Verdict::Found),
            outcome(Kind::Canary, Verdict::Unnamed),
            outcome(Kind::Underrun, Verdict::Missed),
            outcome(Kind::None, Verdict::Accused),
        ];
        let told = Told(&outcomes).to_string();
        assert!(told.contains("C: planted underrun 7 fork: MISSED (signal: 11, reported: nothing)\n"), "{told}");
        assert!(told.contains("C: planted none 7 fork: ACCUSED"), "{told}");
        assert!(
            told.ends_with("1 of 3 bugs found (1 more died unnamed); 0 of 1 correct programs left alone\n"),
            "{told}"
        );
    }

    #[test]
    fn a_share_may_differ_by_five_deviations() {
        assert!(is_share(100, 1000, 0.1) && is_share(140, 1000, 0.1) && !is_share(160, 1000, 0.1));
        assert!(!is_share(40, 1000, 0.1) && is_share(10, 10, 1.0) && !is_share(9, 10, 1.0));
    }
}
