//! Loads: what waits for one flush together.
//!
//! ```text
//!   open ──seal──▶ sealed (Pending) ──grace──▶ expired ──drained, bit by bit──▶ open
//! ```
//!
//! A batch is the chain of the chunks that have stale slots in it, and the table
//! pages that were unlinked meanwhile. Frames are not listed anywhere: they wait
//! in the entries of their pages, not present, and are collected from there
//! when the batch is expired. So a free needs no memory and cannot fail. Only frames
//! that wait for aliases ([`alias`](crate::alias)) are by themselves, in a chain.
//!
//! # Rules
//! - **G3** A slot, a frame or a table page leaves a batch only after grace.
//! - **G4** A batch is sealed at its page limit or after two ticks.
//! - **D1** A CPU has two batches: one open, the other sealed, expired or empty. It
//!   closes one only when the other is empty.
//! - T1: The grains under an unlinked table page stay out of the arena
//!   until the batch that holds the page is expired.

use crate::cpu::SLICE;
use crate::frames::WaitingFrames;
use crate::space::chunk::{Chunk, ChunkRef};
use crate::sync::Ordering::Relaxed;
use crate::units::Pfn;
use arrayvec::ArrayVec;
use core::ptr::null_mut;

/// Work that frees leave between two steps of reclaiming.
const STEP: isize = SLICE as isize / 2;
/// What a chunk is in the work of a batch, beside its slots: its tables are looked
/// at, and it moves between lists. About what eight pages of one area take.
pub(crate) const CHUNK: usize = SLICE / 8;

/// Table pages that one batch can hold.
pub(crate) const MAX_TABLES: usize = 32;

/// A table page that was unlinked, and the grains under it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldTable {
    pub(crate) table: Pfn,
    pub(crate) region: u8,
    /// First grain and number of grains under the table.
    pub(crate) grains: (u32, u32),
}

/// The table pages of one batch.
pub(crate) type Tables = ArrayVec<HeldTable, MAX_TABLES>;

/// Stale slots, chained through their chunks.
#[derive(Debug)]
pub struct Batch {
    /// Which of the two it is: the mask in each chunk.
    pub index: usize,
    head: *mut Chunk,
    /// Pages that wait in it.
    pub(crate) pages: usize,
    /// Work that may be left to it before a step is due: its pages count, its slots
    /// of whose entries something is collected, and its chunks.
    left: isize,
    /// Pages of it that were reclaimed.
    pub(crate) gone: usize,
    /// Pages of the slot at hand that were collected already.
    pub(crate) done: usize,
    /// The chunk whose tables were looked at last, while the batch is drained.
    pub(crate) checked: *mut Chunk,
    /// Ticks since its first slot.
    pub(crate) ticks: u8,
    /// It knows of aliases.
    pub(crate) has_aliases: bool,
    /// Frames that wait by themselves.
    pub(crate) waiting_frames: WaitingFrames,
}

impl Batch {
    /// An empty batch.
    pub const fn new(index: usize) -> Batch {
        Batch {
            index,
            head: null_mut(),
            pages: 0,
            left: STEP,
            gone: 0,
            done: 0,
            checked: null_mut(),
            ticks: 0,
            has_aliases: false,
            waiting_frames: WaitingFrames::new(),
        }
    }

    /// Adds live slots of `chunk`, `pages` pages in all.
    #[inline(always)]
    pub fn add(&mut self, chunk: ChunkRef, slots: u64, pages: usize) {
        if chunk.retire(slots, self.index) {
            self.chain(chunk);
        }
        self.charge(slots.count_ones() as usize, pages);
    }

    /// Adds a live slot of `pages` pages, in whose entries nothing waits.
    #[inline(always)]
    pub fn add_bare(&mut self, chunk: ChunkRef, slot: u32, pages: usize) {
        if chunk.retire(1 << slot, self.index) {
            self.chain(chunk);
        }
        chunk.mark_bare(1 << slot);
        self.charge(0, pages);
    }

    /// Adds a cached slot of `pages` pages, whose entries are retired.
    pub fn add_evicted(&mut self, chunk: ChunkRef, slot: u32, pages: usize) {
        if chunk.evict(slot, self.index) {
            self.chain(chunk);
        }
        self.charge(1, pages);
    }

    /// Takes a stale slot over from the other batch, which is expired, if somebody else
    /// is still freeing it: it waits once more (R4).
    #[inline]
    pub fn postpone_claimed(&mut self, chunk: ChunkRef, slot: u32) -> bool {
        let claimed = chunk.is_claimed(slot);
        if claimed {
            self.postpone(chunk, slot);
        }
        claimed
    }

    #[cold]
    fn postpone(&mut self, chunk: ChunkRef, slot: u32) {
        if chunk.postpone(slot, self.index ^ 1) {
            self.chain(chunk);
        }
        self.charge(1, chunk.slot(slot).bound_pages());
    }

    /// So many slots more wait in it, with so many pages.
    #[inline(always)]
    pub(crate) fn charge(&mut self, slots: usize, pages: usize) {
        self.pages += pages;
        self.left -= (slots + pages) as isize;
    }

    /// Whether frees have left as much work as a step is due for.
    #[inline(always)]
    pub(crate) fn is_due(&self) -> bool {
        self.left <= 0
    }

    /// A step is taken: the next is due when the work is a multiple of [`STEP`] again.
    pub(crate) fn step(&mut self) {
        self.left = (self.left - 1).rem_euclid(STEP) + 1;
    }

    #[inline]
    fn chain(&mut self, chunk: ChunkRef) {
        self.left -= CHUNK as isize;
        chunk.next_in_batch(self.index).store(self.head, Relaxed);
        self.head = chunk.as_ptr();
    }

    /// The first stale slot.
    #[inline]
    pub fn first(&mut self) -> Option<(ChunkRef, u32)> {
        loop {
            // SAFETY: H2: `add` stored what `as_ptr` gave.
            let chunk = unsafe { ChunkRef::from_ptr(self.head) }?;
            match chunk.stale(self.index) {
                0 => self.head = chunk.next_in_batch(self.index).load(Relaxed),
                stale => return Some((chunk, stale.trailing_zeros())),
            }
        }
    }

    /// The only stale slot, if there is just one.
    pub(crate) fn only(&mut self) -> Option<(ChunkRef, u32)> {
        let (chunk, slot) = self.first()?;
        let last = chunk.next_in_batch(self.index).load(Relaxed).is_null();
        (last && chunk.stale(self.index).is_power_of_two()).then_some((chunk, slot))
    }

    /// Whether it has to be sealed: slots or frames wait in it, or somebody
    /// waits for its aliases.
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

    /// A chunk with an area of `pages` pages in its slot 0, for as long as the tests run.
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
    fn r4_a_slot_that_is_still_being_freed_waits_in_the_other_load_and_is_as_much_work_there() {
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
