//! Remote frees, and frees by a caller that cannot be inside a CPU: an NMI or a signal handler in
//! the middle of another call (L4).
//!
//! ```text
//!   NMI    slot claimed ── marked deferred ── posted to its owner (R1)
//!   owner  finds it in its remote frees: entries parked, a slice at a time ── live → stale, claim dropped
//! ```
//!
//! A deferred free is a remote free that leaves the entries to the owner of the slot. Parking them
//! may take locks of the machine, and noting aliases requires being inside a CPU. A deferred free
//! needs no memory, does not wait, and cannot fail once the area is found. The claim detects a
//! double free at once, as on any other CPU.
//!
//! # Rules
//! - **R6** The owner makes a posted slot that is marked *deferred* stale only after it has parked
//!   the entries, and the claim lasts until then. The mark is in the chunk, because the owner may
//!   overwrite what the slot records of the free if it frees the slot at the same moment (R4).
//! - G3: The caller of a deferred `unmap_ram` gives its frames up next. So there are aliases from
//!   the mark on, until the batch of the CPU that clears the entries knows of them.
//! - L3: At most one slice of entries is parked in a section. The marked slots of a chunk that are
//!   left are stored as the CPU's `deferred`, and the next caller goes on with them.

use crate::area::{Caller, Kind};
use crate::error::FreeError;
use crate::machine::event::Event;
use crate::machine::{Level, Machine};
use crate::space::chunk::ChunkRef;
use crate::space::slot::{Slot, slots_of};
use crate::state::core::{Core, Ctx};
use crate::state::cpu::{SLICE, WORK};
use crate::state::deferred::Deferred;
use crate::state::enter::CpuGuard;
use crate::state::lookup::Found;
use crate::state::stats::{count, uncount};
use crate::sync::{Ordering::Relaxed, breaks};
use crate::units::{PageRange, VirtAddr};

impl<M: Machine> CpuGuard<'_, M> {
    /// Step 1 of a [purge](super::purge): makes posted slots stale (R1), up to a slice of slots and
    /// of entries that were left to this CPU (R6) at a time (L3). Also drains the deferred frames.
    /// Returns whether there is more.
    pub(crate) fn drain_remote_frees(&mut self) -> bool {
        self.take_dropped();
        let mut work = 0;
        while work < WORK {
            if let Some(deferred) = self.deferred.take() {
                work += self.retire_deferred(deferred);
                continue;
            }
            let cpu = self.cpu;
            let Some((chunk, posted)) = cpu.remote_frees.next(&mut self.drained) else { return false };
            let raced = chunk.receive(posted, |live| {
                let deferred = self.take_deferred(chunk, posted, live);
                let received = live & !deferred;
                count(&self.cpu.counters.received_pages, mapped_pages(chunk, received) as u64);
                self.receive(chunk, received);
                deferred
            });
            if raced != 0 {
                self.raced(chunk, raced);
            }
            work += posted.count_ones() as usize;
        }
        self.has_drained()
    }

    /// Frees claimed slots that are live: caches those that may stay cached, and makes the others
    /// stale. Returns the pages of the stale ones.
    #[inline]
    pub(crate) fn receive(&mut self, chunk: ChunkRef, mut slots: u64) -> usize {
        let mut pages = 0;
        for slot in slots_of(slots) {
            let area = chunk.slot(slot);
            if area.is_plain() && self.accept_remote(chunk, slot) {
                slots &= !(1 << slot);
            } else {
                pages += area.mapped_pages();
                self.open.bare += area.pages() - area.mapped_pages();
            }
        }
        if slots != 0 {
            self.open.add(chunk, slots, pages);
        }
        pages
    }

    /// Handles a posted slot that this CPU had freed at the same moment: the free was counted
    /// twice.
    #[cold]
    fn raced(&mut self, chunk: ChunkRef, slots: u64) {
        let counters = &self.cpu.counters;
        for slot in slots_of(slots) {
            count(&counters.raced_frees, 1);
            uncount(&counters.remote_frees, 1);
            uncount(&counters.remote_pages, chunk.slot(slot).mapped_pages() as u64);
            uncount(&counters.free_pages, chunk.slot(slot).pages() as u64);
            let twice = self.core.double_free(&Found::of(self.core, chunk, slot));
            self.machine.log(Level::Error, format_args!("double free, by two CPUs at once: {twice}"));
        }
    }
}

