//! Addresses between areas.

use super::summary::{Row, Span, Sum, class, power};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the kernel itself and its modules begin, on 64-bit machines that have them at the
/// top. What lies between vmalloc's addresses and there is no hole of either.
const TOP: u64 = 0xffff_ffff_8000_0000;

/// What is free between the lowest area and the highest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holes {
    pub count: u64,
    pub bytes: u64,
    /// The largest, the largest first.
    pub largest: Vec<Range<u64>>,
    /// By the logarithm of the size, rounded up.
    classes: BTreeMap<u32, Sum>,
}

impl Holes {
    /// The holes between `spans`, which are by address; and the `top` largest.
    pub fn between(spans: &[Span], top: usize) -> Holes {
        let mut holes = Holes::default();
        let mut end = spans.first().map_or(0, |first| first.start);
        for span in spans {
            if end < span.start && !(end < TOP && span.start >= TOP) {
                holes.add(end..span.start, top);
            }
            end = end.max(span.end());
        }
        holes.sort(top);
        holes
    }

    fn add(&mut self, hole: Range<u64>, top: usize) {
        self.count += 1;
        let bytes = hole.end - hole.start;
        self.bytes = self.bytes.saturating_add(bytes);
        self.classes.entry(class(bytes)).or_default().add(Sum { areas: 1, bytes, pages: 0 });
        self.largest.push(hole);
        if self.largest.len() >= top.saturating_mul(2).max(64) {
            self.sort(top);
        }
    }

    /// How many there are by size, in powers of two, and their bytes.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.classes.iter().map(|(class, sum)| Row { name: power(*class), sum: *sum })
    }

    fn sort(&mut self, top: usize) {
        self.largest.sort_by_key(|hole| (u64::MAX - (hole.end - hole.start), hole.start));
        self.largest.truncate(top);
    }
}
