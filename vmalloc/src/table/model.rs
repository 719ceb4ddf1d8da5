//! A model of the tables that is too simple to be wrong: a map of pages and a set of tables.
//!
//! The test below runs each step on the walker and on the model. After each step it compares the
//! walker, the model and an MMU for every page near the borders. `LEVEL` is that of the entries
//! that map the pages: at level 2 the same steps are made on large pages.

extern crate std;

use super::testing::{Boxed, Mmu, Seen, around};
use super::{PteRange, Walker, X86_32, X86_64, X86Pae};
use crate::machine::format::{Entry, MemType, Prot};
use crate::units::{PAGE_SHIFT, PageRange, Pfn, VirtAddr};
use core::fmt::Debug;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

/// A page, large above level 1, that is mapped or parked.
#[derive(Clone, Copy)]
struct Page {
    seen: Seen,
    waits: bool,
}

struct Model {
    /// Of the entries that map pages.
    lowest: u8,
    levels: u8,
    index_bits: u32,
    pages: BTreeMap<usize, Page>,
    /// (level, first page / pages that a table of the level covers)
    tables: BTreeSet<(u8, usize)>,
}

impl Model {
    fn tables_of(&self, pages: &[usize]) -> BTreeSet<(u8, usize)> {
        let path = |page: &usize| {
            let (page, bits) = (*page, self.index_bits);
            (self.lowest..self.levels).map(move |level| (level, page >> (level as u32 * bits)))
        };
        pages.iter().flat_map(path).collect()
    }

    fn missing(&self, pages: &[usize]) -> usize {
        self.tables_of(pages).difference(&self.tables).count()
    }

    fn has_table(&self, page: usize) -> bool {
        self.tables.contains(&self.leaf_table(page))
    }

    fn leaf_table(&self, page: usize) -> (u8, usize) {
        (self.lowest, page >> (self.lowest as u32 * self.index_bits))
    }

    fn is_empty(&self, (level, number): (u8, usize)) -> bool {
        match level {
            lowest if lowest == self.lowest => !self.pages.keys().any(|&page| self.leaf_table(page).1 == number),
            _ => !self.tables.iter().any(|&(l, n)| l == level - 1 && n >> self.index_bits == number),
        }
    }

    /// Removes every empty table inside `first..first + pages`. Returns how many.
    fn free_tables(&mut self, first: usize, pages: usize) -> usize {
        let before = self.tables.len();
        for level in self.lowest..self.levels {
            let span = 1 << (level as u32 * self.index_bits);
            let inside = |n: usize| n * span >= first && (n + 1) * span <= first + pages;
            let of_level = self.tables.iter().copied().filter(|&(l, n)| l == level && inside(n));
            for table in of_level.collect::<Vec<_>>() {
                if self.is_empty(table) {
                    self.tables.remove(&table);
                }
            }
        }
        before - self.tables.len()
    }

    fn entry(&self, page: usize) -> Entry {
        match self.pages.get(&page) {
            None => Entry::Absent,
            Some(Page { seen, waits: true }) => Entry::Parked(seen.frame),
            Some(Page { seen, .. }) => Entry::Leaf { frame: seen.frame, prot: prot_of(seen) },
        }
    }
}

fn prot_of(seen: &Seen) -> Prot {
    let mut prot = Prot::RO;
    prot.set(Prot::WRITE, seen.write);
    prot.set(Prot::EXEC, seen.exec);
    prot
}

/// Pages near one of three borders.
#[derive(Clone, Copy, Debug)]
struct Span {
    border: usize,
    before: usize,
    pages: usize,
}

#[derive(Clone, Debug)]
enum Op {
    LinkTables(Span),
    Map(Span, u64, u8, MemType),
    MapRun(Span, u64, u8, MemType),
    Restore(Span),
    Park(Span),
    TakeFrames(Span),
    Clear(Span),
    Unlink(Span),
    FreeTables(Span),
    FreeWidened(Span),
}

const NEAR: usize = 8;

fn span() -> impl Strategy<Value = Span> {
    (0..3usize, 0..NEAR, 1..=NEAR).prop_map(|(border, before, pages)| Span { border, before, pages })
}

