//! The check of an arena: recomputes whatever the nodes store.

use super::Arena;
use super::block::{Block, ITEMS, Item, Span};
use super::node::Node;
use crate::error::Broken;
use crate::machine::Machine;

impl Arena {
    /// Recomputes every node and both counters.
    ///
    /// # Errors
    /// The broken rule, and the first grain where it is broken.
    ///
    /// # Cost
    /// O(frames).
    pub fn check<M: Machine>(&self, machine: &M) -> Result<(), Broken> {
        let mut walk = Walk { machine, taken: 0 };
        let mut beyond = self.span.grains() - self.grains;
        if self.root == Item::NONE {
            let fresh = Node::free_at_first(self.grains, self.span.grains());
            Broken::unless(self.top == fresh, "A3", 0)?;
            beyond = 0;
        } else {
            walk.link(self.root, self.span, self.top, 0)?;
        }
        let mut frames = 0;
        self.root.for_each(machine, self.span, &mut |_| frames += 1);
        Broken::unless(walk.taken == self.used + beyond && frames == self.frames, "A4", 0)
    }
}

/// A walk, bottom up, over all blocks that are not stale.
struct Walk<'a, M> {
    machine: &'a M,
    /// Taken grains counted so far.
    taken: u32,
}

impl<M: Machine> Walk<'_, M> {
    /// Compares `own`, the node over a block, with the block.
    fn link(&mut self, link: Item, span: Span, own: Node, first: u32) -> Result<(), Broken> {
        if let Some(state) = own.state(span.grains()) {
            let uniform = Node::uniform(state, span.grains());
            self.taken += uniform.best;
            return Broken::unless(own == uniform, "A3", first as usize);
        }
        let block = link.block(self.machine).ok_or(Broken { rule: "A3", at: first as usize })?;
        Broken::unless(own == block.node(span.own()), "A2", first as usize)?;
        self.node(block, span, span.own(), first)
    }

    /// Compares node `at`, in the block whose first grain is `base`, with its children.
    fn node(&mut self, block: &Block, span: Span, at: usize, base: u32) -> Result<(), Broken> {
        let (node, first) = (block.node(at), base + span.start(at));
        if at < ITEMS {
            self.node(block, span, 2 * at, base)?;
            self.node(block, span, 2 * at + 1, base)?;
            Broken::unless(node == block.joined(at, span.size(at) / 2), "A2", first as usize)
        } else if span.is_words() {
            let word = block.item(at - ITEMS).0;
            self.taken += word.count_ones();
            Broken::unless(node == Node::of_word(word), "A1", first as usize)
        } else {
            self.link(block.item(at - ITEMS), span.below(), node, first)
        }
    }
}
