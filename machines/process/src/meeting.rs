//! All threads free the same areas at the same moment.

use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use vmalloc::machine::Machine;
use vmalloc::{FreeError, Vmalloc};

/// How many threads meet.
pub const THREADS: usize = 8;

/// All threads free the same areas at the same moment, and nobody allocates: of all frees of an area
/// one wins, or two that nobody could tell apart, which is counted.
pub struct Meeting {
    barrier: Barrier,
    areas: [AtomicUsize; THREADS],
    over: AtomicBool,
    made: AtomicU64,
    freed: AtomicU64,
}

impl Default for Meeting {
    fn default() -> Meeting {
        Meeting {
            barrier: Barrier::new(THREADS),
            areas: Default::default(),
            over: AtomicBool::new(false),
            made: AtomicU64::new(0),
            freed: AtomicU64::new(0),
        }
    }
}

impl Meeting {
    /// The thread `me` brings an area, if it has one, and frees all. Returns whether this was the last
    /// meeting, which the first thread decides by `is_over`.
    pub fn meet<M: Machine>(
        &self,
        vm: &Vmalloc<M>,
        area: Option<NonNull<u8>>,
        me: usize,
        is_over: impl Fn() -> bool,
    ) -> bool {
        let area = area.map_or(0, |at| at.as_ptr().expose_provenance());
        self.areas[me].store(area, Release);
        self.made.fetch_add((area != 0) as u64, Relaxed);
        if me == 0 {
            self.over.store(is_over(), Relaxed);
        }
        self.barrier.wait();
        // Before the leader can come to the next meeting.
        let over = self.over.load(Relaxed);
        // Neighbours meet at the same area.
        (0..THREADS).for_each(|n| self.free(vm, self.areas[(me / 2 * 2 + n) % THREADS].load(Acquire)));
        self.barrier.wait();
        over
    }

    fn free<M: Machine>(&self, vm: &Vmalloc<M>, at: usize) {
        let Some(at) = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(at)) else { return };
        // SAFETY: V1: nobody uses it; and until all have met again nobody else has it.
        match unsafe { vm.free(at) } {
            Ok(()) => _ = self.freed.fetch_add(1, Relaxed),
            Err(FreeError::DoubleFree { .. } | FreeError::NotAnArea(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// One free of each area has won, and those that nobody could tell apart are counted. Returns how
    /// many areas there were.
    #[track_caller]
    pub fn assert_one_free_won<M: Machine>(self, vm: &Vmalloc<M>) -> u64 {
        let (made, freed) = (self.made.into_inner(), self.freed.into_inner());
        assert_eq!(freed, made + vm.stats().counts.raced_frees, "one free of each area wins");
        made
    }
}
