//! Frames that are allocated before a lock is taken, so that nothing fails under the lock.
//!
//! A [`Prealloc`] is a list of cleared bookkeeping frames. It is filled where a failure is allowed
//! and emptied where it is not. The first word of each frame is a parked entry that names the next
//! frame. An MMU that still walks the frame as a table therefore finds nothing present in it.

use super::Machine;
use super::format::{Format, MemType, Prot, Word};
use super::frames::{Frames, Want};
use crate::units::{Node, Pfn};

/// A list of cleared frames. Dropping it leaks its frames: [`Prealloc::trim`] it to 0 first.
#[derive(Debug, Default)]
pub struct Prealloc {
    head: Option<Pfn>,
    len: usize,
}

impl Prealloc {
    /// An empty list.
    pub const fn new() -> Prealloc {
        Prealloc { head: None, len: 0 }
    }

    /// The number of frames.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no frames.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Allocates frames until there are `want`.
    ///
    /// # Errors
    /// The number of frames, if memory ran out before that.
    pub fn fill<M: Machine>(&mut self, machine: &M, node: Node, want: usize) -> Result<(), usize> {
        while self.len < want {
            let frame = machine.frames().alloc(Want::bookkeeping(node)).ok_or(self.len)?;
            // SAFETY: M2; nobody else has the frame (F1).
            unsafe { machine.virt(frame).as_ptr().write_bytes(0, crate::units::PAGE_SIZE) }
            self.put(machine, frame);
        }
        Ok(())
    }

    /// Adds a frame whose bytes are zero.
    pub fn put<M: Machine>(&mut self, machine: &M, frame: Pfn) {
        // The parked entry that names the next frame.
        let parked = |next| M::Table::park(M::Table::leaf(next, Prot::RW, MemType::WriteBack, 1));
        let link = self.head.map_or(M::Table::ABSENT, parked);
        // SAFETY: W1 by M2; the frame belongs to the list from here on.
        unsafe { Word::store(machine.virt(frame).cast().as_ptr(), link) }
        self.head = Some(frame);
        self.len += 1;
    }

    /// Takes a cleared frame.
    pub fn take<M: Machine>(&mut self, machine: &M) -> Option<Pfn> {
        let frame = self.head?;
        let word = machine.virt(frame).cast::<<M::Table as Format>::Word>().as_ptr();
        // SAFETY: W1 by M2; the frame belongs to the list, and `put` wrote its word.
        let link = unsafe { Word::load(word) };
        self.head = M::Table::parked_all([link], 1).map(|[next]| next);
        // SAFETY: as above.
        unsafe { Word::store(word, M::Table::ABSENT) }
        self.len -= 1;
        Some(frame)
    }

    /// Frees frames until at most `keep` are left.
    pub fn trim<M: Machine>(&mut self, machine: &M, keep: usize) {
        while self.len > keep {
            let Some(frame) = self.take(machine) else { return };
            // SAFETY: `alloc` returned it with order 0, and nobody uses it.
            unsafe { machine.frames().free(frame, 0) }
        }
    }
}
