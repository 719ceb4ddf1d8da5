//! The tables of `bench guard`.

use super::{Figures, Load};
use crate::options::guard::GuardBench;
use crate::report::table::{bytes, grouped, numbers};
use std::fmt::{self, Write};

const BUGS: &str = "\
Planted bugs in C: overruns, underruns, uses after free, double and invalid frees, a byte past the end; in one thread, in
another one, in a child, with realloc. stopped: the program died (under glibc alone of what it had done to the heap). named: and
the tool said of what kind. goes on after: kinds of which it survived at least one. accused: correct programs that did not end as they
should (electric-fence has no aligned_alloc, and aligns to 4 bytes where C promises 16).";

const LOADS: &str = "\
ns: nanoseconds of CPU time (user and system) to free one of the live objects, of 16 to 512 bytes, and to make another one.
Beside it times what it takes under glibc alone, the most memory that the process had, and its mappings at the end.";

/// Characters of what a dying program said.
const SAID: usize = 100;

/// Writes all of it.
pub fn write(out: &mut String, figures: &Figures, options: &GuardBench) -> fmt::Result {
    let mut table = numbers(&["tool", "goes on after", "stopped", "named", "of bugs", "accused", "of correct ones"], 5);
    for bugs in &figures.bugs {
        let counts = [bugs.stopped, bugs.named, bugs.bugs, bugs.accused, bugs.correct];
        let words = [bugs.tool.to_owned(), bugs.goes_on.join(", ")];
        table.add_row(words.into_iter().chain(counts.map(|n| grouped(n as u64))));
    }
    writeln!(out, "{table}\n{BUGS}\n")?;
    let mut table = numbers(&["live", "tool", "ns", "times glibc", "memory", "mappings"], 4);
    for load in &figures.loads {
        table.add_row(row(load));
    }
    writeln!(out, "{table}\n{LOADS}\n{} replacements; the least of {}.", grouped(options.replace), options.rounds)?;
    for load in figures.loads.iter().filter(|load| load.died.is_some()) {
        writeln!(out, "{} with {} live objects: {}", load.tool, grouped(load.live), died(load))?;
    }
    figures.absent.iter().try_for_each(|absent| writeln!(out, "{} is absent: {}", absent.tool, absent.why))
}

fn row(load: &Load) -> [String; 6] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let ns = if load.died.is_some() { Some("died".to_owned()) } else { load.ns.map(|ns| format!("{ns:.0}")) };
    [
        grouped(load.live),
        load.tool.to_owned(),
        or_none(ns),
        or_none(load.slowdown.map(|times| format!("{times:.2}"))),
        or_none(load.rss_kib.map(|kib| bytes(kib << 10))),
        or_none(load.mappings.map(grouped)),
    ]
}

/// How it died, and the last line that it said.
fn died(load: &Load) -> String {
    let said = load.died.as_deref().unwrap_or_default();
    let (first, last) = (said.lines().next().unwrap_or_default(), said.lines().next_back().unwrap_or_default());
    let both = if first == last { first.to_owned() } else { format!("{first} … {last}") };
    both.chars().take(SAID).collect()
}
