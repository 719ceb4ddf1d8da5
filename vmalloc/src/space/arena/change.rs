//! Changes: a run of grains becomes taken or free.
//!
//! A change walks down to the word at each end of the run, block by block, and up again. It fills
//! whatever lies between the two ends. Both ends usually lie in one word.

use super::block::{Block, ITEMS, Item, Span};
use super::node::{Node, State};
use crate::machine::Machine;
use crate::machine::prealloc::Prealloc;
use core::cell::Cell;
use core::ops::Range;

/// One change of a run of grains from one state to the other.
pub(super) struct Change<'a, M> {
    machine: &'a M,
    prealloc: &'a mut Prealloc,
    to: State,
    /// The number of frames that the change has linked.
    pub frames: u32,
}

impl<'a, M: Machine> Change<'a, M> {
    pub fn new(machine: &'a M, prealloc: &'a mut Prealloc, to: State) -> Self {
        Change { machine, prealloc, to, frames: 0 }
    }

    /// Changes `grains` in the block behind `link`, and links a new block if there is none. `own`
    /// is the node over the block. Returns the new value of that node, or `None` if it does not
    /// change.
    pub fn block(&mut self, link: &Cell<Item>, span: Span, own: Node, grains: Range<u32>) -> Option<Node> {
        let block = link.get().block(self.machine).unwrap_or_else(|| self.create(link));
        if block.node(span.own()) != own {
            block.fill(span, span.own(), self.to.other());
        }
        let (first, last) = (span.item(grains.start), span.item(grains.end - 1));
        let start = |item: usize| item as u32 * span.item_size();
        if first == last {
            let node = self.item(block, span, first, grains.start - start(first)..grains.end - start(first))?;
            block.set_node(ITEMS + first, node);
            return block.climb(span, ITEMS + first);
        }
        let ends = [(first, grains.start - start(first)..span.item_size()), (last, 0..grains.end - start(last))];
        for (item, part) in ends {
            if let Some(node) = self.item(block, span, item, part) {
                block.set_node(ITEMS + item, node);
            }
        }
        block.climb(span, block.seal(span, first, last, self.to))
    }

    /// Changes the parts of some windows, each the number of a window and grains of it. `link` is
    /// that of the top block, and `span` that of a window.
    pub fn windows(&mut self, link: &Cell<Item>, span: Span, parts: impl Iterator<Item = (usize, Range<u32>)>) {
        let top = link.get().block(self.machine).unwrap_or_else(|| self.create(link));
        for (window, part) in parts {
            if let Some(node) = self.lower(top, window, span, part) {
                top.set_node(ITEMS + window, node);
            }
        }
    }

    /// Links a new block.
    #[cold]
    fn create(&mut self, link: &Cell<Item>) -> &'a Block {
        let frame = self.prealloc.take(self.machine).expect("A5: takes are stocked for, frees find their blocks");
        link.set(Item(frame.0 + 1));
        self.frames += 1;
        link.get().block(self.machine).expect("A6: just linked")
    }

    /// Changes `part` of an item. Returns the new value of the node over the item, or `None` if it
    /// does not change.
    #[inline(always)]
    fn item(&mut self, block: &Block, span: Span, item: usize, part: Range<u32>) -> Option<Node> {
        if span.is_words() {
            let word = self.word(block.item(item).0, part);
            block.items[item % ITEMS].set(Item(word));
            return Some(Node::of_word(word));
        }
        self.lower(block, item, span.below(), part)
    }

    /// Changes `part` of the lower block behind an item, which covers `span`. Returns as `item`.
    fn lower(&mut self, block: &Block, item: usize, span: Span, part: Range<u32>) -> Option<Node> {
        if part == (0..span.grains()) {
            return Some(Node::uniform(self.to, span.grains()));
        }
        self.block(&block.items[item % ITEMS], span, block.node(ITEMS + item), part)
    }

    /// `word` after the change of the grains `part`.
    #[inline(always)]
    fn word(&self, word: u64, part: Range<u32>) -> u64 {
        let mask = (u64::MAX >> (u64::BITS - (part.end - part.start))) << part.start;
        debug_assert_eq!(word & mask, self.to.other().word() & mask, "A5: grains are {:?} already", self.to);
        (word & !mask) | (self.to.word() & mask)
    }
}
