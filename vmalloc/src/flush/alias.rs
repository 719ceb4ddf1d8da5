//! Aliases: pages that were unmapped and hold no frame, though some CPU may still
//! reach the frame by them. Nobody lists them; it is only known whether there may
//! be any.
//!
//! # Rules
//! - G3, aliases: Who clears such entries lets his open batch know, and the
//!   first time this batch tells here (`begin`). Closing it tells its tag, and only
//!   then that it is open no more (`end`). So who finds no batch open, and then
//!   grace for the last tag told, knows that every alias is forgotten that was
//!   cleared before he came to ask.

use crate::sync::{AtomicU64, AtomicUsize, Ordering::*};

/// Whether there may be any.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// Open batches that know of some.
    open: AtomicUsize,
    /// The last tag of a sealed one.
    tag: AtomicU64,
}

impl Aliases {
    /// An open batch knows of some, which was not so before.
    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// That batch is sealed under `tag`.
    pub(super) fn end(&self, tag: u64) {
        self.tag.fetch_max(tag, Relaxed);
        self.forget();
    }

    /// A batch less knows of some, and another one knows of all that it knew of.
    pub(super) fn forget(&self) {
        self.open.fetch_sub(1, Release);
    }

    /// The tag for which grace has to come; `None` where a batch is open.
    #[inline]
    pub(super) fn barrier(&self) -> Option<u64> {
        let open = self.open.load(Acquire);
        (open == 0).then(|| self.tag.load(Relaxed))
    }
}
