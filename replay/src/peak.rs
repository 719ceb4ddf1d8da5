//! How much there was at once.
//!
//! Areas and pages are counted exactly. The span (from the lowest live address
//! to the highest, without reserved addresses, since those of per-CPU areas come
//! from the other end of the region) takes a walk over all areas, so it is measured only when
//! there are clearly more pages than at the last measurement.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vmalloc::area::{Info, Kind};
use vmalloc::config::MAX_REGIONS;
use vmalloc::units::PAGE_SIZE;

/// A measurement is due when there are 1/64 more pages than at the last one.
const STEP: u64 = 64;

/// Watches the live areas.
#[derive(Default)]
pub struct Peak {
    areas: AtomicU64,
    pages: AtomicU64,
    most_areas: AtomicU64,
    most_pages: AtomicU64,
    due: AtomicU64,
    /// The spread with most pages, as [`Spread::packed`].
    widest: AtomicU64,
}

/// How far live areas are spread, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Spread {
    /// Their pages, with guards.
    pages: u64,
    /// Pages from the lowest address to the highest, summed by region.
    span: u64,
}

/// The most that there was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peaks {
    /// Areas that were live at once.
    pub areas: u64,
    /// Their pages, with guards.
    pub pages: u64,
    /// Pages from the lowest live address to the highest, summed by region,
    /// when there were most pages.
    pub span_pages: u64,
    /// The live pages with guards of that moment.
    pub of_pages: u64,
}

impl Peak {
    /// An area of `pages` pages was made.
    pub fn grow<I: Iterator<Item = Info>>(&self, pages: u64, live: impl FnOnce() -> I) {
        self.most_areas.fetch_max(self.areas.fetch_add(1, Relaxed) + 1, Relaxed);
        let now = self.pages.fetch_add(pages, Relaxed) + pages;
        self.most_pages.fetch_max(now, Relaxed);
        let due = self.due.load(Relaxed);
        let next = now + now / STEP + 1;
        if now >= due && self.due.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            self.measured(Spread::of(live()));
        }
    }

    /// An area of `pages` pages is gone.
    pub fn shrink(&self, pages: u64) {
        self.areas.fetch_sub(1, Relaxed);
        self.pages.fetch_sub(pages, Relaxed);
    }

    fn measured(&self, spread: Spread) {
        self.widest.fetch_max(spread.packed(), Relaxed);
    }

    /// The peaks so far.
    pub fn peaks(&self) -> Peaks {
        let widest = Spread::unpacked(self.widest.load(Relaxed));
        Peaks {
            areas: self.most_areas.load(Relaxed),
            pages: self.most_pages.load(Relaxed),
            span_pages: widest.span,
            of_pages: widest.pages,
        }
    }
}

impl Spread {
    fn of(live: impl Iterator<Item = Info>) -> Spread {
        let mut regions = [(usize::MAX, 0); MAX_REGIONS];
        let mut bytes = 0;
        for area in live.filter(|area| area.kind != Kind::Reserved) {
            let (start, end) = (area.start.0, area.start.0 + area.size());
            bytes += area.size();
            let hull = &mut regions[area.region.0 as usize];
            *hull = (hull.0.min(start), hull.1.max(end));
        }
        let span: usize = regions.iter().map(|hull| hull.1.saturating_sub(hull.0)).sum();
        Spread { pages: (bytes / PAGE_SIZE) as u64, span: (span / PAGE_SIZE) as u64 }
    }

    /// In one word, which is larger where there are more pages. Pages are
    /// less than 2³², or a replay has 16 TiB.
    fn packed(self) -> u64 {
        self.pages << 32 | self.span.min(u64::from(u32::MAX))
    }

    fn unpacked(word: u64) -> Spread {
        Spread { pages: word >> 32, span: word & u64::from(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc::area::{Caller, Guard, RegionId};
    use vmalloc::units::{Node, VirtAddr};

    /// An area of `pages` pages, one of them the guard, at page `at`.
    fn area(region: u8, at: usize, pages: usize) -> Info {
        Info {
            start: VirtAddr(at * PAGE_SIZE),
            bytes: (pages - 1) * PAGE_SIZE,
            pages: pages - 1,
            kind: Kind::Vmalloc,
            guard: Guard::After,
            caller: Caller::Return(16),
            freer: None,
            node: Node(0),
            phys: None,
            region: RegionId(region),
        }
    }

    fn nothing() -> core::iter::Empty<Info> {
        panic!("no new peak")
    }

    #[test]
    fn the_span_is_summed_by_region() {
        let live = [area(0, 10, 2), area(0, 14, 6), area(1, 1000, 2)];
        assert_eq!(Spread::of(live.into_iter()), Spread { pages: 10, span: 12 });
        assert_eq!(Spread::of(core::iter::empty()), Spread::default());
    }

    #[test]
    fn peaks_stay_when_areas_go() {
        let peak = Peak::default();
        let (a, b) = (area(0, 0, 100), area(0, 200, 100));
        peak.grow(100, || [a].into_iter());
        peak.grow(100, || [a, b].into_iter());
        peak.shrink(100);
        peak.shrink(100);
        peak.grow(1, nothing);
        assert_eq!(peak.peaks(), Peaks { areas: 2, pages: 200, span_pages: 300, of_pages: 200 });
    }

    #[test]
    fn reserved_addresses_at_the_other_end_are_not_in_the_span() {
        let reserved = Info { kind: Kind::Reserved, ..area(0, 1 << 24, 9) };
        let live = [area(0, 16, 5), area(0, 21, 2), reserved];
        assert_eq!(Spread::of(live.into_iter()), Spread { pages: 7, span: 7 });
    }

    #[test]
    fn the_span_is_measured_at_clear_steps_only() {
        let peak = Peak::default();
        peak.grow(6400, || [area(0, 0, 6400)].into_iter());
        (0..99).for_each(|_| peak.grow(1, nothing));
        peak.grow(2, || [area(0, 0, 6400), area(0, 8000, 101)].into_iter());
        assert_eq!((peak.peaks().pages, peak.peaks().span_pages), (6501, 8101));
    }
}
