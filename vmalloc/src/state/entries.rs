//! From a slot to its entries.
//!
//! A class chunk stores the leaf tables under it in its header, since they stay linked while the
//! chunk exists (T1). So the entries of its slots are found without a walk. For a run, the tables
//! are walked.

use crate::machine::Machine;
use crate::machine::format::{Entry, Format, entries};
use crate::space::chunk::ChunkRef;
use crate::state::core::Ctx;
use crate::state::lookup::Found;
use crate::state::region::leaf_shift;
use crate::table::{Gap, LeafTable, PteRange, Walker, Word};
use crate::units::{PAGE_SHIFT, PageRange, VirtAddr};

/// The place of some pages: their chunk and, if the slot has mapped them, its index.
pub(crate) type Place = (ChunkRef, Option<u32>);

impl Found {
    /// The place of the slot's pages, which it has mapped.
    #[inline]
    pub(crate) fn place(&self) -> Place {
        (self.chunk, Some(self.index))
    }
}

impl<'v, M: Machine> Ctx<'v, M> {
    /// A walker for the tables under pages that stay outside of the arena during the walk: the
    /// caller holds the slot, is pinned, or holds the region's lock, or nobody else calls (T1).
    pub(crate) fn walker(self) -> Walker<'v, M> {
        // SAFETY: T1: see above.
        unsafe { Walker::new(self.machine) }
    }

    /// Calls `f` for each piece that [`Ctx::pieces`] returns.
    #[inline(always)]
    pub(crate) fn each_piece(self, place: Place, pages: PageRange, mut f: impl FnMut(PteRange<M::Table>)) {
        match at_hand::<M>(place.0, pages) {
            Some(piece) => f(piece),
            None => self.each_of_several(place, pages, &mut f),
        }
    }

    #[cold]
    #[inline(never)]
    fn each_of_several(self, place: Place, pages: PageRange, f: &mut dyn FnMut(PteRange<M::Table>)) {
        self.pieces(place, pages).for_each(f)
    }

    /// The entries of `pages`, cut at the borders of leaf tables. Pages without a table are left
    /// out, and reported once if the slot has mapped them (T2).
    pub(crate) fn pieces(self, place: Place, pages: PageRange) -> PteRanges<'v, M> {
        PteRanges { ctx: self, place, at: pages.start, left: pages.pages }
    }

    /// The entry of the page at `at`, which belongs to a slot of `chunk`. Changes nothing and
    /// reports nothing.
    pub(crate) fn look(self, chunk: ChunkRef, at: VirtAddr) -> Option<PteRange<M::Table>> {
        self.each_look(chunk, PageRange::new(at, 1)).next()?.1
    }

    /// As [`Ctx::look`], for pages of the slot: those under each leaf table, and their entries if it is
    /// linked.
    pub(crate) fn each_look(
        self,
        chunk: ChunkRef,
        mut rest: PageRange,
    ) -> impl Iterator<Item = (PageRange, Option<PteRange<M::Table>>)> {
        core::iter::from_fn(move || {
            let pages = PageRange::new(rest.start, in_one_table::<M>(rest.start, rest.pages));
            rest = PageRange::new(pages.end(), rest.pages - pages.pages);
            let walk = || Some(PteRange::new(self.walker().leaf(pages.start)?.1, pages.start, pages.pages));
            (pages.pages > 0).then(|| (pages, at_hand::<M>(chunk, pages).or_else(walk)))
        })
    }
}

/// The number of pages from `at` on, at most `most`, whose entries lie in one leaf table.
#[inline]
pub(crate) fn in_one_table<M: Machine>(at: VirtAddr, most: usize) -> usize {
    let first = (at.0 >> PAGE_SHIFT) & (entries::<M::Table>() - 1);
    most.min(entries::<M::Table>() - first)
}

/// The entries of `pages`, if they lie in one leaf table that the chunk has in its header.
#[inline(always)]
pub(crate) fn at_hand<M: Machine>(chunk: ChunkRef, pages: PageRange) -> Option<PteRange<M::Table>> {
    at_hand_from::<M>(chunk, pages, || chunk.page_of(pages.start))
}

/// As [`at_hand`], for a caller that knows the number of pages of the chunk before these.
#[inline(always)]
pub(crate) fn at_hand_from<M: Machine>(
    chunk: ChunkRef,
    pages: PageRange,
    page: impl FnOnce() -> usize,
) -> Option<PteRange<M::Table>> {
    match chunk.entries() {
        0 => at_hand_of_several::<M>(chunk, pages),
        // SAFETY: T1: `cache_leaves` stored it when the table was linked. The pages belong to a
        // slot, and their table stays linked while the chunk exists.
        entries => Some(unsafe { PteRange::within(entries, page(), pages.start, pages.pages) }),
    }
}

/// As [`at_hand`], where several leaf tables map the chunk.
#[inline]
fn at_hand_of_several<M: Machine>(chunk: ChunkRef, pages: PageRange) -> Option<PteRange<M::Table>> {
    if pages.pages > in_one_table::<M>(pages.start, pages.pages) {
        return None;
    }
    match chunk.leaf(pages.start, leaf_shift::<M>()) {
        0 => None,
        // SAFETY: T1: `cache_leaves` stored it when the table was linked, and the table stays
        // linked while the chunk exists.
        raw => Some(PteRange::new(unsafe { LeafTable::from_raw(raw) }, pages.start, pages.pages)),
    }
}

/// The pieces of a slot. See [`Ctx::pieces`].
pub(crate) struct PteRanges<'v, M: Machine> {
    ctx: Ctx<'v, M>,
    place: Place,
    at: VirtAddr,
    left: usize,
}

impl<M: Machine> PteRanges<'_, M> {
    /// Moves on by `pages` pages.
    fn advance(&mut self, pages: usize) {
        self.left -= pages;
        self.at = VirtAddr(self.at.0.wrapping_add(pages << PAGE_SHIFT));
    }

    /// Reports that there is no table where the slot has mapped pages.
    #[cold]
    fn told(&self, gap: &Gap<Word<M>>) {
        let (chunk, Some(index)) = self.place else { return };
        let is_bad = <M::Table as Format>::decode(gap.word, gap.level) == Entry::Bad;
        if !is_bad && !chunk.slot(index).is_reported() {
            self.ctx.walker().report_bad_entry(gap.level, gap.at, gap.word);
        }
        chunk.slot(index).mark_reported();
    }
}

impl<M: Machine> Iterator for PteRanges<'_, M> {
    type Item = PteRange<M::Table>;

    fn next(&mut self) -> Option<PteRange<M::Table>> {
        while self.left > 0 {
            let pages = PageRange::new(self.at, in_one_table::<M>(self.at, self.left));
            // A run chunk has no leaf tables in its header.
            match at_hand::<M>(self.place.0, pages).map_or_else(|| self.ctx.walker().piece(pages), Ok) {
                Ok(piece) => {
                    self.advance(pages.pages);
                    return Some(piece);
                }
                Err(gap) => {
                    self.told(&gap);
                    self.advance(gap.pages.min(self.left));
                }
            }
        }
        None
    }
}

const _: () = assert!(<crate::table::X86_32 as Format>::INDEX_BITS >= crate::space::class::UNIT_SHIFT);
