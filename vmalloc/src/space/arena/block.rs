//! Blocks: one frame of the tree.
//!
//! The nodes of a block are numbered as in a heap: 1 is the block's own, `2n`
//! and `2n + 1` are below `n`, and 128..256 stand over the items. A root block
//! with fewer items uses the leftmost of the nodes of each level.

use super::WORD_BITS;
use super::node::{Node, State};
use crate::machine::Machine;
use crate::units::{PAGE_SIZE, Pfn};
use core::cell::Cell;

/// Items in a block.
pub(super) const ITEMS: usize = 1 << ITEM_BITS;
/// log2 of [`ITEMS`].
pub(super) const ITEM_BITS: u32 = 7;

/// The contents of a frame.
#[repr(C)]
pub(super) struct Block {
    nodes: [Cell<Node>; 2 * ITEMS],
    pub items: [Cell<Item>; ITEMS],
}

const _: () = assert!(size_of::<Block>() == PAGE_SIZE);

/// What nodes stand over: a word of bits, 1 = taken, or a link to a block,
/// which is its frame's number plus one, or 0.
///
/// - **A6** Links are made of frames that came out of a stock, and are found in
///   arenas and in their blocks only: the frame of a link belongs to its arena
///   until the link is cleared. Whoever follows a link borrows the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item(pub u64);

impl Item {
    pub const NONE: Item = Item(0);

    /// The block behind the link.
    pub fn block<M: Machine>(self, machine: &M) -> Option<&Block> {
        let frame = Pfn(self.0.checked_sub(1)?);
        // SAFETY: A6 and M2: the frame is the arena's, readable and writable,
        // and holds a block since it was cleared. Blocks are changed through
        // `&mut Arena` only, and all of their fields are cells.
        Some(unsafe { machine.virt(frame).cast::<Block>().as_ref() })
    }

    /// Calls `with` for the frame of the block and of each one below it; not
    /// before those below it are done with.
    pub fn for_each<M: Machine>(self, machine: &M, span: Span, with: &mut dyn FnMut(Pfn)) {
        let Some(block) = self.block(machine) else { return };
        if !span.is_words() {
            (0..ITEMS).for_each(|item| block.item(item).for_each(machine, span.below(), with));
        }
        with(Pfn(self.0 - 1));
    }
}

/// The grains under a block, counted from its first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// log2 of the grains in an item.
    shift: u32,
    /// log2 of the items: [`ITEM_BITS`], but fewer in a root block.
    depth: u32,
}

impl Span {
    /// The span of the root block of an arena: a power of two that `grains`
    /// fit in.
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

    /// How many tiers of blocks there are below this one.
    pub const fn tiers_below(self) -> u32 {
        (self.shift - WORD_BITS) / ITEM_BITS
    }

    /// The span of the blocks that are items.
    pub const fn below(self) -> Span {
        Span { shift: self.shift - ITEM_BITS, depth: ITEM_BITS }
    }

    /// The block's own node: 1, but further down in a root block that is not
    /// full.
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

    /// How far node `at` is above the items.
    const fn level(at: usize) -> u32 {
        (at as u8).leading_zeros()
    }
}

impl Block {
    /// The node `at`, below 256.
    #[inline(always)]
    pub fn node(&self, at: usize) -> Node {
        // The remainder spares the bounds check; so below.
        self.nodes[at % self.nodes.len()].get()
    }

    /// Says `node` of `at`.
    #[inline(always)]
    pub fn set_node(&self, at: usize, node: Node) {
        self.nodes[at % self.nodes.len()].set(node);
    }

    /// The item `item`.
    #[inline(always)]
    pub fn item(&self, item: usize) -> Item {
        self.items[item % ITEMS].get()
    }

    /// The two nodes below `at`.
    #[inline(always)]
    pub fn pair(&self, at: usize) -> (Node, Node) {
        let (pairs, _) = self.nodes.as_chunks::<2>();
        let [left, right] = &pairs[at % ITEMS];
        (left.get(), right.get())
    }

    /// What the two nodes below `at`, of `half` grains each, say of it.
    #[inline(always)]
    pub fn joined(&self, at: usize, half: u32) -> Node {
        let (left, right) = self.pair(at);
        Node::join(left, right, half)
    }

    /// All that is under node `at` becomes `to`; blocks below become stale.
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

    /// Makes the nodes above the items `first` and `last` true, after these
    /// have changed, up to where the two ways meet; what lies between them
    /// becomes `to`. Returns where they meet.
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

    /// Makes the nodes above `at` true, after it has changed. Returns the
    /// block's own, or `None` where it stays as it was.
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
