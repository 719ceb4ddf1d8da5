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
//! - G3: The frames of a filled page wait for a flush by themselves, as those of
//!   [`Vmalloc::unmap_part`] do. Where the source has no descriptors, the mapping waits; if it
//!   cannot, the frames are leaked.
//! - E1: A range is filled whole or not at all.

use crate::api::instance::Vmalloc;
use crate::api::map::page_start;
use crate::area::{Caller, Kind, Req};
use crate::error::AllocError;
use crate::machine::format::{MemType, Prot};
use crate::machine::frames::Frames;
use crate::machine::{Addressable, Machine};
use crate::units::{PAGE_SIZE, Pfn, VirtAddr, pages_for};
use arrayvec::ArrayVec;
use core::fmt;
use core::ops::{Deref, DerefMut, Range};
use core::ptr::NonNull;

/// Pages that are emptied together.
const TOGETHER: usize = 32;

/// An area that ends itself when it is dropped, whatever made it. Its bytes are reached by its
/// address: others may write to them, and of a reservation some pages may not be mapped.
///
/// It ends in any context but an NMI, where the frames of filled pages are leaked. Whoever maps
/// pages of a reservation by [`Vmalloc::map_part`] unmaps them before it is emptied or ends (P6),
/// since it gives back what it finds mapped; and has flushed ([`Vmalloc::unmap_aliases`]) before they
/// are filled, since a fill waits only for what the mapping emptied itself.
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
    /// It has filled pages of a reservation.
    filled: bool,
    /// It has emptied some since the last flush.
    stale: bool,
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

    /// [`Vmalloc::vmap`], until it is dropped. The frames stay their holder's.
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

    /// [`Vmalloc::reserve`], until it is dropped: addresses for [`Mapping::fill`].
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn reservation(&self, req: Req) -> Result<Mapping<'_, M>, AllocError> {
        let bytes = req.bytes;
        Ok(Mapping::new(self, self.reserve(req)?, bytes))
    }
}

impl<'v, M: Machine> Mapping<'v, M> {
    fn new(vm: &'v Vmalloc<M>, start: NonNull<u8>, bytes: usize) -> Self {
        Mapping { vm, start, bytes, filled: false, stale: false }
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
    /// Those of [`Vmalloc::alloc_frame`] and [`Vmalloc::map_part`]: [`AllocError::BadRange`] where
    /// it is no reservation or has not these pages. [`AllocError::WrongContext`] where pages were
    /// emptied, and the caller must not wait for a flush. Nothing has changed then.
    ///
    /// # Cost
    /// O(pages).
    #[track_caller]
    pub fn fill(&mut self, pages: Range<usize>, like: &Req) -> Result<(), AllocError> {
        if pages.end > self.pages() || pages.is_empty() {
            let [start, end] = [pages.start, pages.end].map(|page| self.page(page));
            return Err(AllocError::BadRange { start, end });
        }
        if self.stale && !self.vm.unmap_aliases() {
            return Err(AllocError::WrongContext(self.vm.machine().context()));
        }
        (self.filled, self.stale) = (true, false);
        for page in pages.clone() {
            self.fill_page(page, like).inspect_err(|_| {
                self.empty(pages.start..page);
                self.stale = true;
            })?;
        }
        Ok(())
    }

    #[track_caller]
    fn fill_page(&self, page: usize, like: &Req) -> Result<(), AllocError> {
        let frame = self.vm.alloc_frame(like.gfp, like.node)?;
        // SAFETY: P5: `fill` is borrowed exclusively, and has flushed. P6: `empty` unmaps it first.
        let mapped = unsafe { self.vm.map_part(self.page(page).0, &[frame], like.prot, like.memory) };
        // SAFETY: P3: it was taken a moment ago.
        mapped.inspect_err(|_| unsafe { self.vm.free_frame(frame) })
    }

    /// Unmaps what is mapped of these pages of a reservation, and returns how many pages that was.
    /// Their frames go back after the next flush. Nothing is unmapped in an NMI.
    ///
    /// # Cost
    /// O(pages), and a flush where frames have no descriptors.
    pub fn empty(&mut self, pages: Range<usize>) -> usize {
        let end = pages.end.min(self.pages());
        (pages.start..end).step_by(TOGETHER).map(|first| self.empty_some(first..end.min(first + TOGETHER))).sum()
    }

    fn empty_some(&mut self, pages: Range<usize>) -> usize {
        let (vm, source) = (self.vm, self.vm.machine().frames());
        let frames = pages.clone().filter_map(|page| vm.frame_at(self.page(page).0));
        let frames: ArrayVec<Pfn, TOGETHER> = frames.collect();
        // SAFETY: P5: `empty` is borrowed exclusively.
        let Ok(emptied) = (unsafe { vm.unmap_part(self.page(pages.start).0, pages.len()) }) else { return 0 };
        self.stale |= emptied > 0;
        if frames.iter().all(|&frame| source.page(frame).is_some()) || vm.unmap_aliases() {
            // SAFETY: P3: `fill_page` took them, and they are mapped no more.
            frames.into_iter().for_each(|frame| unsafe { vm.free_frame(frame) });
        }
        emptied
    }
}

impl<M: Machine> Drop for Mapping<'_, M> {
    fn drop(&mut self) {
        if self.filled {
            self.empty(0..self.pages());
        }
        let freed = self.vm.free_kind(page_start(self.start), Caller::here(), |kind| kind != Kind::MapRam, None);
        debug_assert!(freed.is_ok(), "an owned area was freed by somebody else: {freed:?}");
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
    ///   bytes, all of them initialised, and nobody else uses or frees it.
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
