//! Descriptors: 16 bytes for each frame of the span.
//!
//! ```text
//!   extra:4 | next:4 | prev:4 | order:1 state:1 zone:1 node:1
//! ```
//!
//! Zone and node form the frame's **home** and never change after `init`. The lock of the home's
//! node guards the order, the state, and the links of the head of a free block. The links of an
//! allocated frame belong to its holder. All fields are atomics with relaxed accesses, so that
//! readers may share a descriptor while the holder of the lock writes it. A relaxed access costs as
//! much as a plain one.
//!
//! Blocks tile the frames of RAM. The descriptor of a block's first frame, its **head**, stores
//! whether the block is free or out (allocated), and its order. All other descriptors of the block
//! say `Inside`. The question "which block covers this frame?" takes O(orders) steps, and answers
//! whether a frame is free, out, or no RAM.

use crate::gfp::ZoneKind;
use crate::machine::frames::{MAX_ORDER, Page};
use crate::sync::plain::{AtomicU32, Ordering::Relaxed};
use crate::units::{Node, Pfn};

/// All zones, from the lowest addresses up.
pub(super) const KINDS: [ZoneKind; 4] = [ZoneKind::Dma, ZoneKind::Dma32, ZoneKind::Normal, ZoneKind::HighMem];

/// The end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// The state of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No RAM. All bytes of the descriptor are zero.
    Hole,
    /// Part of a block, but not its head.
    Inside,
    /// The head of a free block of this order.
    Free(u8),
    /// The head of an allocated block of this order.
    Out(u8),
}

/// The zone and the node of a frame. They never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Home {
    pub zone: ZoneKind,
    pub node: Node,
}

/// State and home in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag(u32);

impl Tag {
    pub fn new(state: State, home: Home) -> Tag {
        let (order, state) = match state {
            State::Hole => (0, 0),
            State::Inside => (0, 1),
            State::Free(order) => (order, 2),
            State::Out(order) => (order, 3),
        };
        Tag(u32::from_le_bytes([order, state, home.zone as u8, home.node.0]))
    }

    pub fn state(self) -> State {
        match self.0.to_le_bytes() {
            [order, 2, ..] => State::Free(order),
            [order, 3, ..] => State::Out(order),
            [_, 1, ..] => State::Inside,
            _ => State::Hole,
        }
    }

    #[inline]
    pub fn is_hole(self) -> bool {
        self.0.to_le_bytes()[1] == 0
    }

    pub fn home(self) -> Home {
        let [_, _, zone, node] = self.0.to_le_bytes();
        let zone = KINDS[zone as usize % KINDS.len()];
        Home { zone, node: Node(node) }
    }
}

/// The record of one frame. All bytes zero mean a hole.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Descriptor {
    pub page: Page,
    tag: AtomicU32,
}

const _: () = assert!(cfg!(loom) || size_of::<Descriptor>() == 16);

impl Descriptor {
    /// The next block on the list.
    pub fn next(&self) -> &AtomicU32 {
        &self.page.links[0]
    }

    /// The previous block on the list.
    pub fn prev(&self) -> &AtomicU32 {
        &self.page.links[1]
    }

    #[inline]
    pub fn tag(&self) -> Tag {
        Tag(self.tag.load(Relaxed))
    }

    pub fn set(&self, tag: Tag) {
        self.tag.store(tag.0, Relaxed);
    }

    pub fn state(&self) -> State {
        self.tag().state()
    }

    /// Changes the state and keeps the home.
    pub fn set_state(&self, state: State) {
        self.set(Tag::new(state, self.tag().home()));
    }
}

/// A block: its head's index, its state and its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub head: u32,
    pub order: u8,
    pub free: bool,
}

/// The descriptors of all frames from `base` on. An index counts from `base`.
#[derive(Clone, Copy)]
pub(super) struct Descriptors<'a> {
    pub base: Pfn,
    pub all: &'a [Descriptor],
}

impl<'a> Descriptors<'a> {
    /// The index of a frame; `None` outside the span.
    #[inline]
    pub fn index(self, frame: Pfn) -> Option<u32> {
        let index = frame.0.wrapping_sub(self.base.0);
        (index < self.all.len() as u64).then_some(index as u32)
    }

    /// The frame at `index`.
    #[inline]
    pub fn frame(self, index: u32) -> Pfn {
        self.base.offset(index as u64)
    }

    /// Makes the frame at `index` an allocated block of its own.
    #[inline]
    pub fn give_out(self, index: u32) -> Pfn {
        self.at(index).set_state(State::Out(0));
        self.frame(index)
    }

    /// The descriptor at `index`.
    #[inline]
    pub fn at(self, index: u32) -> &'a Descriptor {
        &self.all[index as usize]
    }

    /// The public part of the descriptor; `None` for a hole.
    #[inline]
    pub fn page(self, frame: Pfn) -> Option<&'a Page> {
        let descriptor = self.all.get(frame.0.wrapping_sub(self.base.0) as usize)?;
        (!descriptor.tag().is_hole()).then_some(&descriptor.page)
    }

    /// The head of the buddy of the block of `order` at `index`; `None` outside the span.
    pub fn buddy(self, index: u32, order: u8) -> Option<u32> {
        self.index(Pfn(self.frame(index).0 ^ 1 << order))
    }

    /// Whether a block of `order` may start at `index`.
    pub fn aligned(self, index: u32, order: u8) -> bool {
        self.frame(index).0.trailing_zeros() >= order as u32
    }

    /// The block that covers the frame; `None` for a hole.
    pub fn covering(self, index: u32) -> Option<Block> {
        (0..=MAX_ORDER).find_map(|order| {
            let head = self.index(Pfn(self.frame(index).0 >> order << order))?;
            self.block(head).filter(|block| block.order >= order)
        })
    }

    /// The block whose head is at `index`.
    pub fn block(self, index: u32) -> Option<Block> {
        match self.at(index).state() {
            State::Free(order) => Some(Block { head: index, order, free: true }),
            State::Out(order) => Some(Block { head: index, order, free: false }),
            State::Inside | State::Hole => None,
        }
    }
}

impl Block {
    /// Cuts the block down to the part of `order` that covers `target`, and calls `leave` for each
    /// other part, the largest first. Returns the head of the part that is kept.
    pub fn carve(self, target: u32, order: u8, mut leave: impl FnMut(u32, u8)) -> u32 {
        (order..self.order).rev().fold(self.head, |head, order| {
            let upper = head + (1 << order);
            let (kept, left) = if target >= upper { (upper, head) } else { (head, upper) };
            leave(left, order);
            kept
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn a_tag_gives_back_what_was_packed() {
        for zone in super::KINDS {
            let home = Home { zone, node: Node(5) };
            for state in [State::Hole, State::Inside, State::Free(7), State::Out(10)] {
                let tag = Tag::new(state, home);
                assert_eq!((tag.state(), tag.home()), (state, home));
            }
        }
    }

    #[test]
    fn a_piece_is_carved_out_and_the_rest_named_largest_first() {
        let block = Block { head: 16, order: 3, free: true };
        let mut left = Vec::new();
        assert_eq!(block.carve(21, 0, |at, order| left.push((at, order))), 21);
        assert_eq!(left, [(16, 2), (22, 1), (20, 0)]);
    }
}
