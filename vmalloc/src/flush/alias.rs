//! Aliases: pages that were unmapped and hold no frame, while some CPU may still reach the frame
//! through them. Nobody lists them. The library only knows whether there may be any.
//!
//! # Rules
//! - G3, aliases: a CPU that leaves aliases marks its open batch, and counts the batch here the
//!   first time (`begin`). A seal of that batch first records the tag and then removes the batch
//!   from the count (`end`). A reader that finds no open batch counted, and then finds grace for
//!   the last recorded tag, knows that no CPU can use an alias that was left before it asked.

use crate::sync::{AtomicU64, AtomicUsize, Ordering::*};

/// Whether there may be aliases.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// The number of open batches with aliases.
    open: AtomicUsize,
    /// The last tag of a sealed batch with aliases.
    tag: AtomicU64,
}

impl Aliases {
    /// An open batch has got its first alias.
    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// That batch is sealed under `tag`.
    pub(super) fn end(&self, tag: u64) {
        self.tag.fetch_max(tag, Relaxed);
        self.forget();
    }

    /// Removes a batch from the count. Its aliases are covered by the recorded tag, or by another
    /// open batch.
    pub(super) fn forget(&self) {
        self.open.fetch_sub(1, Release);
    }

    /// The tag that needs grace; `None` if an open batch has aliases.
    #[inline]
    pub(super) fn barrier(&self) -> Option<u64> {
        let open = self.open.load(Acquire);
        (open == 0).then(|| self.tag.load(Relaxed))
    }
}
