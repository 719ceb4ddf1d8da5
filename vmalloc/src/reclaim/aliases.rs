//! Aliases: translations that a `map_ram` mapping leaves behind.
//!
//! A `map_ram` area holds no frames. Its caller holds them until the mapping is removed (P4), and
//! may give them up right after. But a CPU may still reach a frame through a translation that it
//! has cached: an *alias*. A holder for each page, dropped after grace, would cost more than the
//! mapping itself. So the rare case pays: giving up a frame while aliases exist.
//!
//! ```text
//!   unmap_ram          entries cleared; the open batch has aliases
//!   last holder gone   no aliases anywhere ──▶ pooled
//!                      else                ──▶ waits in the open batch ──grace──▶ pooled
//! ```
//!
//! # Rules
//! - G3: A frame without a holder is pooled if grace has come for every batch with aliases, on any
//!   CPU (`flush/alias.rs`). Otherwise it joins the open batch, which is sealed after every entry
//!   of the frame was cleared.
//! - G1: No list names the pages of aliases. So while there are any, every batch flushes
//!   everything.
//! - G4: A waiting frame counts as a page of the batch.
//! - L4: An NMI in the middle of another call cannot enter its CPU. It pushes the frame onto the
//!   CPU's list of deferred frames, which the next caller on that CPU drains.

use crate::frames::release;
use crate::machine::Machine;
use crate::machine::frames::{Frames, Page};
use crate::state::batch::Batch;
use crate::state::core::Ctx;
use crate::state::enter::CpuGuard;
use crate::state::stats::count;
use crate::sync::breaks;
use crate::units::Pfn;

impl<M: Machine> Ctx<'_, M> {
    /// Drops a caller's hold on a frame, and pools the frame if that was the last hold.
    ///
    /// # Safety
    /// P3.
    pub(crate) unsafe fn drop_hold(self, frame: Pfn) {
        let page = self.machine.frames().page(frame);
        if !page.is_none_or(release) {
            return;
        }
        match CpuGuard::enter(self) {
            Ok(mut cpu) => {
                if cpu.give_up(frame, page) {
                    cpu.reclaim_after();
                }
            }
            Err(_) => self.pinned(|cpu| self.core.cpu(cpu).deferred_frames.push(self.machine, frame, page)),
        }
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Records that the open batch has aliases: entries of a `map_ram` mapping were cleared.
    #[inline(always)]
    pub(crate) fn note_alias(&mut self) {
        if !self.open.has_aliases {
            self.open.has_aliases = true;
            self.core.flush_epochs.note_alias();
        }
    }

    /// Whether no CPU can reach a frame without a holder through any page.
    #[inline]
    pub(crate) fn has_no_aliases(&self) -> bool {
        breaks!(IgnoreAliases) || self.core.flush_epochs.has_no_aliases()
    }

    /// Pools a frame that has no holder but the caller, or lets it wait in the open batch. Returns
    /// whether it waits.
    pub(crate) fn give_up(&mut self, frame: Pfn, page: Option<&Page>) -> bool {
        let Some(page) = page.filter(|_| !self.has_no_aliases()) else {
            self.pool_frame(frame);
            return false;
        };
        self.open.waiting_frames.push(frame, page);
        self.open.charge(1, 1);
        count(&self.cpu.counters.alias_frames, 1);
        true
    }

    pub(crate) fn pool_frame(&mut self, frame: Pfn) {
        let (machine, depot) = (self.machine, self.core.depot(self.node));
        // SAFETY: it has no holder, and no CPU reaches it (G3).
        unsafe { self.magazine.push(machine, depot, frame) }
    }

    /// Drains the frames that were given up while this CPU could not be entered.
    #[inline]
    pub(crate) fn take_dropped(&mut self) {
        let (machine, cpu) = (self.machine, self.cpu);
        cpu.deferred_frames.drain(machine, |frame, page| _ = self.give_up(frame, page));
    }

    /// After grace: pools up to `most` frames of the batch's list of waiting frames. Returns how
    /// many it took off the list.
    pub(crate) fn reclaim_waiting_frames(&mut self, batch: &mut Batch, most: usize) -> usize {
        let source = self.machine.frames();
        let mut reclaimed = 0;
        while reclaimed < most
            && let Some((frame, page)) = batch.waiting_frames.pop(source)
        {
            reclaimed += 1;
            // `hold_frame` may have held the frame for a moment, for an address that was being
            // unmapped. Then that holder is the last one and pools it.
            if release(page) {
                self.pool_frame(frame);
            }
        }
        reclaimed
    }
}
