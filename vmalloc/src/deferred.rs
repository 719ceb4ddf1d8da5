//! Frees from where nobody can be inside a CPU: from an NMI, or a signal handler,
//! in the middle of another call (L4).
//!
//! ```text
//!   NMI    slot claimed ── marked deferred ── posted to its owner (R1)
//!   owner  finds it in its mail: entries retired, a slice at a time ── live → stale, claim dropped
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
//! - **G3** Whoever has unmapped a mapping for a short time gives its frames up. So
//!   there are aliases from the mark on, until the load of the CPU that clears the
//!   entries knows of them.
//! - **L3** At most a slice of entries is retired at a time: what is left of the
//!   chunk's marked slots is the CPU's `deferred`, for whoever comes next.

use crate::area::{Caller, Kind};
use crate::cpu::{Here, SLICE};
use crate::error::FreeError;
use crate::instance::{Core, Vmalloc};
use crate::lookup::Found;
use crate::machine::Machine;
use crate::space::chunk::ChunkRef;
use crate::space::slot::{Slot, slots_of};
use crate::stats::count_shared;
use crate::units::{PageRange, VirtAddr};

/// Marked slots of a chunk, taken out of the mail, and how many pages of the first
/// of them are retired.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deferred {
    chunk: ChunkRef,
    slots: u64,
    done: usize,
}

impl<M: Machine> Vmalloc<M> {
    /// Frees an area without being inside any CPU.
    #[cold]
    #[inline(never)]
    pub(crate) fn unmake_deferred(
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
        let owner = core.cpu(found.chunk.owner());
        count_shared(&owner.counters.deferred_frees, 1);
        count_shared(&owner.counters.deferred_pages, pages as u64);
        if kind == Kind::MapRam {
            core.generations.lend();
        }
        found.slot().freed_by(by);
        found.chunk.defer(found.index);
        if found.chunk.post(found.index) {
            owner.mail.push(found.chunk);
        }
        Ok(())
    }
}

impl<M: Machine> Here<'_, M> {
    /// Of slots that were posted, takes the marked ones over that live, and returns
    /// them.
    pub(crate) fn take_deferred(&mut self, chunk: ChunkRef, posted: u64, live: u64) -> u64 {
        let marked = chunk.take_deferred(posted);
        // Of the others this CPU has cleared the entries itself.
        slots_of(marked & !live).for_each(|slot| self.noted(chunk.slot(slot)));
        let slots = marked & live;
        if slots != 0 {
            self.deferred = Some(Deferred { chunk, slots, done: 0 });
        }
        slots
    }

    /// Retires up to a slice of the first marked slot; when nothing of it is left
    /// it is received like any other. Returns the work that was.
    pub(crate) fn retire_deferred(&mut self, Deferred { chunk, slots, done }: Deferred) -> usize {
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
        self.receive(chunk, 1 << index);
        chunk.unclaim(1 << index);
        let slots = slots & (slots - 1);
        self.deferred = (slots != 0).then_some(Deferred { chunk, slots, done: 0 });
        slice + 1
    }

    /// The entries of a marked slot are cleared: the load knows of their aliases.
    fn noted(&self, slot: &Slot) {
        if slot.kind() == Kind::MapRam {
            self.core.generations.lent_twice();
        }
    }
}
