//! Parts: a reservation that its caller fills and empties by hand.
//!
//! `reserve` takes addresses and binds nothing. What these functions bind in them
//! stays its caller's: the entries hold no frame, as those of `map_ram`. So a
//! reservation may be sparse, and grow and shrink while it is used.
//!
//! ```text
//!   reserve ──map_part──▶ some pages bound ──unmap_part──▶ …
//!                                     └── all unmapped ──▶ free
//! ```
//!
//! # Rules
//! - G2: A page that was unmapped is bound again only after a flush: the caller
//!   sees to it (P5).
//! - G3: What is unmapped leaves aliases: the open batch is lent, and a frame that
//!   its caller gives up before the flush waits by itself ([`alias`](crate::alias)).
//! - E1: A part is mapped whole or not at all.
//! - L3: 64 pages a section.

use crate::area::{Backing, Caller, Kind, Req};
use crate::cpu::{CpuGuard, SLICE};
use crate::error::AllocError;
use crate::instance::{Core, Vmalloc};
use crate::lookup::SlotRef;
use crate::machine::Machine;
use crate::machine::format::{MemType, Prot};
use crate::plan::{Plan, odd_frame};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};

impl<M: Machine> Vmalloc<M> {
    /// Binds `frames`, one a page, to the pages from `at` on, which lie in an area
    /// that [`Vmalloc::reserve`] made. They stay their holder's.
    ///
    /// # Errors
    /// [`AllocError::BadRange`] where the pages are not all of one reservation, or
    /// `at` is not the start of a page; [`AllocError::InUse`] for the first page that
    /// is bound; [`AllocError::BadFrame`] for a frame that no entry can name;
    /// [`AllocError::NoTables`], [`AllocError::WouldWait`]. Nothing has changed then.
    ///
    /// # Safety
    /// - P5. Nobody else maps, unmaps or frees the reservation meanwhile, and what was
    ///   unmapped of these pages was flushed since ([`Vmalloc::unmap_aliases`]).
    /// - P6. The caller holds each frame until [`Vmalloc::unmap_part`] has returned
    ///   for its page, and unmaps all parts before it frees the reservation. What is a
    ///   frame of the machine's source goes back by [`Vmalloc::free_frame`].
    ///
    /// # Cost
    /// O(pages). Source: `map_vm_area`, `vm_area_map_pages`.
    #[track_caller]
    pub unsafe fn map_part(&self, at: usize, frames: &[Pfn], prot: Prot, memory: MemType) -> Result<(), AllocError> {
        let core = self.core().ok_or(AllocError::NotInitialised)?;
        let range = part_of(at, frames.len())?;
        let found = self.reservation(core, range)?;
        let (req, backing) = (Req::pages(frames.len()).prot(prot).memory(memory), Backing::Frames(frames));
        if let Some(odd) = odd_frame::<M>(&req, &backing) {
            return Err(AllocError::BadFrame(odd));
        }
        let plan = Plan { req: &req, kind: Kind::MapRam, caller: Caller::here(), pages: frames.len(), class: None };
        found.slot().share();
        let mut bound = 0;
        let mut here = CpuGuard::enter(self, core).map_err(AllocError::WrongContext)?;
        let filled = here.fill_pages((found.chunk, range), &mut bound, &plan, &backing);
        drop(here);
        filled.inspect_err(|_| {
            let _ = self.clear_part(core, &found, PageRange::new(range.start, bound));
        })
    }

    /// Unbinds what is bound of the `pages` pages from `at` on, which lie in an area
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
        let core = self.core().ok_or(AllocError::NotInitialised)?;
        let range = part_of(at, pages)?;
        let found = self.reservation(core, range)?;
        self.clear_part(core, &found, range)
    }

    fn clear_part(&self, core: &Core<M>, found: &SlotRef, range: PageRange) -> Result<usize, AllocError> {
        let mut cleared = 0;
        for slice in range.slices(SLICE) {
            let mut here = CpuGuard::enter(self, core).map_err(AllocError::WrongContext)?;
            cleared += here.clear_bound(found, slice);
        }
        Ok(cleared)
    }

    /// The reservation that holds all of `range`.
    fn reservation(&self, core: &Core<M>, range: PageRange) -> Result<SlotRef, AllocError> {
        let bad = AllocError::BadRange { start: range.start.0, end: range.end().0 };
        let found = core.find(self, range.start).filter(|found| found.is_area()).ok_or(bad)?;
        let first = (range.start.0 - found.start.0) >> PAGE_SHIFT;
        let fits = first.checked_add(range.pages).is_some_and(|end| end <= found.slot().pages());
        let is_bare = found.slot().kind() == Kind::Reserved;
        if fits && is_bare && found.is_same() { Ok(found) } else { Err(bad) }
    }
}

/// The pages that a caller names.
fn part_of(at: usize, pages: usize) -> Result<PageRange, AllocError> {
    let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| at.checked_add(bytes));
    match end {
        Some(_) if at.is_multiple_of(PAGE_SIZE) && pages > 0 => Ok(PageRange::new(VirtAddr(at), pages)),
        end => Err(AllocError::BadRange { start: at, end: end.unwrap_or(usize::MAX) }),
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Clears the entries of a slice that are bound, and says how many.
    fn clear_bound(&mut self, found: &SlotRef, slice: PageRange) -> usize {
        let mut cleared = 0;
        for page in slice.slices(1) {
            let Some(piece) = self.core.look(self.vm, found.chunk, page.start) else { continue };
            if piece.frames().next().is_some() {
                piece.clear(&mut |at, word| self.vm.report_bad_entry(found.slot(), at, word));
                self.vm.machine().unmapped(page);
                cleared += 1;
            }
        }
        if cleared > 0 {
            self.note_alias();
        }
        cleared
    }
}
