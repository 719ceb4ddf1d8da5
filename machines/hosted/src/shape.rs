//! The shape of a region: what the process's own mapping table says of it.
//!
//! The kernel keeps one record (a VMA) for each stretch of addresses that is
//! mapped alike, and limits their number. A [`Shape`] knows it without asking:
//! each page of the region is in one of three states,
//!
//! ```text
//!   none     '.'  the reservation: no access, no memory
//!   open     'o'  bound to a frame
//!   covered  'g'  in a mapping of frames, but a guard: no access
//! ```
//!
//! and an *edge* `|` lies between two pages of different VMAs.
//!
//! # Covers
//! A gap between two areas costs a VMA of its own. A run that is bound beside
//! a small gap *covers* it: its mapping reaches over the gap to the neighbour,
//! and guards are installed there. So N areas cost N VMAs, not 2 N. It takes
//! two calls more, and saves splitting a VMA: the times are equal.
//!
//! # Rules
//! - **V1** Two pages beside each other are in one VMA exactly if both are
//!   `none`, or if their frames follow each other with one protection: Linux
//!   merges what it can. The count of edges is kept along.
//! - **V2** A covered page is in one VMA with an open page. Where a run cannot
//!   cover what it cuts off (the file has no frames for it), the rest lies
//!   beside the run, and goes with it.

use crate::os;
use std::ops::Range;
use vmalloc::machine::format::Prot;
use vmalloc::units::Pfn;

/// The widest gap that is covered, in pages. Guards are entries in the process's
/// page tables: a wide gap is better left as it is.
const COVER: usize = 64;

/// Frames that can be told apart: 2 TiB of memory.
pub const MAX_FRAMES: usize = (1 << Page::PROT) - 1;

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
    /// A word a [`Page`]: plain numbers, since zeroed ones come from the
    /// system unread, and untouched ones cost no memory.
    words: Box<[u32]>,
    edges: usize,
}

/// One page: 0, or its frame's number + 1, its protection, and whether it is
/// open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page(u32);

impl Page {
    const NONE: Page = Page(0);
    const OPEN: u32 = 1 << 31;
    const PROT: u32 = 29;
    const ACCESSES: Prot = Prot::WRITE.union(Prot::EXEC);

    fn new(frame: Pfn, prot: Prot, open: bool) -> Page {
        let open = if open { Page::OPEN } else { 0 };
        Page((frame.0 + 1) as u32 | open).with(prot)
    }

    /// The same page with another protection.
    fn with(self, prot: Prot) -> Page {
        let prot = prot.intersection(Page::ACCESSES).bits();
        Page(self.0 & !(u32::from(Page::ACCESSES.bits()) << Page::PROT) | u32::from(prot) << Page::PROT)
    }

    fn prot(self) -> Prot {
        Prot::from_bits_truncate((self.0 >> Page::PROT) as u8).intersection(Page::ACCESSES)
    }

    fn is_open(self) -> bool {
        self.0 & Page::OPEN != 0
    }

    fn is_covered(self) -> bool {
        self != Page::NONE && !self.is_open()
    }

    /// Whether Linux keeps the two in one VMA (V1).
    fn continues(self, below: Page) -> bool {
        let mapping = |page: Page| page.0 & !Page::OPEN;
        if below == Page::NONE { self == Page::NONE } else { mapping(self) == mapping(below) + 1 }
    }
}

impl Shape {
    /// A region of `pages` pages with nothing in it; `None` where there is no memory for so many words.
    pub fn new(pages: usize) -> Option<Shape> {
        Some(Shape { words: os::zeros(pages)?, edges: 0 })
    }

    /// VMAs that the region has now.
    pub fn vmas(&self) -> usize {
        1 + self.edges
    }

    /// What a run at `run` would better cover: what it cuts off of another
    /// mapping's cover, and the gap to each neighbour where that is small.
    pub fn gaps(&self, run: &Range<usize>) -> Cover {
        let Range { start, end } = self.extent(run);
        let held = |&word: &u32| Page(word) != Page::NONE;
        let below = self.words[..start].iter().rev().take(COVER + 1).position(held);
        let above = self.words[end..].iter().take(COVER + 1).position(held);
        Cover { before: run.start - start + below.unwrap_or(0), after: end - run.end + above.unwrap_or(0) }
    }

    /// A mapping was made: `run` is open, bound to the frames from `first` on,
    /// and `cover` is guarded.
    pub fn bind(&mut self, run: Range<usize>, cover: Cover, first: Pfn, prot: Prot) {
        let all = run.start - cover.before..run.end + cover.after;
        let frames = first.0 - cover.before as u64..;
        self.change(all.clone(), |words| {
            for ((at, word), frame) in all.zip(words).zip(frames) {
                *word = Page::new(Pfn(frame), prot, run.contains(&at)).0;
            }
        });
    }

