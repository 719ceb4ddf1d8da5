//! Areas over frames that are there already: `vmap`, `vm_map_ram`; and areas
//! of addresses alone.
//!
//! # Rules
//! - G3: A frame with a descriptor that `vmap` maps once more gains a holder;
//!   the hold is dropped after grace, when the entry is collected. So it may be
//!   freed while it is mapped: the last holder pools it. `map_ram` holds nothing:
//!   its caller does, until it is unmapped ([`alias`](crate::alias)).

use crate::area::{Backing, Caller, Guard, Kind, Req};
use crate::cpu::CpuGuard;
use crate::error::{AllocError, FreeError, Shortage};
use crate::frames::{hold, twice};
use crate::gfp::{Gfp, ZoneKind};
use crate::instance::{Core, Vmalloc};
use crate::lookup::SlotRef;
use crate::machine::Machine;
use crate::machine::frames::{Frames, Want};
use crate::plan::{Plan, check_node};
use crate::pressure::Tries;
use crate::sync::breaks;
use crate::units::{Node, PAGE_SIZE, Pfn, VirtAddr};
use core::ptr::NonNull;

impl<M: Machine> Vmalloc<M> {
    /// Maps `frames`, one a page, side by side (`vmap`). The frames stay their
    /// holder's. Size and alignment come from `frames` and `like`, which also
    /// says region, protection and memory type.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing has changed then.
    ///
    /// # Safety
    /// - P1. The caller holds each frame during the call. Where the source has
    ///   no descriptors it holds them until [`Vmalloc::unmap_aliases`] has
    ///   returned after the unmapping.
    #[track_caller]
    pub unsafe fn vmap(&self, frames: &[Pfn], like: Req) -> Result<NonNull<u8>, AllocError> {
        self.make(&over(frames, like), Kind::Vmap, Caller::here(), Backing::Frames(frames))
    }

    /// As [`Vmalloc::vmap`], and the area takes the frames over, each of which it
    /// has once: [`Vmalloc::free`] gives them back (`VM_MAP_PUT_PAGES`).
    ///
    /// # Errors
    /// See [`AllocError`]: [`AllocError::SameFrame`] for a frame that is there
    /// twice, [`AllocError::NotOut`] for what the source has not given out. The
    /// frames are still the caller's then.
    ///
    /// # Safety
    /// - P2. The frames are the caller's to give, and came from this machine's
    ///   source.
    #[track_caller]
    pub unsafe fn vmap_owned(&self, frames: &[Pfn], like: Req) -> Result<NonNull<u8>, AllocError> {
        let (req, source) = (over(frames, like), self.machine().frames());
        let core = self.core().ok_or(AllocError::NotInitialised)?;
        let odd = match frames.iter().find(|&&frame| !source.is_out(frame)) {
            Some(&frame) => Some(AllocError::NotOut(frame)),
            None => twice(source, frames).map(AllocError::SameFrame),
        };
        match odd {
            None => self.make(&req, Kind::VmapOwned, Caller::here(), Backing::Frames(frames)),
            Some(odd) => {
                self.refused(core, &req, &odd);
                Err(odd)
            }
        }
    }

    /// Unmaps what [`Vmalloc::vmap`] mapped (`vunmap`).
    ///
    /// # Errors
    /// See [`FreeError`]; nothing has changed then.
    ///
    /// # Safety
    /// V1.
    #[track_caller]
    pub unsafe fn vunmap(&self, at: NonNull<u8>) -> Result<(), FreeError> {
        self.free_area(VirtAddr(at.addr().get()), Caller::here(), |kind| kind == Kind::Vmap, None)
    }

    /// Maps `frames` for a short time (`vm_map_ram`): a clean slot, nothing
    /// else.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing has changed then.
    ///
    /// # Safety
    /// - P4. The caller holds each frame until [`Vmalloc::unmap_ram`] has returned,
    ///   and what is a frame of the machine's source goes back to it by
    ///   [`Vmalloc::free_frame`]. Where the source has no descriptors: until
    ///   [`Vmalloc::unmap_aliases`] has returned after that.
    #[track_caller]
    #[inline]
    pub unsafe fn map_ram(&self, frames: &[Pfn], node: Option<Node>) -> Result<NonNull<u8>, AllocError> {
        match self.map_straight(frames, node, Caller::here()) {
            Ok(at) => Ok(at),
            Err(in_use) => self.map_long(frames, (node, Caller::here()), in_use),
        }
    }

