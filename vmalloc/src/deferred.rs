//! Frees from where nobody can be inside a CPU: from an NMI, or a signal handler,
//! in the middle of another call (L4).
//!
//! ```text
//!   NMI    slot claimed ── marked deferred ── posted to its owner (R1)
//!   owner  finds it in its remote frees: entries retired, a slice at a time ── live → stale, claim dropped
//! ```
//!
//! Such a free is a remote free that leaves the entries to the owner of the slot:
//! to retire them may take locks of the machine, and to note aliases takes being
//! inside. It needs no memory, and neither waits nor fails once the area is found.
//! A double free is told at once, by the claim, as on any other CPU.
//!
//! # Rules
//! - **R6** A posted slot that is marked is handed on only when its entries are
//!   retired; its claim lasts until then. The mark is in the chunk: what a slot says
//!   of its freer is overwritten where the owner frees it at the same moment (R4).
//! - G3: Whoever has unmapped a mapping for a short time gives its frames up. So
//!   there are aliases from the mark on, until the batch of the CPU that clears the
//!   entries knows of them.
//! - L3: At most a slice of entries is retired at a time: what is left of the
//!   chunk's marked slots is the CPU's `deferred`, for whoever comes next.

use crate::area::{Caller, Kind};
use crate::cpu::{CpuGuard, SLICE};
use crate::error::FreeError;
use crate::instance::{Core, Vmalloc};
use crate::lookup::Found;
use crate::machine::Machine;
use crate::space::chunk::ChunkRef;
use crate::space::remote::RemoteFrees;
use crate::space::slot::{Slot, slots_of};
use crate::stats::count_shared;
use crate::sync::breaks;
use crate::units::{PageRange, VirtAddr};

/// Marked slots of a chunk, taken out of the remote frees, and how many pages of the first
/// of them are retired.
#[derive(Clone, Copy, Debug)]
pub struct Deferred {
    chunk: ChunkRef,
    slots: u64,
    done: usize,
}

impl Deferred {
    /// A claimed slot goes to its owner, whose remote frees this is, with its entries (R6).
    pub fn post(remote_frees: &RemoteFrees, chunk: ChunkRef, slot: u32) {
        chunk.defer(slot);
        remote_frees.post(chunk, slot);
    }

    /// Owner: of slots that were posted, the marked ones that live; and those that do
    /// not.
    pub fn of(chunk: ChunkRef, posted: u64, live: u64) -> (Option<Deferred>, u64) {
        let marked = chunk.take_deferred(posted);
        let slots = marked & live;
        ((slots != 0).then_some(Deferred { chunk, slots, done: 0 }), marked & !live)
    }

    /// Its slots.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// Owner: the entries of the first slot are retired. So it comes home like any
    /// other, and `take_in` makes it stale or cached. Returns what is left.
    pub fn receive_first(self, take_in: impl FnOnce(u64)) -> Option<Deferred> {
        let Deferred { chunk, slots, .. } = self;
        chunk.receive(slots & slots.wrapping_neg(), |live| {
            take_in(live);
            0
        });
        let slots = slots & (slots - 1);
        (slots != 0).then_some(Deferred { chunk, slots, done: 0 })
    }
}

impl<M: Machine> Vmalloc<M> {
    /// Frees an area without being inside any CPU.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_area_deferred(
        &self,
        core: &Core<M>,
        at: VirtAddr,
        by: Caller,
        frees: fn(Kind) -> bool,
        count: Option<usize>,
    ) -> Result<(), FreeError> {
        let found = core.find_start(self, at)?;
        let (kind, pages) = found.freeable(frees, count)?;
        if !found.claim() {
            return Err(core.double_free(&found));
        }
        found.slot().freed_by(by);
        core.defer(&found, kind, pages);
        Ok(())
    }

    /// Undoes a slot that an NMI had begun, from inside its CPU, to which somebody
    /// else has come since: of its pages, `bound` have frames. It counts as freed.
    #[cold]
    pub(crate) fn abandon_deferred(&self, core: &Core<M>, found: &Found, bound: usize) {
        let slot = found.slot();
        let (kind, pages) = (slot.kind(), slot.pages());
        if breaks!(HoleForgotten) {
            return;
        }
        slot.truncate(bound);
        // U1: nobody else can free it; but whoever frees what was there before, too late,
        // claims it for a moment, on another CPU.
        while !found.chunk.claim(found.index) {
            self.machine().relax();
        }
        core.defer(found, kind, pages);
    }
}

impl<M: Machine> Core<M> {
    /// A claimed slot is left to its owner.
    fn defer(&self, found: &Found, kind: Kind, pages: usize) {
        let owner = self.cpu(found.chunk.owner());
        count_shared(&owner.counters.deferred_frees, 1);
        count_shared(&owner.counters.deferred_pages, pages as u64);
        if kind == Kind::MapRam {
            self.flush_epochs.note_alias();
        }
        Deferred::post(&owner.remote_frees, found.chunk, found.index);
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Of slots that were posted, takes the marked ones over that live, and returns
    /// them.
    pub(crate) fn take_deferred(&mut self, chunk: ChunkRef, posted: u64, live: u64) -> u64 {
        let (deferred, others) = Deferred::of(chunk, posted, live);
        // Of the others this CPU has cleared the entries itself.
        slots_of(others).for_each(|slot| self.noted(chunk.slot(slot)));
        self.deferred = deferred;
        deferred.map_or(0, |deferred| deferred.slots())
    }

    /// Retires up to a slice of the first marked slot; when nothing of it is left
    /// it is received like any other. Returns the work that was.
    pub(crate) fn retire_deferred(&mut self, deferred: Deferred) -> usize {
        let Deferred { chunk, slots, done } = deferred;
        let index = slots.trailing_zeros();
        let found = Found::of(self.core, chunk, index);
        let slot = found.slot();
        let bound = if slot.kind() == Kind::Reserved { 0 } else { slot.pages() };
        let slice = (bound - done).min(SLICE);
        self.unbind_slice(&found, PageRange::new(found.start.add_pages(done), slice));
        if done + slice < bound {
            self.deferred = Some(Deferred { chunk, slots, done: done + slice });
            return slice;
        }
        self.noted(slot);
        self.deferred = deferred.receive_first(|live| _ = self.receive(chunk, live));
        slice + 1
    }

    /// The entries of a marked slot are cleared: the batch knows of their aliases.
    fn noted(&self, slot: &Slot) {
        if slot.kind() == Kind::MapRam {
            self.core.flush_epochs.alias_noted_twice();
        }
    }
}
