//! Aliases: pages that were unmapped and hold no frame, while some CPU may still reach the frame
//! through them. Nobody lists them. The library only knows whether there may be any.
//!
//! # Rules
//! - G3, aliases: a CPU that leaves aliases marks its open batch, and counts the batch here the
//!   first time. A seal of that batch first records the tag and then removes the batch from the
//!   count. A reader that finds no open batch counted, and then finds grace for
//!   the last recorded tag, knows that no CPU can use an alias that was left before it asked.

use super::FlushEpochs;
use crate::sync::{AtomicU64, AtomicUsize, Ordering::*};

/// Whether there may be aliases.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// The number of open batches with aliases.
    open: AtomicUsize,
    /// The last tag of a sealed batch with aliases.
    tag: AtomicU64,
}

impl FlushEpochs {
    /// Counts an open batch that has got its first alias.
    pub fn note_alias(&self) {
        self.aliases.open.fetch_add(1, Relaxed);
    }

    /// A batch with aliases is sealed under `tag`.
    pub(super) fn seal_aliases(&self, tag: u64) {
        self.aliases.tag.fetch_max(tag, Relaxed);
        self.alias_noted_twice();
    }

    /// Takes back a call of [`FlushEpochs::note_alias`], because the recorded tag or another open
    /// batch covers the same aliases.
    pub fn alias_noted_twice(&self) {
        self.aliases.open.fetch_sub(1, Release);
    }

    /// Whether grace has come for every alias that was cleared before this call.
    #[inline]
    pub fn has_no_aliases(&self) -> bool {
        let open = self.aliases.open.load(Acquire);
        open == 0 && self.aliases.tag.load(Relaxed) <= self.safe.load(SeqCst)
    }
}
