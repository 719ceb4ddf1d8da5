//! The free blocks of one zone: one list for each order.
//!
//! Lists run through the descriptors and never touch the frames. The youngest
//! block is the first: it may still be in a cache.
//!
//! A split leaves the upper halves behind, each in a shorter list than the
//! one it came from, so single frames come out in ascending order while one
//! large block is used up.

use super::descriptor::{Block, Descriptors, Home, NONE, State, Tag};
use crate::machine::frames::MAX_ORDER;
use crate::sync::plain::Ordering::Relaxed;
use crate::units::Pfn;

/// The number of orders.
pub(super) const ORDERS: usize = MAX_ORDER as usize + 1;

/// The free blocks of one zone of one node.
#[derive(Debug)]
pub(super) struct Buddy {
    pub home: Home,
    pub heads: [u32; ORDERS],
    /// Blocks in each list.
    pub blocks: [usize; ORDERS],
    /// Free frames.
    pub free: usize,
    /// All frames.
    pub total: usize,
    /// Frames that requests naming a higher zone leave alone.
    pub reserve: usize,
}

impl Buddy {
    pub const fn new(home: Home) -> Buddy {
        Buddy { home, heads: [NONE; ORDERS], blocks: [0; ORDERS], free: 0, total: 0, reserve: 0 }
    }

    /// Takes a block of `order`, splitting the smallest that is large enough.
    /// Its head says `Out`.
    pub fn take(&mut self, d: Descriptors, order: u8) -> Option<u32> {
        let from = (order..=MAX_ORDER).find(|&o| self.heads[o as usize] != NONE)?;
        let head = self.heads[from as usize];
        Some(self.cut(d, Block { head, order: from, free: true }, head, order))
    }

    /// Takes a block of at most `order`: the smallest that there is, whole
    /// where it is small enough. Returns its head and order.
    pub fn take_up_to(&mut self, d: Descriptors, order: u8) -> Option<(u32, u8)> {
        let smallest = (0..=MAX_ORDER).find(|&o| self.heads[o as usize] != NONE)?;
        let order = order.min(smallest);
        Some((self.take(d, order)?, order))
    }

    /// Takes free blocks that are single frames until `into` is full or there are
    /// no more, and says how many: as [`Buddy::take`] would, all at once.
    pub fn take_singles(&mut self, d: Descriptors, into: &mut [Pfn]) -> usize {
        let (mut index, mut got) = (self.heads[0], 0);
        while got < into.len() && index != NONE {
            let block = d.at(index);
            block.turn(State::Out(0));
            into[got] = d.frame(index);
            (index, got) = (block.next().load(Relaxed), got + 1);
        }
        if index != NONE {
            d.at(index).prev().store(NONE, Relaxed);
        }
        self.heads[0] = index;
        self.blocks[0] -= got;
        self.free -= got;
        got
    }

    /// Takes the piece of `order` at `target` out of the free block `from`,
    /// which covers it. The pieces left over stay free.
    pub fn cut(&mut self, d: Descriptors, from: Block, target: u32, order: u8) -> u32 {
        self.unlink(d, from.head, from.order);
        let head = from.carve(target, order, |at, order| self.link(d, at, order));
        d.at(head).turn(State::Out(order));
        head
    }

    /// Makes the block free and merges it with its buddies. No frame of it is
    /// the head of a listed block.
    pub fn give(&mut self, d: Descriptors, mut head: u32, mut order: u8) {
        while order < MAX_ORDER
            && let Some(buddy) = d.buddy(head, order)
            && d.at(buddy).tag() == Tag::new(State::Free(order), self.home)
        {
            self.unlink(d, buddy, order);
            d.at(head.max(buddy)).turn(State::Inside);
            head = head.min(buddy);
            order += 1;
        }
        self.link(d, head, order);
    }

    fn link(&mut self, d: Descriptors, index: u32, order: u8) {
        let first = &mut self.heads[order as usize];
        let block = d.at(index);
        block.set(Tag::new(State::Free(order), self.home));
        block.prev().store(NONE, Relaxed);
        block.next().store(*first, Relaxed);
        if *first != NONE {
            d.at(*first).prev().store(index, Relaxed);
        }
        *first = index;
        self.blocks[order as usize] += 1;
        self.free += 1 << order;
    }

    fn unlink(&mut self, d: Descriptors, index: u32, order: u8) {
        let (next, prev) = (d.at(index).next().load(Relaxed), d.at(index).prev().load(Relaxed));
        match prev {
            NONE => self.heads[order as usize] = next,
            prev => d.at(prev).next().store(next, Relaxed),
        }
        if next != NONE {
            d.at(next).prev().store(prev, Relaxed);
        }
        self.blocks[order as usize] -= 1;
        self.free -= 1 << order;
    }
}
