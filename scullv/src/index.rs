//! The index: finds the set of an item, however far out it is.
//!
//! A tree of nodes of a page each, no higher than the last item needs: of
//! height 0 it is one link, to the set of item 0. A level more and it covers as
//! many times more items as a node has links. So an item far out costs the
//! nodes on its own path, six at most, and nothing for the items before it.
//!
//! ```text
//!   height 0      root ─► set 0
//!   height 2      root ─► node ─┬─► node ─┬─► set 0
//!                               │         └─► set 3
//!                               └─► node ───► set 700
//! ```
//!
//! # Rules
//! - X1. No node is empty (D1).
//! - X2. The root of a tree that is higher than 0 has a link beside the first:
//!   else it would not need its height.

use crate::memory::{Link, Memory, NODE, Table};
use vmalloc::AllocError;
use vmalloc::machine::Machine;

/// log2 of the links of a node.
const BITS: u32 = NODE.trailing_zeros();
/// Nodes that one more item can need: a path, and a tree that grows.
const MOST_NODES: usize = 16;

/// The sets of a device, by item.
pub(crate) struct Index {
    root: Link,
    height: u32,
}

/// A set that was found: its item, itself, and the link to it.
#[derive(Clone, Copy)]
pub(crate) struct Found<'t> {
    pub item: u64,
    pub set: Link,
    pub link: &'t Link,
}

/// Nodes laid in before anything is changed.
pub(crate) struct Stock<'v, M: Machine> {
    nodes: [Option<Table<'v, M>>; MOST_NODES],
    left: usize,
}

impl<'v, M: Machine> Stock<'v, M> {
    pub fn lay_in(memory: Memory<'v, M>, count: usize) -> Result<Stock<'v, M>, AllocError> {
        let mut nodes = [const { None }; MOST_NODES];
        for node in &mut nodes[..count] {
            *node = Some(memory.table(NODE)?);
        }
        Ok(Stock { nodes, left: count })
    }

    fn take(&mut self) -> Table<'v, M> {
        self.left -= 1;
        self.nodes[self.left].take().expect("X1: `missing` counts the nodes that `plant` takes")
    }
}

/// Levels that reach `item`.
fn height_for(item: u64) -> u32 {
    (u64::BITS - item.leading_zeros()).div_ceil(BITS)
}

/// Which link of a node at `level` leads to `item`; leaves are level 1.
fn digit(item: u64, level: u32) -> usize {
    (item >> (BITS * (level - 1))) as usize & (NODE - 1)
}

impl Index {
    pub const fn new() -> Index {
        Index { root: Link::NONE, height: 0 }
    }

    /// The link that stands for the first item, whether there is one or not.
    pub fn head(&self) -> &Link {
        &self.root
    }

    /// The set of `item`.
    pub fn set<M: Machine>(&self, memory: Memory<'_, M>, item: u64) -> Option<Link> {
        if height_for(item) > self.height {
            return None;
        }
        let mut at = self.root;
        for level in (1..=self.height).rev() {
            if at.is_none() {
                return None;
            }
            // SAFETY: B1: a node. B2: `self` is borrowed.
            at = unsafe { memory.links(at, NODE) }[digit(item, level)];
        }
        (!at.is_none()).then_some(at)
    }

