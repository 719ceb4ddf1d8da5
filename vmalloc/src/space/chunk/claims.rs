//! Frees by other CPUs than the owner: claimed, perhaps with the entries left to the
//! owner, posted, and received by it (R1, R4, R6).

use super::Chunk;
use crate::sync::{Ordering::*, between_seqcst, breaks};

impl Chunk {
    /// Whether somebody else is freeing the slot, or has.
    #[inline]
    pub fn is_claimed(&self, slot: u32) -> bool {
        !breaks!(GiveClaimed) && self.remote.claimed.load(Relaxed) >> slot & 1 != 0
    }

    /// Owner: pages of a stale slot with nothing but frames of its own, at most `most`;
    /// `None` for any other, and where somebody else is still freeing it (R4).
    #[inline(always)]
    pub fn usual_pages(&self, slot: u32, most: usize) -> Option<usize> {
        let pages = self.slot(slot).own_pages().filter(|pages| (1..=most).contains(pages))?;
        (!self.is_claimed(slot)).then_some(pages)
    }

    /// For who frees the slot: whether another CPU has freed it at the same moment, the
    /// owner or a claimer (R4).
    pub fn is_freed_twice(&self, slot: u32) -> bool {
        self.remote.claimed.load(SeqCst) & !self.live.load(SeqCst) & 1 << slot != 0
    }

    /// R1: claims a live slot for freeing; false = somebody was first.
    pub fn claim(&self, slot: u32) -> bool {
        let bit = 1 << slot;
        if self.remote.claimed.fetch_or(bit, SeqCst) & bit != 0 {
            return false;
        }
        between_seqcst();
        // The owner may have freed it just before the claim: then the claim
        // is void, and is taken back.
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

    /// Owner: slots that were claimed come home, their entries cleared. Those that
    /// still live `take_in` makes stale or cached, and then the claims are dropped
    /// (R1), but for those on the slots that it returns. Returns the slots that were
    /// freed here at the same moment (R4).
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

    /// R1: the claimed slot's entries are cleared; true = the chunk has to be
    /// pushed to the owner's remote frees.
    pub(in crate::space) fn post(&self, slot: u32) -> bool {
        self.remote.posted.fetch_or(1 << slot, AcqRel) == 0
    }

    /// Owner, after it has popped the chunk and read its link: what was posted.
    pub fn take_posted(&self) -> u64 {
        self.remote.posted.swap(0, AcqRel)
    }

    /// R6: the entries of a claimed slot are left to the owner, before it is posted.
    pub fn defer(&self, slot: u32) {
        self.remote.deferred.fetch_or(1 << slot, Relaxed);
    }

    /// Owner: those of the slots `posted` whose entries are left to it (R6).
    #[inline]
    pub fn take_deferred(&self, posted: u64) -> u64 {
        // Marked before they were posted.
        let deferred = self.remote.deferred.load(Relaxed) & posted;
        if deferred != 0 {
            self.remote.deferred.fetch_and(!deferred, Relaxed);
        }
        deferred
    }
}
