//! A picture of an address space.
//!
//! The space is cut into rows of equal width, a power of two, the least of which at most
//! [`MOST_ROWS`] hold all areas; rows without one are left out, and how much that is stands
//! in their place. A row has [`CELLS`] cells. A cell has the colour of what has most of
//! its bytes, pale where less than half of it is in use, so a picture is of bounded size
//! however long the listing is. Of hidden addresses nothing is known but how large areas
//! are: they are drawn one after the other, as the listing has them.

use super::summary::{Span, Summary};
use crate::listing::area::Words;
use crate::report::table::{bytes, grouped};
use std::fmt::{self, Write};

/// Rows of a picture.
const MOST_ROWS: u64 = 48;
/// Cells of a row.
const CELLS: usize = 512;
/// The least bytes of a row, as a shift: with less, a page would fill the eye.
const LEAST_SHIFT: u32 = 16;

/// What areas are for: the first that holds of one is its kind here. Colours that those who
/// see few colours can tell apart.
const KINDS: [(Words, &str, &str); 9] = [
    (Words::UNPURGED, "unpurged (freed)", "#999999"),
    (Words::MAP_RAM, "vm_map_ram", "#cc79a7"),
    (Words::DMA_COHERENT, "dma-coherent", "#e69f00"),
    (Words::USER, "user", "#009e73"),
    (Words::VMAP, "vmap", "#56b4e9"),
    (Words::VMALLOC, "vmalloc", "#0072b2"),
    (Words::SPARSE, "sparse", "#b8a800"),
    (Words::IOREMAP, "ioremap", "#d55e00"),
    (Words::NONE, "no word", "#444444"),
];

/// Pixels.
const CELL_WIDTH: usize = 2;
const LEFT: usize = 160;
const WIDTH: usize = LEFT + CELLS * CELL_WIDTH + 16;
const ROW_HEIGHT: usize = 16;
const LEGEND_TOP: usize = 64;
const LEGEND_COLUMNS: usize = 4;

/// Bytes of a cell by kind.
type Cell = [u64; KINDS.len()];

/// A row of cells.
struct Strip {
    start: u64,
    cells: Vec<Cell>,
}

/// The picture of `summary`'s areas.
pub fn draw(summary: &Summary) -> String {
    let hidden = summary.hidden > 0;
    let laid;
    let spans = if hidden {
        laid = one_after_the_other(&summary.spans);
        &laid
    } else {
        &summary.spans
    };
    let shift = row_shift(spans);
    let strips = strips(spans, shift);
    let mut out = String::new();
    // Writing into a string is never refused.
    let _ = write(&mut out, summary, &strips, shift);
    out
}

fn one_after_the_other(spans: &[Span]) -> Vec<Span> {
    let mut end = 0u64;
    let place = |span: &Span| {
        let start = end;
        end = end.saturating_add(span.bytes);
        Span { start, ..*span }
    };
    spans.iter().map(place).collect()
}

/// The kind of `words` as an index.
fn kind(words: Words) -> usize {
    KINDS.iter().position(|(kind, _, _)| words.contains(*kind)).unwrap_or(KINDS.len() - 1)
}

/// The least width of rows, as a shift, of which few enough hold all areas.
fn row_shift(spans: &[Span]) -> u32 {
    let rows = |shift: u32| {
        let (mut rows, mut next) = (0u64, 0u64);
        for span in spans.iter().filter(|span| span.bytes > 0) {
            let (first, last) = ((span.start >> shift).max(next), (span.end() - 1) >> shift);
            if last >= first {
                rows += last - first + 1;
                next = last + 1;
            }
        }
        rows
    };
    (LEAST_SHIFT..u64::BITS - 1).find(|shift| rows(*shift) <= MOST_ROWS).unwrap_or(u64::BITS - 1)
}

fn strips(spans: &[Span], shift: u32) -> Vec<Strip> {
    let cell = (1u64 << shift) / CELLS as u64;
    let mut strips: Vec<Strip> = Vec::new();
    // Areas of a damaged listing may overlap: what is drawn is not drawn again.
    let mut at = 0;
    for span in spans {
        at = span.start.max(at);
        while at < span.end() {
            let start = at >> shift << shift;
            if strips.last().is_none_or(|strip| strip.start != start) {
                strips.push(Strip { start, cells: vec![Cell::default(); CELLS] });
            }
            let index = (at - start) / cell;
            let end = span.end().min((start + index * cell).saturating_add(cell));
            if let Some(strip) = strips.last_mut() {
                strip.cells[index as usize][kind(span.words)] += end - at;
            }
            at = end;
        }
    }
    strips
}

