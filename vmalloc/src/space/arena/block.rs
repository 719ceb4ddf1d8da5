//! Blocks: one frame of the tree, and how a change goes through it.
//!
//! The nodes of a block are numbered as in a heap: 1 is the block's own, `2n`
//! and `2n + 1` are below `n`, and 128..256 stand over the items.

use super::WORD_BITS;
use super::node::{Node, State, free_grains};
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
            (0..ITEMS).for_each(|item| block.link(item).for_each(machine, span.below(item), with));
        }
        with(Pfn(self.0 - 1));
    }
}

/// The grains under a block, counted from its first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// log2 of the grains in an item.
    shift: u32,
    /// Grains of the region in the block.
    pub room: u32,
}

impl Span {
    /// The span of the root block of an arena.
    pub const fn root(grains: u32) -> Span {
        let mut shift = WORD_BITS;
        while grains as u64 > 1 << (shift + ITEM_BITS) {
            shift += ITEM_BITS;
        }
        Span { shift, room: grains }
    }

    /// Whether the items are words rather than links.
    pub const fn is_words(self) -> bool {
        self.shift == WORD_BITS
    }

    /// How many tiers of blocks there are below this one.
    pub const fn tiers_below(self) -> u32 {
        (self.shift - WORD_BITS) / ITEM_BITS
    }

    /// The span of the block that is item `item`.
    pub fn below(self, item: usize) -> Span {
        Span { shift: self.shift - ITEM_BITS, room: self.size(ITEMS + item) }
    }

    /// The item that holds `grain`.
    pub fn item(self, grain: u32) -> usize {
        (grain >> self.shift) as usize
    }

    /// The first grain of a node.
    pub fn start(self, node: usize) -> u32 {
        self.bounds(node).0 as u32
    }

    /// The number of grains of a node that lie in the region.
    #[inline(always)]
    pub fn size(self, node: usize) -> u32 {
        let (start, size) = self.bounds(node);
        (self.room as u64).saturating_sub(start).min(size) as u32
    }

    /// First grain and size of a node of an endless region.
    #[inline(always)]
    fn bounds(self, node: usize) -> (u64, u64) {
        let level = (node as u8).leading_zeros();
        let first_item = (node << level) - ITEMS;
        ((first_item as u64) << self.shift, 1 << (self.shift + level))
    }
}

impl Block {
    #[inline(always)]
    pub fn node(&self, at: usize) -> Node {
        self.nodes[at].get()
    }

    #[inline(always)]
    pub fn set_node(&self, at: usize, node: Node) {
        self.nodes[at].set(node);
    }

    /// Item `item` as a link.
    pub fn link(&self, item: usize) -> Link {
        Link(self.items[item].get())
    }

    /// The free grains of the word at `item`.
    pub fn free_grains(&self, span: Span, item: usize) -> u64 {
        free_grains(self.items[item].get(), span.size(ITEMS + item))
    }

    /// What the nodes below `at` say of it.
    #[inline(always)]
    pub fn joined(&self, span: Span, at: usize) -> Node {
        let (left, right) = (2 * at, 2 * at + 1);
        Node::join(self.node(left), span.size(left), self.node(right), span.size(right))
    }

    /// Makes the nodes on the way to `item` true, where one above says that
    /// all of its grains are in the state `was` (A3).
    fn refresh(&self, span: Span, item: usize, was: State) {
        for depth in (1..=ITEM_BITS).rev() {
            let at = (ITEMS + item) >> depth;
            if self.node(at).is(was, span.size(at)) {
                self.set_node(2 * at, Node::uniform(was, span.size(2 * at)));
                self.set_node(2 * at + 1, Node::uniform(was, span.size(2 * at + 1)));
            }
        }
    }

    /// Makes the nodes above the items `first` and `last` true, after these
    /// have changed and all items between them have become `to`. Returns the
    /// block's own node, or `None` where it stays as it was.
    fn climb(&self, span: Span, first: usize, last: usize, to: State) -> Option<Node> {
        let (mut left, mut right) = (ITEMS + first, ITEMS + last);
        while left > 1 {
            for between in [left ^ 1, right ^ 1] {
                if left < between && between < right {
                    self.set_node(between, Node::uniform(to, span.size(between)));
                }
            }
            (left, right) = (left / 2, right / 2);
            let node = self.joined(span, left);
            if left != right {
                self.set_node(right, self.joined(span, right));
            } else if node == self.node(left) {
                return None;
            }
            self.set_node(left, node);
        }
        Some(self.node(1))
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

    /// The block behind `link`; a new one from the stock where there is none.
    pub fn open(&mut self, link: &mut Link) -> &'a Block {
        if *link == Link::NONE {
            let frame = self.stock.take(self.machine).expect("A5: takes are stocked for, frees find their blocks");
            *link = Link(frame.0 + 1);
            self.frames += 1;
        }
        link.block(self.machine).expect("there is a link")
    }

    /// Changes `grains` of a block. `own` is the node over it; the answer is
    /// what that node becomes, or `None` where it stays the same.
    pub fn block(&mut self, block: &Block, span: Span, own: Node, grains: Range<u32>) -> Option<Node> {
        let (first, last) = (span.item(grains.start), span.item(grains.end - 1));
        block.set_node(1, own);
        block.refresh(span, first, self.to.other());
        if last == first {
            self.item(block, span, first, &grains).then(|| block.climb(span, first, last, self.to))?
        } else {
            block.refresh(span, last, self.to.other());
            self.item(block, span, first, &grains);
            self.item(block, span, last, &grains);
            block.climb(span, first, last, self.to)
        }
    }

    /// Changes those of `grains` that are in `item`; says whether the node
    /// over it changed.
    fn item(&mut self, block: &Block, span: Span, item: usize, grains: &Range<u32>) -> bool {
        let at = ITEMS + item;
        let (start, size, own) = (span.start(at), span.size(at), block.node(at));
        let part = grains.start.saturating_sub(start)..(grains.end - start).min(size);
        let node = if part == (0..size) {
            Some(Node::uniform(self.to, size))
        } else if span.is_words() {
            let word = &block.items[item];
            word.set(self.word(word.get(), own, size, part));
            Some(Node::of_word(word.get(), size))
        } else {
            let mut link = block.link(item);
            let below = self.open(&mut link);
            block.items[item].set(link.0);
            self.block(below, span.below(item), own, part)
        };
        node.inspect(|&node| block.set_node(at, node)).is_some()
    }

    /// `word` with the grains `part` changed. `own` is the node over it.
    fn word(&self, word: u64, own: Node, size: u32, part: Range<u32>) -> u64 {
        let was = self.to.other();
        let word = if own.is(was, size) { was.word() } else { word };
        let mask = (u64::MAX >> (u64::BITS - (part.end - part.start))) << part.start;
        debug_assert_eq!(word & mask, was.word() & mask, "A5: grains are {:?} already", self.to);
        word ^ mask
    }
}
