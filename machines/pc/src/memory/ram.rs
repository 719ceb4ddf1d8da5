//! The memory map: ranges of RAM, and what was taken out of them.

use crate::boot::MapEntry;
use crate::cpu::acpi::Topology;
use arrayvec::ArrayVec;
use core::ops::Range;
use vmalloc::frames::MemoryRange;
use vmalloc::units::{Node, PAGE_SIZE, Pfn};

const PAGE: u64 = PAGE_SIZE as u64;
/// Ranges at most; what would be one more is left unused.
const MAX: usize = 64;

/// Whole frames of RAM, in ranges that do not overlap.
#[derive(Clone)]
pub struct Ram(ArrayVec<Range<u64>, MAX>);

impl Ram {
    /// The RAM of a memory map.
    pub fn of(map: &[MapEntry]) -> Ram {
        let whole = |range: Range<u64>| range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
        Ram(map.iter().filter_map(MapEntry::ram).map(whole).filter(|range| !range.is_empty()).take(MAX).collect())
    }

    /// The ranges, as they were told.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// The range that `at` is in.
    pub fn around(&self, at: u64) -> Option<Range<u64>> {
        self.ranges().find(|range| range.contains(&at))
    }

    /// Takes `gone` out, rounded up to whole frames.
    pub fn remove(&mut self, gone: Range<u64>) {
        let gone = gone.start / PAGE * PAGE..gone.end.next_multiple_of(PAGE);
        let parts = self.ranges().flat_map(|range| {
            [
                range.start..range.end.min(gone.start.max(range.start)),
                range.start.max(gone.end.min(range.end))..range.end,
            ]
        });
        self.0 = parts.filter(|range| !range.is_empty()).take(MAX).collect();
    }

    /// Takes `bytes` from the top of the largest range; their start.
    pub fn take_top(&mut self, bytes: u64) -> u64 {
        let largest = self.0.iter_mut().max_by_key(|range| range.end - range.start);
        let Some(range) = largest.filter(|range| range.end - range.start > bytes) else {
            panic!("no {bytes} bytes of RAM in one range");
        };
        range.end -= bytes;
        range.end
    }

    /// The ranges, each on one node.
    pub fn by_node(&self, topology: &Topology) -> ArrayVec<MemoryRange, MAX> {
        let mut all = ArrayVec::new();
        for range in self.ranges() {
            let mut start = range.start;
            while start < range.end && !all.is_full() {
                let (node, end) = topology.node_at(start);
                let end = end.min(range.end);
                all.push(memory(start..end, node));
                start = end;
            }
        }
        all
    }
}

fn memory(range: Range<u64>, node: Node) -> MemoryRange {
    MemoryRange { first: Pfn::containing(range.start), frames: ((range.end - range.start) / PAGE) as usize, node }
}
