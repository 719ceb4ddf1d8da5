//! Deferred slots: an NMI freed them and left their entries to the owner (R6).

use crate::space::chunk::ChunkRef;
use crate::space::remote::RemoteFrees;

/// Marked slots of a chunk, taken out of the remote frees, and the number of pages of the first one
/// that are parked.
#[derive(Clone, Copy, Debug)]
pub struct Deferred {
    pub(crate) chunk: ChunkRef,
    /// The marked slots that are left, as a mask.
    pub slots: u64,
    pub(crate) done: usize,
}

impl Deferred {
    /// Pushes a claimed slot, with its entries, to its owner. `remote_frees` are the owner's (R6).
    pub fn post(remote_frees: &RemoteFrees, chunk: ChunkRef, slot: u32) {
        chunk.defer(slot);
        remote_frees.post(chunk, slot);
    }

    /// Called by the owner: of the posted slots, returns the marked ones that are live, and the
    /// marked ones that are not.
    pub fn of(chunk: ChunkRef, posted: u64, live: u64) -> (Option<Deferred>, u64) {
        let marked = chunk.take_deferred(posted);
        let slots = marked & live;
        ((slots != 0).then_some(Deferred { chunk, slots, done: 0 }), marked & !live)
    }

    /// Called by the owner when the entries of the first slot are parked. The slot is received like
    /// any other, and `take_in` makes it stale or cached. Returns what is left.
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
