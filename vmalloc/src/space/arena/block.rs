//! Blocks: the tree of an arena, one frame at a time.
//!
//! The nodes of a block are numbered as in a heap. Node 1 is the block's own, the children of node
//! `n` are `2n` and `2n + 1`, and nodes 128..256 stand over the items. A root block with fewer
//! items uses the leftmost nodes of each level only.

use super::WORD_BITS;
use super::node::{Node, State};
use crate::machine::Machine;
use crate::units::{PAGE_SIZE, Pfn};
use core::cell::Cell;

/// Items in a block.
pub(super) const ITEMS: usize = 1 << ITEM_BITS;
/// log2 of [`ITEMS`].
pub(super) const ITEM_BITS: u32 = 7;

/// The contents of one frame.
#[repr(C)]
pub(super) struct Block {
    nodes: [Cell<Node>; 2 * ITEMS],
    pub items: [Cell<Item>; ITEMS],
}

const _: () = assert!(size_of::<Block>() == PAGE_SIZE);

/// What a leaf node of a block stands over: a word of bits (1 = taken), or a link to a lower block.
/// A link is the frame's number plus one; 0 is no link.
///
/// - **A6** A link names a frame that came out of a prealloc. Links exist only in an arena and in
///   its blocks, and the frame belongs to that arena until the link is cleared. A caller that
///   follows a link borrows the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item(pub u64);

impl Item {
    pub const NONE: Item = Item(0);

    /// The block behind the link.
    pub fn block<M: Machine>(self, machine: &M) -> Option<&Block> {
        let frame = Pfn(self.0.checked_sub(1)?);
        // SAFETY: A6 and M2: the frame is the arena's, readable and writable, and has held a block
        // since it was cleared. A block is changed through `&mut Arena` only, and all of its fields
        // are cells.
        Some(unsafe { machine.virt(frame).cast::<Block>().as_ref() })
    }

    /// Calls `with` for the frame of each block below this link, children first, and then for the
    /// linked block's own frame.
    pub fn for_each<M: Machine>(self, machine: &M, span: Span, with: &mut dyn FnMut(Pfn)) {
        let Some(block) = self.block(machine) else { return };
        if !span.is_words() {
            (0..ITEMS).for_each(|item| block.item(item).for_each(machine, span.below(), with));
        }
        with(self.frame());
    }

    /// The frame of the linked block.
    pub const fn frame(self) -> Pfn {
        Pfn(self.0 - 1)
    }
}

/// The range of grains that a block covers, by size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// log2 of the grains in an item.
    shift: u32,
    /// log2 of the items: [`ITEM_BITS`], or less in a root block.
    depth: u32,
}

impl Span {
    /// The span of an arena's root block: the smallest that covers `grains`.
    pub const fn root(grains: u32) -> Span {
        let levels = grains.next_power_of_two().ilog2().saturating_sub(WORD_BITS);
        let tiers_below = levels.saturating_sub(1) / ITEM_BITS;
        Span { shift: WORD_BITS + tiers_below * ITEM_BITS, depth: levels - tiers_below * ITEM_BITS }
    }

    /// The number of grains.
    pub const fn grains(self) -> u32 {
        1 << (self.shift + self.depth)
    }

    /// Whether the items are words rather than links.
    pub const fn is_words(self) -> bool {
        self.shift == WORD_BITS
    }

    /// The number of levels of blocks below this one.
    pub const fn tiers_below(self) -> u32 {
        (self.shift - WORD_BITS) / ITEM_BITS
    }

    /// The span of the next lower blocks.
    pub const fn below(self) -> Span {
        Span { shift: self.shift - ITEM_BITS, depth: ITEM_BITS }
    }

    /// The number of the block's own node: 1, or a lower node in a root block that is not full.
    pub const fn own(self) -> usize {
        ITEMS >> self.depth
    }

    /// The item that holds `grain`.
    pub const fn item(self, grain: u32) -> usize {
        (grain >> self.shift) as usize
    }

    /// The number of grains in an item.
    pub const fn item_size(self) -> u32 {
        1 << self.shift
    }

    /// The number of grains under node `at`.
    pub const fn size(self, at: usize) -> u32 {
        1 << (self.shift + Span::level(at))
    }

    /// The first grain of node `at`.
    pub const fn start(self, at: usize) -> u32 {
        (((at << Span::level(at)) - ITEMS) as u32) << self.shift
    }

    /// How many levels node `at` stands above the items.
    const fn level(at: usize) -> u32 {
        (at as u8).leading_zeros()
    }
}

impl Block {
    /// Node `at`, which is below 256.
    #[inline(always)]
    pub fn node(&self, at: usize) -> Node {
        // The remainder avoids a bounds check, here and below.
        self.nodes[at % self.nodes.len()].get()
    }

    /// Writes node `at`.
    #[inline(always)]
    pub fn set_node(&self, at: usize, node: Node) {
        self.nodes[at % self.nodes.len()].set(node);
    }

    /// Item `item`.
    #[inline(always)]
    pub fn item(&self, item: usize) -> Item {
        self.items[item % ITEMS].get()
    }

    /// The two children of node `at`.
    #[inline(always)]
    pub fn pair(&self, at: usize) -> (Node, Node) {
        let (pairs, _) = self.nodes.as_chunks::<2>();
        let [left, right] = &pairs[at % ITEMS];
        (left.get(), right.get())
    }

    /// The join of the two children of node `at`, each of `half` grains.
    #[inline(always)]
    pub fn joined(&self, at: usize, half: u32) -> Node {
        let (left, right) = self.pair(at);
        Node::join(left, right, half)
    }

    /// Sets everything under node `at` to `to`. Lower blocks become stale (A3).
    pub fn fill(&self, span: Span, at: usize, to: State) {
        let level = Span::level(at);
        for above in 0..=level {
            let (first, node) = (at << above, Node::uniform(to, span.size(at << above)));
            (first..first + (1 << above)).for_each(|at| self.set_node(at, node));
        }
        if span.is_words() {
            let first = (at << level) - ITEMS;
            self.items[first..first + (1 << level)].iter().for_each(|word| word.set(Item(to.word())));
        }
    }

    /// Updates the nodes above the items `first` and `last`, which have changed, up to the node
    /// that covers both, and sets everything between the two items to `to`. Returns that node's
    /// number.
    pub fn seal(&self, span: Span, first: usize, last: usize, to: State) -> usize {
        let (mut left, mut right) = (ITEMS + first, ITEMS + last);
        while left != right {
            for between in [left ^ 1, right ^ 1] {
                if left < between && between < right {
                    self.fill(span, between, to);
                }
            }
            let half = span.size(left);
            (left, right) = (left / 2, right / 2);
            self.set_node(left, self.joined(left, half));
            self.set_node(right, self.joined(right, half));
        }
        left
    }

    /// Updates the nodes above `at`, which has changed. Returns the block's own node, or `None` if
    /// it did not change.
    #[inline(always)]
    pub fn climb(&self, span: Span, mut at: usize) -> Option<Node> {
        let (own, mut half) = (span.own(), span.size(at));
        while at > own {
            at /= 2;
            let node = self.joined(at, half);
            if node == self.node(at) {
                return None;
            }
            self.set_node(at, node);
            half *= 2;
        }
        Some(self.node(own))
    }
}
