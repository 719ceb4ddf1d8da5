//! The free blocks of one zone, one list for each order.
//!
//! The lists are linked through the descriptors and never touch the frames. The block that was
//! freed last comes first, because it may still be in a cache.
//!
//! A split puts the upper halves on the lists of the lower orders. While one large block is used
//! up, single frames therefore come out in ascending order.

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
    /// The length of each list.
    pub blocks: [usize; ORDERS],
    /// The number of free frames.
    pub free: usize,
    /// The number of frames.
    pub total: usize,
    /// The free frames that a request for a higher zone must leave here.
    pub reserve: usize,
}

impl Buddy {
    pub const fn new(home: Home) -> Buddy {
        Buddy { home, heads: [NONE; ORDERS], blocks: [0; ORDERS], free: 0, total: 0, reserve: 0 }
    }

    /// Takes a block of `order` and marks its head `Out`. Splits the smallest block that is large
    /// enough.
    pub fn take(&mut self, d: Descriptors, order: u8) -> Option<u32> {
        let from = (order..=MAX_ORDER).find(|&o| self.heads[o as usize] != NONE)?;
        let head = self.heads[from as usize];
        Some(self.cut(d, Block { head, order: from, free: true }, head, order))
    }

    /// Takes a block of at most `order`. Takes the smallest block there is, and splits it if it is
    /// larger. Returns its head and its order.
    pub fn take_up_to(&mut self, d: Descriptors, order: u8) -> Option<(u32, u8)> {
        let smallest = (0..=MAX_ORDER).find(|&o| self.heads[o as usize] != NONE)?;
        let order = order.min(smallest);
        Some((self.take(d, order)?, order))
    }

    /// Takes whole free blocks as single frames, the smallest first, while they fit into `into`.
    /// Returns how many frames. The result is that of as many calls of [`Buddy::take_up_to`].
    pub fn take_whole(&mut self, d: Descriptors, into: &mut [Pfn]) -> usize {
        let mut got = 0;
        for order in 0..ORDERS {
            let (mut head, frames) = (self.heads[order], 1 << order);
            while head != NONE && into.len() - got >= frames {
                let next = d.at(head).next().load(Relaxed);
                (0..frames).for_each(|n| into[got + n] = d.give_out(head + n as u32));
                (head, got) = (next, got + frames);
                self.blocks[order] -= 1;
            }
            self.heads[order] = head;
            if head != NONE {
                d.at(head).prev().store(NONE, Relaxed);
                break;
            }
        }
        self.free -= got;
        got
    }

    /// Takes the block of `order` at `target` out of the free block `from`, which covers it. The
    /// rest of `from` stays free.
    pub fn cut(&mut self, d: Descriptors, from: Block, target: u32, order: u8) -> u32 {
        self.unlink(d, from.head, from.order);
        let head = from.carve(target, order, |at, order| self.link(d, at, order));
        d.at(head).set_state(State::Out(order));
        head
    }

    /// Frees the block and merges it with its buddies. The block must not contain the head of a
    /// block on a list.
    pub fn give(&mut self, d: Descriptors, mut head: u32, mut order: u8) {
        while order < MAX_ORDER
            && let Some(buddy) = d.buddy(head, order)
            && d.at(buddy).tag() == Tag::new(State::Free(order), self.home)
        {
            self.unlink(d, buddy, order);
            d.at(head.max(buddy)).set_state(State::Inside);
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
