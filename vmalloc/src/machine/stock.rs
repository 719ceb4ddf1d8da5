//! Frames laid in before a lock is taken, so that the middle cannot fail.
//!
//! A [`Stock`] is a chain of cleared bookkeeping frames: each frame's first
//! word holds the number of the next one. It is filled where failing is
//! allowed and emptied where it is not.

use super::Machine;
use super::frames::{Frames, Want};
use crate::units::{Node, Pfn};

/// A stock of cleared frames. Dropping a stock with frames in it leaks them:
/// give them back first.
#[derive(Debug, Default)]
pub struct Stock {
    head: Option<Pfn>,
    len: usize,
}

impl Stock {
    /// An empty stock.
    pub const fn new() -> Stock {
        Stock { head: None, len: 0 }
    }

    /// Frames in stock.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in stock.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes frames until `want` are in stock.
    ///
    /// # Errors
    /// The number in stock, where memory ran out before that.
    pub fn fill<M: Machine>(&mut self, machine: &M, node: Node, want: usize) -> Result<(), usize> {
        while self.len < want {
            let frame = machine.frames().alloc(Want::bookkeeping(node)).ok_or(self.len)?;
            // SAFETY: M2; the frame is ours alone since F1.
            unsafe { machine.virt(frame).as_ptr().write_bytes(0, crate::units::PAGE_SIZE) }
            self.put(machine, frame);
        }
        Ok(())
    }

    /// Adds a frame whose bytes are zero.
    pub fn put<M: Machine>(&mut self, machine: &M, frame: Pfn) {
        let next = self.head.map_or(0, |f| f.0 + 1);
        // SAFETY: M2; the frame belongs to the stock from here on.
        unsafe { machine.virt(frame).cast::<u64>().write(next) }
        self.head = Some(frame);
        self.len += 1;
    }

    /// Takes a cleared frame out.
    pub fn take<M: Machine>(&mut self, machine: &M) -> Option<Pfn> {
        let frame = self.head?;
        let word = machine.virt(frame).cast::<u64>();
        // SAFETY: M2; the frame belongs to the stock, `put` wrote its word.
        let next = unsafe { word.replace(0) };
        self.head = next.checked_sub(1).map(Pfn);
        self.len -= 1;
        Some(frame)
    }

    /// Gives frames back until at most `keep` are left.
    pub fn trim<M: Machine>(&mut self, machine: &M, keep: usize) {
        while self.len > keep {
            let Some(frame) = self.take(machine) else { return };
            // SAFETY: it came from `alloc` with order 0 and nobody uses it.
            unsafe { machine.frames().free(frame, 0) }
        }
    }
}
