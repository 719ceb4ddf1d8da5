//! 2.6: `vmalloc` → `__vmalloc` → `get_vm_area` → array → `alloc_page` … → `map_vm_area`.

use super::steps::ALLOC;
use crate::call::Value;
use crate::error::Error;
use crate::flags::{Pgprot, VmFlags};
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::request::{Age, Request};
use crate::vm_struct::VmStruct;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SHIFT;

/// The functions in the form of 2.6.
pub struct V2_6<'k, 'v, M: Machine, H: Host>(&'k Kernel<'v, M, H>);

impl<'v, M: Machine, H: Host> Kernel<'v, M, H> {
    /// The functions in the form of 2.6.
    pub const fn v2_6(&self) -> V2_6<'_, 'v, M, H> {
        V2_6(self)
    }
}

impl<M: Machine, H: Host> V2_6<'_, '_, M, H> {
    /// `size` bytes of any frames, for reading and writing.
    ///
    /// # Errors
    /// As [`V2_6::__vmalloc`].
    #[track_caller]
    pub fn vmalloc(&self, size: usize) -> Result<NonNull<u8>, Error> {
        let _call = self.0.enter("vmalloc", &[("size", Value::Number(size))]);
        self.__vmalloc(size, GfpFlags::KERNEL | GfpFlags::HIGHMEM, Pgprot::KERNEL)
    }

    /// `size` bytes, rounded up to pages. The array of its pages is of the slab for a
    /// page or less, and else a nested area; frames are taken one at a time.
    ///
    /// # Errors
    /// EINVAL for no bytes, E2BIG above the machine's pages, EBUSY where no hole is wide
    /// enough, ENOMEM. Everything is taken back.
    ///
    /// # Cost
    /// O(pages), and more than today's: an array, and a call a frame.
    #[track_caller]
    pub fn __vmalloc(&self, size: usize, gfp: GfpFlags, prot: Pgprot) -> Result<NonNull<u8>, Error> {
        let arguments = [("size", Value::Number(size)), ("gfp_mask", Value::Gfp(gfp)), ("prot", Value::Prot(prot))];
        let _call = self.0.enter("__vmalloc", &arguments);
        let request = Request { gfp_mask: gfp, prot, ..self.0.request(size) };
        let bytes = self.0.checked_size(size)?;
        let area = self.get_vm_area_for(&Request { size: bytes, vm_flags: ALLOC, ..request })?;
        let furnished = self.0.furnish(&area, &request, &mut |bytes, gfp| self.__vmalloc(bytes, gfp, Pgprot::KERNEL));
        furnished.map_err(|failed| self.0.take_back(&area, failed))?;
        self.0.with_record(area.addr, |record| record.requested = size);
        let at = crate::vfree::pointer(area.addr).ok_or(Error::NoArea(area.addr))?;
        self.0.watch(at, size, gfp);
        Ok(at)
    }

    /// Takes `size` bytes of addresses, page by page, and a guard.
    ///
    /// # Errors
    /// As [`Kernel::__get_vm_area_node`]; EBUSY is told in the words of 2.6.
    #[track_caller]
    pub fn get_vm_area(&self, size: usize, flags: VmFlags) -> Result<VmStruct, Error> {
        self.get_vm_area_for(&Request { vm_flags: flags, ..self.0.request(size) })
    }

    fn get_vm_area_for(&self, request: &Request) -> Result<VmStruct, Error> {
        let flags = ("flags", Value::Flags(request.vm_flags));
        let _call = self.0.enter("get_vm_area", &[request.size_argument(), flags]);
        self.0.take_area(request, Age::V2_6)
    }

    /// Unmaps the whole area, as 2.6 did: caches are flushed, each level is walked, entries
    /// are cleared, and TLBs are flushed at once. An entry above the pages that makes no
    /// sense is told, cleared and walked past; one of a page that is neither empty nor present
    /// is told as `Whee.. Swapped out page in kernel page table`. Tables stay linked.
    ///
    /// # Errors
    /// [`Error::NoArea`] where no area by parts starts there.
    ///
    /// # Safety
    /// Y1, Y3: nobody uses the pages, or maps or frees the area meanwhile.
    pub unsafe fn unmap_vm_area(&self, area: &VmStruct) -> Result<(), Error> {
        let _call = self.0.enter("unmap_vm_area", &[("area", Value::Address(area.addr))]);
        let pages = crate::mapping::pages_at(area.addr, area.area_size() >> PAGE_SHIFT)?;
        self.0.area_by_parts(pages)?;
        // SAFETY: Y3, Y7: the area's tables stay linked while it lives.
        unsafe { self.0.scrub(pages) };
        // SAFETY: Y1, Y3, handed on.
        unsafe { self.0.unmap_kernel_range(area.addr, area.area_size()) }
    }
}
