//! The arena: which grains of a region are taken.
//!
//! A *grain* is the unit of allocation of a region: 64 pages, or one page. Grains are numbered from
//! the region's start. A take returns the **lowest** run of grains that fits; a take of several runs
//! at fixed distances returns the **highest** base.
//!
//! # Shape
//! The arena has one bit per grain. 64 grains form a *word*. A binary tree stands over the words:
//! each node stores the length of the free run at its start, of the free run at its end, and of the
//! longest free run. The tree is stored in *blocks* of one frame each:
//!
//! ```text
//!   arena    top node, link ─┐
//!                            ▼
//!   block    255 nodes over 128 items: links to lower blocks ─┐
//!                                                             ▼
//!   block    255 nodes over 128 items: words ──▶ bits, 1 = taken
//!   grains   8,192 in a block of words, then 2²⁰, 2²⁷, and up to 2³¹
//! ```
//!
//! An arena of more than 2³¹ grains consists of *windows* of 2³¹ places each. Its top block links
//! the windows, and has one node for each of them and no node above those. A grain's *place* is its
//! number plus a constant, so that the borders of windows are multiples of 2³¹ as addresses are
//! counted. No run that [`Arena::take`] or [`Arena::take_parts`] takes crosses a border; an aligned
//! run has a place that does not. An arena of one window has no top block, and a grain's place is
//! its number.
//!
//! A node stores how much each run is *shorter* than the node. A node of zeros therefore means "all
//! free", and so does cleared or missing memory. The tree covers a power of two of grains; the
//! first take marks the grains beyond the region as taken.
//!
//! # Rules (checked by [`Arena::check`])
//! - **A1** A node over a word describes the bits of the word.
//! - **A2** A node over two nodes is their join. A node over a block equals the block's own node.
//! - **A3** A node over a block that says "all free" or "all taken" is right for the whole block.
//!   The block may then be stale: its own node may differ, and the next change to a part of the
//!   block rewrites it. Only under such a node, or in an arena that was never used, may a block be
//!   missing.
//! - **A4** `used` is the number of taken grains of the region, `frames` the number of blocks.
//! - **A5** A free gives back grains that were taken, by one take or by adjacent takes. An end of
//!   the freed run inside a block was therefore an end of a take, and that take made the block. So
//!   a free needs no memory.
//!
//! Blocks stay linked until [`Arena::destroy`].
//!
//! # Memory and locks
//! A take uses at most [`Arena::frames_needed`] frames of the [`Prealloc`], which the caller fills
//! before it takes the lock. Nothing else in the arena needs memory. The arena has no lock of its
//! own: changes take `&mut self`. All calls on one arena use the same machine.

mod block;
mod change;
mod check;
mod node;
mod search;
#[cfg(test)]
mod tests;

use crate::machine::Machine;
use crate::machine::prealloc::Prealloc;
use crate::units::Pfn;
use block::{Block, ITEMS, Item, Span};
use change::Change;
use core::cell::Cell;
use core::ops::Range;
use node::{Node, State};

/// The most grains that an arena can have.
pub const MAX_GRAINS: u64 = 1 << 36;

/// The grains of a window, which are also the most that one run can have.
pub const WINDOW: usize = 1 << 31;

/// The most searches of one [`Arena::take`] (L3).
const SEARCHES: usize = 32;

/// The run of grains that a caller wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fit {
    /// The length, not 0.
    pub grains: usize,
    /// The alignment, a power of two. `phase` is added to a grain's number before the alignment is
    /// tested.
    pub align: usize,
    /// The grain number of the region's own address.
    pub phase: usize,
    /// The run lies inside this range. The range may reach beyond the arena.
    pub within: Range<usize>,
}

impl Fit {
    /// A run of `grains`, anywhere.
    #[cfg(test)]
    pub const fn of(grains: usize) -> Fit {
        Fit { grains, align: 1, phase: 0, within: 0..usize::MAX }
    }

    /// The first aligned grain at or after `grain`.
    const fn align_up(&self, grain: usize) -> usize {
        grain + (grain.wrapping_add(self.phase).wrapping_neg() & (self.align - 1))
    }

    /// The last aligned grain at or before `grain`, if it lies in the range.
    pub fn align_down(&self, grain: usize) -> Option<usize> {
        let aligned = grain.checked_sub(grain.wrapping_add(self.phase) & (self.align - 1));
        aligned.filter(|&grain| grain >= self.within.start)
    }
}

/// The free and taken grains of a region.
#[derive(Debug)]
pub struct Arena {
    /// The places of its grains.
    places: Range<usize>,
    used: usize,
    frames: u32,
    /// The span of the root block of a window.
    span: Span,
    /// The node over the root block of the only window.
    top: Node,
    /// The link to that root block, or to the top block.
    root: Item,
}

