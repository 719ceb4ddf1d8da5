//! The shape of a region: what the process's own mapping table says of it.
//!
//! The kernel keeps one record (a VMA) for each stretch of addresses that is
//! mapped alike, and limits their number. A [`Shape`] knows it without asking:
//! each page of the region is in one of three states,
//!
//! ```text
//!   none     '.'  the reservation: no access, no memory
//!   open     'o'  part of a mapping of memory
//!   covered  'g'  part of a mapping of memory, but a guard: no access
//! ```
//!
//! and an *edge* `|` lies between two pages of different mappings.
//!
//! # Covers
//! A gap between two areas costs a VMA of its own. A run that is bound beside
//! a small gap *covers* it: its mapping reaches over the gap to the neighbour,
//! and guards are installed there. So N areas cost N VMAs, not 2 N.
//!
//! # Rules
//! - **V1** There is an edge between two pages exactly if they belong to
//!   different mappings; all `none` pages beside each other are one.
//! - **V2** A covered page belongs to a mapping with an open page. Where a run
//!   cannot cover what it cuts off (the file has no frames for it), the rest
//!   lies beside the run, and goes with it.
//!
//! Adjacent mappings of adjacent frames are one VMA to the kernel and two
//! here: the count is never too low.

use std::ops::Range;

/// The widest gap that is covered, in pages. Guards are entries in the process's
/// page tables: a wide gap is better left as it is.
const COVER: usize = 64;

/// Pages to cover on both sides of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cover {
    /// Pages before the run.
    pub before: usize,
    /// Pages after it.
    pub after: usize,
}

/// What is mapped in a region. Pages are counted from the region's start.
pub struct Shape {
    pages: usize,
    open: Bits,
    covered: Bits,
    /// Bit `p`: an edge between the pages `p - 1` and `p`.
    edges: Bits,
}

impl Shape {
    /// A region of `pages` pages with nothing in it.
    pub fn new(pages: usize) -> Shape {
        Shape { pages, open: Bits::new(pages), covered: Bits::new(pages), edges: Bits::new(pages) }
    }

    /// VMAs that the region has now.
    pub fn vmas(&self) -> usize {
        1 + self.edges.count
    }

    /// What a run at `run` would better cover: what it cuts off of another
    /// mapping's cover, and the gap to each neighbour where that is small.
    pub fn gaps(&self, run: &Range<usize>) -> Cover {
        let Range { start, end } = self.extent(run);
        let below = (0..start).rev().take(COVER + 1).position(|p| self.held(p));
        let above = (end..self.pages).take(COVER + 1).position(|p| self.held(p));
        Cover { before: run.start - start + below.unwrap_or(0), after: end - run.end + above.unwrap_or(0) }
    }

    /// A mapping was made: `run` is open, `cover` guarded.
    pub fn bind(&mut self, run: Range<usize>, cover: Cover) {
        let all = run.start - cover.before..run.end + cover.after;
        self.covered.fill(all.clone(), true);
        self.covered.fill(run.clone(), false);
        self.open.fill(run, true);
        self.edges.fill(all.start + 1..all.end, false);
        self.set_edge(all.start, true);
        self.set_edge(all.end, true);
    }

    /// `range` and the covers that would be left without an open page (V2)
    /// where it is cut out.
    pub fn extent(&self, range: &Range<usize>) -> Range<usize> {
        self.lowest(range.start)..self.highest(range.end)
    }

    /// A reservation was made over `range`: it is as if never used.
    pub fn clear(&mut self, range: Range<usize>) {
        self.open.fill(range.clone(), false);
        self.covered.fill(range.clone(), false);
        self.edges.fill(range.start + 1..range.end, false);
        self.set_edge(range.start, range.start > 0 && self.held(range.start - 1));
        self.set_edge(range.end, range.end < self.pages && self.held(range.end));
    }

    /// Whether two ranges may be cleared as one: nothing open between them,
    /// and not far apart.
    pub fn joins(&self, below: usize, above: usize) -> bool {
        above.saturating_sub(below) <= COVER && (below..above).all(|p| !self.open.get(p))
    }

    fn held(&self, page: usize) -> bool {
        self.open.get(page) || self.covered.get(page)
    }