fn write(out: &mut String, summary: &Summary, strips: &[Strip], shift: u32) -> fmt::Result {
    let legend = legend(summary);
    let lines = legend.len().div_ceil(LEGEND_COLUMNS);
    let top = LEGEND_TOP + lines * 20 + 12;
    let gaps = strips.windows(2).filter(|pair| skipped(pair, shift) > 0).count();
    let height = top + (strips.len() + gaps) * ROW_HEIGHT + 12;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"12\">"
    )?;
    writeln!(out, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>")?;
    write_title(out, summary, shift)?;
    for (at, (text, colour)) in legend.iter().enumerate() {
        let (x, y) = (16 + at % LEGEND_COLUMNS * 290, LEGEND_TOP + at / LEGEND_COLUMNS * 20);
        writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>")?;
        writeln!(out, "<text x=\"{}\" y=\"{}\">{text}</text>", x + 18, y + 11)?;
    }
    let mut y = top;
    for (at, strip) in strips.iter().enumerate() {
        if let Some(free) =
            at.checked_sub(1).map(|before| skipped(&strips[before..=at], shift)).filter(|free| *free > 0)
        {
            writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" fill=\"#777777\">{} without areas</text>", y + 12, bytes(free))?;
            y += ROW_HEIGHT;
        }
        write_strip(out, strip, shift, y)?;
        y += ROW_HEIGHT;
    }
    writeln!(out, "</svg>")
}

fn write_title(out: &mut String, summary: &Summary, shift: u32) -> fmt::Result {
    let live = summary.live;
    let title = format!("{}: {} areas, {} of addresses", summary.name, grouped(live.areas), bytes(live.bytes));
    writeln!(out, "<title>{0}</title>\n<text x=\"16\" y=\"24\" font-size=\"15\">{0}</text>", Escaped(&title))?;
    let order = if summary.hidden > 0 { "; addresses are hidden: one after the other, as listed" } else { "" };
    let row = bytes(1 << shift);
    writeln!(out, "<text x=\"16\" y=\"44\" fill=\"#777777\">a row is {row}; pale: less than half in use{order}</text>")
}

/// Bytes between two rows.
fn skipped(pair: &[Strip], shift: u32) -> u64 {
    pair[1].start - pair[0].start - (1 << shift)
}

/// What there is of each kind, with its colour.
fn legend(summary: &Summary) -> Vec<(String, &'static str)> {
    let mut areas = [(0u64, 0u64); KINDS.len()];
    for span in &summary.spans {
        let (count, size) = &mut areas[kind(span.words)];
        (*count, *size) = (*count + 1, size.saturating_add(span.bytes));
    }
    let present = KINDS.iter().zip(areas).filter(|(_, (count, _))| *count > 0);
    present
        .map(|((_, name, colour), (count, size))| (format!("{name}: {}, {}", grouped(count), bytes(size)), *colour))
        .collect()
}

/// Writes the cells of a row, neighbours that look alike as one.
fn write_strip(out: &mut String, strip: &Strip, shift: u32, y: usize) -> fmt::Result {
    let width = CELLS * CELL_WIDTH;
    writeln!(out, "<text x=\"16\" y=\"{}\">{:016x}</text>", y + 12, strip.start)?;
    writeln!(out, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width}\" height=\"14\" fill=\"#eeeeee\"/>")?;
    let bytes = (1u64 << shift) / CELLS as u64;
    let looks: Vec<Option<Look>> = strip.cells.iter().map(|cell| Look::of(cell, bytes)).collect();
    let mut x = LEFT;
    for alike in looks.chunk_by(|a, b| a == b) {
        let width = alike.len() * CELL_WIDTH;
        if let Some(Look { colour, pale }) = alike[0] {
            let pale = if pale { " fill-opacity=\"0.45\"" } else { "" };
            writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"14\" fill=\"{colour}\"{pale}/>")?;
        }
        x += width;
    }
    Ok(())
}

/// How a cell looks in which something is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    colour: &'static str,
    pale: bool,
}

impl Look {
    /// That of a cell of so many bytes; of kinds with the same share the first has it.
    fn of(cell: &Cell, bytes: u64) -> Option<Look> {
        let used: u64 = cell.iter().sum();
        let (_, (_, _, colour)) = cell.iter().zip(KINDS).rev().max_by_key(|(used, _)| **used)?;
        (used > 0).then_some(Look { colour, pale: used < bytes / 2 })
    }
}

/// A text, for XML.
struct Escaped<'t>(&'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            // XML has no control characters.
            c if c.is_control() => f.write_char('?'),
            c => f.write_char(c),
        })
    }
}
