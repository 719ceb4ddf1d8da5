//! `vmalloc bench profile`: where a case's instructions are spent.
//!
//! Stepped through are the loops of the image that `bench linux` counts: the same
//! code at the same addresses, on the same machine, which has counted them before.
//! What it counted has the tick in it, and more loops.

use super::listen;
use super::measured;
use super::steps::{self, Step, Symbols};
use crate::options::{Profile, word};
use crate::qemu::record::Record;
use crate::qemu::tools::Tools;
use crate::report::table::numbers;
use anyhow::{Context, Result};
use std::fmt::{self, Write};

/// Steps through the case, and prints.
pub fn run(options: &Profile, tools: &Tools, out: &mut String) -> Result<()> {
    let cpus = if options.case == steps::REMOTE { 2 } else { 1 };
    let loops = options.loops.map_or(String::new(), |loops| format!(" loops={loops}"));
    let step = format!("bench {} steps{loops}", options.case);
    let count = (options.case != steps::REMOTE).then(|| format!("bench {}", options.case));
    let commands = count.into_iter().chain([step]).collect();
    let records = listen(tools, cpus, vec![format!("policy={}", word(options.policy))], commands)?;
    let steps = steps::read(&records)?.pop().context("the machine has not stepped through anything")?;
    let symbols = Symbols::load(&tools.image)?;
    let name = |at| if options.lines { symbols.line(at) } else { symbols.function(at) };
    let sums = steps.by(|at, _| name(at).map(Some))?;
    writeln!(out, "{}, {} loops; an operation, interrupts not counted", steps.name, steps.loops)?;
    if let Some(counted) = counted(&records, &steps.name)? {
        writeln!(out, "Counted without steps, with the tick: {counted:.3}")?;
    }
    write(out, "all", &sums, options.most)?;
    let locked = |at, step: &Step| if step.locked { name(at).map(Some) } else { Ok(None) };
    writeln!(out, "\nOf these, locked:")?;
    write(out, "locked", &steps.by(locked)?, options.most)?;
    Ok(())
}

/// What `bench linux` tells of the case: instructions an operation.
fn counted(records: &[Record], case: &str) -> Result<Option<f64>> {
    if records.iter().all(|record| record.name != "case") {
        return Ok(None);
    }
    let cases = measured::read(records, |_| false)?;
    Ok(cases.into_iter().find(|(name, _)| name == case).map(|(_, of)| of.gross))
}

fn write(out: &mut String, what: &str, sums: &[(String, f64)], most: usize) -> fmt::Result {
    let all: f64 = sums.iter().map(|(_, n)| n).sum();
    let mut table = numbers(&["instructions", "share", "where"], 0);
    let mut row = |name: &str, n: f64| {
        table.add_row([format!("{n:>10.3}"), format!("{:>5.1} %", 100.0 * n / all.max(1.0)), name.to_owned()]);
    };
    sums.iter().take(most).for_each(|(name, n)| row(name, *n));
    if sums.len() > most {
        row("others", sums.iter().skip(most).map(|(_, n)| n).sum());
    }
    row(what, all);
    writeln!(out, "{table}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bench_counts_of_the_case_stands_beside_its_steps() {
        let case = "@case name=full_fit loops=10 clock=4123 allocs=10 pages=10 collected=9 flushes=0 kicks=0 purges=0 \
                    chunks=0 held=7 passed=3 failed=0 xfailed=0";
        let records = ["@bench cpus=1 zero=520", case].map(|line| Record::parse(line).unwrap());
        assert_eq!(counted(&records, "full_fit").unwrap(), Some(412.3));
        assert_eq!(counted(&records, "fix_align").unwrap(), None);
        assert_eq!(counted(&[], "remote").unwrap(), None);
    }
}
