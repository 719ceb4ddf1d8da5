//! Single frames: allocated, freed, and held behind an area's back.

use crate::api::instance::Vmalloc;
use crate::area::{Caller, Kind, Req};
use crate::error::AllocError;
use crate::frames::release;
use crate::gfp::Gfp;
use crate::machine::format::MemType;
use crate::machine::frames::Frames;
use crate::machine::{Level, Machine};
use crate::path::frames::take_frame;
use crate::path::plan::{Plan, check_node};
use crate::units::{Node, PAGE_SIZE, Pfn, VirtAddr};

impl<M: Machine> Vmalloc<M> {
    /// One frame, for the caller to hold (`alloc_page`, `alloc_pages_node`):
    /// one that the direct mapping covers, unless [`Gfp::HIGHMEM`] says that
    /// any will do. Cleared with [`Gfp::ZERO`], which wants a direct mapping.
    ///
    /// # Errors
    /// [`AllocError::NoFrames`], [`AllocError::WouldWait`].
    #[track_caller]
    pub fn alloc_frame(&self, gfp: Gfp, node: Option<Node>) -> Result<Pfn, AllocError> {
        let ctx = self.ctx().ok_or(AllocError::NotInitialised)?;
        let req = Req { node, ..Req::pages(1).gfp(gfp) };
        let plan = Plan { req: &req, kind: Kind::Vmalloc, caller: Caller::here(), pages: 1, class: None };
        let taken = check_node(ctx.machine, &req).and_then(|()| take_frame(ctx, plan));
        let frame = taken.map_err(|error| ctx.refused(&req, None, plan.caller, error))?;
        if gfp.contains(Gfp::ZERO) {
            // SAFETY: M2: `take_frame` took one that is directly mapped, and
            // it is ours.
            unsafe { self.machine().virt(frame).as_ptr().write_bytes(0, PAGE_SIZE) };
        }
        Ok(frame)
    }

    /// Gives a hold on a frame up (`__free_page`): the last holder pools it.
    ///
    /// # Safety
    /// - P3. The caller holds the frame, by [`Vmalloc::alloc_frame`] or
    ///   [`Vmalloc::hold_frame`], and uses it no more. Where the source has no
    ///   descriptors, what an NMI gives up has a direct mapping.
    #[track_caller]
    pub unsafe fn free_frame(&self, frame: Pfn) {
        let source = self.machine().frames();
        if !source.is_out(frame) {
            let by = Caller::here();
            let line = format_args!("{frame:?} is given up, and is no frame that was given out, by {by:?}");
            return self.machine().log(Level::Error, line);
        }
        if let Some(ctx) = self.ctx() {
            // SAFETY: P3, handed on.
            return unsafe { ctx.drop_hold(frame) };
        }
        if source.page(frame).is_none_or(release) {
            let pinned = self.machine().pin();
            // SAFETY: P3, and nobody else holds it.
            unsafe { source.free(frame, 0) };
            // SAFETY: our own pin, the youngest.
            unsafe { self.machine().unpin(pinned) }
        }
    }

    /// The frame behind an address of an area, and a hold on it
    /// (`vmalloc_to_page`): it stays allocated when the area is freed, until
    /// the hold is given up. `None` where no frame with a descriptor is.
    pub fn hold_frame(&self, at: usize) -> Option<Pfn> {
        let ctx = self.ctx()?;
        let (frame, held) = ctx.hold_frame(VirtAddr(at))?;
        if !held {
            // The area was freed meanwhile, and the frame may have been given back since: then it is
            // not out, and the count lasts.
            // SAFETY: P3: the hold of a moment ago.
            unsafe { ctx.drop_hold(frame) };
        }
        held.then_some(frame)
    }

    /// [`Vmalloc::hold_frame`], as a value that gives the hold up.
    pub fn frame_ref(&self, at: usize) -> Option<FrameRef<'_, M>> {
        self.hold_frame(at).map(|frame| FrameRef { vm: self, frame })
    }

    /// The frame behind an address of a live area (`vmalloc_to_pfn`), without
    /// a hold: it is the caller's to know that the area lives on.
    pub fn frame_at(&self, at: usize) -> Option<Pfn> {
        self.ctx()?.frame_at(VirtAddr(at))
    }

    /// As [`Vmalloc::frame_at`], and the memory type with which the page is mapped.
    pub fn memory_at(&self, at: usize) -> Option<(Pfn, MemType)> {
        self.ctx()?.memory_at(VirtAddr(at))
    }
}

/// A hold on the frame behind an area's page, given up when dropped.
pub struct FrameRef<'v, M: Machine> {
    vm: &'v Vmalloc<M>,
    frame: Pfn,
}

impl<M: Machine> FrameRef<'_, M> {
    /// Its number.
    pub fn frame(&self) -> Pfn {
        self.frame
    }
}

impl<M: Machine> Drop for FrameRef<'_, M> {
    fn drop(&mut self) {
        // SAFETY: P3: made with a hold of its own.
        unsafe { self.vm.free_frame(self.frame) }
    }
}