fn memory() -> impl Strategy<Value = MemType> {
    use MemType::*;
    prop_oneof![4 => Just(WriteBack), 1 => prop::sample::select(&[WriteThrough, UncachedMinus, Uncached, WriteCombining])]
}

fn op(max_pfn: u64) -> impl Strategy<Value = Op> {
    let bound = move || (span(), 0..max_pfn - NEAR as u64, 0..4u8, memory());
    prop_oneof![
        4 => span().prop_map(Op::LinkTables),
        4 => bound().prop_map(|(s, f, p, m)| Op::Map(s, f, p, m)),
        1 => bound().prop_map(|(s, f, p, m)| Op::MapRun(s, f, p, m)),
        2 => span().prop_map(Op::Restore),
        4 => span().prop_map(Op::Park),
        4 => span().prop_map(Op::TakeFrames),
        1 => span().prop_map(Op::Clear),
        2 => span().prop_map(Op::Unlink),
        1 => span().prop_map(Op::FreeTables),
        1 => span().prop_map(Op::FreeWidened),
    ]
}

/// The walker and the model.
struct Pair<'m, F: Mmu, const LEVEL: u8> {
    machine: &'m Boxed<F>,
    walker: Walker<'m, Boxed<F>, LEVEL>,
    model: Model,
    borders: [usize; 3],
}

impl<'m, F: Mmu, const LEVEL: u8> Pair<'m, F, LEVEL> {
    /// The pages that an entry maps.
    const EACH: usize = 1 << PteRange::<F, LEVEL>::ORDER;

    fn new(machine: &'m Boxed<F>, levels: u8) -> Self {
        let (walker, index_bits) = (Walker::at_level(machine), F::INDEX_BITS);
        let model = Model { lowest: LEVEL, levels, index_bits, pages: BTreeMap::new(), tables: BTreeSet::new() };
        Pair { machine, walker, model, borders: F::borders(levels) }
    }

    fn range(&self, span: Span) -> PageRange {
        // The last border may have fewer than NEAR pages behind it.
        around(self.borders[span.border], span.before * Self::EACH, span.pages * Self::EACH)
    }

