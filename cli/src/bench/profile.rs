//! `vmalloc bench profile`: where a case's instructions are spent.

use super::listen;
use super::steps::{self, Steps, Symbols};
use crate::options::{Profile, word};
use crate::qemu::tools::Tools;
use crate::report::table::numbers;
use anyhow::{Context, Result};
use std::fmt::{self, Write};

/// Steps through the case, and prints.
pub fn run(options: &Profile, tools: &Tools) -> Result<bool> {
    let cpus = if options.case == "remote" { 2 } else { 1 };
    let loops = options.loops.map_or(String::new(), |loops| format!(" loops={loops}"));
    let command = format!("bench {} steps{loops}", options.case);
    let records = listen(tools, cpus, vec![format!("policy={}", word(options.policy))], vec![command])?;
    let steps = steps::read(&records)?.pop().context("the machine has not stepped through anything")?;
    let symbols = Symbols::load(&tools.image)?;
    let sums = steps.by(|at| if options.lines { symbols.line(at) } else { symbols.function(at) })?;
    let mut out = String::new();
    write(&mut out, &steps, steps.locked(&symbols)?, &sums, options.most)?;
    crate::print(&out)?;
    Ok(true)
}

fn write(
    out: &mut String,
    steps: &Steps,
    (locks, atomics): (f64, f64),
    sums: &[(String, f64)],
    most: usize,
) -> fmt::Result {
    let all = steps.instructions();
    let mut table = numbers(&["instructions", "share", ""], 0);
    let mut row = |name: &str, n: f64| {
        table.add_row([format!("{n:.1}"), format!("{:.1} %", 100.0 * n / all), name.to_owned()]);
    };
    sums.iter().take(most).for_each(|(name, n)| row(name, *n));
    let rest: f64 = sums.iter().skip(most).map(|(_, n)| n).sum();
    row("all others", rest);
    row("all", all);
    writeln!(out, "{}, {} loops, an operation; interrupts off\n{table}", steps.name, steps.loops)?;
    writeln!(out, "locks taken: {locks:.3}; other locked instructions: {atomics:.3}")
}
