//! Aliases: what `map_ram` leaves behind.
//!
//! A mapping for a short time holds nothing. Its caller holds the frames until it
//! is unmapped (P4), and may give them up at once; but a CPU may still reach them
//! by the pages where they were: these are *aliases*. To count a holder a page,
//! and to drop it after grace, would cost more than the mapping. So the other end
//! pays, which is rare:
//!
//! ```text
//!   unmap_ram          entries cleared; the open batch is lent
//!   last holder gone   no aliases anywhere ──▶ pooled
//!                      else                ──▶ loose, in the open batch ──grace──▶ pooled
//! ```
//!
//! # Rules
//! - G3: A frame whose last holder is gone is pooled if grace has come for
//!   every batch that was lent, on any CPU (`flush/alias.rs`). Else it joins the
//!   open batch, which is sealed later than any entry of the frame was cleared.
//! - G1: Nobody lists the pages of aliases. So as long as there are any, every
//!   batch's flush is about everything.
//! - G4: A loose frame counts as a page that waits.
//! - L4: An NMI in the middle of another call cannot enter its CPU. It drops the
//!   frame there; the next caller inside that looks for remote frees takes it in.

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
    /// A caller's hold on a frame is given up; the last holder pools it.
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
    /// Entries of a mapping are cleared.
    #[inline(always)]
    pub(crate) fn note_alias(&mut self) {
        if !self.open.has_aliases {
            self.open.has_aliases = true;
            self.core.flush_epochs.note_alias();
        }
    }

    /// Whether no CPU reaches a frame that nobody holds, by any page.
    #[inline]
    pub(crate) fn has_no_aliases(&self) -> bool {
        breaks!(IgnoreAliases) || self.core.flush_epochs.has_no_aliases()
    }

    /// A frame has no holder any more but the caller: it is pooled, or waits
    /// (true).
    pub(crate) fn give_up(&mut self, frame: Pfn, page: Option<&Page>) -> bool {
        let Some(page) = page.filter(|_| !self.has_no_aliases()) else {
            self.pool_frame(frame);
            return false;
        };
        self.open.waiting_frames.push(frame, page);
        self.open.charge(1, 1);
        count(&self.cpu.counters.loose_frames, 1);
        true
    }

    fn pool_frame(&mut self, frame: Pfn) {
        let (machine, depot) = (self.machine, self.core.depot(self.node));
        // SAFETY: nobody holds it, and no CPU reaches it (G3).
        unsafe { self.magazine.push(machine, depot, frame) }
    }

    /// Takes in what was given up where this CPU could not be entered.
    #[inline]
    pub(crate) fn take_dropped(&mut self) {
        let (machine, cpu) = (self.machine, self.cpu);
        cpu.deferred_frames.drain(machine, |frame, page| _ = self.give_up(frame, page));
    }

    /// After grace: up to `most` frames that waited by themselves are pooled.
    /// Says how many.
    pub(crate) fn reclaim_waiting_frames(&mut self, batch: &mut Batch, most: usize) -> usize {
        let source = self.machine.frames();
        let mut redeemed = 0;
        while redeemed < most
            && let Some((frame, page)) = batch.waiting_frames.pop(source)
        {
            redeemed += 1;
            // Somebody may have held it for a moment, after an address that was
            // being unmapped (`hold_frame`): then that one is the last.
            if release(page) {
                self.pool_frame(frame);
            }
        }
        redeemed
    }
}
