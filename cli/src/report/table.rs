//! The report for people.

use super::{Percentiles, Report};
use crate::listing::{Comparison, Entry};
use crate::replay::historic::Past;
use crate::terminal;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use std::fmt::{self, Write};
use vmalloc_replay::latency::Call;

/// Differences of one kind that are printed one by one.
const SHOWN: usize = 100;

/// Writes all of `report` into `out`.
pub fn write(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(
        out,
        "{} on {}, {}, policy {}, placement {}, {} of memory, {}, seed {}",
        report.trace,
        report.machine,
        counted(report.cpus, "CPU"),
        report.policy,
        report.placement,
        bytes(report.memory_bytes),
        counted(report.loops, "loop"),
        report.seed,
    )?;
    writeln!(out, "\n{}\n\n{}\n\n{}", events(report), latencies(report), figures(report))?;
    if let Some(past) = &report.historic {
        writeln!(out, "{}\n", beside(report, past))?;
    }
    for error in &report.errors {
        writeln!(out, "error: {error}")?;
    }
    writeln!(out, "{}", verdict(report))
}

fn events(report: &Report) -> Table {
    let mut table = numbers(&["event", "done"], 1);
    for (word, n) in &report.events {
        table.add_row([(*word).to_owned(), grouped(*n)]);
    }
    table.add_row(["all".to_owned(), format!("{} of {}", grouped(report.events_done), grouped(report.events_total))]);
    table
}

fn latencies(report: &Report) -> Table {
    let mut table = numbers(&["call", "count", "p50 ns", "p99 ns", "p99.9 ns", "max ns"], 5);
    for (call, of) in &report.latency_ns {
        let figures = [of.count, of.p50, of.p99, of.p999, of.max].map(grouped);
        table.add_row(std::iter::once(call.0.name().to_owned()).chain(figures));
    }
    table
}

fn figures(report: &Report) -> Table {
    let mut table = numbers(&["figure", "value"], 1);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("time", format!("{:.3} s", report.elapsed_s));
    row("bytes verified", bytes(report.bytes_verified));
    row("bytes wrong", grouped(report.bytes_wrong));
    row("areas at the peak", grouped(report.peak_areas));
    row("pages at the peak, with guards", grouped(report.peak_pages));
    row("address span over these pages", format!("{:.3}", report.span_ratio));
    row("areas at the end", grouped(report.areas_at_end as u64));
    let held = &report.frames_held;
    row("frames held beyond live ones", grouped(held.sum() as u64));
    for (name, n) in [
        ("  waiting for a flush", held.waiting),
        ("  cached for the next of their size", held.bound),
        ("  in magazines and depots", held.stocked),
        ("  promised reserve", held.reserve),
        ("  page tables", held.tables),
        ("  bookkeeping", held.bookkeeping),
    ] {
        row(name, grouped(n as u64));
    }
    row("flushes", grouped(report.flushes));
    row("purges that waited for a flush", grouped(report.purges_waited));
    if let Some(vmas) = &report.vmas {
        let (used, allowed) = (grouped(vmas.vmas_used as u64), grouped(vmas.vmas_allowed as u64));
        row("VMAs used and allowed", format!("{used} of {allowed}"));
    }
    let leaked = [(report.leaked_areas, "areas"), (report.leaked_frames, "frames"), (report.leaked_vmas, "VMAs")];
    row("leaked", leaked.map(|(n, what)| format!("{n} {what}")).join(", "));
    if let Some(expect) = &report.expect {
        let (matched, missing, extra) = (expect.expect_matched, expect.expect_missing, expect.expect_extra);
        row("as in the listing", format!("{matched} of {}; {extra} more than there", matched + missing));
    }
    table
}

/// The trace here, and as a kernel of the past would have placed it. Times are those of
/// makes and frees: here with frames and entries, there of the search alone.
fn beside(report: &Report, past: &Past) -> Table {
    let mut table = numbers(&["placed", "here", &past.age], 2);
    let alloc = report.latency_ns.iter().find(|(call, _)| call.0 == Call::Alloc).map(|(_, of)| *of);
    let here = |figure: fn(Percentiles) -> u64| alloc.map_or("-".to_owned(), |of| grouped(figure(of)));
    let mut row = |name: &str, here: String, there: u64| {
        table.add_row([name.to_owned(), here, grouped(there)]);
    };
    row("address span, in pages", grouped(report.span_pages), past.span_pages);
    row("search steps: here searches for a chunk", grouped(report.arena_searches), past.steps);
    row("the longest search", "-".to_owned(), past.longest_search);
    row("flushes", grouped(report.flushes), past.flushes);
    row("ns a call, in half of all at most", here(|of| of.p50), past.p50_ns);
    row("ns a call at most", here(|of| of.max), past.max_ns);
    table
}

/// All in one sentence.
pub fn verdict(report: &Report) -> String {
    if report.ok {
        return "All went well: every byte was right, and nothing was left.".to_owned();
    }
    let not = if report.interrupted { "Interrupted" } else { "Not all went well" };
    let leaks = report.leaked_areas + report.leaked_frames + report.leaked_vmas;
    let mut parts = Vec::new();
    for (n, what) in [
        (report.events_failed, "events failed"),
        (report.bytes_wrong, "bytes were wrong"),
        (report.rules_broken as u64, "rules of the library were broken"),
        (leaks as u64, "things were left behind"),
        (report.events_total.saturating_sub(report.events_done + report.events_failed), "events were not done"),
    ] {
        if n > 0 {
            parts.push(format!("{} {what}", grouped(n)));
        }
    }
    if parts.is_empty() {
        parts.push("what is live at the end differs from the listing".to_owned());
    }
    format!("{not}: {}.", parts.join(", "))
}

/// Writes where our areas and the listing's differ.
pub fn write_differences(out: &mut String, of: &Comparison) -> fmt::Result {
    write_some(out, "in the listing, but not live here:", &of.missing)?;
    write_some(out, "live here, but not in the listing:", &of.extra)
}

fn write_some(out: &mut String, title: &str, entries: &[Entry]) -> fmt::Result {
    if entries.is_empty() {
        return Ok(());
    }
    writeln!(out, "{title}")?;
    entries.iter().take(SHOWN).try_for_each(|entry| writeln!(out, "  {entry}"))?;
    if entries.len() > SHOWN { writeln!(out, "  ... and {} more", entries.len() - SHOWN) } else { Ok(()) }
}

/// A table whose last `count` columns are numbers, as wide as the terminal at most.
pub fn numbers(titles: &[&str], count: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(titles);
    if let Some(width) = terminal::width() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for column in table.column_iter_mut().skip(titles.len() - count) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// "1 CPU", "2 CPUs".
fn counted(n: u32, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// 1234567 as 1,234,567.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that people would take.
pub fn bytes(n: u64) -> String {
    match n {
        0..=0xfffff => format!("{} KiB", grouped(n.div_ceil(1 << 10))),
        0x10_0000..=0x3fff_ffff => format!("{:.1} MiB", n as f64 / (1u64 << 20) as f64),
        0x4000_0000..=0xff_ffff_ffff => format!("{:.2} GiB", n as f64 / (1u64 << 30) as f64),
        0x100_0000_0000..=0x3_ffff_ffff_ffff => format!("{:.2} TiB", n as f64 / (1u64 << 40) as f64),
        _ => format!("{:.2} PiB", n as f64 / (1u64 << 50) as f64),
    }
}