impl<M: Machine> Ctx<'_, M> {
    /// Frees an area without being inside any CPU.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_deferred(
        self,
        at: VirtAddr,
        by: Caller,
        frees: fn(Kind) -> bool,
        count: Option<usize>,
    ) -> Result<(), FreeError> {
        let found = self.find_start(at)?;
        let pages = found.freeable(frees, count)?;
        if !found.claim() {
            return Err(self.core.double_free(&found));
        }
        let _ = self.machine.note(Event::Claim { start: found.start, pages, freer: by });
        found.slot().freed_by(by);
        self.core.defer(&found, pages);
        Ok(())
    }

    /// Undoes a slot that an NMI began while it was inside its CPU, which another caller has
    /// entered since. `mapped` of its pages have frames. It counts as freed.
    #[cold]
    pub(crate) fn abandon_deferred(self, found: &Found, mapped: usize) {
        let (slot, pages) = (found.slot(), found.slot().pages());
        if breaks!(HoleForgotten) {
            return;
        }
        slot.truncate(mapped);
        // U1: nobody else can free it. But a late free of the slot's previous area may claim it for
        // a moment, on another CPU.
        while !found.chunk.claim(found.index) {
            self.machine.relax();
        }
        self.core.defer(found, pages);
    }
}

impl<M: Machine> Core<M> {
    /// Leaves a claimed slot, with its entries, to its owner.
    fn defer(&self, found: &Found, pages: usize) {
        let owner = self.cpu(found.chunk.owner());
        // Other callers count here too.
        owner.counters.deferred_frees.fetch_add(1, Relaxed);
        owner.counters.deferred_pages.fetch_add(pages as u64, Relaxed);
        if !found.slot().kind().keeps() {
            self.flush_epochs.note_alias();
        }
        Deferred::post(&owner.remote_frees, found.chunk, found.index);
    }
}

/// The pages of these slots that have entries.
fn mapped_pages(chunk: ChunkRef, slots: u64) -> usize {
    slots_of(slots).map(|slot| chunk.slot(slot).mapped_pages()).sum()
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Takes those posted slots that are marked deferred and live. Returns them.
    pub(crate) fn take_deferred(&mut self, chunk: ChunkRef, posted: u64, live: u64) -> u64 {
        let (deferred, others) = Deferred::of(chunk, posted, live);
        // This CPU has cleared the entries of the others itself.
        slots_of(others).for_each(|slot| self.noted(chunk.slot(slot)));
        self.deferred = deferred;
        deferred.map_or(0, |deferred| deferred.slots)
    }

    /// Parks up to a slice of the first marked slot. When all of it is parked, receives the slot
    /// like any other. Returns the work done.
    pub(crate) fn retire_deferred(&mut self, deferred: Deferred) -> usize {
        let Deferred { chunk, slots, done } = deferred;
        let index = slots.trailing_zeros();
        let found = Found::of(self.core, chunk, index);
        let slot = found.slot();
        let mapped = slot.mapped_pages();
        let slice = (mapped - done).min(SLICE);
        self.unmap_slice(&found, PageRange::new(found.start.add_pages(done), slice));
        if done + slice < mapped {
            self.deferred = Some(Deferred { chunk, slots, done: done + slice });
            return slice;
        }
        self.noted(slot);
        self.deferred = deferred.receive_first(|live| _ = self.receive(chunk, live));
        slice + 1
    }

    /// Notes that the entries of a marked slot are cleared: the open batch has its aliases now.
    fn noted(&self, slot: &Slot) {
        if !slot.kind().keeps() {
            self.core.flush_epochs.alias_noted_twice();
        }
    }
}