impl Arena {
    /// An arena of `grains`, at most [`MAX_GRAINS`], all free. `phase` is the grain number of its
    /// own address.
    pub const fn new(grains: usize, phase: usize) -> Arena {
        assert!(grains as u64 <= MAX_GRAINS);
        let (first, many) = if grains <= WINDOW { (0, grains) } else { (phase % WINDOW, WINDOW) };
        let span = Span::root(many as u32);
        let top = Node::free_at_first(many as u32, span.grains());
        Arena { places: first..first + grains, used: 0, frames: 0, span, top, root: Item::NONE }
    }

    /// The number of grains, free and taken.
    pub const fn grains(&self) -> usize {
        self.places.end - self.places.start
    }

    /// The number of taken grains.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// The number of frames that the arena owns.
    #[cfg(test)]
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// The length of the longest free run inside a window.
    pub fn widest<M: Machine>(&self, machine: &M) -> usize {
        let windows = self.windows(machine);
        let widest = |n| (self.span.grains() - self.window(windows, n).0.best) as usize;
        (1..=self.last()).map(widest).fold(widest(0), usize::max)
    }

    /// The length of the longest free run in a range.
    ///
    /// # Cost
    /// At most 32 searches, if the range is not the whole arena.
    pub fn widest_within<M: Machine>(&self, machine: &M, range: &Range<usize>) -> usize {
        let end = range.end.min(self.grains());
        if (range.start, end) == (0, self.grains()) {
            return self.widest(machine);
        }
        let fits = |len| self.seek(machine, range.start, len).is_some_and(|start| start + len <= end);
        // Runs of `fit` grains fit, and those of `wide` do not.
        let (mut fit, mut wide) = (0, end.saturating_sub(range.start).min(self.widest(machine)) + 1);
        while wide - fit > 1 {
            let middle = fit + (wide - fit) / 2;
            if fits(middle) { fit = middle } else { wide = middle }
        }
        fit
    }

    /// The most frames that one take uses: the root block, and the blocks on the way from it to
    /// each end of the run and to the end of the region. With several windows, each of these may
    /// lie in a window of its own, as may the start of the region.
    pub const fn frames_needed(&self) -> usize {
        let tiers = self.span.tiers_below() as usize;
        if self.is_wide() { 1 + 4 * (1 + tiers) } else { 1 + 3 * tiers }
    }

    /// Takes the lowest run that fits and returns its first grain.
    ///
    /// # Errors
    /// None was found: where the range is to begin at which the search goes on, unless nothing fits.
    /// Nothing changes on error.
    ///
    /// # Panics
    /// If the prealloc has fewer than [`Arena::frames_needed`] frames. Nothing changes before the
    /// panic.
    ///
    /// # Cost
    /// O(log grains), about 1,000 instructions in an arena of 2²⁷ grains. An aligned run usually
    /// takes two searches, and one more for each lower hole that is long enough but not at the
    /// aligned place. One call makes at most [`SEARCHES`] of them.
    pub fn take<M: Machine>(
        &mut self,
        machine: &M,
        prealloc: &mut Prealloc,
        fit: &Fit,
    ) -> Result<usize, Option<usize>> {
        debug_assert!(fit.grains > 0 && fit.align.is_power_of_two());
        let start = self.find(machine, fit)?;
        self.mark_taken(machine, prealloc, start, fit.grains);
        Ok(start)
    }

