//! The tables of `bench linux`.

use super::events::Events;
use super::measured::Measured;
use super::row::{Row, whole};
use super::steps::Locked;
use crate::report::table::{grouped, numbers};
use comfy_table::Table;
use std::fmt::{self, Write};

const CAPTION: &str = "\
Instructions an operation. An operation is a loop of the case: whole calls with everything in them (request, checks,
addresses, frames, entries, look-up, flush, grace, tick) and a store to the first byte. Linux: 6.12 (cli/src/bench/linux.csv),
lean settings; single = one possible CPU, multi = eight. Ours: one CPU, tick of 4,000,000 instructions on. net: without
clearing pages; for Linux, of the lower figure. ratio: Linux net over Unmap net. Bar: a third of Linux net.
runs: those that passed, failed and xfailed (failed as they are expected to: an alignment larger than the region).
From 7.2 on Linux frees pages in bulk, which these figures of 6.12 do not have.
What ours leaves out: no memory cgroup hook, no pages[] array, no vmstat counters.";

const THRESHOLD: &str = "\
The same with Linux's own flush threshold: a batch is sealed at 8,192 pages x fls(CPUs), and twice as many may wait.";

const EVENTS: &str = "\
What instructions do not show, an operation under Unmap. entries: page-table entries written (bound, made waiting,
collected). Locked instructions: on lines that CPUs share; on lines of the CPU's own (its entry flag, its slots); locks
taken. They are seen by stepping through two batches' worth of loops, instruction by instruction. Flushes, kicks (interrupts
to other CPUs) and new chunks: for a million pages. held: frames that wait or lie in magazines and depots at the end.";

/// Writes the table of all cases.
pub fn write_rows(out: &mut String, rows: &[Row]) -> fmt::Result {
    let titles = [
        "case",
        "Linux single",
        "multi",
        "net",
        "Unmap",
        "net",
        "Park",
        "Keep",
        "ratio",
        "bar",
        "goal",
        "clearing",
        "Linux's",
        "runs",
    ];
    let mut table = numbers(&titles, titles.len() - 1);
    for row in rows {
        let ours = |of: &Option<Measured>| number(of.as_ref().map(|of| whole(of.gross)));
        let linux = &row.linux;
        table.add_row([
            linux.case.clone(),
            number(linux.single),
            number(linux.multi),
            number(linux.net()),
            ours(&row.unmap),
            number(row.net()),
            ours(&row.park),
            ours(&row.keep),
            row.ratio().map_or("–".to_owned(), |ratio| format!("{ratio:.1}")),
            marked(number(linux.bar()), row.misses_bar()),
            marked(number(linux.goal), row.misses_goal()),
            cleared(row.unmap.as_ref().map_or(0, |of| whole(of.zeroing))),
            cleared(linux.zeroing()),
            runs(row.unmap.as_ref()),
        ]);
    }
    writeln!(out, "{table}\n{CAPTION}\n")
}

/// Writes what misses the bar, and what the goal.
pub fn write_misses(out: &mut String, rows: &[Row]) -> fmt::Result {
    let named = |misses: fn(&Row) -> bool| {
        rows.iter().filter(|row| misses(row)).map(|row| row.linux.case.as_str()).collect::<Vec<_>>().join(", ")
    };
    match named(Row::misses_bar).as_str() {
        "" => writeln!(out, "Every case is within the bar.")?,
        cases => writeln!(out, "Misses the bar (!): {cases}.")?,
    }
    match named(Row::misses_goal).as_str() {
        "" => writeln!(out, "Every case that has a goal reaches it."),
        cases => writeln!(out, "Misses the goal (!): {cases}."),
    }
}

/// Writes the table at Linux's flush threshold.
pub fn write_threshold(out: &mut String, rows: &[Row]) -> fmt::Result {
    let mut table = numbers(&["case", "Linux net", "Unmap", "net", "Park", "Keep", "ratio"], 6);
    for row in rows {
        let ours = |of: &Option<Measured>| number(of.as_ref().map(|of| whole(of.gross)));
        let ratio = row.ratio().map_or("–".to_owned(), |ratio| format!("{ratio:.1}"));
        let linux = number(row.linux.net());
        table.add_row([
            row.linux.case.clone(),
            linux,
            ours(&row.unmap),
            number(row.net()),
            ours(&row.park),
            ours(&row.keep),
            ratio,
        ]);
    }
    writeln!(out, "\n{THRESHOLD}\n{table}")
}

/// Writes what instructions do not show.
pub fn write_events(out: &mut String, events: &[Events]) -> fmt::Result {
    let titles = ["case", "entries", "shared", "own", "locks", "flushes/M", "kicks/M", "chunks/M", "held"];
    let mut table: Table = numbers(&titles, titles.len() - 1);
    for of in events {
        let locked = |n: fn(Locked) -> f64| of.locked.map_or("–".to_owned(), |of| format!("{:.3}", n(of)));
        table.add_row([
            of.case.clone(),
            format!("{:.1}", of.entries),
            locked(|of| of.shared),
            locked(|of| of.own),
            locked(|of| of.locks),
            format!("{:.0}", of.flushes),
            format!("{:.0}", of.kicks),
            format!("{:.0}", of.chunks),
            grouped(of.held),
        ]);
    }
    writeln!(out, "\n{EVENTS}\n{table}")
}

/// How the runs under Unmap ended.
fn runs(of: Option<&Measured>) -> String {
    of.map_or("–".to_owned(), |of| of.results.map(|n| n.to_string()).join("/"))
}

fn number(n: Option<u64>) -> String {
    n.map_or("–".to_owned(), grouped)
}

fn cleared(n: u64) -> String {
    number(Some(n).filter(|&n| n > 0))
}

fn marked(figure: String, missed: bool) -> String {
    if missed { format!("! {figure}") } else { figure }
}
