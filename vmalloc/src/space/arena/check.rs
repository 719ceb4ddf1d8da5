//! The check of an arena: recomputes whatever the nodes store.

use super::block::{Block, ITEMS, Item, Span};
use super::node::Node;
use super::{Arena, WINDOW};
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
        let mut outside = self.all_places() - (self.places.end - self.places.start);
        if self.root == Item::NONE {
            let fresh =
                Node::free_at_first((self.places.end - self.places.start).min(WINDOW) as u32, self.span.grains());
            Broken::unless(self.top == fresh, "A3", 0)?;
            outside = 0;
        } else {
            let top = self.windows(machine);
            let mut windows = (0..=self.last()).map(|n| (n, self.window(top, n)));
            windows.try_for_each(|(n, (top, root))| walk.link(root, self.span, top, n * WINDOW))?;
        }
        let mut frames = 0;
        self.each_frame(machine, &mut |_| frames += 1);
        Broken::unless(walk.taken == self.used + outside && frames == self.frames, "A4", 0)
    }
}

/// A walk, bottom up, over all blocks that are not stale.
struct Walk<'a, M> {
    machine: &'a M,
    /// Taken grains counted so far.
    taken: usize,
}

impl<M: Machine> Walk<'_, M> {
    /// Compares `own`, the node over a block, with the block.
    fn link(&mut self, link: Item, span: Span, own: Node, first: usize) -> Result<(), Broken> {
        if let Some(state) = own.state(span.grains()) {
            let uniform = Node::uniform(state, span.grains());
            self.taken += uniform.best as usize;
            return Broken::unless(own == uniform, "A3", first);
        }
        let block = link.block(self.machine).ok_or(Broken { rule: "A3", at: first })?;
        Broken::unless(own == block.node(span.own()), "A2", first)?;
        self.node(block, span, span.own(), first)
    }

    /// Compares node `at`, in the block whose first grain is `base`, with its children.
    fn node(&mut self, block: &Block, span: Span, at: usize, base: usize) -> Result<(), Broken> {
        let (node, first) = (block.node(at), base + span.start(at) as usize);
        if at < ITEMS {
            self.node(block, span, 2 * at, base)?;
            self.node(block, span, 2 * at + 1, base)?;
            Broken::unless(node == block.joined(at, span.size(at) / 2), "A2", first)
        } else if span.is_words() {
            let word = block.item(at - ITEMS).0;
            self.taken += word.count_ones() as usize;
            Broken::unless(node == Node::of_word(word), "A1", first)
        } else {
            self.link(block.item(at - ITEMS), span.below(), node, first)
        }
    }
}
