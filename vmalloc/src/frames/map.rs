//! The memory map that [`Zones`](super::Zones) is made from.

use super::descriptor::{Descriptor, Descriptors, Home, NONE, State, Tag};
use super::node::NodeZones;
use crate::gfp::ZoneKind;
use crate::machine::frames::MAX_ORDER;
use crate::units::{Node, Pfn};
use core::fmt;

/// The most nodes that [`Zones`](super::Zones) can serve.
pub const MAX_NODES: usize = 8;
/// The end of the DMA zone: 16 MiB.
const DMA_END: u64 = 16 << 20 >> 12;
/// The end of the DMA32 zone: 4 GiB.
const DMA32_END: u64 = 4 << 30 >> 12;

/// A range of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// The first frame.
    pub first: Pfn,
    /// The number of frames.
    pub frames: usize,
    /// The node of the frames.
    pub node: Node,
}

impl MemoryRange {
    fn end(&self) -> u64 {
        self.first.0.saturating_add(self.frames as u64)
    }

    fn overlaps(&self, other: &MemoryRange) -> bool {
        self.first.0 < other.end() && other.first.0 < self.end()
    }
}

/// The reason for refusing a memory map. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadMap {
    /// The map has no frames.
    Empty,
    /// Two ranges contain this frame.
    Overlap(Pfn),
    /// The number of a node is [`MAX_NODES`] or more.
    NoSuchNode(Node),
    /// There are more frames from the first to the last than descriptors can count.
    TooWide(u64),
    /// `init` was called before.
    Twice,
}

impl fmt::Display for BadMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadMap::Empty => f.write_str("the memory map has no frames"),
            BadMap::Overlap(frame) => write!(f, "{frame:?} is in two ranges of the memory map"),
            BadMap::NoSuchNode(node) => write!(f, "node {} of the memory map: at most {MAX_NODES} are served", node.0),
            BadMap::TooWide(frames) => write!(f, "the memory map spans {frames} frames: too many to describe"),
            BadMap::Twice => f.write_str("the zones were initialised before"),
        }
    }
}

impl core::error::Error for BadMap {}

/// The frames from the first to the last of a map, including holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub base: Pfn,
    pub frames: usize,
}

impl Span {
    /// The span of `map`, which may be empty.
    pub fn of(map: &[MemoryRange]) -> Span {
        let full = || map.iter().filter(|range| range.frames > 0);
        let base = full().map(|range| range.first.0).min().unwrap_or(0);
        let end = full().map(MemoryRange::end).max().unwrap_or(0);
        Span { base: Pfn(base), frames: usize::try_from(end - base).unwrap_or(usize::MAX) }
    }

    /// The span of `map`, if the map is valid.
    pub fn checked(map: &[MemoryRange]) -> Result<Span, BadMap> {
        let span = Span::of(map);
        if span.frames == 0 {
            return Err(BadMap::Empty);
        }
        if span.frames >= NONE as usize {
            return Err(BadMap::TooWide(span.frames as u64));
        }
        for (n, range) in map.iter().enumerate() {
            if range.node.0 as usize >= MAX_NODES {
                return Err(BadMap::NoSuchNode(range.node));
            }
            if let Some(other) = map[..n].iter().find(|other| other.overlaps(range)) {
                return Err(BadMap::Overlap(range.first.max(other.first)));
            }
        }
        Ok(span)
    }

    /// The size of its descriptors in bytes.
    pub fn bytes(&self) -> usize {
        self.frames.saturating_mul(size_of::<Descriptor>())
    }
}

/// The zone of a frame. If HighMem starts inside a block of the largest order, it starts at that
/// block's head instead, so that no block crosses a border.
pub(super) fn zone_of(frame: u64, highmem_from: Option<Pfn>) -> ZoneKind {
    match highmem_from {
        Some(limit) if frame >= limit.0 >> MAX_ORDER << MAX_ORDER => ZoneKind::HighMem,
        _ if frame < DMA_END => ZoneKind::Dma,
        _ if frame < DMA32_END => ZoneKind::Dma32,
        _ => ZoneKind::Normal,
    }
}

/// Frees the frames of `range` to their zones. The highest go first, so that the lowest are
/// allocated first.
pub(super) fn seed(zones: &mut NodeZones, d: Descriptors, range: &MemoryRange, highmem_from: Option<Pfn>) {
    let mut end = range.end();
    while end > range.first.0 {
        let fits = (end - range.first.0).ilog2();
        let order = end.trailing_zeros().min(fits).min(MAX_ORDER as u32) as u8;
        let first = end - (1 << order);
        let home = Home { zone: zone_of(first, highmem_from), node: range.node };
        let Some(head) = d.index(Pfn(first)) else { return };
        (head..head + (1 << order)).for_each(|at| d.at(at).set(Tag::new(State::Inside, home)));
        zones.add(d, head, order, home);
        end = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    const fn range(first: u64, frames: usize, node: u8) -> MemoryRange {
        MemoryRange { first: Pfn(first), frames, node: Node(node) }
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused_by_its_numbers() {
        assert_eq!(Span::checked(&[]), Err(BadMap::Empty));
        assert_eq!(Span::checked(&[range(5, 0, 0)]), Err(BadMap::Empty));
        assert_eq!(Span::checked(&[range(0, 10, 0), range(9, 1, 0)]), Err(BadMap::Overlap(Pfn(9))));
        assert_eq!(Span::checked(&[range(0, 10, 8)]), Err(BadMap::NoSuchNode(Node(8))));
        let wide = Span::checked(&[range(0, 1, 0), range(1 << 32, 1, 0)]);
        assert_eq!(wide, Err(BadMap::TooWide((1 << 32) + 1)));
        assert!(wide.unwrap_err().to_string().contains("4294967297"));
    }

    #[test]
    fn the_span_runs_from_the_first_frame_to_the_last_and_empty_ranges_do_not_count() {
        let map = [range(70, 10, 1), range(1, 0, 0), range(20, 5, 0)];
        assert_eq!(Span::checked(&map), Ok(Span { base: Pfn(20), frames: 60 }));
        assert_eq!(Span::of(&map).bytes(), 960);
    }

    #[test]
    fn a_frame_lies_in_the_zone_that_its_address_says() {
        assert_eq!(zone_of(4095, None), ZoneKind::Dma);
        assert_eq!(zone_of(4096, None), ZoneKind::Dma32);
        assert_eq!(zone_of((1 << 20) - 1, None), ZoneKind::Dma32);
        assert_eq!(zone_of(1 << 20, None), ZoneKind::Normal);
        let limit = Some(Pfn(10_000));
        assert_eq!(zone_of(9215, limit), ZoneKind::Dma32);
        assert_eq!(zone_of(9216, limit), ZoneKind::HighMem);
    }
}
