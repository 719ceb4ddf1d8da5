//! `vmalloc bench profile`: where a case's instructions are spent.

use super::listen;
use super::steps::{self, Step, Symbols};
use crate::options::{Profile, word};
use crate::qemu::tools::Tools;
use crate::report::table::numbers;
use anyhow::{Context, Result};
use std::fmt::{self, Write};

/// Steps through the case, and prints.
pub fn run(options: &Profile, tools: &Tools, out: &mut String) -> Result<()> {
    let cpus = if options.case == steps::REMOTE { 2 } else { 1 };
    let loops = options.loops.map_or(String::new(), |loops| format!(" loops={loops}"));
    let command = format!("bench {} steps{loops}", options.case);
    let records = listen(tools, cpus, vec![format!("policy={}", word(options.policy))], vec![command])?;
    let steps = steps::read(&records)?.pop().context("the machine has not stepped through anything")?;
    let symbols = Symbols::load(&tools.image)?;
    let name = |at| if options.lines { symbols.line(at) } else { symbols.function(at) };
    let sums = steps.by(|at, _| name(at).map(Some))?;
    writeln!(out, "{}, {} loops; an operation, interrupts not counted", steps.name, steps.loops)?;
    write(out, "all", &sums, options.most)?;
    let locked = |at, step: &Step| if step.locked { name(at).map(Some) } else { Ok(None) };
    writeln!(out, "\nOf these, locked:")?;
    write(out, "locked", &steps.by(locked)?, options.most)?;
    Ok(())
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
