//! Single frames, by the magazine and the ladder of shortages, and frames behind areas.

use crate::error::{AllocError, Shortage};
use crate::frames::hold;
use crate::gfp::{Gfp, ZoneKind};
use crate::machine::Machine;
use crate::machine::format::MemType;
use crate::machine::frames::{Frames, Want};
use crate::path::plan::Plan;
use crate::path::shortage::Tries;
use crate::state::core::Ctx;
use crate::state::enter::CpuGuard;
use crate::state::lookup::SlotRef;
use crate::sync::breaks;
use crate::table::PteRange;
use crate::units::{Pfn, VirtAddr};

/// Takes one frame.
pub(crate) fn take_frame<M: Machine>(ctx: Ctx<'_, M>, plan: Plan<'_>) -> Result<Pfn, AllocError> {
    let mut cpu = CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?;
    let mut tries = Tries::new();
    loop {
        let mut want = plan.req.want(cpu.node);
        let any = plan.req.gfp.contains(Gfp::HIGHMEM) && !plan.req.gfp.contains(Gfp::ZERO);
        want.zone = if any { want.zone } else { want.zone.min(ZoneKind::Normal) };
        match cpu.take_frame(want) {
            Some(frame) => return Ok(frame),
            None => cpu.resolve_shortage(plan, Shortage::Frames(1), &mut tries)?,
        }
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    fn take_frame(&mut self, want: Want) -> Option<Pfn> {
        let (machine, core, node) = (self.machine, self.core, self.node);
        if !self.magazine.serves(want) {
            return machine.frames().alloc(want);
        }
        self.magazine.reserve(machine, core.depot(node), want, 1).ok()?;
        self.magazine.pop()
    }
}

impl<M: Machine> Ctx<'_, M> {
    /// The frame behind an address of an area, which has gained a holder; false = the area
    /// was freed meanwhile, and the hold is to be given up.
    pub(crate) fn hold_frame(self, at: VirtAddr) -> Option<(Pfn, bool)> {
        // Grace does not come between the question whether the area lives and the
        // last look.
        self.looking(|| {
            let found = self.find(at)?;
            let frame = self.frame_of(&found, at)?;
            let page = self.machine.frames().page(frame)?;
            let is_its = || breaks!(HoldUnchecked) || self.frame_of(&found, at) == Some(frame);
            Some((frame, found.hand_out(|| hold(page), is_its)))
        })
    }

    /// The frame behind an address of a live area.
    pub(crate) fn frame_at(self, at: VirtAddr) -> Option<Pfn> {
        self.looking(|| self.frame_of(&self.find(at)?, at))
    }

    /// The frame behind an address of a live area, and its memory type.
    pub(crate) fn memory_at(self, at: VirtAddr) -> Option<(Pfn, MemType)> {
        self.looking(|| self.read(&self.find(at)?, at, PteRange::memory))
    }

    /// The frame behind an address of a slot, if an area is there.
    fn frame_of(self, found: &SlotRef, at: VirtAddr) -> Option<Pfn> {
        self.read(found, at, |entry| entry.frames().next().map(|(_, frame)| frame))
    }

    /// What `f` finds in the entry of an address of a slot, if an area is there and has been
    /// since it was looked up. The caller is one who looks.
    fn read<R>(self, found: &SlotRef, at: VirtAddr, f: impl FnOnce(PteRange<M::Table>) -> Option<R>) -> Option<R> {
        found.seen(|| {
            let piece = self.look(found.chunk, at.page_start())?;
            // The piece was read while the chunk was what it had been; so its table stays
            // while somebody looks (T1).
            if found.is_same() { f(piece) } else { None }
        })
    }
}
