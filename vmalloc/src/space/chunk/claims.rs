//! Remote frees of slots: a CPU other than the owner claims a slot and posts it, and the owner
//! receives it (R1, R4). The freer may leave the entries to the owner (R6).

use super::Chunk;
use crate::sync::{Ordering::*, between_seqcst, breaks};

impl Chunk {
    /// Whether another CPU is freeing the slot, or has freed it.
    #[inline]
    pub fn is_claimed(&self, slot: u32) -> bool {
        !breaks!(GiveClaimed) && self.remote.claimed.load(Relaxed) >> slot & 1 != 0
    }

    /// Owner: the pages of a stale slot, if there are at most `most` and all of its frames are its
    /// own. `None` for any other slot, and while another CPU has a claim on it (R4).
    #[inline(always)]
    pub fn usual_pages(&self, slot: u32, most: usize) -> Option<usize> {
        let pages = self.slot(slot).own_pages().filter(|pages| (1..=most).contains(pages))?;
        (!self.is_claimed(slot)).then_some(pages)
    }

    /// For a CPU that frees the slot: whether the owner and another CPU are freeing it at the same
    /// moment (R4).
    pub fn is_freed_twice(&self, slot: u32) -> bool {
        self.remote.claimed.load(SeqCst) & !self.live.load(SeqCst) & 1 << slot != 0
    }

    /// R1: claims a live slot for a free. Returns false if somebody else was first.
    pub fn claim(&self, slot: u32) -> bool {
        let bit = 1 << slot;
        if self.remote.claimed.fetch_or(bit, SeqCst) & bit != 0 {
            return false;
        }
        between_seqcst();
        // The owner may have freed the slot just before the claim. The claim is then void, and is
        // taken back.
        let live = self.live.load(SeqCst) & bit != 0;
        if !live {
            self.remote.claimed.fetch_and(!bit, AcqRel);
        }
        live
    }

    /// Owner: drops claims.
    pub fn unclaim(&self, slots: u64) {
        self.remote.claimed.fetch_and(!slots, AcqRel);
    }

    /// Owner: receives posted slots. `take_in` makes those that are still live stale or cached, and
    /// returns those whose claims must stay; the claims on all others are dropped after that (R1).
    /// Returns the slots that the owner had freed itself at the same moment (R4).
    #[inline]
    pub fn receive(&self, slots: u64, take_in: impl FnOnce(u64) -> u64) -> u64 {
        let live = slots & self.live_slots();
        if breaks!(UnclaimEarly) {
            self.unclaim(slots);
        }
        let held = take_in(live);
        self.unclaim(if breaks!(UnclaimDeferred) { slots } else { slots & !held });
        slots & !live
    }

    /// R1: posts a claimed slot. Returns true if the caller has to push the chunk onto the owner's
    /// remote frees.
    pub(in crate::space) fn post(&self, slot: u32) -> bool {
        self.remote.posted.fetch_or(1 << slot, AcqRel) == 0
    }

    /// Owner: takes the posted slots. The owner has popped the chunk and read its link before.
    pub fn take_posted(&self) -> u64 {
        self.remote.posted.swap(0, AcqRel)
    }

    /// R6: leaves the entries of a claimed slot to the owner. The caller posts the slot after this.
    pub fn defer(&self, slot: u32) {
        self.remote.deferred.fetch_or(1 << slot, Relaxed);
    }

    /// Owner: takes those of the slots `posted` whose entries are left to it (R6).
    #[inline]
    pub fn take_deferred(&self, posted: u64) -> u64 {
        // Relaxed is enough: the freer set the bit before it posted the slot.
        let deferred = self.remote.deferred.load(Relaxed) & posted;
        if deferred != 0 {
            self.remote.deferred.fetch_and(!deferred, Relaxed);
        }
        deferred
    }
}