    /// The long way, unless it is known what would come of it.
    #[inline(never)]
    fn map_long(
        &self,
        frames: &[Pfn],
        (node, caller): (Option<Node>, Caller),
        in_use: Option<NonNull<u8>>,
    ) -> Result<NonNull<u8>, AllocError> {
        let core = self.core().ok_or(AllocError::NotInitialised)?;
        let mut req = over(frames, Req::bytes(0)).guard(Guard::None);
        req.node = node;
        let made = match in_use {
            Some(at) => Err(AllocError::InUse(VirtAddr(at.addr().get()))),
            None => self.make_long(core, &req, Kind::MapRam, caller, &Backing::Frames(frames)),
        };
        made.inspect_err(|error| self.refused(core, &req, error))
    }

    /// Unmaps what [`Vmalloc::map_ram`] mapped, `count` pages as then
    /// (`vm_unmap_ram`).
    ///
    /// # Errors
    /// See [`FreeError`]; nothing has changed then.
    ///
    /// # Safety
    /// V1.
    #[track_caller]
    #[inline]
    pub unsafe fn unmap_ram(&self, at: NonNull<u8>, count: usize) -> Result<(), FreeError> {
        let (at, by) = (VirtAddr(at.addr().get()), Caller::here());
        if self.unmap_straight(at, count, by) { Ok(()) } else { self.unmap_long(at, count, by) }
    }

    #[inline(never)]
    fn unmap_long(&self, at: VirtAddr, count: usize, by: Caller) -> Result<(), FreeError> {
        let core = self.core().ok_or(FreeError::NotInitialised)?;
        self.free_area_long(core, at, by, |kind| kind == Kind::MapRam, Some(count))
    }

    /// Reserves addresses and binds nothing (`get_vm_area`). Freed by
    /// [`Vmalloc::free`].
    ///
    /// # Errors
    /// See [`AllocError`]; nothing has changed then.
    #[track_caller]
    pub fn reserve(&self, req: Req) -> Result<NonNull<u8>, AllocError> {
        self.make(&req, Kind::Reserved, Caller::here(), Backing::Nothing)
    }

    /// One frame, for the caller to hold (`alloc_page`, `alloc_pages_node`):
    /// one that the direct mapping covers, unless [`Gfp::HIGHMEM`] says that
    /// any will do. Cleared with [`Gfp::ZERO`], which wants a direct mapping.
    ///
    /// # Errors
    /// [`AllocError::NoFrames`], [`AllocError::WouldWait`].
    #[track_caller]
    pub fn alloc_frame(&self, gfp: Gfp, node: Option<Node>) -> Result<Pfn, AllocError> {
        let core = self.core().ok_or(AllocError::NotInitialised)?;
        let mut req = Req::pages(1).gfp(gfp);
        req.node = node;
        let plan = Plan { req: &req, kind: Kind::Vmalloc, caller: Caller::here(), pages: 1, class: None };
        check_node(self, &req).inspect_err(|error| self.refused(core, &req, error))?;
        let frame = self.take_frame(core, &plan).inspect_err(|error| self.refused(core, &req, error))?;
        if gfp.contains(Gfp::ZERO) {
            // SAFETY: M2: `take_frame` took one that is directly mapped, and
            // it is ours.
            unsafe { self.machine().virt(frame).as_ptr().write_bytes(0, PAGE_SIZE) };
        }
        Ok(frame)
    }

    fn take_frame(&self, core: &Core<M>, plan: &Plan<'_>) -> Result<Pfn, AllocError> {
        let mut here = CpuGuard::enter(self, core).map_err(AllocError::WrongContext)?;
        let mut tries = Tries::default();
        loop {
            let mut want = plan.want(here.node);
            let any = plan.req.gfp.contains(Gfp::HIGHMEM) && !plan.req.gfp.contains(Gfp::ZERO);
            want.zone = if any { want.zone } else { want.zone.min(ZoneKind::Normal) };
            match here.take_frame(want) {
                Some(frame) => return Ok(frame),
                None => self.resolve_shortage(&mut here, plan, Shortage::Frames(1), &mut tries)?,
            }
        }
    }

    /// The frame behind an address of an area, and a hold on it
    /// (`vmalloc_to_page`): it stays allocated when the area is freed, until
    /// the hold is given up. `None` where no frame with a descriptor is.
    pub fn hold_frame(&self, at: usize) -> Option<Pfn> {
        let (core, at) = (self.core()?, VirtAddr(at));
        // Grace does not come between the question whether the area lives and the
        // last look.
        let (frame, held) = self.looking(core, || {
            let found = core.find(self, at)?;
            let frame = self.frame_of(core, &found, at)?;
            let page = self.machine().frames().page(frame)?;
            let is_its = || breaks!(HoldUnchecked) || self.frame_of(core, &found, at) == Some(frame);
            Some((frame, found.hand_out(|| hold(page), is_its)))
        })?;
        if held {
            return Some(frame);
        }
        // The area was freed meanwhile.
        // SAFETY: P3: the hold of a moment ago.
        unsafe { self.drop_hold(frame) };
        None
    }

