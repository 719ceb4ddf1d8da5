//! The slots whose freer has left their entries to the owner (R6).

use super::Chunk;
use crate::sync::Ordering::Relaxed;

impl Chunk {
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