    /// The `n`-th of adjacent frames of that size, the first of which contains the frame `first`.
    fn frame(first: u64, n: u64) -> Pfn {
        let each = Self::EACH as u64;
        Pfn((first / each + n) * each)
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::LinkTables(span) => self.prepare(span),
            Op::Map(span, frame, prot, memory) => {
                let frames: Vec<_> = (0..span.pages as u64).rev().map(|n| Self::frame(frame, n)).collect();
                self.bind(span, &frames, prot, memory, |p, f, prot| p.map(f, prot, memory))
            }
            Op::MapRun(span, frame, prot, memory) => {
                let frames: Vec<_> = (0..span.pages as u64).map(|n| Self::frame(frame, n)).collect();
                self.bind(span, &frames, prot, memory, |p, f, prot| p.map_run(f[0], prot, memory))
            }
            Op::Restore(span) => self.flip(span, true, |p, report| p.restore(report)),
            Op::Park(span) => self.flip(span, false, |p, report| p.park(report)),
            Op::TakeFrames(span) => self.collect(span),
            Op::Clear(span) => self.clear(span),
            Op::Unlink(span) => self.unlink(span),
            Op::FreeTables(span) => self.free_tables(self.range(span)),
            Op::FreeWidened(span) => self.free_tables(self.walker.widened(self.range(span))),
        }
        self.compare();
    }

    fn pages(&self, span: Span) -> Vec<usize> {
        let range = self.range(span);
        let first = range.start.0 >> PAGE_SHIFT;
        (first..first + range.pages).step_by(Self::EACH).collect()
    }

    /// The pages of `span` that have a leaf table.
    fn reachable(&self, span: Span) -> Vec<usize> {
        self.pages(span).into_iter().filter(|&page| self.model.has_table(page)).collect()
    }

    fn prepare(&mut self, span: Span) {
        let pages = self.pages(span);
        let missing = self.model.missing(&pages);
        assert_eq!(self.walker.missing(self.range(span)), missing);
        assert!(missing <= self.walker.tables_needed(self.range(span).pages));
        let mut prealloc = self.machine.prealloc(missing);
        self.walker.link_tables(self.range(span), &mut prealloc);
        assert!(prealloc.is_empty());
        let tables = self.model.tables_of(&pages);
        self.model.tables.extend(tables);
    }

    fn bind(
        &mut self,
        span: Span,
        frames: &[Pfn],
        prot: u8,
        memory: MemType,
        write: impl Fn(PteRange<F, LEVEL>, &[Pfn], Prot) -> usize,
    ) {
        let prot = Prot::from_bits_truncate(prot);
        let pages = self.pages(span);
        if self.model.missing(&pages) > 0 {
            return;
        }
        let free = pages.iter().take_while(|page| !self.model.pages.contains_key(page)).count();
        let mut bound = 0;
        for piece in self.walker.pieces(self.range(span)) {
            let these = write(piece, &frames[bound..bound + piece.pages()], prot);
            bound += these;
            if these < piece.pages() {
                break;
            }
        }
        assert_eq!(bound, free, "up to the first that is in use");
        let exec = prot.contains(Prot::EXEC) || !F::HAS_NX;
        for (page, &frame) in pages.into_iter().zip(&frames[..bound]) {
            let seen = Seen { frame, write: prot.contains(Prot::WRITE), exec, memory };
            self.model.pages.insert(page, Page { seen, waits: false });
        }
    }

    /// Parks or restores: pages that are parked as `from` says change, and the others that have a
    /// table are reported.
    fn flip(&mut self, span: Span, from: bool, change: impl Fn(PteRange<F, LEVEL>, &mut dyn FnMut(VirtAddr, F::Word))) {
        let mut expected = Vec::new();
        for page in self.reachable(span) {
            match self.model.pages.get_mut(&page) {
                Some(found) if found.waits == from => found.waits = !from,
                _ => expected.push(VirtAddr(page << PAGE_SHIFT)),
            }
        }
        let mut reported = Vec::new();
        for piece in self.walker.pieces(self.range(span)) {
            change(piece, &mut |at, _| reported.push(at));
        }
        assert_eq!(reported, expected);
    }

    fn collect(&mut self, span: Span) {
        let (mut frames, mut expected) = (Vec::new(), Vec::new());
        for page in self.reachable(span) {
            match self.model.pages.get(&page) {
                Some(Page { waits: true, seen }) => {
                    frames.push(seen.frame);
                    self.model.pages.remove(&page);
                }
                _ => expected.push(VirtAddr(page << PAGE_SHIFT)),
            }
        }
        let (mut taken, mut reported) = (Vec::new(), Vec::new());
        for piece in self.walker.pieces(self.range(span)) {
            let mut places = [Pfn(0); 2 * NEAR];
            let collected = piece.take_frames(&mut places, |at, _| reported.push(at));
            taken.extend(&places[..collected]);
        }
        assert_eq!((taken, reported), (frames, expected));
    }

    fn clear(&mut self, span: Span) {
        for piece in self.walker.pieces(self.range(span)) {
            piece.park(|_, _| ());
            piece.take_frames(&mut [Pfn(0); 2 * NEAR], |_, _| ());
        }
        for page in self.pages(span) {
            self.model.pages.remove(&page);
        }
    }

    fn unlink(&mut self, span: Span) {
        let at = self.range(span).start;
        let table = self.model.leaf_table(at.0 >> PAGE_SHIFT);
        let linked = self.model.tables.contains(&table);
        let empty = self.model.is_empty(table);
        let frame = self.walker.unlink(at);
        assert_eq!(frame.is_some(), linked && empty);
        assert_eq!(self.machine.logged().len(), (linked && !empty) as usize);
        if let Some(frame) = frame {
            self.model.tables.remove(&table);
            self.free(frame);
        }
    }

    fn free_tables(&mut self, range: PageRange) {
        let expected = self.model.free_tables(range.start.0 >> PAGE_SHIFT, range.pages);
        let mut freed = 0;
        self.walker.free_tables(range, &mut |frame| {
            self.free(frame);
            freed += 1;
        });
        assert_eq!(freed, expected);
    }

    fn free(&self, frame: Pfn) {
        use crate::machine::frames::Frames;
        // SAFETY: it came from the prealloc and is no longer linked.
        unsafe { self.machine.frames.free(frame, 0) }
    }

    fn compare(&self) {
        for border in self.borders {
            let near = around(border, NEAR * Self::EACH, 2 * NEAR * Self::EACH);
            self.compare_pages(near);
            assert_eq!(self.walker.check(near), Ok(()));
        }
        assert_eq!(self.machine.held(), self.model.tables.len());
        assert!(self.machine.logged().is_empty());
    }

    fn compare_pages(&self, range: PageRange) {
        let first = range.start.0 >> PAGE_SHIFT;
        for page in (first..first + range.pages).step_by(Self::EACH) {
            let seen = self.model.pages.get(&page).filter(|page| !page.waits).map(|page| page.seen);
            // The first small page in it, and the last.
            for within in [0, Self::EACH - 1].into_iter().take(Self::EACH) {
                let at = VirtAddr((page + within) << PAGE_SHIFT);
                let seen = seen.map(|seen| Seen { frame: seen.frame.offset(within as u64), ..seen });
                assert_eq!(F::access(self.machine, at), seen, "the MMU at {at}");
                assert_eq!(self.walker.entry(at), self.model.entry(page), "the walker at {at}");
                assert_eq!(self.walker.translate(at), seen.map(|seen| (seen.frame, prot_of(&seen))));
                assert_eq!(self.walker.leaf(at).is_some(), self.model.has_table(page));
            }
        }
        let frames =
            self.walker.pieces(range).flat_map(PteRange::frames).map(|(at, frame)| (at.0 >> PAGE_SHIFT, frame));
        let known = self.model.pages.range(first..first + range.pages).filter(|(_, page)| !page.waits);
        assert!(frames.eq(known.map(|(&page, found)| (page, found.seen.frame))));
    }
}