    /// The first set at or after `item`.
    pub fn next<M: Machine>(&self, memory: Memory<'_, M>, item: u64) -> Option<Found<'_>> {
        if height_for(item) > self.height {
            return None;
        }
        first_in(memory, &self.root, self.height, 0, item)
    }

    /// Nodes that `item` needs and that are not there.
    pub fn missing<M: Machine>(&self, memory: Memory<'_, M>, item: u64) -> usize {
        let height = height_for(item).max(self.height);
        let grown = (height - self.height) as usize;
        if self.root.is_none() {
            return height as usize;
        }
        if grown > 0 {
            return grown + height as usize - 1;
        }
        let (mut at, mut level) = (self.root, self.height);
        while level > 0 && !at.is_none() {
            // SAFETY: B1: a node. B2: `self` is borrowed.
            at = unsafe { memory.links(at, NODE) }[digit(item, level)];
            level -= 1;
        }
        level as usize
    }

    /// Links the set of `item`, which has none, with nodes of `stock`.
    pub fn plant<M: Machine>(&mut self, memory: Memory<'_, M>, item: u64, set: Link, stock: &mut Stock<'_, M>) {
        self.grow(height_for(item), stock);
        let mut at = &mut self.root;
        for level in (1..=self.height).rev() {
            if at.is_none() {
                *at = stock.take().into_link();
            }
            // SAFETY: B1: a node. B2: `self` is borrowed alone, and one node has one link.
            at = &mut unsafe { memory.links_mut(*at, NODE) }[digit(item, level)];
        }
        *at = set;
    }

    fn grow<M: Machine>(&mut self, height: u32, stock: &mut Stock<'_, M>) {
        while self.height < height {
            if !self.root.is_none() {
                let mut above = stock.take();
                above.links_mut()[0] = self.root;
                self.root = above.into_link();
            }
            self.height += 1;
        }
    }

    /// Shows `visit` each set from `item` on, last first; those for which it
    /// says true are unlinked, and so are nodes that are left empty. Returns
    /// how many nodes were.
    pub fn cut<M: Machine>(
        &mut self,
        memory: Memory<'_, M>,
        item: u64,
        visit: &mut dyn FnMut(u64, Link) -> bool,
    ) -> usize {
        let cut = cut_in(memory, &mut self.root, self.height, 0, item, visit);
        cut + self.lower(memory)
    }

    /// Takes away what X2 does not allow.
    fn lower<M: Machine>(&mut self, memory: Memory<'_, M>) -> usize {
        let mut given_up = 0;
        while self.height > 0 && !self.root.is_none() {
            // SAFETY: B1: a node. B2: `self` is borrowed alone.
            let links = unsafe { memory.links(self.root, NODE) };
            if links[1..].iter().any(|link| !link.is_none()) {
                return given_up;
            }
            let only = links[0];
            // SAFETY: B1; the link to it is overwritten next.
            drop(unsafe { memory.unlinked(self.root, NODE) });
            (self.root, self.height, given_up) = (only, self.height - 1, given_up + 1);
        }
        self.height = if self.root.is_none() { 0 } else { self.height };
        given_up
    }

    /// Counts the nodes, and tells whether X1 and X2 hold.
    pub fn census<M: Machine>(&self, memory: Memory<'_, M>) -> (usize, bool) {
        let (nodes, full) = census_in(memory, self.root, self.height);
        let high = self.height == 0 || self.next(memory, 1 << (BITS * (self.height - 1))).is_some();
        (nodes, high && (full || self.root.is_none()))
    }
}

/// Items under each link of a node at `level`.
fn span(level: u32) -> u64 {
    1 << (BITS * (level - 1))
}

fn first_in<'t, M: Machine>(
    memory: Memory<'_, M>,
    link: &'t Link,
    level: u32,
    base: u64,
    from: u64,
) -> Option<Found<'t>> {
    if link.is_none() {
        return None;
    }
    if level == 0 {
        return Some(Found { item: base, set: *link, link });
    }
    // SAFETY: B1: a node. B2: as `link` is borrowed.
    let links: &'t [Link] = unsafe { memory.links(*link, NODE) };
    let first = (from.saturating_sub(base) / span(level)) as usize;
    let mut below = links.iter().enumerate().skip(first);
    below.find_map(|(at, link)| first_in(memory, link, level - 1, base + at as u64 * span(level), from))
}

fn cut_in<M: Machine>(
    memory: Memory<'_, M>,
    link: &mut Link,
    level: u32,
    base: u64,
    from: u64,
    visit: &mut dyn FnMut(u64, Link) -> bool,
) -> usize {
    if link.is_none() {
        return 0;
    }
    if level == 0 {
        if base >= from && visit(base, *link) {
            *link = Link::NONE;
        }
        return 0;
    }
    // SAFETY: B1: a node. B2: `link` is borrowed alone.
    let links = unsafe { memory.links_mut(*link, NODE) };
    let first = (from.saturating_sub(base) / span(level)) as usize;
    let mut given_up = 0;
    for (at, link) in links.iter_mut().enumerate().skip(first).rev() {
        given_up += cut_in(memory, link, level - 1, base + at as u64 * span(level), from, visit);
    }
    if links.iter().all(|link| link.is_none()) {
        // SAFETY: B1; the link to it is cleared next.
        drop(unsafe { memory.unlinked(*link, NODE) });
        *link = Link::NONE;
        given_up += 1;
    }
    given_up
}

/// Nodes at and under `link`, and whether something lies under each.
fn census_in<M: Machine>(memory: Memory<'_, M>, link: Link, level: u32) -> (usize, bool) {
    if link.is_none() || level == 0 {
        return (0, !link.is_none());
    }
    // SAFETY: B1: a node. B2: the index is borrowed.
    let links = unsafe { memory.links(link, NODE) };
    let below = links.iter().filter(|link| !link.is_none()).map(|&link| census_in(memory, link, level - 1));
    let (nodes, sound, any) =
        below.fold((1, true, false), |(nodes, sound, _), (more, full)| (nodes + more, sound && full, true));
    (nodes, sound && any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_as_high_as_its_last_item_needs() {
        let node = NODE as u64;
        let heights = [(0, 0), (1, 1), (node - 1, 1), (node, 2), (node * node - 1, 2), (node * node, 3), (1 << 51, 6)];
        for (item, height) in heights {
            assert_eq!(height_for(item), height, "{item}");
        }
    }
}
