//! Areas of memory and of addresses alone: `vmalloc`, `vfree`, `get_vm_area`,
//! `pcpu_get_vm_areas`.

use crate::api::instance::Vmalloc;
use crate::area::{Caller, Guard, Kind, Req};
use crate::error::{AllocError, FreeError};
use crate::machine::Machine;
use crate::machine::format::Prot;
use crate::path::alloc::alloc;
use crate::path::backing::{Fresh, Nothing};
use crate::path::free::free;
use crate::path::protect::protect;
use crate::path::{offsets, part};
use crate::units::VirtAddr;
use core::ptr::NonNull;

impl<M: Machine> Vmalloc<M> {
    /// Allocates an area (`vmalloc` and its family): `req` says how large, of
    /// which frames, and where. The bytes are uninitialised unless asked for
    /// with [`Gfp::ZERO`](crate::Gfp::ZERO).
    ///
    /// # Errors
    /// See [`AllocError`]; nothing has changed then.
    ///
    /// # Cost
    /// O(pages) with a small constant; no lock and no shared cache line, but
    /// for one call in some hundred. Source: `__vmalloc_node_range`.
    #[track_caller]
    #[inline]
    pub fn alloc(&self, req: Req) -> Result<NonNull<u8>, AllocError> {
        alloc(self.ctx(), &req, req.kind, Caller::here(), Fresh)
    }

    /// Frees what [`Vmalloc::alloc`], [`Vmalloc::reserve`] or
    /// [`Vmalloc::vmap_owned`] returned (`vfree`). From any CPU and any context;
    /// never waits, unless the policy is Strict and the caller a task. An NMI in
    /// the middle of another call leaves the work to the CPU that made the area.
    ///
    /// # Errors
    /// See [`FreeError`]; nothing has changed then.
    ///
    /// # Safety
    /// - V1. Nobody uses the area any more.
    ///
    /// # Cost
    /// O(pages). Source: `vfree`.
    #[track_caller]
    #[inline]
    pub unsafe fn free(&self, at: NonNull<u8>) -> Result<(), FreeError> {
        self.free_kind(at, Caller::here(), frees_memory, None)
    }

    /// As [`Vmalloc::free`], on behalf of `by`: where a trait or another language stands in between,
    /// the place of this call says nothing.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// V1.
    pub unsafe fn free_by(&self, at: NonNull<u8>, by: Caller) -> Result<(), FreeError> {
        self.free_kind(at, by, frees_memory, None)
    }

    /// Gives the pages of an area of memory back that lie beyond its first `bytes` bytes: it
    /// starts where it did. The addresses stay with it until it is freed. CPUs may reach the
    /// frames until the next flush, under every policy; until then they serve nobody. Nothing is
    /// given back where `bytes` is 0 or leaves all pages, in the
    /// middle of another call, or where frames have no descriptors. While this runs, others may
    /// not find the area.
    ///
    /// # Errors
    /// See [`FreeError`]; nothing has changed then.
    ///
    /// # Safety
    /// - V1, for these pages; and nobody else shrinks or frees the area meanwhile.
    ///
    /// # Cost
    /// O(pages that are given back). Source: `vrealloc`, which frees the tail from 7.2 on.
    pub unsafe fn shrink(&self, at: NonNull<u8>, bytes: usize) -> Result<(), FreeError> {
        part::shrink(self.ctx().ok_or(FreeError::NotInitialised)?, VirtAddr(at.addr().get()), bytes)
    }

    /// Gives an area of memory more pages behind its last one, so that it has `like.bytes` bytes:
    /// it starts where it did. `like` says of which frames, and how they are mapped. If the area
    /// has shrunk before and CPUs may still reach what it gave back, it waits for a flush.
    ///
    /// # Errors
    /// [`AllocError::NoAddresses`] where the area's slot has no room, which says how many pages it
    /// could have; [`AllocError::BadRange`] where no area of memory starts there, or one of more
    /// pages; [`AllocError::WouldWait`]; and those of [`Vmalloc::alloc`]. The area is as it was
    /// then.
    ///
    /// # Safety
    /// - V1, for the pages behind the area; and nobody else grows, shrinks or frees it meanwhile.
    ///
    /// # Cost
    /// O(pages that it gains). Source: `vrealloc`.
    pub unsafe fn grow(&self, at: NonNull<u8>, like: Req) -> Result<(), AllocError> {
        part::grow(self.ctx().ok_or(AllocError::NotInitialised)?, VirtAddr(at.addr().get()), &like)
    }

