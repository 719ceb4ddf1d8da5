//! Devices in areas of their own: `ioremap_page_range`.

use crate::call::Value;
use crate::error::Error;
use crate::flags::{Pgprot, VmFlags};
use crate::host::Host;
use crate::kernel::Kernel;
use crate::mapping::pages_at;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};

/// Pages that are bound at a time.
const SLICE: usize = 64;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Binds adjacent physical memory from `phys` on to all of a VM_IOREMAP area.
    ///
    /// # Errors
    /// EINVAL where no area by parts starts at `start`, or it is not VM_IOREMAP, or an address
    /// is no page's start; ERANGE where `start` to `end` is not the area without its guard;
    /// EBUSY for a page that is bound. Nothing has changed then.
    ///
    /// # Safety
    /// Y6.
    ///
    /// # Cost
    /// O(pages). Source: `ioremap_page_range`.
    pub unsafe fn ioremap_page_range(&self, start: usize, end: usize, phys: u64, prot: Pgprot) -> Result<(), Error> {
        let arguments = [("addr", Value::Address(start)), ("end", Value::Address(end)), ("prot", Value::Prot(prot))];
        let _call = self.enter("ioremap_page_range", &arguments);
        if !phys.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Error::NotAligned(phys as usize));
        }
        let pages = self.whole_device(start, end)?;
        let first = Pfn::containing(phys);
        for done in (0..pages.pages).step_by(SLICE) {
            let frames: [Pfn; SLICE] = core::array::from_fn(|n| first.offset((done + n) as u64));
            let these = &frames[..SLICE.min(pages.pages - done)];
            // SAFETY: Y3: nobody counts holders of a device's frames.
            let bound = unsafe { self.map_kernel_range_noflush(start + done * PAGE_SIZE, prot, these) };
            if let Err(error) = bound {
                self.unmap_behind(start, done);
                return Err(error);
            }
        }
        self.note_device(start, phys);
        self.host.flush_cache_vmap(pages);
        Ok(())
    }

    fn whole_device(&self, start: usize, end: usize) -> Result<PageRange, Error> {
        let area = self.find_vm_area(start).ok_or(Error::NoArea(start))?;
        if !area.flags.contains(VmFlags::IOREMAP) {
            return Err(Error::WrongFlags { has: area.flags.bits(), about: VmFlags::IOREMAP.bits() });
        }
        if (start, end) != (area.addr, area.end()) {
            return Err(Error::OutsideArea { start, end, area: area.addr, area_end: area.end() });
        }
        let pages = pages_at(start, area.area_size() >> PAGE_SHIFT)?;
        self.area_by_parts(pages).map(|_| PageRange::new(VirtAddr(start), pages.pages))
    }

    fn note_device(&self, start: usize, phys: u64) {
        self.with_record(start, |record| record.phys = Some(phys));
    }
}
