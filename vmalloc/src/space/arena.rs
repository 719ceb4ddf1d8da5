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
use block::{Item, Span};
use change::Change;
use core::cell::Cell;
use core::ops::Range;
use node::{Node, State};

/// The most grains that an arena can have.
pub const MAX_GRAINS: u32 = 1 << 31;

/// The run of grains that a caller wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fit {
    /// The length, not 0.
    pub grains: u32,
    /// The alignment, a power of two. `phase` is added to a grain's number before the alignment is
    /// tested.
    pub align: u32,
    /// The low 32 bits of the grain number of the region's own address.
    pub phase: u32,
    /// The run lies inside this range. The range may reach beyond the arena.
    pub within: Range<u32>,
}

impl Fit {
    /// A run of `grains`, anywhere.
    #[cfg(test)]
    pub const fn of(grains: u32) -> Fit {
        Fit { grains, align: 1, phase: 0, within: 0..u32::MAX }
    }

    /// The first aligned grain at or after `grain`.
    const fn align_up(&self, grain: u32) -> u32 {
        grain + (grain.wrapping_add(self.phase).wrapping_neg() & (self.align - 1))
    }

    /// The last aligned grain at or before `grain`, if it lies in the range.
    pub fn align_down(&self, grain: u32) -> Option<u32> {
        let aligned = grain.checked_sub(grain.wrapping_add(self.phase) & (self.align - 1));
        aligned.filter(|&grain| grain >= self.within.start)
    }
}

/// The free and taken grains of a region.
#[derive(Debug)]
pub struct Arena {
    grains: u32,
    used: u32,
    frames: u32,
    span: Span,
    top: Node,
    root: Item,
}

impl Arena {
    /// An arena of `grains`, at most [`MAX_GRAINS`], all free.
    pub const fn new(grains: u32) -> Arena {
        assert!(grains <= MAX_GRAINS);
        let span = Span::root(grains);
        let top = Node::free_at_first(grains, span.grains());
        Arena { grains, used: 0, frames: 0, span, top, root: Item::NONE }
    }

    /// The number of grains, free and taken.
    #[cfg(test)]
    pub const fn grains(&self) -> u32 {
        self.grains
    }

    /// The number of taken grains.
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// The number of frames that the arena owns.
    #[cfg(test)]
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// The length of the longest free run.
    pub const fn widest(&self) -> u32 {
        self.span.grains() - self.top.best
    }

    /// The length of the longest free run in a range.
    ///
    /// # Cost
    /// At most 32 searches, if the range is not the whole arena.
    pub fn widest_within<M: Machine>(&self, machine: &M, range: &Range<u32>) -> u32 {
        let end = range.end.min(self.grains);
        if (range.start, end) == (0, self.grains) {
            return self.widest();
        }
        let fits = |len| self.seek(machine, range.start, len).is_some_and(|start| start + len <= end);
        // Runs of `fit` grains fit, and those of `wide` do not.
        let (mut fit, mut wide) = (0, end.saturating_sub(range.start).min(self.widest()) + 1);
        while wide - fit > 1 {
            let middle = fit + (wide - fit) / 2;
            if fits(middle) { fit = middle } else { wide = middle }
        }
        fit
    }

    /// The most frames that one take uses: the root block, and the blocks on the way from it to
    /// each end of the run and to the end of the region.
    pub const fn frames_needed(&self) -> usize {
        1 + 3 * self.span.tiers_below() as usize
    }

    /// Takes the lowest run that fits and returns its first grain.
    ///
    /// # Errors
    /// If nothing fits: the length of the longest free run in the range, at any alignment. Nothing
    /// changes on error.
    ///
    /// # Panics
    /// If the prealloc has fewer than [`Arena::frames_needed`] frames. Nothing changes before the
    /// panic.
    ///
    /// # Cost
    /// O(log grains), about 1,000 instructions in an arena of 2²⁷ grains. An aligned run usually
    /// takes two searches, and one more for each lower hole that is long enough but not at the
    /// aligned place. There are at most as many such holes as aligned grains below the run.
    pub fn take<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, fit: &Fit) -> Result<u32, u32> {
        debug_assert!(fit.grains > 0 && fit.align.is_power_of_two());
        let start = self.find(machine, fit).ok_or_else(|| self.widest_within(machine, &fit.within))?;
        self.mark_taken(machine, prealloc, start, fit.grains);
        Ok(start)
    }

    /// Takes `len` grains from `start` if all of them are free, and returns whether it did. Nothing
    /// changes otherwise.
    ///
    /// # Panics
    /// As [`Arena::take`].
    pub fn take_at<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, start: u32, len: u32) -> bool {
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
    /// O(log grains) for each part, and at most 32 searches for the part that is in the way.
    pub fn take_parts<M: Machine>(
        &mut self,
        machine: &M,
        prealloc: &mut Prealloc,
        parts: impl Iterator<Item = (u32, u32)> + Clone,
        base: u32,
    ) -> Result<(), Option<u32>> {
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
    pub fn free<M: Machine>(&mut self, machine: &M, start: u32, len: u32) {
        debug_assert!(self.is_taken(machine, start, len), "A5: {len} grains from {start} are not all taken");
        self.mark(machine, &mut Prealloc::new(), start..start + len, State::Free);
        self.used -= len;
    }

    /// Whether `len` grains from `start` lie inside the arena and are all free.
    pub fn is_free<M: Machine>(&self, machine: &M, start: u32, len: u32) -> bool {
        self.seek(machine, start, len) == Some(start)
    }

    /// Whether `len` grains from `start` lie inside the arena and are all taken.
    pub fn is_taken<M: Machine>(&self, machine: &M, start: u32, len: u32) -> bool {
        let inside = self.grains.checked_sub(start).is_some_and(|rest| len <= rest);
        inside && self.seek(machine, start, 1).is_none_or(|free| free - start >= len)
    }

    /// Passes every frame to `give`. The arena is all free afterwards.
    pub fn destroy<M: Machine>(&mut self, machine: &M, mut give: impl FnMut(Pfn)) {
        self.root.for_each(machine, self.span, &mut give);
        *self = Arena::new(self.grains);
    }

    /// The lowest start at which `fit` fits.
    fn find<M: Machine>(&self, machine: &M, fit: &Fit) -> Option<u32> {
        let end = fit.within.end.min(self.grains);
        let mut from = fit.within.start;
        loop {
            let start = self.seek(machine, from, fit.grains)?;
            if start + fit.grains > end {
                return None;
            }
            from = fit.align_up(start);
            if from == start {
                return Some(start);
            }
        }
    }

    fn mark_taken<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, start: u32, len: u32) {
        assert!(prealloc.len() >= self.frames_needed(), "the prealloc was not filled before the take");
        if self.root == Item::NONE {
            self.lay_out(machine, prealloc);
        }
        self.mark(machine, prealloc, start..start + len, State::Taken);
        self.used += len;
    }

    /// Marks the grains beyond the region as taken.
    #[cold]
    fn lay_out<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc) {
        self.top = Node::FREE;
        if self.grains < self.span.grains() {
            self.mark(machine, prealloc, self.grains..self.span.grains(), State::Taken);
        }
    }

    fn mark<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, grains: Range<u32>, to: State) {
        let mut change = Change::new(machine, prealloc, to);
        if let Some(top) = change.block(Cell::from_mut(&mut self.root), self.span, self.top, grains) {
            self.top = top;
        }
        self.frames += change.frames;
    }
}

/// log2 of the grains in a word.
const WORD_BITS: u32 = u64::BITS.ilog2();