    /// The protection of `range`, which is open, was changed.
    pub fn protect(&mut self, range: Range<usize>, prot: Prot) {
        self.change(range, |words| words.iter_mut().for_each(|word| *word = Page(*word).with(prot).0));
    }

    /// `range`, which is open, by pages of one protection.
    pub fn prots(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, Prot)> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let (start, prot) = (at, self.page(at.min(range.end - 1)).prot());
            at += (start..range.end).take_while(|&at| self.page(at).prot() == prot).count();
            (start < at).then_some((start..at, prot))
        })
    }

    /// `range` and the covers that would be left without an open page (V2)
    /// where it is cut out.
    pub fn extent(&self, range: &Range<usize>) -> Range<usize> {
        self.lowest(range.start)..self.highest(range.end)
    }

    /// A reservation was made over `range`: it is as if never used.
    pub fn clear(&mut self, range: Range<usize>) {
        self.change(range, |words| words.fill(Page::NONE.0));
    }

    /// Whether two ranges may be cleared as one: nothing open between them,
    /// and not far apart.
    pub fn joins(&self, below: usize, above: usize) -> bool {
        above.saturating_sub(below) <= COVER && !(below..above).any(|at| self.page(at).is_open())
    }

    /// Changes pages, and the count of edges with them.
    fn change(&mut self, range: Range<usize>, change: impl FnOnce(&mut [u32])) {
        let before = self.edges_around(&range);
        change(&mut self.words[range.clone()]);
        self.edges = self.edges + self.edges_around(&range) - before;
    }

    /// Edges in `range` and at both its ends.
    fn edges_around(&self, range: &Range<usize>) -> usize {
        (range.start.max(1)..=range.end.min(self.words.len() - 1)).filter(|&at| self.edge(at)).count()
    }

    fn page(&self, at: usize) -> Page {
        Page(self.words[at])
    }

    /// Whether an edge lies between `page` and the one below it.
    fn edge(&self, page: usize) -> bool {
        !self.page(page).continues(self.page(page - 1))
    }

    /// Goes down from `at` over covers that belong to no open page below them.
    fn lowest(&self, mut at: usize) -> usize {
        loop {
            let mut low = at;
            while low > 0 && self.page(low - 1).is_covered() && (low == at || !self.edge(low)) {
                low -= 1;
            }
            if low == at || (low > 0 && self.page(low - 1).is_open() && !self.edge(low)) {
                return at;
            }
            at = low;
        }
    }

    /// Goes up from `at` likewise.
    fn highest(&self, mut at: usize) -> usize {
        let end = self.words.len();
        loop {
            let mut high = at;
            while high < end && self.page(high).is_covered() && (high == at || !self.edge(high)) {
                high += 1;
            }
            if high == at || (high < end && self.page(high).is_open() && !self.edge(high)) {
                return at;
            }
            at = high;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl std::fmt::Display for Shape {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            for (at, page) in self.words.iter().map(|&word| Page(word)).enumerate() {
                if at > 0 && self.edge(at) {
                    f.write_str("|")?;
                }
                f.write_str(match (page.is_open(), page.is_covered()) {
                    (true, _) => "o",
                    (_, true) => "g",
                    _ => ".",
                })?;
            }
            Ok(())
        }
    }

    /// Binds, far away from all other frames.
    fn bind_with(shape: &mut Shape, run: Range<usize>, cover: Cover) {
        let first = Pfn(1000 * (1 + run.start as u64));
        shape.bind(run, cover, first, Prot::RW);
    }

    /// Binds with the cover that the shape asks for.
    fn bind(shape: &mut Shape, run: Range<usize>) {
        let cover = shape.gaps(&run);
        bind_with(shape, run, cover);
    }

    fn unbind(shape: &mut Shape, run: Range<usize>) {
        let all = shape.extent(&run);
        shape.clear(all);
    }

    #[test]
    fn areas_beside_each_other_cost_one_mapping_each_with_the_gaps_covered() {
        let mut shape = Shape::new(12).unwrap();
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
        let mut shape = Shape::new(80).unwrap();
        for run in [0..1, 6..7, 72..73] {
            bind_with(&mut shape, run, Cover::default());
        }
        assert_eq!(shape.gaps(&(3..4)), Cover { before: 2, after: 2 });
        assert_eq!(shape.gaps(&(8..9)), Cover { before: 1, after: 63 });
        assert_eq!(shape.gaps(&(74..75)), Cover { before: 1, after: 0 }, "nothing above: nothing to save");
    }

    #[test]
    fn a_cover_goes_with_its_area_and_stays_with_its_neighbour() {
        let mut shape = Shape::new(8).unwrap();
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
        let mut shape = Shape::new(9).unwrap();
        bind_with(&mut shape, 0..1, Cover::default());
        bind(&mut shape, 8..9);
        assert_eq!(shape.to_string(), "o|gggggggo");
        bind_with(&mut shape, 4..5, Cover::default());
        assert_eq!(shape.to_string(), "o|ggg|o|gggo");
        unbind(&mut shape, 4..5);
        assert_eq!(shape.to_string(), "o|....|gggo");
    }

    #[test]
    fn pieces_of_an_area_are_one_vma_where_their_frames_and_protections_agree() {
        let mut shape = Shape::new(7).unwrap();
        shape.bind(0..2, Cover::default(), Pfn(10), Prot::RW);
        shape.bind(2..4, Cover::default(), Pfn(12), Prot::RW);
        shape.bind(4..5, Cover::default(), Pfn(14), Prot::RO);
        shape.bind(5..6, Cover::default(), Pfn(10), Prot::RO);
        assert_eq!(shape.to_string(), "oooo|o|o|.");
        unbind(&mut shape, 1..3);
        assert_eq!(shape.to_string(), "o|..|o|o|o|.");
    }

    #[test]
    fn pages_of_another_protection_are_vmas_of_their_own_until_they_are_alike() {
        let mut shape = Shape::new(8).unwrap();
        bind_with(&mut shape, 1..7, Cover::default());
        shape.protect(2..4, Prot::RO);
        shape.protect(5..6, Prot::RWX);
        assert_eq!((shape.to_string().as_str(), shape.vmas()), (".|o|oo|o|o|o|.", 7));
        let prots: Vec<_> = shape.prots(1..6).collect();
        let both = Prot::WRITE | Prot::EXEC;
        assert_eq!(prots, [(1..2, Prot::RW), (2..4, Prot::RO), (4..5, Prot::RW), (5..6, both)]);
        shape.protect(1..7, Prot::RX);
        assert_eq!(shape.to_string(), ".|oooooo|.");
        unbind(&mut shape, 1..7);
        assert_eq!(shape.to_string(), "........");
    }

    #[test]
    fn ranges_are_joined_over_guards_but_not_over_open_pages() {
        let mut shape = Shape::new(200).unwrap();
        for run in [0..2, 3..5, 6..7, 100..101] {
            bind(&mut shape, run);
        }
        assert!(shape.joins(2, 3) && shape.joins(2, 2));
        assert!(!shape.joins(2, 6), "an area lies between");
        assert!(!shape.joins(7, 100), "far apart");
    }

    /// V1: the count is what a walk over the picture finds. V2: a piece without
    /// an open page lies beside one.
    fn check(shape: &Shape) {
        let picture = shape.to_string();
        let pieces: Vec<&str> = picture.split('|').collect();
        assert_eq!(shape.vmas(), pieces.len(), "V1 {picture}");
        let has_open = |at: usize| pieces.get(at).is_some_and(|piece| piece.contains('o'));
        for (at, _) in pieces.iter().enumerate().filter(|(_, piece)| piece.contains('g')) {
            assert!(has_open(at.wrapping_sub(1)) || has_open(at) || has_open(at + 1), "V2 {picture}");
        }
    }

    proptest! {
        #[test]
        fn areas_stay_open_and_their_guards_closed_whatever_comes_and_goes(
            steps in prop::collection::vec((0usize..100, 1usize..6, 0u8..4, 100u64..110), 1..120),
        ) {
            const PAGES: usize = 100;
            let mut shape = Shape::new(PAGES).unwrap();
            let mut live: Vec<Range<usize>> = Vec::new();
            for (at, len, luck, first) in steps {
                let run = at..(at + len).min(PAGES);
                match live.iter().position(|r| r.start < run.end && run.start < r.end) {
                    Some(hit) => unbind(&mut shape, live.swap_remove(hit)),
                    None => {
                        let cover = if luck > 0 { shape.gaps(&run) } else { Cover::default() };
                        // Sometimes frames that continue those of a neighbour.
                        shape.bind(run.clone(), cover, Pfn(first + run.start as u64), Prot::RW);
                        live.push(run);
                    }
                }
                check(&shape);
                for page in 0..PAGES {
                    let is_live = live.iter().any(|r| r.contains(&page));
                    prop_assert_eq!(shape.page(page).is_open(), is_live, "page {} of {}", page, &shape);
                }
            }
        }
    }
}
