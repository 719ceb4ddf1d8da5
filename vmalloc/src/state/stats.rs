//! Statistics: the counters of each CPU, and their sums.

use crate::area::Policy;
use crate::sync::plain::{AtomicU64, Ordering::Relaxed};
use crate::units::PAGE_SIZE;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// One CPU's counters. Only the caller inside writes them; anybody may read them.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: AtomicU64),* }

        /// The sums of the counters of all CPUs since `init`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            pub(crate) fn add_to(&self, sum: &mut Counts) {
                $(sum.$name = sum.$name.wrapping_add(self.$name.load(Relaxed));)*
            }
        }

        impl Counts {
            /// The difference to `before`.
            pub fn since(&self, before: &Counts) -> Counts {
                Counts { $($name: self.$name.wrapping_sub(before.$name)),* }
            }

            /// The difference to `less`, or 0 where `less` is larger.
            pub fn beyond(&self, less: &Counts) -> Counts {
                Counts { $($name: self.$name.saturating_sub(less.$name)),* }
            }
        }
    };
}

counters! {
    /// Areas allocated.
    allocs,
    /// Areas freed on their owner's CPU.
    local_frees,
    /// Areas freed on another CPU.
    remote_frees,
    /// Pages that had entries, of areas that were posted to another CPU when their entries were
    /// cleared.
    remote_pages,
    /// Those of them that the owners have taken over.
    received_pages,
    /// Pages of allocated areas, without guards.
    alloc_pages,
    /// Pages of freed areas, without guards.
    free_pages,
    /// Calls that were refused.
    failures,
    /// Batches sealed.
    closes,
    /// Flushes by this CPU.
    flushes,
    /// Kicks sent.
    kicks,
    /// Purges that waited for grace.
    purges,
    /// Slots reclaimed after grace.
    reclaimed,
    /// Their pages.
    reclaimed_pages,
    /// Frames that waited for a flush after their last holder was gone, because some CPU might
    /// still reach them.
    alias_frames,
    /// Chunks made.
    chunks_made,
    /// Chunks given up.
    chunks_released,
    /// Table pages unlinked because nothing was left under them.
    tables_pruned,
    /// Areas freed by a caller that could not enter its CPU: an NMI or a signal handler in the
    /// middle of another call.
    deferred_frees,
    /// Their pages.
    deferred_pages,
    /// Frees that lost a race with another free of the same area.
    raced_frees,
    /// Areas allocated from a cached slot (policies Park and Keep).
    cache_hits,
    /// Areas that could have used a cached slot, but there was none of their size.
    cache_misses,
    /// Freed areas that stayed cached.
    cache_frees,
    /// Cached slots evicted because their class had not needed them for a while, or because the
    /// policy had changed.
    cache_aged,
    /// Cached slots evicted because the CPU was over its budget.
    cache_over,
    /// Cached slots evicted by a purge, by a shortage of memory or addresses, or by
    /// `unmap_aliases`.
    cache_purged,
}

impl Counters {
    /// The pages of live areas: those that this CPU has allocated, less those that it has freed.
    pub(crate) fn live_pages(&self) -> u64 {
        self.alloc_pages.load(Relaxed).wrapping_sub(self.free_pages.load(Relaxed))
    }

    /// The calls that this CPU has served. Nobody else counts them.
    pub(crate) fn served(&self) -> u64 {
        self.allocs.load(Relaxed).wrapping_add(self.local_frees.load(Relaxed))
    }
}

/// Adds to a counter that only the caller writes.
#[inline]
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Takes back what this CPU or another one has counted. Only the sum is meaningful.
pub(crate) fn uncount(counter: &AtomicU64, n: u64) {
    count(counter, n.wrapping_neg());
}

/// The state of an instance in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The counters since `init`.
    pub counts: Counts,
    /// The policy in force: [`Policy::Unmap`] where [`Policy::Park`] was asked for and cannot be.
    pub policy: Policy,
    /// Live areas.
    pub areas: usize,
    /// Their pages, without guards.
    pub pages: usize,
    /// Pages of address space that are out of the arenas.
    pub reserved_pages: usize,
    /// Pages that wait for a flush, on whatever CPU, with those whose owner has not heard of the free
    /// yet.
    pub waiting_pages: usize,
    /// Cached slots (policies Park and Keep).
    pub cached_slots: usize,
    /// Their pages.
    pub cached_pages: usize,
    /// Free frames in magazines and depots.
    pub pooled_frames: usize,
    /// Frames in the reserve.
    pub reserve_frames: usize,
    /// Frames used as page tables.
    pub table_frames: usize,
    /// Frames of bookkeeping: CPUs, their lists of chunks, magazines, chunk headers, unit tables,
    /// arenas.
    pub bookkeeping_frames: usize,
    /// Frames taken at `init`.
    pub init_frames: usize,
    /// The bookkeeping among them. The others are the reserve and page tables.
    pub init_bookkeeping: usize,
}

impl Stats {
    /// Bytes of bookkeeping for each live area, without those of `init` and without page tables.
    /// `None` while no area is live.
    pub fn bytes_an_area(&self) -> Option<usize> {
        let since_init = self.bookkeeping_frames - self.init_bookkeeping;
        (since_init * PAGE_SIZE).checked_div(self.areas)
    }
}