    /// Takes `len` grains from `start` if all of them are free, and returns whether it did. Nothing
    /// changes otherwise.
    ///
    /// # Panics
    /// As [`Arena::take`].
    pub fn take_at<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, start: usize, len: usize) -> bool {
        let free = self.is_free(machine, start, len);
        if free {
            self.mark_taken(machine, prealloc, start, len);
        }
        free
    }

    /// Takes the runs at `parts`, each a distance from `base` and a length, if all of them are free.
    /// They do not overlap.
    ///
    /// # Errors
    /// They are not all free: the next lower base at which they may be, if there is one. Nothing
    /// changes on error.
    ///
    /// # Panics
    /// As [`Arena::take`], with that number of frames for each part.
    ///
    /// # Cost
    /// O(log grains) for each part, and for the part that is in the way at most 32 searches, and one for
    /// each window.
    pub fn take_parts<M: Machine>(
        &mut self,
        machine: &M,
        prealloc: &mut Prealloc,
        parts: impl Iterator<Item = (usize, usize)> + Clone,
        base: usize,
    ) -> Result<(), Option<usize>> {
        for (offset, len) in parts.clone() {
            let highest = self.seek_down(machine, base + offset, len).and_then(|start| start.checked_sub(offset));
            if highest != Some(base) {
                return Err(highest);
            }
        }
        parts.for_each(|(offset, len)| self.mark_taken(machine, prealloc, base + offset, len));
        Ok(())
    }

    /// Frees grains that were taken, by one take or by adjacent takes (A5).
    pub fn free<M: Machine>(&mut self, machine: &M, start: usize, len: usize) {
        debug_assert!(self.is_taken(machine, start, len), "A5: {len} grains from {start} are not all taken");
        self.mark(machine, &mut Prealloc::new(), self.run(start, len), State::Free);
        self.used -= len;
    }

    /// Whether `len` grains from `start` lie inside the arena and are all free.
    pub fn is_free<M: Machine>(&self, machine: &M, start: usize, len: usize) -> bool {
        let windows = self.windows(machine);
        by_window(self.run(start, len)).all(|(n, part)| {
            let place = n * WINDOW + part.start as usize;
            self.seek_in(machine, (n, windows), place, part.len()) == Some(place)
        })
    }

    /// Whether `len` grains from `start` lie inside the arena and are all taken.
    pub fn is_taken<M: Machine>(&self, machine: &M, start: usize, len: usize) -> bool {
        let inside = (self.places.end - self.places.start).checked_sub(start).is_some_and(|rest| len <= rest);
        inside && self.seek(machine, start, 1).is_none_or(|free| free - start >= len)
    }

    /// Passes every frame to `give`. The arena is all free afterwards.
    pub fn destroy<M: Machine>(&mut self, machine: &M, mut give: impl FnMut(Pfn)) {
        self.each_frame(machine, &mut give);
        *self = Arena::new(self.places.end - self.places.start, self.places.start);
    }

    /// The lowest start at which `fit` fits; or how far it has searched.
    fn find<M: Machine>(&self, machine: &M, fit: &Fit) -> Result<usize, Option<usize>> {
        let (mut from, end) = (fit.within.start, fit.within.end);
        for _ in 0..SEARCHES {
            let fits = |&start: &usize| fit.grains <= end.saturating_sub(start);
            let start = self.seek(machine, from, fit.grains).filter(fits).ok_or(None)?;
            from = fit.align_up(start);
            if from == start {
                return Ok(start);
            }
        }
        Err(Some(from))
    }

    fn mark_taken<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, start: usize, len: usize) {
        assert!(prealloc.len() >= self.frames_needed(), "the prealloc was not filled before the take");
        if self.root == Item::NONE {
            self.lay_out(machine, prealloc);
        }
        self.mark(machine, prealloc, self.run(start, len), State::Taken);
        self.used += len;
    }

    /// Marks the places before and beyond the region as taken.
    #[cold]
    fn lay_out<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc) {
        self.top = Node::FREE;
        let (first, end) = (self.places.start, self.places.end);
        for outside in [0..first, end..self.all_places()] {
            if !outside.is_empty() {
                self.mark(machine, prealloc, outside, State::Taken);
            }
        }
    }

    fn mark<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, places: Range<usize>, to: State) {
        let is_wide = self.is_wide();
        let (mut change, root) = (Change::new(machine, prealloc, to), Cell::from_mut(&mut self.root));
        if is_wide {
            change.windows(root, self.span, by_window(places));
        } else if let Some(top) = change.block(root, self.span, self.top, places.start as u32..places.end as u32) {
            self.top = top;
        }
        self.frames += change.frames;
    }

    /// Whether there are several windows.
    const fn is_wide(&self) -> bool {
        self.places.end - self.places.start > WINDOW
    }

    /// The places of a run of grains.
    fn run(&self, start: usize, len: usize) -> Range<usize> {
        let start = self.places.start + start;
        start..start + len
    }

    /// The number of the last window.
    const fn last(&self) -> usize {
        self.places.end.saturating_sub(1) / WINDOW
    }

    /// The number of places that its nodes describe.
    const fn all_places(&self) -> usize {
        self.last() * WINDOW + self.span.grains() as usize
    }

    /// The block of windows, if there are several.
    fn windows<'m, M: Machine>(&self, machine: &'m M) -> Option<&'m Block> {
        if self.is_wide() { self.root.block(machine) } else { None }
    }

    /// The node of window `n`, and the link to its root block. `windows` is that block.
    fn window(&self, windows: Option<&Block>, n: usize) -> (Node, Item) {
        if !self.is_wide() {
            return (self.top, self.root);
        }
        if let Some(top) = windows {
            return (top.node(ITEMS + n), top.item(n));
        }
        let grains = self.places.end.min((n + 1) * WINDOW) - self.places.start.max(n * WINDOW);
        (Node { best: (WINDOW - grains) as u32, ..Node::FREE }, Item::NONE)
    }

    /// Calls `with` for each frame of the arena, as [`Item::for_each`].
    fn each_frame<M: Machine>(&self, machine: &M, with: &mut dyn FnMut(Pfn)) {
        let Some(top) = self.windows(machine) else {
            return self.root.for_each(machine, self.span, with);
        };
        top.items.iter().for_each(|window| window.get().for_each(machine, self.span, with));
        with(self.root.frame());
    }
}

/// The parts of `places` in each window: the number of the window, and the places counted from its
/// start.
fn by_window(places: Range<usize>) -> impl Iterator<Item = (usize, Range<u32>)> {
    (places.start / WINDOW..places.end.div_ceil(WINDOW)).map(move |n| {
        let inside = |place: usize| place.saturating_sub(n * WINDOW).min(WINDOW) as u32;
        (n, inside(places.start)..inside(places.end))
    })
}

/// log2 of the grains in a word.
const WORD_BITS: u32 = u64::BITS.ilog2();
