//! What the guest counted, an operation.

use crate::qemu::record::Record;
use anyhow::{Context, Result};

/// A case on our machine.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Measured {
    /// Instructions an operation, with everything.
    pub gross: f64,
    /// Of which clear pages.
    pub zeroing: f64,
    /// Pages an operation.
    pub pages: f64,
    /// Pages that came back after grace, an operation.
    pub collected: f64,
    /// Flushes for a million pages.
    pub flushes: f64,
    /// Kicks (inter-processor interrupts) for a million pages.
    pub kicks: f64,
    /// Chunks made for a million pages.
    pub chunks: f64,
    /// Frames that are neither free nor an area's, at the end.
    pub held: u64,
    /// Runs that passed, failed, and failed as they are expected to.
    pub results: [u64; 3],
}

impl Measured {
    /// Without clearing pages.
    pub fn net(&self) -> f64 {
        self.gross - self.zeroing
    }
}

/// Each case of a run, by its name.
pub fn read(records: &[Record], cleared: impl Fn(&str) -> bool) -> Result<Vec<(String, Measured)>> {
    let about = records.iter().find(|record| record.name == "bench").context("the guest has not said @bench")?;
    let zero = about.number("zero")? as f64;
    let cases = records.iter().filter(|record| record.name == "case");
    cases.map(|record| case(record, zero, &cleared)).collect()
}

fn case(record: &Record, zero: f64, cleared: &impl Fn(&str) -> bool) -> Result<(String, Measured)> {
    let name = record.text("name")?.to_owned();
    let number = |key| record.number(key).map(|n| n as f64);
    let (loops, pages) = (number("loops")?, number("pages")?);
    let a_million = |n: f64| n * 1e6 / pages.max(1.0);
    let measured = Measured {
        gross: number("clock")? / loops,
        zeroing: if cleared(&name) { pages / loops * zero } else { 0.0 },
        pages: pages / loops,
        collected: number("collected")? / loops,
        flushes: a_million(number("flushes")?),
        kicks: a_million(number("kicks")?),
        chunks: a_million(number("chunks")?),
        held: record.number("held")?,
        results: [record.number("passed")?, record.number("failed")?, record.number("xfailed")?],
    };
    Ok((name, measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: &str = "@bench cpus=1 zero=520";
    const CASE: &str = "@case name=fix_align loops=10 clock=40000 allocs=10 pages=50 collected=50 flushes=1 kicks=0 \
                        purges=0 chunks=0 held=7 passed=3 failed=0 xfailed=1";

    fn read_lines(lines: &[&str], cleared: bool) -> Result<Vec<(String, Measured)>> {
        let records: Vec<_> = lines.iter().map(|line| Record::parse(line).unwrap()).collect();
        read(&records, |_| cleared)
    }

    #[test]
    fn sums_become_figures_an_operation() {
        let (name, of) = read_lines(&[ABOUT, CASE], true).unwrap().remove(0);
        assert_eq!((name.as_str(), of.gross, of.zeroing, of.net()), ("fix_align", 4000.0, 2600.0, 1400.0));
        assert_eq!((of.pages, of.flushes, of.held), (5.0, 20_000.0, 7));
        assert_eq!(of.results, [3, 0, 1]);
    }

    #[test]
    fn only_cases_that_clear_pages_have_a_net_figure_of_their_own() {
        let (_, of) = read_lines(&[ABOUT, CASE], false).unwrap().remove(0);
        assert_eq!(of.net(), of.gross);
    }

    #[test]
    fn figures_without_what_they_rest_on_are_refused() {
        assert_eq!(read_lines(&[CASE], true).unwrap_err().to_string(), "the guest has not said @bench");
        let why = read_lines(&[ABOUT, "@case name=full_fit loops=1"], true).unwrap_err();
        assert_eq!(why.to_string(), "the guest's @case has no pages");
    }
}
