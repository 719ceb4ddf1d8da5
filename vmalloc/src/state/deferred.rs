//! Slots that another CPU, or an NMI, freed and left to their owner with their entries.

use crate::space::chunk::ChunkRef;
use crate::space::remote::RemoteFrees;

/// Marked slots of a chunk, taken out of the remote frees, and how many pages of the first
/// of them are retired.
#[derive(Clone, Copy, Debug)]
pub struct Deferred {
    pub(crate) chunk: ChunkRef,
    pub(crate) slots: u64,
    pub(crate) done: usize,
}

impl Deferred {
    /// A claimed slot goes to its owner, whose remote frees this is, with its entries (R6).
    pub fn post(remote_frees: &RemoteFrees, chunk: ChunkRef, slot: u32) {
        chunk.defer(slot);
        remote_frees.post(chunk, slot);
    }

    /// Owner: of slots that were posted, the marked ones that live; and those that do
    /// not.
    pub fn of(chunk: ChunkRef, posted: u64, live: u64) -> (Option<Deferred>, u64) {
        let marked = chunk.take_deferred(posted);
        let slots = marked & live;
        ((slots != 0).then_some(Deferred { chunk, slots, done: 0 }), marked & !live)
    }

    /// Its slots.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// Owner: the entries of the first slot are retired. So it comes home like any
    /// other, and `take_in` makes it stale or cached. Returns what is left.
    pub fn receive_first(self, take_in: impl FnOnce(u64)) -> Option<Deferred> {
        let Deferred { chunk, slots, .. } = self;
        chunk.receive(slots & slots.wrapping_neg(), |live| {
            take_in(live);
            0
        });
        let slots = slots & (slots - 1);
        (slots != 0).then_some(Deferred { chunk, slots, done: 0 })
    }
}
