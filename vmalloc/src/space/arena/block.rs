//! Blocks: one frame of the tree, and how a change goes through it.
//!
//! The nodes of a block are numbered as in a heap: 1 is the block's own, `2n`
//! and `2n + 1` are below `n`, and 128..256 stand over the items. A root block
//! with fewer items uses the leftmost of the nodes of each level.

use super::WORD_BITS;
use super::node::{Node, State};
use crate::machine::Machine;
use crate::machine::stock::Stock;
use crate::units::{PAGE_SIZE, Pfn};
use core::cell::Cell;
use core::ops::Range;

/// Items in a block.
pub(super) const ITEMS: usize = 1 << ITEM_BITS;
/// log2 of [`ITEMS`].
pub(super) const ITEM_BITS: u32 = 7;

/// The contents of a frame.
#[repr(C)]
pub(super) struct Block {
    nodes: [Cell<Node>; 2 * ITEMS],
    items: [Cell<u64>; ITEMS],
}

const _: () = assert!(size_of::<Block>() == PAGE_SIZE);

/// A link to a block: its frame's number plus one, or 0.
///
/// - **K1** Links are made of frames that came out of a stock, and are found in
///   arenas and in their blocks only: the frame of a link belongs to its arena
///   until the link is cleared. Whoever follows a link borrows the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link(u64);

impl Link {
    pub const NONE: Link = Link(0);

    /// The block behind the link.
    pub fn block<M: Machine>(self, machine: &M) -> Option<&Block> {
        let frame = Pfn(self.0.checked_sub(1)?);
        // SAFETY: K1 and M2: the frame is the arena's, readable and writable,
        // and holds a block since it was cleared. Blocks are changed through
        // `&mut Arena` only, and all of their fields are cells.
        Some(unsafe { machine.virt(frame).cast::<Block>().as_ref() })
    }

    /// Calls `with` for the frame of the block and of each one below it; not
    /// before those below it are done with.
    pub fn for_each<M: Machine>(self, machine: &M, span: Span, with: &mut dyn FnMut(Pfn)) {
        let Some(block) = self.block(machine) else { return };
        if !span.is_words() {
            (0..ITEMS).for_each(|item| block.link(item).for_each(machine, span.below(), with));
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
        // The remainder spares the bounds check.
        self.nodes[at % self.nodes.len()].get()
    }

    #[inline(always)]
    pub fn set_node(&self, at: usize, node: Node) {
        self.nodes[at % self.nodes.len()].set(node);
    }

    /// The link at `item`.
    pub fn link(&self, item: usize) -> Link {
        Link(self.items[item].get())
    }

    /// The word at `item`: 1 = taken.
    pub fn word(&self, item: usize) -> u64 {
        self.items[item].get()
    }

    /// What the two nodes below `at`, of `half` grains each, say of it.
    #[inline(always)]
    pub fn joined(&self, at: usize, half: u32) -> Node {
        Node::join(self.node(2 * at), self.node(2 * at + 1), half)
    }

    /// All that is under node `at` becomes `to`; blocks below become stale.
    fn fill(&self, span: Span, at: usize, to: State) {
        let level = Span::level(at);
        for above in 0..=level {
            let (first, node) = (at << above, Node::uniform(to, span.size(at << above)));
            (first..first + (1 << above)).for_each(|at| self.set_node(at, node));
        }
        if span.is_words() {
            let first = (at << level) - ITEMS;
            self.items[first..first + (1 << level)].iter().for_each(|word| word.set(to.word()));
        }
    }

    /// Makes the nodes above the items `first` and `last` true, after these
    /// have changed, up to where the two ways meet; what lies between them
    /// becomes `to`. Returns where they meet.
    fn close(&self, span: Span, first: usize, last: usize, to: State) -> usize {
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
    fn climb(&self, span: Span, mut at: usize) -> Option<Node> {
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

/// One change of a run of grains from one state to the other.
pub(super) struct Change<'a, M> {
    machine: &'a M,
    stock: &'a mut Stock,
    to: State,
    frames: u32,
}

impl<'a, M: Machine> Change<'a, M> {
    pub fn new(machine: &'a M, stock: &'a mut Stock, to: State) -> Self {
        Change { machine, stock, to, frames: 0 }
    }

    /// The frames that have been linked in.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Changes `grains` of the block behind `link`, which comes from the stock
    /// where there is none. `own` is the node over it; the answer is what that
    /// node becomes, or `None` where it stays the same.
    pub fn block(&mut self, link: &mut Link, span: Span, own: Node, grains: Range<u32>) -> Option<Node> {
        let block = link.block(self.machine).unwrap_or_else(|| self.create(link));
        if block.node(span.own()) != own {
            block.fill(span, span.own(), self.to.other());
        }
        let (first, last) = (span.item(grains.start), span.item(grains.end - 1));
        if first == last {
            let changed = self.item(block, span, first, &grains);
            changed.then(|| block.climb(span, ITEMS + first))?
        } else {
            self.item(block, span, first, &grains);
            self.item(block, span, last, &grains);
            block.climb(span, block.close(span, first, last, self.to))
        }
    }

    #[cold]
    fn create(&mut self, link: &mut Link) -> &'a Block {
        let frame = self.stock.take(self.machine).expect("A5: takes are stocked for, frees find their blocks");
        *link = Link(frame.0 + 1);
        self.frames += 1;
        link.block(self.machine).expect("there is a link")
    }

    /// Changes those of `grains` that are in `item`; says whether the node
    /// over it changed.
    fn item(&mut self, block: &Block, span: Span, item: usize, grains: &Range<u32>) -> bool {
        let (at, size) = (ITEMS + item, span.item_size());
        let start = item as u32 * size;
        let part = grains.start.saturating_sub(start)..(grains.end - start).min(size);
        let node = if span.is_words() {
            let word = self.word(block.word(item), part);
            block.items[item].set(word);
            Some(Node::of_word(word))
        } else if part == (0..size) {
            Some(Node::uniform(self.to, size))
        } else {
            let mut link = block.link(item);
            let node = self.block(&mut link, span.below(), block.node(at), part);
            block.items[item].set(link.0);
            node
        };
        node.inspect(|&node| block.set_node(at, node)).is_some()
    }

    /// `word` with the grains `part` changed.
    fn word(&self, word: u64, part: Range<u32>) -> u64 {
        let mask = (u64::MAX >> (u64::BITS - (part.end - part.start))) << part.start;
        debug_assert_eq!(word & mask, self.to.other().word() & mask, "A5: grains are {:?} already", self.to);
        word ^ mask
    }
}
