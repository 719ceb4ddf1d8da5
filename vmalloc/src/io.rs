//! Devices: `ioremap` and `iounmap`.

use crate::area::{Backing, Caller, Kind, Req};
use crate::error::{AllocError, FreeError};
use crate::instance::Vmalloc;
use crate::machine::Machine;
use crate::machine::format::MemType;
use crate::units::{PAGE_SIZE, Pfn, VirtAddr};
use core::ptr::NonNull;

/// The widest alignment that a device area gets: 128 pages.
const MAX_ALIGN: usize = PAGE_SIZE << 7;

impl<M: Machine> Vmalloc<M> {
    /// Maps `bytes` bytes of a device at physical address `phys` (`ioremap`).
    /// Neither has to be page-aligned: the offset in the page is kept. The
    /// area is aligned to its size rounded up to a power of two, at most 128
    /// pages.
    ///
    /// # Errors
    /// See [`AllocError`]: [`AllocError::TooLarge`] where the range wraps,
    /// [`AllocError::BadFrame`] where it is memory (a frame with a descriptor)
    /// or beyond what the format can name. Nothing has changed then.
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
        let too_large = AllocError::TooLarge { bytes, limit: usize::MAX - offset };
        let whole = bytes.checked_add(offset).ok_or(too_large)?;
        let first = Pfn::containing(phys);
        if bytes == 0 {
            return Err(AllocError::ZeroSize);
        }
        phys.checked_add(bytes as u64 - 1).ok_or(too_large)?;
        let align = whole.min(MAX_ALIGN).next_power_of_two().max(PAGE_SIZE);
        let req = Req::bytes(whole).align(align).memory(memory);
        let at = self.make(&req, Kind::Ioremap, caller, Backing::Device(first))?;
        // SAFETY: `offset` lies in the area's first page.
        Ok(unsafe { at.add(offset) })
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
        let start = VirtAddr(at.addr().get()).page_start();
        self.free_area(start, Caller::here(), |kind| kind == Kind::Ioremap, None)
    }
}
