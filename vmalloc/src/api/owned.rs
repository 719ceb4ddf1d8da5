//! Areas that end themselves when they are dropped.
//!
//! ```text
//!   area                        ─▶ Area       cleared memory of its own: derefs to its bytes
//!   mapping, mapping_owned      ─▶ Mapping    frames of others, or taken over
//!   device                      ─▶ Mapping    a device
//!   reservation ─▶ fill, empty  ─▶ Mapping    addresses, some pages with frames of their own
//! ```
//!
//! What a mapping owns goes back after grace. What it does not own stays its owner's.
//!
//! # Rules
//! - G2: A page that was emptied is filled again only after a flush, which [`Mapping::fill`] waits
//!   for.
//! - E1: A range is filled whole or not at all.

use crate::api::instance::Vmalloc;
use crate::api::map::page_start;
use crate::area::{Caller, Kind, Req};
use crate::error::{AllocError, FreeError};
use crate::machine::format::{MemType, Prot};
use crate::machine::{Addressable, Machine};
use crate::path::alloc::alloc;
use crate::path::backing::Nothing;
use crate::path::part;
use crate::state::cpu::SLICE;
use crate::units::{PAGE_SIZE, PageRange, Pfn, VirtAddr, pages_for};
use core::fmt;
use core::ops::{Deref, DerefMut, Range};
use core::ptr::NonNull;

/// An area that ends itself when it is dropped, whatever made it. Its bytes are reached by its
/// address: others may write to them, and of a reservation some pages may not be mapped.
///
/// It ends in any context. Pages of a reservation that it holds are mapped by [`Mapping::fill`] alone;
/// for frames of others there is [`Vmalloc::reserve`], with [`Vmalloc::map_part`].
///
/// # Several stacks in one area
/// A [reservation](Vmalloc::reservation) of which some pages are [filled](Mapping::fill). The pages
/// between them are guards, and [`Vmalloc::whatis`] names the reservation for each.
///
/// ```
/// use vmalloc::machine::Machine;
/// use vmalloc::{AllocError, Mapping, Req, Vmalloc};
///
/// /// A guard, a page for traps, a guard, 4 pages for the task; the area's own guard is above.
/// fn stacks<M: Machine>(vm: &Vmalloc<M>) -> Result<Mapping<'_, M>, AllocError> {
///     let mut stacks = vm.reservation(Req::pages(7))?;
///     stacks.fill(1..2, &Req::pages(1).zeroed())?;
///     stacks.fill(3..7, &Req::pages(4).zeroed())?;
///     Ok(stacks)
/// }
/// ```
pub struct Mapping<'v, M: Machine> {
    vm: &'v Vmalloc<M>,
    start: NonNull<u8>,
    bytes: usize,
    /// Pages whose frames wait in their entries for a flush, at most.
    parked: usize,
}

/// Memory that frees itself. Its bytes are cleared to begin with, and it derefs to them where
/// the machine's areas are real memory.
pub struct Area<'v, M: Machine>(Mapping<'v, M>);

// SAFETY: whoever holds it may end it, and the instance may be shared.
unsafe impl<M: Machine> Send for Mapping<'_, M> {}
// SAFETY: as above; shared access only reads.
unsafe impl<M: Machine> Sync for Mapping<'_, M> {}

impl<M: Machine> Vmalloc<M> {
    /// Allocates an owning area, cleared, for reading and writing.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing has changed then.
    #[track_caller]
    pub fn area(&self, req: Req) -> Result<Area<'_, M>, AllocError> {
        let caller = req.caller.unwrap_or(Caller::here());
        let req = req.zeroed().prot(Prot::RW).caller(caller);
        let bytes = req.bytes;
        Ok(Area(Mapping::new(self, self.alloc(req)?, bytes)))
    }

    /// [`Vmalloc::vmap`], until it is dropped. The frames stay their holder's. Those with descriptors
    /// have the mapping as one more holder.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// P1.
    #[track_caller]
    pub unsafe fn mapping(&self, frames: &[Pfn], like: Req) -> Result<Mapping<'_, M>, AllocError> {
        // SAFETY: P1, handed on.
        unsafe { self.vmap(frames, like) }.map(|start| Mapping::new(self, start, frames.len() * PAGE_SIZE))
    }

    /// [`Vmalloc::vmap_owned`], until it is dropped: then the frames go back.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// P2.
    #[track_caller]
    pub unsafe fn mapping_owned(&self, frames: &[Pfn], like: Req) -> Result<Mapping<'_, M>, AllocError> {
        // SAFETY: P2, handed on.
        unsafe { self.vmap_owned(frames, like) }.map(|start| Mapping::new(self, start, frames.len() * PAGE_SIZE))
    }

    /// [`Vmalloc::ioremap`], until it is dropped.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn device(&self, phys: u64, bytes: usize, memory: MemType) -> Result<Mapping<'_, M>, AllocError> {
        Ok(Mapping::new(self, self.ioremap(phys, bytes, memory)?, bytes))
    }

    /// Addresses for [`Mapping::fill`], until it is dropped.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn reservation(&self, req: Req) -> Result<Mapping<'_, M>, AllocError> {
        let bytes = req.bytes;
        let start = alloc(self.ctx(), &req, Kind::Sparse, Caller::here(), Nothing(0))?;
        Ok(Mapping::new(self, start, bytes))
    }
}

impl<'v, M: Machine> Mapping<'v, M> {
    fn new(vm: &'v Vmalloc<M>, start: NonNull<u8>, bytes: usize) -> Self {
        Mapping { vm, start, bytes, parked: 0 }
    }

