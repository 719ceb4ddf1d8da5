//! What is shown, for people.

use super::growth::{Change, Growth};
use super::holes::Holes;
use super::summary::{Row, Sum, Summary};
use crate::listing::area::Area;
use crate::options::show::By;
use crate::options::word;
use crate::report::table::{bytes, grouped, numbers};
use comfy_table::Table;
use std::fmt::{self, Write};

/// Writes a listing's totals and tables, or the table of `by` alone; `top` rows of each.
pub fn write(out: &mut String, summary: &Summary, by: Option<By>, top: usize) -> fmt::Result {
    writeln!(out, "{}\n\n{}", summary.name, totals(summary))?;
    if let Some(by) = by {
        return writeln!(out, "\n{}", sums(summary, by, top));
    }
    let told = By::ALL.iter().filter(|by| !summary.rows(**by).is_empty());
    told.into_iter().try_for_each(|by| writeln!(out, "\n{}", sums(summary, *by, top)))?;
    writeln!(out, "\n{}", largest(summary))?;
    write_holes(out, summary, top)
}

fn totals(summary: &Summary) -> Table {
    let mut table = numbers(&["total", "areas", "bytes", ""], 3);
    let mut row = |name: &str, areas: u64, n: u64| {
        table.add_row([name.to_owned(), grouped(areas), grouped(n), bytes(n)]);
    };
    let live = summary.live;
    row("addresses, with guards", live.areas, live.bytes);
    row("addresses, without guards", live.areas, summary.bytes_without_guards());
    row(&format!("memory, {} pages", grouped(live.pages)), live.areas, summary.memory(live.pages));
    row("freed, wait for a flush", summary.unpurged.areas, summary.unpurged.bytes);
    table
}

fn sums(summary: &Summary, by: By, top: usize) -> Table {
    let mut table = numbers(&[&word(by), "areas", "bytes", "share", "pages", "memory"], 5);
    let rows = summary.rows(by);
    // Nodes and sizes are few, and stand in their order.
    let top = if matches!(by, By::Node | By::Size) { rows.len() } else { top };
    let all = if by == By::Node { summary.memory(summary.live.pages) } else { summary.live.bytes };
    let mut add = |name: String, sum: Sum| {
        let share = format!("{:.1}%", 100.0 * sum.bytes as f64 / all.max(1) as f64);
        let memory = bytes(summary.memory(sum.pages));
        table.add_row([name, grouped(sum.areas), grouped(sum.bytes), share, grouped(sum.pages), memory]);
    };
    rows.iter().take(top).for_each(|row| add(row.name.clone(), row.sum));
    if rows.len() > top {
        add(format!("{} more", rows.len() - top), together(&rows[top..]));
    }
    table
}

fn together(rows: &[Row]) -> Sum {
    let mut all = Sum::default();
    rows.iter().for_each(|row| all.add(row.sum));
    all
}

fn largest(summary: &Summary) -> Table {
    let mut table = numbers(&["the largest at", "caller", "kind", "bytes", "pages"], 2);
    for area in summary.largest() {
        let caller = area.caller.as_ref().map_or(String::new(), ToString::to_string);
        let pages = area.pages.map_or("-".to_owned(), grouped);
        table.add_row([place(area), caller, area.words.to_string(), grouped(area.size), pages]);
    }
    table
}

fn place(area: &Area) -> String {
    area.addresses.as_ref().map_or("(hidden)".to_owned(), |addresses| format!("{:#x}", addresses.start))
}

fn write_holes(out: &mut String, summary: &Summary, top: usize) -> fmt::Result {
    if summary.hidden > 0 {
        return writeln!(
            out,
            "\nHoles cannot be told: the addresses of {} are hidden.",
            counted(summary.hidden, "area")
        );
    }
    let holes = Holes::between(&summary.spans, top);
    if holes.count == 0 {
        return writeln!(out, "\nThere is no hole between the areas.");
    }
    let mut table = numbers(&["the largest holes", "to", "bytes", ""], 2);
    for hole in &holes.largest {
        let free = hole.end - hole.start;
        table.add_row([format!("{:#x}", hole.start), format!("{:#x}", hole.end), grouped(free), bytes(free)]);
    }
    writeln!(out, "\n{table}\n\n{}\n", hole_sizes(&holes))?;
    let free = bytes(holes.bytes);
    writeln!(out, "Between the areas: {}, {free} together.", counted(holes.count, "hole"))
}

fn hole_sizes(holes: &Holes) -> Table {
    let mut table = numbers(&["holes", "count", "bytes", "share"], 3);
    for Row { name, sum } in holes.rows() {
        let share = format!("{:.1}%", 100.0 * sum.bytes as f64 / holes.bytes.max(1) as f64);
        table.add_row([name, grouped(sum.areas), grouped(sum.bytes), share]);
    }
    table
}

/// Writes what grew and what shrank; `top` rows of each.
pub fn write_growth(out: &mut String, [before, after]: [&Summary; 2], by: By, top: usize) -> fmt::Result {
    writeln!(out, "from {} to {}\n", before.name, after.name)?;
    let growth = Growth::between(before, after, by);
    for (title, changes) in [("grown", &growth.grown), ("shrunk", &growth.shrunk)] {
        if !changes.is_empty() {
            writeln!(out, "{}\n", changed(&format!("{title}, by {}", word(by)), changes, top))?;
        }
    }
    let total = Change { name: "all".to_owned(), before: before.live, after: after.live };
    writeln!(out, "{}\n\nAs they were: {}.", changed("in total", &[total], 1), grouped(growth.same as u64))
}

fn changed(title: &str, changes: &[Change], top: usize) -> Table {
    let mut table = numbers(&[title, "", "areas", "to", "+/-", "bytes", "to", "+/-", "pages +/-"], 7);
    for change in changes.iter().take(top) {
        let (before, after) = (change.before, change.after);
        let news = if change.is_new() {
            "new"
        } else if change.is_gone() {
            "gone"
        } else {
            ""
        };
        table.add_row([
            change.name.clone(),
            news.to_owned(),
            grouped(before.areas),
            grouped(after.areas),
            signed(before.areas, after.areas),
            grouped(before.bytes),
            grouped(after.bytes),
            signed(before.bytes, after.bytes),
            signed(before.pages, after.pages),
        ]);
    }
    if changes.len() > top {
        table.add_row([format!("{} more", changes.len() - top)]);
    }
    table
}

/// The way from one number to another.
fn signed(from: u64, to: u64) -> String {
    let sign = if to > from {
        "+"
    } else if to < from {
        "-"
    } else {
        ""
    };
    format!("{sign}{}", grouped(to.abs_diff(from)))
}

/// "1 hole", "2 holes".
fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" })
}