    /// The frame behind an address of a live area (`vmalloc_to_pfn`), without
    /// a hold: it is the caller's to know that the area lives on.
    pub fn frame_at(&self, at: usize) -> Option<Pfn> {
        let (core, at) = (self.core()?, VirtAddr(at));
        self.looking(core, || self.frame_of(core, &core.find(self, at)?, at))
    }

    /// The frame behind an address of a slot, if an area is there and has been since
    /// it was looked up. The caller is one who looks.
    fn frame_of(&self, core: &Core<M>, found: &SlotRef, at: VirtAddr) -> Option<Pfn> {
        found.seen(|| {
            let piece = core.look(self, found.chunk, at.page_start())?;
            // The piece was read while the chunk was what it had been; so its table stays
            // while somebody looks (T1).
            let (_, frame) = if found.is_same() { piece.frames().next() } else { None }?;
            Some(frame)
        })
    }

    /// Areas at fixed distances from each other, all or none
    /// (`pcpu_get_vm_areas`): area `i` has `parts[i].1` bytes and starts
    /// `parts[i].0` bytes from a common base, a multiple of `align`. They are
    /// reservations; [`Vmalloc::free`] each. Returns the base.
    ///
    /// Under the placement Classes, areas that are placed begin at units: the
    /// offsets are multiples of 64 pages there.
    ///
    /// # Errors
    /// See [`AllocError`]: [`AllocError::BadAlign`] for an offset. Nothing has
    /// changed then.
    #[track_caller]
    pub fn reserve_at_offsets(&self, parts: &[(usize, usize)], align: usize, like: Req) -> Result<usize, AllocError> {
        let caller = like.caller.unwrap_or(Caller::here());
        let core = self.core().ok_or(AllocError::NotInitialised)?;
        let region = core.regions.get(like.region.0 as usize).ok_or(AllocError::BadRange { start: 0, end: 0 })?;
        let grain = PAGE_SIZE << region.grain_shift;
        if let Some(&(odd, _)) = parts.iter().find(|part| !part.0.is_multiple_of(grain)) {
            return Err(AllocError::BadAlign(odd));
        }
        let end = parts.iter().map(|&(offset, bytes)| offset.saturating_add(bytes)).max().unwrap_or(0);
        // A probe of the whole extent finds a base at which all would fit;
        // then it makes room for the parts.
        let range = like.within.unwrap_or((region.base.0, region.base.0 + region.bytes));
        let whole = Req { bytes: end, align, within: Some(range), ..like.clone() }.caller(caller).guard(Guard::None);
        let base = self.reserve(whole)?.addr().get();
        if let [(0, _)] = parts {
            return Ok(base);
        }
        let given_up = self.free_area(VirtAddr(base), caller, |_| true, None);
        debug_assert!(given_up.is_ok(), "the probe was ours");
        self.purge();
        self.reserve_parts(parts, base, grain, like.caller(caller))
    }

    fn reserve_parts(
        &self,
        parts: &[(usize, usize)],
        base: usize,
        grain: usize,
        like: Req,
    ) -> Result<usize, AllocError> {
        for (done, &(offset, bytes)) in parts.iter().enumerate() {
            let at = base + offset;
            let whole = at..at + bytes.next_multiple_of(grain);
            let req = Req { bytes, align: PAGE_SIZE, ..like.clone() }.guard(Guard::None).within(whole);
            if let Err(error) = self.reserve(req) {
                for &(offset, _) in &parts[..done] {
                    let undone = self.free_area(VirtAddr(base + offset), Caller::here(), |_| true, None);
                    debug_assert!(undone.is_ok(), "it was reserved a moment ago");
                }
                return Err(error);
            }
        }
        Ok(base)
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    fn take_frame(&mut self, want: Want) -> Option<Pfn> {
        let (machine, core, node) = (self.vm.machine(), self.core, self.node);
        if !self.magazine.serves(want) {
            return machine.frames().alloc(want);
        }
        self.magazine.reserve(machine, core.depot(node), want, 1).ok()?;
        self.magazine.pop()
    }
}

pub(crate) fn over(frames: &[Pfn], mut like: Req) -> Req {
    like.bytes = frames.len().saturating_mul(PAGE_SIZE);
    like
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

impl<M: Machine> Vmalloc<M> {
    /// [`Vmalloc::hold_frame`], as a value that gives the hold up.
    pub fn frame_ref(&self, at: usize) -> Option<FrameRef<'_, M>> {
        self.hold_frame(at).map(|frame| FrameRef { vm: self, frame })
    }
}
