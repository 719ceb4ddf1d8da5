//! Statistics: what each CPU counts, and the sums.

use crate::sync::plain::{AtomicU64, Ordering::Relaxed};
use crate::units::PAGE_SIZE;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// One CPU's counters: written by whoever is inside, read by anybody.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: AtomicU64),* }

        /// Sums of what the CPUs counted since `init`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            pub(crate) fn add_to(&self, sum: &mut Counts) {
                $(sum.$name = sum.$name.wrapping_add(self.$name.load(Relaxed));)*
            }
        }

        impl Counts {
            /// What was counted since `before`.
            pub fn since(&self, before: &Counts) -> Counts {
                Counts { $($name: self.$name.wrapping_sub(before.$name)),* }
            }

            /// What was counted beyond `less`, which was counted by itself: where
            /// that is more, nothing.
            pub fn beyond(&self, less: &Counts) -> Counts {
                Counts { $($name: self.$name.saturating_sub(less.$name)),* }
            }
        }
    };
}

counters! {
    /// Areas made.
    allocs,
    /// Areas freed, by their owner's CPU.
    local_frees,
    /// Areas freed by another CPU.
    remote_frees,
    /// Pages of areas made, without guards.
    alloc_pages,
    /// Pages of areas freed, without guards.
    free_pages,
    /// Calls that were refused.
    failures,
    /// Batches sealed.
    closes,
    /// Flushes this CPU made.
    flushes,
    /// Kicks sent.
    kicks,
    /// Purges that waited for grace.
    purges,
    /// Slots reclaimed after grace.
    redeemed,
    /// Their pages.
    redeemed_pages,
    /// Frames whose last holder was gone, but that some CPU might still reach:
    /// they waited for a flush.
    loose_frames,
    /// Chunks made.
    chunks_made,
    /// Chunks given up.
    chunks_released,
    /// Table pages unlinked because nothing was left under them.
    tables_pruned,
    /// Areas freed where their freer could not enter its CPU: in an NMI, or in a
    /// signal handler, in the middle of another call.
    deferred_frees,
    /// Their pages.
    deferred_pages,
    /// Frees that raced with a free of the same area and lost.
    raced_frees,
    /// Areas made from a slot that was still bound (policies Park and Keep).
    warm_hits,
    /// Areas that could have been, but no slot of their size was bound.
    warm_misses,
    /// Freed areas that stayed bound.
    warm_frees,
    /// Of these, retired because nobody had needed them for a while, or because
    /// the policy had changed.
    warm_aged,
    /// Retired because more was bound than the budget allows.
    warm_over,
    /// Retired by a purge, for want of memory or addresses, or by
    /// `unmap_aliases`.
    warm_purged,
}

/// Adds to a counter that only the caller writes.
#[inline]
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Takes back what was counted, by this CPU or another: the sum counts.
pub(crate) fn uncount(counter: &AtomicU64, n: u64) {
    count(counter, n.wrapping_neg());
}

/// As [`count`], where others write it too: an NMI, or another CPU.
#[inline]
pub(crate) fn count_shared(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

/// The state of an instance in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// What was counted since `init`.
    pub counts: Counts,
    /// Areas that live.
    pub areas: usize,
    /// Their pages, without guards.
    pub pages: usize,
    /// Pages of address space out of the arenas.
    pub reserved_pages: usize,
    /// Pages that wait for a flush.
    pub waiting_pages: usize,
    /// Slots of freed areas that are still bound (policies Park and Keep).
    pub bound_slots: usize,
    /// Their pages.
    pub bound_pages: usize,
    /// Free frames in magazines and depots.
    pub stocked_frames: usize,
    /// Frames of the promised reserve.
    pub reserve_frames: usize,
    /// Frames that are page tables.
    pub table_frames: usize,
    /// Frames of bookkeeping: CPUs, shelves, magazines, chunk headers, unit
    /// tables, arenas.
    pub bookkeeping_frames: usize,
    /// Frames taken at `init`.
    pub init_frames: usize,
    /// Of these, bookkeeping: the others are the reserve and tables.
    pub init_bookkeeping: usize,
}

impl Stats {
    /// Bytes of bookkeeping that an area costs now, those of `init` and page
    /// tables not counted; `None` while no area lives.
    pub fn bytes_an_area(&self) -> Option<usize> {
        let since_init = self.bookkeeping_frames - self.init_bookkeeping;
        (since_init * PAGE_SIZE).checked_div(self.areas)
    }
}
