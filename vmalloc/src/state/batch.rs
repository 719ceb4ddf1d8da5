//! Batches: what waits for one flush together.
//!
//! ```text
//!   open ──seal──▶ sealed (Pending) ──grace──▶ expired ──drained, bit by bit──▶ open
//! ```
//!
//! A batch is a list of the chunks with stale slots in it, and the table pages that were unlinked
//! meanwhile. It lists no frames: they wait in the parked entries of their pages, and the CPU takes
//! them from there when the batch has expired. So a free needs no memory and cannot fail. Only the
//! frames that wait for aliases ([`aliases`](crate::reclaim::aliases)) are on a list of their own.
//!
//! # Rules
//! - **G3** A slot, a frame or a table page leaves a batch only after grace.
//! - **G4** A batch is sealed at its page limit, after two ticks, or in a
//!   [round](crate::reclaim::close) of all CPUs. All that waits for flushes is bounded, wherever it
//!   waits: beyond the bound, a caller that may wait purges first.
//! - **D1** A CPU has two batches: one is open, the other is sealed, expired or empty. The CPU
//!   seals the open one only when the other is empty.
//! - T1: the grains under an unlinked table page stay out of the arena until the batch that holds
//!   the page has expired.

use crate::frames::WaitingFrames;
use crate::space::chunk::{Chunk, ChunkRef};
use crate::state::cpu::WORK;
use crate::sync::Ordering::Relaxed;
use crate::units::Pfn;
use arrayvec::ArrayVec;
use core::ptr::null_mut;

/// The work that frees add between two steps of reclaiming.
const STEP: isize = WORK as isize / 2;
/// The work that a chunk adds to a batch, in addition to its slots: the CPU looks at its tables and
/// moves it between lists. That takes about as long as sixteen pages of one area.
pub(crate) const CHUNK: usize = WORK / 4;

/// The most table pages in one batch.
pub(crate) const MAX_TABLES: usize = 64;

/// An unlinked table page and the grains under it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldTable {
    pub(crate) table: Pfn,
    pub(crate) region: u8,
    /// The first grain under the table.
    pub(crate) start: usize,
    /// The number of grains under it.
    pub(crate) grains: u32,
}

/// The table pages of one batch.
pub(crate) type Tables = ArrayVec<HeldTable, MAX_TABLES>;

/// A batch of stale slots, linked through their chunks.
#[derive(Debug)]
pub struct Batch {
    /// Which of the two batches it is. It selects the mask in each chunk.
    pub index: usize,
    head: *mut Chunk,
    /// The number of pages in the batch.
    pub(crate) pages: usize,
    /// The pages of freed reservations in the batch: addresses, which press nobody (G4).
    pub(crate) bare: usize,
    /// The work that frees may still add before a step is due. Pages, slots with frames in their
    /// entries, and chunks count as work.
    left: isize,
    /// The number of its pages that are reclaimed.
    pub(crate) gone: usize,
    /// The number of pages of the current slot whose frames were taken.
    pub(crate) done: usize,
    /// The number of grains of the current slot's run whose unit entries were cleared.
    pub(crate) cleared: u32,
    /// The chunk whose tables were checked last, while the batch is drained.
    pub(crate) checked: *mut Chunk,
    /// The ticks since its first slot.
    pub(crate) ticks: u8,
    /// Whether aliases wait for its flush.
    pub(crate) has_aliases: bool,
    /// The frames that wait on their own list.
    pub(crate) waiting_frames: WaitingFrames,
}

impl Batch {
    /// An empty batch.
    pub const fn new(index: usize) -> Batch {
        Batch {
            index,
            head: null_mut(),
            pages: 0,
            bare: 0,
            left: STEP,
            gone: 0,
            done: 0,
            cleared: 0,
            checked: null_mut(),
            ticks: 0,
            has_aliases: false,
            waiting_frames: WaitingFrames::new(),
        }
    }

    /// Adds live slots of `chunk`, which have `pages` pages in all.
    #[inline(always)]
    pub fn add(&mut self, chunk: ChunkRef, slots: u64, pages: usize) {
        self.chain_if(chunk.retire(slots, self.index), chunk);
        self.charge(slots.count_ones() as usize, pages);
    }

    /// Adds a live slot of `pages` pages that has no frames in its entries.
    #[inline(always)]
    pub fn add_bare(&mut self, chunk: ChunkRef, slot: u32, pages: usize) {
        self.chain_if(chunk.retire(1 << slot, self.index), chunk);
        chunk.mark_bare(1 << slot);
        self.charge(0, pages);
    }

    /// Adds a cached slot of `pages` pages whose entries are parked.
    pub fn add_evicted(&mut self, chunk: ChunkRef, slot: u32, pages: usize) {
        self.chain_if(chunk.evict(slot, self.index), chunk);
        self.charge(1, pages);
    }

    /// Moves a stale slot here from the other batch, which has expired, if somebody else is still
    /// freeing the slot. It waits for another flush (R4). Returns whether it was moved.
    #[inline]
    pub fn postpone_claimed(&mut self, chunk: ChunkRef, slot: u32) -> bool {
        chunk.is_claimed(slot) && self.postpone(chunk, slot)
    }

