//! The arena: which grains of a region are taken.
//!
//! A *grain* is the piece in which a region is dealt out: a unit of 64 pages,
//! or one page. Grains are numbered from the region's start. The arena hands
//! out the **lowest** run of grains that fits, exactly.
//!
//! # Shape
//! One bit a grain, 64 grains a *word*, and over the words a binary tree whose
//! nodes tell how long the free run at their start is, the one at their end,
//! and the longest one anywhere. It is cut into *blocks*, one frame each:
//!
//! ```text
//!   arena    top node, link ─┐
//!                            ▼
//!   block    255 nodes over 128 items: links to lower blocks ─┐
//!                                                             ▼
//!   block    255 nodes over 128 items: words ──▶ bits, 1 = taken
//!   grains   8,192 a block of words, then 2²⁰, 2²⁷, and up to 2³¹
//! ```
//!
//! Nodes say what each run *lacks* of the node's size, so that cleared memory,
//! and absent memory, means "all free". The tree spans a power of two: what of
//! it lies beyond the region is marked as taken at the first take.
//!
//! # Rules (checked by [`Arena::check`])
//! - **A1** A node over a word tells what the bits of the word say.
//! - **A2** A node over two nodes is their join; a node over a block is that
//!   block's first node.
//! - **A3** Where the node over a block says that all is free, or all is taken,
//!   it speaks for the whole block. One whose own node says something else is
//!   stale, and is rewritten when a part of it changes. Only there may a block
//!   be absent, and in an arena that nothing has been taken of.
//! - **A4** `used` counts the taken grains of the region, `frames` the blocks.
//! - **A5** What is freed was taken, in one piece or in adjacent ones. So an
//!   end of it inside a block was an end of a take, which made the block:
//!   freeing needs no memory.
//!
//! Blocks stay linked until [`Arena::destroy`].
//!
//! # Memory and locks
//! A take moves at most [`Arena::frames_needed`] frames out of the stock that
//! the caller filled before it took the lock; nothing else here can fail for
//! memory. There is no lock here: changes take `&mut self`. All calls on one
//! arena name the same machine.

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

/// What run of grains is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fit {
    /// Its length; not 0.
    pub grains: u32,
    /// Its start is a multiple of this power of two …
    pub align: u32,
    /// … when grains are counted from this many before the arena's first one:
    /// the grain number of the region's own address (its low 32 bits do).
    pub phase: u32,
    /// It lies inside; what lies beyond the arena does not matter.
    pub within: Range<u32>,
}

impl Fit {
    /// A run of `grains`, anywhere.
    pub const fn of(grains: u32) -> Fit {
        Fit { grains, align: 1, phase: 0, within: 0..u32::MAX }
    }

    /// The first aligned grain from `grain` on.
    const fn align_up(&self, grain: u32) -> u32 {
        grain + (grain.wrapping_add(self.phase).wrapping_neg() & (self.align - 1))
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

    /// All grains, taken or not.
    pub const fn grains(&self) -> u32 {
        self.grains
    }

    /// Grains that are taken.
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Frames that the arena holds.
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// The length of the longest free run.
    pub const fn widest(&self) -> u32 {
        self.span.grains() - self.top.best
    }

    /// The most frames that one take uses up: the root, and the way from there
    /// to each of the run's two ends and to the end of the region.
    pub const fn frames_needed(&self) -> usize {
        1 + 3 * self.span.tiers_below() as usize
    }

    /// Takes the lowest run that fits and returns its first grain.
    ///
    /// # Errors
    /// The length of the longest free run, wherever and however aligned, if
    /// none fits. Nothing has changed then.
    ///
    /// # Panics
    /// Before anything has changed, if the stock has fewer frames than
    /// [`Arena::frames_needed`].
    ///
    /// # Cost
    /// O(log grains): about 1,000 instructions in an arena of 2²⁷. An aligned run takes two searches as a rule, and one
    /// more for each hole below it that is long enough but not where aligned;
    /// these are never more than there are aligned grains below it.
    pub fn take<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, fit: &Fit) -> Result<u32, u32> {
        debug_assert!(fit.grains > 0 && fit.align.is_power_of_two());
        let start = self.find(machine, fit).ok_or(self.widest())?;
        self.mark_taken(machine, prealloc, start, fit.grains);
        Ok(start)
    }

    /// Takes `len` grains from `start`, if all of them are free; if not,
    /// nothing changes and the answer is false.
    ///
    /// # Panics
    /// As [`Arena::take`] does.
    pub fn take_at<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, start: u32, len: u32) -> bool {
        let free = self.is_free(machine, start, len);
        if free {
            self.mark_taken(machine, prealloc, start, len);
        }
        free
    }

    /// Gives grains back. They were taken, in one piece or in adjacent ones
    /// (A5).
    pub fn free<M: Machine>(&mut self, machine: &M, start: u32, len: u32) {
        debug_assert!(self.is_taken(machine, start, len), "A5: {len} grains from {start} are not all taken");
        self.mark(machine, &mut Prealloc::new(), start..start + len, State::Free);
        self.used -= len;
    }

    /// Whether `len` grains from `start` are all inside the arena and free.
    pub fn is_free<M: Machine>(&self, machine: &M, start: u32, len: u32) -> bool {
        self.seek(machine, start, len) == Some(start)
    }

    /// Whether `len` grains from `start` are all inside the arena and taken.
    pub fn is_taken<M: Machine>(&self, machine: &M, start: u32, len: u32) -> bool {
        let inside = self.grains.checked_sub(start).is_some_and(|rest| len <= rest);
        inside && self.seek(machine, start, 1).is_none_or(|free| free - start >= len)
    }

    /// Hands every frame to `give` and is all free again.
    pub fn destroy<M: Machine>(&mut self, machine: &M, mut give: impl FnMut(Pfn)) {
        self.root.for_each(machine, self.span, &mut give);
        *self = Arena::new(self.grains);
    }

    /// The lowest start of `fit`.
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

    /// Marks as taken what the tree spans beyond the region.
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
        self.frames += change.frames();
    }

    /// The top node before the first take.
    const fn fresh_top(&self) -> Node {
        Node::free_at_first(self.grains, self.span.grains())
    }
}

/// log2 of the grains in a word.
const WORD_BITS: u32 = u64::BITS.ilog2();
