//! `vmalloc bench latency`: the longest single call.

use super::steps::{self, Steps, Symbols};
use super::{Guest, hear};
use crate::qemu::record::{BadRecord, Record};
use crate::qemu::tools::Tools;
use crate::report::table::{grouped, numbers};
use anyhow::Result;
use std::fmt::{self, Write};

/// 100,000 areas, and room for what waits.
const MEMORY: u64 = 2 << 30;
/// A call may take so many times its class's median, or so many instructions.
const TIMES: u64 = 20;
const ALWAYS: u64 = 4_000;
/// Functions that are told of a call.
const MOST_TOLD: usize = 5;

const CAPTION: &str = "\
Instructions of a single call; policy Unmap, 100,000 live areas, a million random operations, one CPU, not interrupted. The
tick comes by hand after every 3,000 areas and is told apart, as are calls that waited for a flush (forced).
bound: 20 medians of the class, or 4,000, whichever is more.";

struct Kind {
    name: String,
    count: u64,
    median: u64,
    longest: u64,
    /// The number of that call.
    number: u64,
    forced: u64,
    longest_forced: u64,
}

impl Kind {
    fn read(of: &Record) -> Result<Kind, BadRecord> {
        let name = match (of.number("least")?, of.number("most")?) {
            (0, _) => of.text("of")?.to_owned(),
            (1, 1) => format!("{}, 1 page", of.text("of")?),
            (least, most) => format!("{}, {least}-{most} pages", of.text("of")?),
        };
        let number = |key| of.number(key);
        let (count, median, longest) = (number("count")?, number("median")?, number("longest")?);
        let (forced, longest_forced) = (number("forced")?, number("longest_forced")?);
        Ok(Kind { name, count, median, longest, number: number("number")?, forced, longest_forced })
    }

    fn bound(&self) -> u64 {
        (TIMES * self.median).max(ALWAYS)
    }
}

/// Measures, and writes the table.
pub fn run(tools: &Tools, out: &mut String) -> Result<()> {
    let records = guest(tools, "bench latency".to_owned())?;
    let records = records.iter().filter(|record| record.name == "latency");
    let kinds: Vec<Kind> = records.map(Kind::read).collect::<Result<_, _>>()?;
    write(out, &kinds)?;
    // The same once more, for the longest calls step by step.
    let numbers: Vec<String> = kinds.iter().map(|of| of.number.to_string()).collect();
    let stepped = steps::read(&guest(tools, format!("bench latency calls={}", numbers.join(",")))?)?;
    write_longest(out, &kinds, &stepped, &Symbols::load(&tools.image)?)
}

fn guest(tools: &Tools, command: String) -> Result<Vec<Record>> {
    hear(tools, Guest { exact: true, memory: MEMORY, commands: vec![command], ..Guest::default() }, &mut |_| ())
}

/// Where the longest calls spent their time: in which functions, with what is
/// inlined into them.
fn write_longest(out: &mut String, kinds: &[Kind], stepped: &[Steps], symbols: &Symbols) -> Result<()> {
    writeln!(out, "\nThe longest calls, by function, with what is inlined:")?;
    for kind in kinds {
        let Some(steps) = stepped.iter().find(|steps| steps.name == kind.number.to_string()) else { continue };
        let sums = steps.by(|at, _| symbols.whole(at).map(Some))?;
        let most = sums.iter().take(MOST_TOLD).map(|(name, n)| format!("{name} {}", grouped(*n as u64)));
        writeln!(out, "  {}: {}", kind.name, most.collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}

fn write(out: &mut String, kinds: &[Kind]) -> fmt::Result {
    let titles = ["call", "count", "median", "longest", "bound", "forced", "longest forced"];
    let mut table = numbers(&titles, titles.len() - 1);
    for of in kinds {
        let figures = [of.count, of.median, of.longest, of.bound(), of.forced, of.longest_forced].map(grouped);
        table.add_row(std::iter::once(of.name.clone()).chain(figures));
    }
    writeln!(out, "{table}\n{CAPTION}\n")?;
    let misses: Vec<&str> = kinds.iter().filter(|of| of.longest > of.bound()).map(|of| of.name.as_str()).collect();
    match misses.as_slice() {
        [] => writeln!(out, "Every call is within its bound."),
        misses => writeln!(out, "Beyond the bound: {}.", misses.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(median: u64, longest: u64) -> String {
        let line = format!(
            "@latency of=free least=2 most=4 count=9 median={median} longest={longest} number=7 forced=0 longest_forced=0"
        );
        let kind = Kind::read(&Record::parse(&line).unwrap()).unwrap();
        let mut out = String::new();
        write(&mut out, &[kind]).unwrap();
        out
    }

    #[test]
    fn a_call_beyond_twenty_medians_is_named() {
        assert!(told(700, 14_000).contains("Every call is within its bound."));
        assert!(told(700, 14_001).contains("Beyond the bound: free, 2-4 pages."));
        assert!(told(278, 5_561).contains("Beyond the bound: free, 2-4 pages."), "of small classes too");
    }

    #[test]
    fn a_call_of_four_thousand_instructions_is_never_too_long() {
        assert!(told(150, 4_000).contains("Every call is within its bound."));
        assert!(told(150, 4_001).contains("Beyond the bound: free, 2-4 pages."));
    }
}
