//! A picture of an address space.
//!
//! The space is cut into rows of equal width, a power of two, the least of which at most
//! [`MOST_ROWS`] hold all blocks; rows without one are left out, and how much that is stands
//! in their place. A row has [`CELLS`] cells. A cell has the colour of what has most of
//! its bytes, pale where less than half of it is in use, so a picture is of bounded size
//! however many blocks there are.

use super::table::bytes;
use std::fmt::{self, Write};

/// Rows of a picture.
const MOST_ROWS: u64 = 48;
/// Cells of a row.
const CELLS: usize = 512;
/// The least bytes of a row, as a shift: with less, a page would fill the eye.
const LEAST_SHIFT: u32 = 16;
/// Kinds of blocks at most.
pub const MOST_KINDS: usize = 9;

/// Pixels.
const CELL_WIDTH: usize = 2;
const LEFT: usize = 160;
const WIDTH: usize = LEFT + CELLS * CELL_WIDTH + 16;
const ROW_HEIGHT: usize = 16;
const LEGEND_TOP: usize = 64;
const LEGEND_COLUMNS: usize = 4;

/// Addresses that are drawn.
#[derive(Clone, Copy)]
pub struct Block {
    pub start: u64,
    pub bytes: u64,
    /// Which colour it has.
    pub kind: usize,
}

impl Block {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// What is drawn, and what stands above it.
pub struct Picture<'p> {
    pub title: &'p str,
    /// Behind what the second line always says.
    pub note: &'p str,
    /// What blocks are, in empty rows: "areas".
    pub what: &'p str,
    pub legend: &'p [(String, &'static str)],
    /// The colour of each kind, [`MOST_KINDS`] at most.
    pub colours: &'p [&'static str],
    /// By address.
    pub blocks: &'p [Block],
}

/// Bytes of a cell by kind.
type Cell = [u64; MOST_KINDS];

/// A row of cells.
struct Strip {
    start: u64,
    cells: Vec<Cell>,
}

impl Picture<'_> {
    /// The picture as SVG.
    pub fn draw(&self) -> String {
        let shift = row_shift(self.blocks);
        let strips = strips(self.blocks, shift);
        let mut out = String::new();
        // Writing into a string is never refused.
        let _ = self.write(&mut out, &strips, shift);
        out
    }

    fn write(&self, out: &mut String, strips: &[Strip], shift: u32) -> fmt::Result {
        let lines = self.legend.len().div_ceil(LEGEND_COLUMNS);
        let top = LEGEND_TOP + lines * 20 + 12;
        let gaps = strips.windows(2).filter(|pair| skipped(pair, shift) > 0).count();
        let height = top + (strips.len() + gaps) * ROW_HEIGHT + 12;
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"12\">"
        )?;
        writeln!(out, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>")?;
        self.write_head(out, shift)?;
        let mut y = top;
        for (at, strip) in strips.iter().enumerate() {
            let free = at.checked_sub(1).map_or(0, |before| skipped(&strips[before..=at], shift));
            if free > 0 {
                let (y, free) = (y + 12, bytes(free));
                writeln!(out, "<text x=\"{LEFT}\" y=\"{y}\" fill=\"#777777\">{free} without {}</text>", self.what)?;
            }
            y += if free > 0 { ROW_HEIGHT } else { 0 };
            self.write_strip(out, strip, shift, y)?;
            y += ROW_HEIGHT;
        }
        writeln!(out, "</svg>")
    }

    /// Title, second line and legend.
    fn write_head(&self, out: &mut String, shift: u32) -> fmt::Result {
        writeln!(out, "<title>{0}</title>\n<text x=\"16\" y=\"24\" font-size=\"15\">{0}</text>", Escaped(self.title))?;
        let (row, note) = (bytes(1 << shift), Escaped(self.note));
        writeln!(
            out,
            "<text x=\"16\" y=\"44\" fill=\"#777777\">a row is {row}; pale: less than half in use{note}</text>"
        )?;
        for (at, (text, colour)) in self.legend.iter().enumerate() {
            let (x, y) = (16 + at % LEGEND_COLUMNS * 290, LEGEND_TOP + at / LEGEND_COLUMNS * 20);
            writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>")?;
            writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text>", x + 18, y + 11, Escaped(text))?;
        }
        Ok(())
    }

    /// Writes the cells of a row, neighbours that look alike as one.
    fn write_strip(&self, out: &mut String, strip: &Strip, shift: u32, y: usize) -> fmt::Result {
        let width = CELLS * CELL_WIDTH;
        writeln!(out, "<text x=\"16\" y=\"{}\">{:016x}</text>", y + 12, strip.start)?;
        writeln!(out, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width}\" height=\"14\" fill=\"#eeeeee\"/>")?;
        let bytes = (1u64 << shift) / CELLS as u64;
        let looks: Vec<Option<Look>> = strip.cells.iter().map(|cell| self.look(cell, bytes)).collect();
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

    /// How a cell of so many bytes looks; of kinds with the same share the first has it.
    fn look(&self, cell: &Cell, bytes: u64) -> Option<Look> {
        let used: u64 = cell.iter().sum();
        let (_, colour) = cell.iter().zip(self.colours).rev().max_by_key(|(used, _)| **used)?;
        (used > 0).then_some(Look { colour, pale: used < bytes / 2 })
    }
}

/// The least width of rows, as a shift, of which few enough hold all areas.
fn row_shift(blocks: &[Block]) -> u32 {
    let rows = |shift: u32| {
        let (mut rows, mut next) = (0u64, 0u64);
        for block in blocks.iter().filter(|block| block.bytes > 0) {
            let (first, last) = ((block.start >> shift).max(next), (block.end() - 1) >> shift);
            if last >= first {
                rows += last - first + 1;
                next = last + 1;
            }
        }
        rows
    };
    (LEAST_SHIFT..u64::BITS - 1).find(|shift| rows(*shift) <= MOST_ROWS).unwrap_or(u64::BITS - 1)
}

fn strips(blocks: &[Block], shift: u32) -> Vec<Strip> {
    let cell = (1u64 << shift) / CELLS as u64;
    let mut strips: Vec<Strip> = Vec::new();
    // Areas of a damaged listing may overlap: what is drawn is not drawn again.
    let mut at = 0;
    for block in blocks {
        at = block.start.max(at);
        while at < block.end() {
            let start = at >> shift << shift;
            if strips.last().is_none_or(|strip| strip.start != start) {
                strips.push(Strip { start, cells: vec![Cell::default(); CELLS] });
            }
            let index = (at - start) / cell;
            let end = block.end().min((start + index * cell).saturating_add(cell));
            if let Some(strip) = strips.last_mut() {
                strip.cells[index as usize][block.kind] += end - at;
            }
            at = end;
        }
    }
    strips
}

/// Bytes between two rows.
fn skipped(pair: &[Strip], shift: u32) -> u64 {
    pair[1].start - pair[0].start - (1 << shift)
}

/// How a cell looks in which something is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    colour: &'static str,
    pale: bool,
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