    /// Its first byte. That of a device lies anywhere in a page, as asked for.
    pub fn start(&self) -> VirtAddr {
        VirtAddr(self.start.addr().get())
    }

    /// The same, as a pointer: valid where pages are mapped, until this is dropped.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its length in bytes, as asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of a page of it.
    fn page(&self, page: usize) -> VirtAddr {
        self.start().page_start().add_pages(page)
    }

    fn pages(&self) -> usize {
        pages_for(self.start().0 % PAGE_SIZE + self.bytes).unwrap_or(0)
    }

    /// The frames behind it, by page. They are handed out by that: whoever maps
    /// them is a holder beside the area, or has done so before it is dropped (P1,
    /// P4).
    pub fn frames(&self) -> impl Iterator<Item = Pfn> + '_ {
        if let Some(found) = self.vm.ctx().and_then(|ctx| ctx.find(self.start())) {
            found.slot().share();
        }
        (0..self.pages()).filter_map(|page| self.vm.frame_at(self.page(page).0))
    }

    /// Maps new frames to these pages of a reservation, counted from its start: frames, protection
    /// and memory type as `like` says. Their bytes are uninitialised unless asked for with
    /// [`Gfp::ZERO`](crate::Gfp::ZERO).
    ///
    /// # Errors
    /// [`AllocError::BadRange`] where it is no reservation or has not these pages;
    /// [`AllocError::InUse`] for the first page that is mapped; [`AllocError::WrongContext`] where
    /// pages were emptied, and the caller must not wait for a flush; and those of [`Vmalloc::alloc`]
    /// for want of frames and tables. Nothing has changed then.
    ///
    /// # Cost
    /// O(pages); if pages were emptied since, a flush and O(pages of the mapping).
    #[track_caller]
    pub fn fill(&mut self, pages: Range<usize>, like: &Req) -> Result<(), AllocError> {
        let caller = like.caller.unwrap_or(Caller::here());
        let [start, end] = [pages.start, pages.end].map(|page| self.page(page));
        let ctx = self.vm.ctx().ok_or(AllocError::NotInitialised)?;
        if pages.is_empty() || pages.end > self.pages() {
            return Err(AllocError::BadRange { start, end });
        }
        if self.parked > 0 && !self.collect() {
            return Err(AllocError::WrongContext(ctx.machine.context()));
        }
        let filled = part::fill(ctx, PageRange::new(start, pages.len()), like, caller);
        self.parked += if filled.is_err() { pages.len() } else { 0 };
        filled
    }

    /// Unmaps what is mapped of these pages of a reservation, and returns how many pages that was.
    /// Their frames wait in the mapping for a flush: until it is filled again or dropped, or until they
    /// are more than 128, which one flush then serves. Nothing is unmapped in an NMI in the middle
    /// of a call.
    ///
    /// # Cost
    /// O(pages), and that flush if the caller may wait.
    pub fn empty(&mut self, pages: Range<usize>) -> usize {
        let end = pages.end.min(self.pages());
        let (Some(ctx), true) = (self.vm.ctx(), pages.start < end) else { return 0 };
        let emptied = part::empty(ctx, PageRange::new(self.page(pages.start), end - pages.start));
        self.parked += emptied;
        if self.parked > SLICE {
            self.collect();
        }
        emptied
    }

    /// Flushes, and takes the frames out of parked entries. False where the caller must not wait.
    fn collect(&mut self) -> bool {
        let flushed = self.vm.unmap_aliases();
        if let Some(ctx) = self.vm.ctx().filter(|_| flushed) {
            part::collect(ctx, PageRange::new(self.page(0), self.pages()));
            self.parked = 0;
        }
        flushed
    }
}

impl<M: Machine> Drop for Mapping<'_, M> {
    fn drop(&mut self) {
        let freed = self.vm.free_kind(page_start(self.start), Caller::here(), |kind| kind != Kind::MapRam, None);
        let right = matches!(freed, Ok(()) | Err(FreeError::NotInitialised));
        debug_assert!(right, "an owned area was freed by somebody else: {freed:?}");
    }
}

impl<M: Machine> fmt::Debug for Mapping<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes at {})", self.bytes, self.start())
    }
}

impl<'v, M: Machine> Area<'v, M> {
    /// Takes an area over that was allocated by hand.
    ///
    /// # Safety
    /// - O1. `start` came from [`Vmalloc::alloc`] of this instance for `bytes`
    ///   bytes, for reading and writing, all of them initialised, and nobody else uses or frees it.
    pub unsafe fn from_raw(vm: &'v Vmalloc<M>, start: NonNull<u8>, bytes: usize) -> Area<'v, M> {
        Area(Mapping::new(vm, start, bytes))
    }

    /// Gives the area up: the caller frees it.
    pub fn into_raw(self) -> NonNull<u8> {
        let start = self.0.start;
        core::mem::forget(self);
        start
    }

    /// Its first byte.
    pub fn start(&self) -> VirtAddr {
        self.0.start()
    }

    /// Its length in bytes, as asked for.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// [`Mapping::frames`].
    pub fn frames(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.0.frames()
    }
}

impl<M: Addressable> Deref for Area<'_, M> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: Addressable: the bytes are ours and readable while the area
        // lives; `area` cleared them, or O1.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr(), self.bytes()) }
    }
}

impl<M: Addressable> DerefMut for Area<'_, M> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and we are borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_ptr(), self.bytes()) }
    }
}

impl<M: Machine> fmt::Debug for Area<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Area({} bytes at {})", self.bytes(), self.start())
    }
}
