//! The regions that a trace needs.
//!
//! Each allocation names the range that it had to lie in. Ranges that touch
//! or overlap belong to one region; a range that is not all of its region
//! becomes a wish, counted from the region's start, because a replay's regions
//! lie elsewhere.

use std::ops::Range;
use vmalloc_replay::script::Place;

/// The region of traces that name none.
const SOMEWHERE: Range<u64> = 1 << 46..(1 << 46) + (1 << 40);

/// The ranges that a trace has named.
#[derive(Default)]
pub struct Ranges(Vec<Range<u64>>);

/// Ranges, made into regions.
pub struct Layout {
    /// The regions, the largest first.
    pub regions: Vec<Range<u64>>,
    places: Vec<Place>,
}

impl Ranges {
    /// Notes `range`; the place that is returned means something to
    /// [`Layout::place`] only.
    pub fn add(&mut self, range: &Range<u64>) -> Place {
        let known = self.0.iter().position(|r| r == range);
        let index = known.unwrap_or_else(|| {
            self.0.push(range.clone());
            self.0.len() - 1
        });
        Place { region: index as u32, within: None }
    }

    /// The regions that hold all ranges; one, if there are no ranges.
    pub fn layout(&self) -> Layout {
        let hulls = self.hulls();
        let places = self.0.iter().map(|range| {
            let region = hulls.iter().position(|hull| hull.start <= range.start && range.end <= hull.end);
            let region = region.expect("each range went into a hull");
            let hull = &hulls[region];
            let within = (range != hull).then(|| (range.start - hull.start, range.end - hull.start));
            Place { region: region as u32, within }
        });
        let places = places.collect();
        Layout { regions: hulls, places }
    }

    fn hulls(&self) -> Vec<Range<u64>> {
        let mut sorted = self.0.clone();
        sorted.sort_by_key(|range| range.start);
        let mut hulls: Vec<Range<u64>> = Vec::new();
        for range in sorted {
            match hulls.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => hulls.push(range),
            }
        }
        if hulls.is_empty() {
            hulls.push(SOMEWHERE);
        }
        hulls.sort_by_key(|hull| std::cmp::Reverse(hull.end - hull.start));
        hulls
    }
}

impl Layout {
    /// What a place noted by [`Ranges::add`] has become.
    pub fn place(&self, noted: Place) -> Place {
        self.places.get(noted.region as usize).copied().unwrap_or(Place { region: 0, within: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_regions_and_parts_of_them_become_wishes() {
        let mut ranges = Ranges::default();
        let noted: Vec<Place> = [0x9000..0xa000, 0x1000..0x5000, 0x2000..0x3000, 0x4000..0x6000, 0x1000..0x5000]
            .map(|range| ranges.add(&range))
            .to_vec();
        let layout = ranges.layout();
        assert_eq!(layout.regions, [0x1000..0x6000, 0x9000..0xa000]);
        let place = |region, within| Place { region, within };
        let placed: Vec<Place> = noted.into_iter().map(|p| layout.place(p)).collect();
        let first = place(0, Some((0, 0x4000)));
        assert_eq!(
            placed,
            [place(1, None), first, place(0, Some((0x1000, 0x2000))), place(0, Some((0x3000, 0x5000))), first]
        );
        assert_eq!(layout.place(Place::ANYWHERE), place(0, None));
    }

    #[test]
    fn a_trace_without_ranges_has_one_region() {
        let layout = Ranges::default().layout();
        assert_eq!(layout.regions, [SOMEWHERE]);
        assert_eq!(layout.place(Place::ANYWHERE), Place { region: 0, within: None });
    }
}