    /// The outer edges of the region are not counted: it is one VMA at least.
    fn set_edge(&mut self, page: usize, edge: bool) {
        if page > 0 && page < self.pages {
            self.edges.fill(page..page + 1, edge);
        }
    }

    /// Goes down from `at` over covers that belong to no open page below them.
    fn lowest(&self, mut at: usize) -> usize {
        loop {
            let mut low = at;
            while low > 0 && self.covered.get(low - 1) && (low == at || !self.edges.get(low)) {
                low -= 1;
            }
            if low == at || (low > 0 && self.open.get(low - 1) && !self.edges.get(low)) {
                return at;
            }
            at = low;
        }
    }

    /// Goes up from `at` likewise.
    fn highest(&self, mut at: usize) -> usize {
        loop {
            let mut high = at;
            while high < self.pages && self.covered.get(high) && (high == at || !self.edges.get(high)) {
                high += 1;
            }
            if high == at || (high < self.pages && self.open.get(high) && !self.edges.get(high)) {
                return at;
            }
            at = high;
        }
    }
}

/// A row of bits that knows how many are set. Untouched bits cost no memory.
struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    fn new(len: usize) -> Bits {
        Bits { words: vec![0; len.div_ceil(64)], count: 0 }
    }

    fn get(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 != 0
    }

    fn fill(&mut self, range: Range<usize>, value: bool) {
        let mut at = range.start;
        while at < range.end {
            let bits = (64 - at % 64).min(range.end - at);
            let mask = (u64::MAX >> (64 - bits)) << (at % 64);
            let word = &mut self.words[at / 64];
            let was = word.count_ones();
            *word = if value { *word | mask } else { *word & !mask };
            self.count = self.count + word.count_ones() as usize - was as usize;
            at += bits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl std::fmt::Display for Shape {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            for page in 0..self.pages {
                if self.edges.get(page) {
                    f.write_str("|")?;
                }
                f.write_str(match (self.open.get(page), self.covered.get(page)) {
                    (true, false) => "o",
                    (false, true) => "g",
                    (false, false) => ".",
                    (true, true) => "?",
                })?;
            }
            Ok(())
        }
    }

    /// Binds with the cover that the shape asks for.
    fn bind(shape: &mut Shape, run: Range<usize>) {
        let cover = shape.gaps(&run);
        shape.bind(run, cover);
    }

    fn unbind(shape: &mut Shape, run: Range<usize>) {
        let all = shape.extent(&run);
        shape.clear(all);
    }

    #[test]
    fn areas_beside_each_other_cost_one_mapping_each_with_the_gaps_covered() {
        let mut shape = Shape::new(12);
        bind(&mut shape, 1..3);
        assert_eq!(shape.to_string(), ".|oo|.........");
        bind(&mut shape, 4..6);
        assert_eq!(shape.to_string(), ".|oo|goo|......");
        bind(&mut shape, 9..10);
        bind(&mut shape, 7..8);
        assert_eq!(shape.to_string(), ".|oo|goo|go|go|..", "it takes what it cuts off");
        assert_eq!(shape.vmas(), 6);
    }

    #[test]
    fn an_area_between_two_others_covers_both_gaps() {
        let mut shape = Shape::new(80);
        shape.bind(0..1, Cover::default());
        shape.bind(6..7, Cover::default());
        shape.bind(72..73, Cover::default());
        assert_eq!(shape.gaps(&(3..4)), Cover { before: 2, after: 2 });
        assert_eq!(shape.gaps(&(8..9)), Cover { before: 1, after: 63 });
        assert_eq!(shape.gaps(&(74..75)), Cover { before: 1, after: 0 }, "nothing above: nothing to save");
    }

    #[test]
    fn a_cover_goes_with_its_area_and_stays_with_its_neighbour() {
        let mut shape = Shape::new(8);
        for run in [0..1, 2..3, 4..5] {
            bind(&mut shape, run);
        }
        assert_eq!(shape.to_string(), "o|go|go|...");
        unbind(&mut shape, 2..3);
        assert_eq!(shape.to_string(), "o|..|go|...");
        bind(&mut shape, 2..3);
        assert_eq!(shape.to_string(), "o|go|go|...", "the guard above is there already");
    }

    #[test]
    fn leftovers_of_a_cover_go_with_the_area_that_cut_them_off() {
        let mut shape = Shape::new(9);
        shape.bind(0..1, Cover::default());
        bind(&mut shape, 8..9);
        assert_eq!(shape.to_string(), "o|gggggggo");
        shape.bind(4..5, Cover::default());
        assert_eq!(shape.to_string(), "o|ggg|o|gggo");
        unbind(&mut shape, 4..5);
        assert_eq!(shape.to_string(), "o|....|gggo");
    }

    #[test]
    fn ranges_are_joined_over_guards_but_not_over_open_pages() {
        let mut shape = Shape::new(200);
        for run in [0..2, 3..5, 6..7, 100..101] {
            bind(&mut shape, run);
        }
        assert!(shape.joins(2, 3) && shape.joins(2, 2));
        assert!(!shape.joins(2, 6), "an area lies between");
        assert!(!shape.joins(7, 100), "far apart");
    }

    /// Too simple to be wrong: the number of the mapping a page belongs to.
    struct Model {
        /// Mapping (0 = none), and whether the page is open.
        pages: Vec<(u32, bool)>,
        next: u32,
    }

    impl Model {
        fn set(&mut self, range: Range<usize>, mapping: u32, open: bool) {
            self.pages[range].fill((mapping, open));
        }

        fn vmas(&self) -> usize {
            1 + self.pages.windows(2).filter(|w| w[0].0 != w[1].0).count()
        }
    }

    /// V1 in full, and V2: a leftover lies beside an open page.
    fn check(shape: &Shape, model: &Model) {
        assert_eq!(shape.vmas(), model.vmas(), "V1 {shape}");
        for (page, &(mapping, open)) in model.pages.iter().enumerate() {
            assert_eq!(shape.open.get(page), open, "V1 {shape}");
            assert_eq!(shape.covered.get(page), mapping != 0 && !open, "V1 {shape}");
            let edge = page > 0 && model.pages[page - 1].0 != mapping;
            assert_eq!(shape.edges.get(page), edge, "V1 at {page} {shape}");
        }
        let mut pieces: Vec<Vec<(u32, bool)>> = Vec::new();
        for &page in &model.pages {
            match pieces.last_mut().filter(|piece| piece[0].0 == page.0) {
                Some(piece) => piece.push(page),
                None => pieces.push(vec![page]),
            }
        }
        let open: Vec<bool> = pieces.iter().map(|p| p.iter().any(|page| page.1)).collect();
        for (i, piece) in pieces.iter().enumerate().filter(|(_, p)| p[0].0 != 0) {
            let beside = [i.wrapping_sub(1), i, i + 1].iter().any(|&n| open.get(n) == Some(&true));
            assert!(beside, "V2: piece {i} ({} pages) {shape}", piece.len());
        }
    }

    proptest! {
        #[test]
        fn the_shape_agrees_with_a_list_of_pages(steps in prop::collection::vec((0usize..100, 1usize..6, 0u8..4), 1..120)) {
            const PAGES: usize = 100;
            let mut shape = Shape::new(PAGES);
            let mut model = Model { pages: vec![(0, false); PAGES], next: 0 };
            let mut live: Vec<Range<usize>> = Vec::new();
            for (at, len, luck) in steps {
                let run = at..(at + len).min(PAGES);
                match live.iter().position(|r| r.start < run.end && run.start < r.end) {
                    Some(hit) => {
                        let run = live.swap_remove(hit);
                        let all = shape.extent(&run);
                        model.set(all.clone(), 0, false);
                        shape.clear(all);
                    }
                    None => {
                        let cover = if luck > 0 { shape.gaps(&run) } else { Cover::default() };
                        model.next += 1;
                        model.set(run.start - cover.before..run.end + cover.after, model.next, false);
                        model.set(run.clone(), model.next, true);
                        shape.bind(run.clone(), cover);
                        live.push(run);
                    }
                }
                let open: usize = live.iter().map(ExactSizeIterator::len).sum();
                prop_assert_eq!(model.pages.iter().filter(|p| p.1).count(), open, "live areas stay open");
                check(&shape, &model);
            }
        }
    }
}
