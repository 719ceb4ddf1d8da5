//! Areas over frames that are there already, and over devices: `vmap`, `vm_map_ram`,
//! `ioremap`, parts of reservations.
//!
//! # Rules
//! - G3: A frame with a descriptor that `vmap` maps once more gains a holder;
//!   the hold is dropped after grace, when the entry is collected. So it may be
//!   freed while it is mapped: the last holder pools it. `map_ram` holds nothing:
//!   its caller does, until it is unmapped ([`aliases`](crate::reclaim::aliases)).

use crate::api::instance::Vmalloc;
use crate::area::{Caller, Kind, Req};
use crate::error::{AllocError, FreeError};
use crate::frames::{mixed, twice};
use crate::machine::Machine;
use crate::machine::format::{Format, MemType, Prot};
use crate::machine::frames::Frames;
use crate::path::alloc::alloc;
use crate::path::backing::{COUNTED, Device, Given, UNCOUNTED};
use crate::path::part;
use crate::units::{Node, PAGE_SHIFT, PAGE_SIZE, Pfn};
use core::num::NonZero;
use core::ptr::NonNull;

/// The widest alignment that a device area gets: 128 pages.
const MAX_ALIGN: usize = PAGE_SIZE << 7;

impl<M: Machine> Vmalloc<M> {
    /// Maps `frames`, one a page, side by side (`vmap`). The frames stay their
    /// holder's. Size and alignment come from `frames` and `like`, which also
    /// says region, protection and memory type. All of them are RAM, or none is.
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
        self.map_frames(Kind::Vmap, frames, like, Caller::here())
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
        let source = self.machine().frames();
        let not_out = frames.iter().find(|&&frame| !source.is_out(frame)).map(|&frame| AllocError::NotOut(frame));
        match not_out.or_else(|| twice(source, frames).map(AllocError::SameFrame)) {
            None => self.map_frames(Kind::VmapOwned, frames, like, Caller::here()),
            Some(error) => Err(self.refused(&over(frames, like), Kind::VmapOwned, Caller::here(), error)),
        }
    }

    fn map_frames(&self, kind: Kind, frames: &[Pfn], like: Req, caller: Caller) -> Result<NonNull<u8>, AllocError> {
        let req = over(frames, like);
        match mixed(self.machine().frames(), frames) {
            None => alloc(self.ctx(), &req, kind, caller, Given::<COUNTED>(frames)),
            Some(frame) => Err(self.refused(&req, kind, caller, AllocError::Mixed(frame))),
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
        self.free_kind(at, Caller::here(), |kind| kind == Kind::Vmap, None)
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
        alloc(self.ctx(), &Req::ram(frames.len(), node), Kind::MapRam, Caller::here(), Given::<UNCOUNTED>(frames))
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
        self.free_kind(at, Caller::here(), |kind| kind == Kind::MapRam, Some(count))
    }

    /// Binds `frames`, one a page, to the pages from `at` on, which lie in an area
    /// that [`Vmalloc::reserve`] made. They stay their holder's.
    ///
    /// # Errors
    /// [`AllocError::BadRange`] where the pages are not all of one reservation, or
    /// `at` is not the start of a page; [`AllocError::InUse`] for the first page that
    /// is mapped; [`AllocError::BadFrame`] for a frame that no entry can name;
    /// [`AllocError::Mixed`] for RAM among what is none;
    /// [`AllocError::NoTables`], [`AllocError::WouldWait`]. Nothing has changed then.
    ///
    /// # Safety
    /// - P5. Nobody else maps, unmaps or frees the reservation meanwhile, and what was
    ///   unmapped of these pages was flushed since ([`Vmalloc::unmap_aliases`]).
    /// - P6. The caller holds each frame until [`Vmalloc::unmap_part`] has returned
    ///   for its page, or [`Vmalloc::free`] for the reservation, which unmaps what is mapped
    ///   still. What is a frame of the machine's source goes back by [`Vmalloc::free_frame`].
    ///
    /// # Cost
    /// O(pages). Source: `map_vm_area`, `vm_area_map_pages`.
    #[track_caller]
    pub unsafe fn map_part(&self, at: usize, frames: &[Pfn], prot: Prot, memory: MemType) -> Result<(), AllocError> {
        let ctx = self.ctx().ok_or(AllocError::NotInitialised)?;
        part::map(ctx, at, frames, &Req::pages(frames.len()).prot(prot).memory(memory), Caller::here())
    }

    /// Unmaps what is mapped of the `pages` pages from `at` on, which lie in an area
    /// that [`Vmalloc::reserve`] made, and returns how many pages that was. CPUs may
    /// reach the frames until the next flush.
    ///
    /// # Errors
    /// [`AllocError::BadRange`] where the pages are not all of one reservation;
    /// [`AllocError::WrongContext`] in an NMI in the middle of a call.
    ///
    /// # Safety
    /// - P5. As for [`Vmalloc::map_part`]; and nobody uses the pages any more.
    ///
    /// # Cost
    /// O(pages). Source: `unmap_kernel_range_noflush`, `vm_area_unmap_pages`.
    pub unsafe fn unmap_part(&self, at: usize, pages: usize) -> Result<usize, AllocError> {
        part::unmap(self.ctx().ok_or(AllocError::NotInitialised)?, at, pages)
    }

    /// Maps `bytes` bytes of a device at physical address `phys` (`ioremap`).
    /// Neither has to be page-aligned: the offset in the page is kept. The
    /// area is aligned to its size rounded up to a power of two, at most 128
    /// pages.
    ///
    /// # Errors
    /// See [`AllocError`]: [`AllocError::TooLarge`] where the range wraps,
    /// [`AllocError::IsRam`] where it is RAM, [`AllocError::BadFrame`] beyond what the format can name.
    /// Nothing has changed then.
    #[track_caller]
    pub fn ioremap(&self, phys: u64, bytes: usize, memory: MemType) -> Result<NonNull<u8>, AllocError> {
        self.ioremap_for(phys, bytes, memory, Caller::here())
    }

    /// As [`Vmalloc::ioremap`], on behalf of `caller`.
    ///
    /// # Errors
    /// As there.
    pub fn ioremap_for(
        &self,
        phys: u64,
        bytes: usize,
        memory: MemType,
        caller: Caller,
    ) -> Result<NonNull<u8>, AllocError> {
        let offset = (phys % PAGE_SIZE as u64) as usize;
        let whole =
            match bytes.checked_add(offset).filter(|_| phys.checked_add((bytes as u64).saturating_sub(1)).is_some()) {
                Some(_) if bytes == 0 => Err(AllocError::ZeroSize),
                whole => whole.ok_or(AllocError::TooLarge { bytes, limit: nameable_from::<M>(phys) }),
            };
        let whole = whole.map_err(|error| self.refused(&Req::bytes(bytes), Kind::Ioremap, caller, error))?;
        let align = whole.min(MAX_ALIGN).next_power_of_two().max(PAGE_SIZE);
        let req = Req::bytes(whole).align(align).memory(memory);
        let at = alloc(self.ctx(), &req, Kind::Ioremap, caller, Device(Pfn::containing(phys)))?;
        // SAFETY: `offset` lies in the area's first page.
        Ok(unsafe { at.add(offset) })
    }

    /// A refusal before there is a plan, counted and logged.
    #[cold]
    fn refused(&self, req: &Req, kind: Kind, caller: Caller, error: AllocError) -> AllocError {
        self.ctx().map_or(AllocError::NotInitialised, |ctx| ctx.refused(req, Some(kind), caller, error))
    }

    /// Unmaps a device (`iounmap`); any address of the area's first page will
    /// do, as [`Vmalloc::ioremap`] returned it.
    ///
    /// # Errors
    /// See [`FreeError`]; nothing has changed then.
    ///
    /// # Safety
    /// V1.
    #[track_caller]
    pub unsafe fn iounmap(&self, at: NonNull<u8>) -> Result<(), FreeError> {
        self.free_kind(page_start(at), Caller::here(), |kind| kind == Kind::Ioremap, None)
    }
}

/// The first byte of the page that contains `at`.
pub(super) fn page_start(at: NonNull<u8>) -> NonNull<u8> {
    at.map_addr(|at| NonZero::new(at.get() & !(PAGE_SIZE - 1)).unwrap_or(at))
}

/// The bytes from `phys` on that entries can name.
fn nameable_from<M: Machine>(phys: u64) -> usize {
    let bytes = (<M::Table as Format>::MAX_PFN << PAGE_SHIFT).saturating_sub(phys);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A request like another one, for these frames.
fn over(frames: &[Pfn], mut like: Req) -> Req {
    like.bytes = frames.len().saturating_mul(PAGE_SIZE);
    like
}