    #[cold]
    fn postpone(&mut self, chunk: ChunkRef, slot: u32) -> bool {
        self.chain_if(chunk.postpone(slot, self.index ^ 1), chunk);
        self.charge(1, chunk.slot(slot).mapped_pages());
        true
    }

    /// Charges the batch with this many more slots and pages.
    #[inline(always)]
    pub(crate) fn charge(&mut self, slots: usize, pages: usize) {
        self.pages += pages;
        self.left -= (slots + pages) as isize;
    }

    /// Whether frees have added so much work that a step is due.
    #[inline(always)]
    pub(crate) fn is_due(&self) -> bool {
        self.left <= 0
    }

    /// Notes a step. The next one is due when the work reaches the next multiple of [`STEP`].
    /// Returns the work that was added since the last one.
    pub(crate) fn step(&mut self) -> usize {
        let added = STEP - self.left;
        self.left = (self.left - 1).rem_euclid(STEP) + 1;
        added as usize
    }

    /// Adds the chunk, if the batch has no slot of it yet.
    #[inline(always)]
    fn chain_if(&mut self, is_new: bool, chunk: ChunkRef) {
        if is_new {
            self.left -= CHUNK as isize;
            chunk.next_in_batch(self.index).store(self.head, Relaxed);
            self.head = chunk.as_ptr();
        }
    }

    /// The first stale slot.
    #[inline]
    pub fn first(&mut self) -> Option<(ChunkRef, u32)> {
        loop {
            // SAFETY: H2: `add` stored what `as_ptr` returned.
            let chunk = unsafe { ChunkRef::from_ptr(self.head) }?;
            match chunk.stale(self.index) {
                0 => self.head = chunk.next_in_batch(self.index).load(Relaxed),
                stale => return Some((chunk, stale.trailing_zeros())),
            }
        }
    }

    /// The only stale slot, if there is exactly one.
    pub(crate) fn only(&mut self) -> Option<(ChunkRef, u32)> {
        let (chunk, slot) = self.first()?;
        let last = chunk.next_in_batch(self.index).load(Relaxed).is_null();
        (last && chunk.stale(self.index).is_power_of_two()).then_some((chunk, slot))
    }

    /// Whether the batch needs a flush: it has slots or frames, or somebody waits for its aliases.
    pub(crate) fn waits(&self) -> bool {
        !self.head.is_null() || self.has_aliases || !self.waiting_frames.is_empty()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::area::{Caller, Guard, Kind, RegionId};
    use crate::space::class::Class;
    use crate::space::slot::Label;
    use crate::units::{Node, VirtAddr};
    extern crate std;
    use std::boxed::Box;

    /// A chunk with an area of `pages` pages in its slot 0. The chunk is leaked.
    fn area(pages: usize) -> ChunkRef {
        let chunk = Box::leak(Box::new(Chunk::new(Pfn(0))));
        let class = Class::of(pages, 1).unwrap();
        chunk.become_class(class, class.slots(), VirtAddr(1 << 30), RegionId(0), 0);
        assert_eq!(chunk.take(), Some(0));
        let (bytes, guard, caller) = (pages << 12, Guard::After, Caller::here());
        chunk.begin(0, &Label { bytes, pages, kind: Kind::Vmalloc, guard, caller, node: Node(0), phys: None });
        // SAFETY: H2: it was leaked.
        unsafe { ChunkRef::from_ptr(chunk) }.unwrap()
    }

    #[test]
    fn a_step_is_due_whenever_the_work_passes_a_multiple_of_half_a_slice() {
        let mut batch = Batch::new(0);
        let mut due = |work: usize| {
            batch.charge(0, work);
            let due = batch.is_due();
            batch.step();
            (due, batch.left)
        };
        let told = [31, 1, 1, 30, 1, 33, 70, 57, 32].map(&mut due);
        let expected = [
            (false, 1),
            (true, 32),
            (false, 31),
            (false, 1),
            (true, 32),
            (true, 31),
            (true, 25),
            (true, 32),
            (true, 32),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn r4_a_slot_that_is_still_being_freed_waits_in_the_other_batch_and_is_as_much_work_there() {
        let (mut open, mut expired) = (Batch::new(0), Batch::new(1));
        let (chunk, other) = (area(5), area(7));
        assert!(chunk.claim(0));
        expired.add(chunk, 1, 5);
        expired.add(other, 1, 7);
        assert!(!open.postpone_claimed(other, 0) && open.postpone_claimed(chunk, 0));
        assert_eq!(expired.first().map(|(chunk, slot)| (chunk.as_ptr(), slot)), Some((other.as_ptr(), 0)));
        assert_eq!(open.first().map(|(chunk, slot)| (chunk.as_ptr(), slot)), Some((chunk.as_ptr(), 0)));
        let work = (STEP - open.left) as usize;
        assert_eq!((open.pages, work), (5, 5 + 1 + CHUNK), "its pages, the slot, and the chunk");
    }
}
