//! Linux's figures, as they ship with the program.

use anyhow::{Context, Result};

/// Where they come from stands there.
const FILE: &str = include_str!("linux.csv");
/// What Linux takes to clear a page.
pub const CLEARED_PAGE: f64 = 521.0;

/// A case as Linux does it.
#[derive(Clone, PartialEq, Debug)]
pub struct Figures {
    /// The case's name.
    pub case: String,
    /// Instructions an operation with one possible CPU.
    pub single: Option<u64>,
    /// With several.
    pub multi: Option<u64>,
    /// Pages that an operation clears.
    pub cleared: f64,
    /// What we aim at, where that is more than the bar.
    pub goal: Option<u64>,
}

impl Figures {
    /// All that there are, in the order of the report.
    pub fn read() -> Result<Vec<Figures>> {
        parse(FILE)
    }

    /// What Linux takes to clear an operation's pages.
    pub fn zeroing(&self) -> u64 {
        (self.cleared * CLEARED_PAGE).ceil() as u64
    }

    /// The lower figure, without clearing pages.
    pub fn net(&self) -> Option<u64> {
        let lower = self.single.into_iter().chain(self.multi).min()?;
        Some(lower.saturating_sub(self.zeroing()))
    }

    /// What ours may take at most: a third.
    pub fn bar(&self) -> Option<u64> {
        self.net().map(|net| net / 3)
    }
}

fn parse(text: &str) -> Result<Vec<Figures>> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines.map(|line| row(line).with_context(|| format!("linux.csv: {line}"))).collect()
}

fn row(line: &str) -> Result<Figures> {
    let mut words = line.split(',');
    let mut word = || words.next().context("too few columns");
    let number = |word: &str| (!word.is_empty()).then(|| word.parse()).transpose();
    Ok(Figures {
        case: word()?.to_owned(),
        single: number(word()?)?,
        multi: number(word()?)?,
        cleared: word()?.parse()?,
        goal: number(word()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc_suite::Case;

    fn of(case: &str) -> Figures {
        Figures::read().unwrap().into_iter().find(|figures| figures.case == case).unwrap()
    }

    #[test]
    fn every_case_has_a_row_and_in_the_same_order() {
        let cases: Vec<_> = Figures::read().unwrap().into_iter().map(|figures| figures.case).collect();
        assert_eq!(cases, Case::ALL.map(|case| case.to_string()));
    }

    #[test]
    fn the_lower_figure_counts_and_clearing_does_not() {
        assert_eq!((of("fix_size 1").net(), of("fix_size 1").bar()), (Some(3374), Some(1124)));
        assert_eq!(of("fix_size 256").net(), Some(146_203));
        assert_eq!((of("fix_align").net(), of("fix_align").zeroing()), (Some(5358), 2605));
        assert_eq!(of("random_size_align").net(), Some(5645));
        assert_eq!((of("align_shift").net(), of("align_shift").bar()), (None, None));
    }

    #[test]
    fn a_row_that_is_none_is_named() {
        for wrong in ["fix_size 1,1,2", "fix_size 1,x,2,0,", "fix_size 1,1,2,,"] {
            let why = format!("{:#}", parse(&format!("head\n{wrong}")).unwrap_err());
            assert!(why.contains(wrong), "{why}");
        }
    }
}