/// Runs the steps on both, then frees everything: only the root may be left.
fn agree<F: Mmu, const LEVEL: u8>(levels: u8, ops: Vec<Op>) {
    let machine = Boxed::<F>::new(levels);
    let mut pair = Pair::<F, LEVEL>::new(&machine, levels);
    for op in ops {
        pair.step(op);
    }
    for border in 0..3 {
        let everywhere = Span { border, before: NEAR, pages: 2 * NEAR };
        pair.step(Op::Clear(everywhere));
        pair.step(Op::FreeWidened(everywhere));
    }
    assert_eq!(machine.held(), 0);
}

proptest! {
    #[test]
    fn four_levels_agree_with_the_model_and_the_mmu(ops in prop::collection::vec(op(1 << 40), 1..60)) {
        agree::<X86_64, 1>(4, ops)
    }

    #[test]
    fn five_levels_agree_with_the_model_and_the_mmu(ops in prop::collection::vec(op(1 << 40), 1..60)) {
        agree::<X86_64, 1>(5, ops)
    }

    #[test]
    fn large_pages_agree_with_the_model_and_the_mmu_in_the_same_functions(
        ops in prop::collection::vec(op((1 << 40) - (NEAR << 9) as u64), 1..60),
        levels in 4..=5u8,
    ) {
        agree::<X86_64, 2>(levels, ops)
    }

    #[test]
    fn the_three_levels_of_pae_agree_with_the_model_and_the_mmu(ops in prop::collection::vec(op(1 << 40), 1..60)) {
        agree::<X86Pae, 1>(3, ops)
    }

    #[test]
    fn large_pages_of_pae_agree_with_the_model_and_the_mmu(
        ops in prop::collection::vec(op((1 << 40) - (NEAR << 9) as u64), 1..60),
    ) {
        agree::<X86Pae, 2>(3, ops)
    }

    #[test]
    fn two_levels_of_32_bits_agree_with_the_model_and_the_mmu(ops in prop::collection::vec(op(1 << 20), 1..60)) {
        agree::<X86_32, 1>(2, ops)
    }
}
