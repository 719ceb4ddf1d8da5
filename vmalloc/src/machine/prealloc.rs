//! Frames laid in before a lock is taken, so that the middle cannot fail.
//!
//! A [`Prealloc`] is a chain of cleared bookkeeping frames: each frame's first
//! word is a waiting entry that names the next one: an MMU that still walks
//! the frame as a table finds nothing present in it. It is filled where failing is
//! allowed and emptied where it is not.

use super::Machine;
use super::format::{Entry, Format, MemType, Prot, Word};
use super::frames::{Frames, Want};
use crate::units::{Node, Pfn};

/// A stock of cleared frames. Dropping a stock with frames in it leaks them:
/// give them back first.
#[derive(Debug, Default)]
pub struct Prealloc {
    head: Option<Pfn>,
    len: usize,
}

impl Prealloc {
    /// An empty stock.
    pub const fn new() -> Prealloc {
        Prealloc { head: None, len: 0 }
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
        let link = self.head.map_or(M::Table::ABSENT, link::<M::Table>);
        // SAFETY: W1: M2; the frame belongs to the stock from here on.
        unsafe { Word::store(machine.virt(frame).cast().as_ptr(), link) }
        self.head = Some(frame);
        self.len += 1;
    }

    /// Takes a cleared frame out.
    pub fn take<M: Machine>(&mut self, machine: &M) -> Option<Pfn> {
        let frame = self.head?;
        let word = machine.virt(frame).cast::<<M::Table as Format>::Word>().as_ptr();
        // SAFETY: W1: M2; the frame belongs to the stock, `put` wrote its word.
        let link = unsafe { Word::load(word) };
        self.head = match M::Table::decode(link, 1) {
            Entry::Waiting(next) => Some(next),
            _ => None,
        };
        // SAFETY: as above.
        unsafe { Word::store(word, M::Table::ABSENT) }
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

/// The waiting entry that names `next`.
fn link<F: Format>(next: Pfn) -> F::Word {
    F::retire(F::leaf(next, Prot::RW, MemType::WriteBack))
}
