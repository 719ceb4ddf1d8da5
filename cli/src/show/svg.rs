//! A picture of the areas of a listing.
//!
//! Of hidden addresses nothing is known but how large areas are: they are drawn one after the
//! other, as the listing has them.

use super::summary::{Span, Summary};
use crate::listing::area::Words;
use crate::report::picture::{Block, MOST_KINDS, Picture};
use crate::report::table::{bytes, grouped};

/// What areas are for: the first that holds of one is its kind here. Colours that those who
/// see few colours can tell apart.
const KINDS: [(Words, &str, &str); MOST_KINDS] = [
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

/// The picture of `summary`'s areas.
pub fn draw(summary: &Summary) -> String {
    let blocks = if summary.hidden > 0 { one_after_the_other(&summary.spans) } else { blocks(&summary.spans) };
    let live = summary.live;
    Picture {
        title: &format!("{}: {} areas, {} of addresses", summary.name, grouped(live.areas), bytes(live.bytes)),
        note: if summary.hidden > 0 { "; addresses are hidden: one after the other, as listed" } else { "" },
        what: "areas",
        legend: &legend(summary),
        colours: &KINDS.map(|(_, _, colour)| colour),
        blocks: &blocks,
    }
    .draw()
}

fn blocks(spans: &[Span]) -> Vec<Block> {
    spans.iter().map(|span| Block { start: span.start, bytes: span.bytes, kind: kind(span.words) }).collect()
}

fn one_after_the_other(spans: &[Span]) -> Vec<Block> {
    let mut end = 0u64;
    let place = |block: Block| {
        let start = end;
        end = end.saturating_add(block.bytes);
        Block { start, ..block }
    };
    blocks(spans).into_iter().map(place).collect()
}

/// The kind of `words` as an index.
fn kind(words: Words) -> usize {
    KINDS.iter().position(|(kind, _, _)| words.contains(*kind)).unwrap_or(KINDS.len() - 1)
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