    /// Changes the allowed accesses to the `pages` pages from `at` on, which are all mapped and
    /// belong to one live area of any kind. When it returns no CPU uses the old protection any
    /// more. Frames and memory types stay. A direct mapping of the frames is the embedder's.
    ///
    /// # Errors
    /// [`AllocError::WriteExec`] for stores and execution at once that are not meant;
    /// [`AllocError::BadRange`] where the pages are not all of one area, or `at` is not the start of
    /// a page; [`AllocError::NotMapped`] for the first page that is not mapped;
    /// [`AllocError::WrongContext`] for a caller that must not wait for a flush;
    /// [`AllocError::Refused`] by [`Machine::protect`]. Nothing has changed then.
    ///
    /// # Safety
    /// - V2. Nobody needs an access that is taken away, and nobody else frees, shrinks, unmaps or
    ///   protects these pages meanwhile.
    ///
    /// # Cost
    /// O(pages), and a flush of all CPUs. Source: `set_memory_ro` and its siblings.
    pub unsafe fn protect(&self, at: usize, pages: usize, prot: Prot) -> Result<(), AllocError> {
        protect(self.ctx().ok_or(AllocError::NotInitialised)?, at, pages, prot)
    }

    /// Frees an area of a kind that `frees` accepts, of `count` pages where the caller names
    /// them.
    #[inline(always)]
    pub(super) fn free_kind(
        &self,
        at: NonNull<u8>,
        by: Caller,
        frees: fn(Kind) -> bool,
        count: Option<usize>,
    ) -> Result<(), FreeError> {
        free(self.ctx(), VirtAddr(at.addr().get()), by, frees, count)
    }

    /// Reserves addresses and binds nothing (`get_vm_area`). Freed by
    /// [`Vmalloc::free`].
    ///
    /// # Errors
    /// See [`AllocError`]; nothing has changed then.
    #[track_caller]
    pub fn reserve(&self, req: Req) -> Result<NonNull<u8>, AllocError> {
        alloc(self.ctx(), &req, Kind::Reserved, Caller::here(), Nothing(0))
    }

    /// Areas at fixed distances from each other, all or none
    /// (`pcpu_get_vm_areas`): area `i` has `parts[i].1` bytes and starts
    /// `parts[i].0` bytes from a common base, a multiple of `align`. They are
    /// reservations; [`Vmalloc::free`] each. Returns the base, which is the highest
    /// at which all of them are free; what lies between them may be in use.
    ///
    /// Under the placement Classes no two parts share a unit of 64 pages, and the base begins one.
    ///
    /// # Errors
    /// See [`AllocError`]: [`AllocError::BadAlign`] for an offset that is no page's, or whose
    /// part shares a unit with another one. Nothing has changed then.
    ///
    /// # Cost
    /// O(parts · log(addresses)) for each base that is tried, and at most one try for each hole.
    /// Interrupts are off for one try at most.
    #[track_caller]
    pub fn reserve_at_offsets(&self, parts: &[(usize, usize)], align: usize, like: Req) -> Result<usize, AllocError> {
        let ctx = self.ctx().ok_or(AllocError::NotInitialised)?;
        let bytes = parts.iter().map(|&(offset, bytes)| offset.saturating_add(bytes)).max().unwrap_or(0);
        let whole = Req { bytes, align, guard: Guard::None, ..like };
        let (reserved, caller) = (Some(Kind::Reserved), Caller::here());
        offsets::reserve(ctx, parts, &whole, caller).map_err(|error| ctx.refused(&whole, reserved, caller, error))
    }
}

/// Whether [`Vmalloc::free`] is the call for areas of this kind.
fn frees_memory(kind: Kind) -> bool {
    matches!(kind, Kind::Vmalloc | Kind::Stack | Kind::VmapOwned | Kind::Reserved)
}
