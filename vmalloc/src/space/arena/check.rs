//! Checking: everything that the nodes say, counted again.

use super::Arena;
use super::block::{Block, ITEMS, Link, Span};
use super::node::{Node, State};
use crate::error::Broken;
use crate::machine::Machine;

impl Arena {
    /// Recomputes every node and both counters.
    ///
    /// # Errors
    /// The rule that is broken, and the first grain of what breaks it.
    ///
    /// # Cost
    /// O(frames).
    pub fn check<M: Machine>(&self, machine: &M) -> Result<(), Broken> {
        let span = Span::root(self.grains);
        let mut walk = Walk { machine, taken: 0 };
        walk.link(self.root, span, self.top, 0)?;
        let mut frames = 0;
        self.root.for_each(machine, span, &mut |_| frames += 1);
        rule("A4", 0, walk.taken == self.used && frames == self.frames)
    }
}

/// `Ok` where the rule `name` holds.
fn rule(name: &'static str, grain: u32, holds: bool) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken { rule: name, at: grain as usize }) }
}

/// A walk over all that is not stale, from below.
struct Walk<'a, M> {
    machine: &'a M,
    /// Taken grains passed so far.
    taken: u32,
}

impl<M: Machine> Walk<'_, M> {
    /// Holds `own`, the node over a block, against the block.
    fn link(&mut self, link: Link, span: Span, own: Node, first: u32) -> Result<(), Broken> {
        if let Some(state) = own.state(span.room) {
            return self.uniform(state, own, span.room, first);
        }
        let block = link.block(self.machine).ok_or(Broken { rule: "A3", at: first as usize })?;
        self.below(block, span, 1, first)?;
        rule("A2", first, own == block.node(1))
    }

    /// Holds node `at` of a block, which starts at `base`, against what is
    /// below it.
    fn node(&mut self, block: &Block, span: Span, at: usize, base: u32) -> Result<(), Broken> {
        match block.node(at).state(span.size(at)) {
            Some(state) => self.uniform(state, block.node(at), span.size(at), base + span.start(at)),
            None => self.below(block, span, at, base),
        }
    }

    /// The same, for a node that is neither all free nor all taken.
    fn below(&mut self, block: &Block, span: Span, at: usize, base: u32) -> Result<(), Broken> {
        let (node, first) = (block.node(at), base + span.start(at));
        if at < ITEMS {
            self.node(block, span, 2 * at, base)?;
            self.node(block, span, 2 * at + 1, base)?;
            return rule("A2", first, node == block.joined(span, at));
        }
        let item = at - ITEMS;
        if !span.is_words() {
            return self.link(block.link(item), span.below(item), node, first);
        }
        let free = block.free_grains(span, item);
        self.taken += span.size(at) - free.count_ones();
        rule("A1", first, node == Node::of_word(!free, span.size(at)))
    }

    /// Counts a node that speaks for all below it.
    fn uniform(&mut self, state: State, node: Node, size: u32, first: u32) -> Result<(), Broken> {
        self.taken += Node::uniform(state, size).best;
        rule("A3", first, node == Node::uniform(state, size))
    }
}
