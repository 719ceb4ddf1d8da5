//! Binding and unbinding parts of an area, with the hooks around it.
//!
//! | | caches before | entries | caches after | TLBs after |
//! |---|---|---|---|---|
//! | [`Kernel::map_vm_area`], [`Kernel::vm_area_map_pages`] | | bound | `flush_cache_vmap` | nothing: what was absent is cached nowhere |
//! | [`Kernel::map_kernel_range_noflush`] | | bound | | |
//! | [`Kernel::unmap_kernel_range`], [`Kernel::vm_area_unmap_pages`] | `flush_cache_vunmap` | cleared | | all CPUs flush |
//! | [`Kernel::unmap_kernel_range_noflush`] | | cleared | | the caller's: [`Kernel::flush_tlb_kernel_range`] |
//!
//! A page that was cleared is bound again only after a flush. Where the caller has left
//! one out, binding makes up for it, or is refused where nobody may wait.

use crate::array::PageArray;
use crate::call::Value;
use crate::error::Error;
use crate::flags::{Pgprot, VmFlags};
use crate::host::Host;
use crate::kernel::Kernel;
use crate::sync::{AtomicUsize, Ordering::SeqCst};
use crate::vm_struct::VmStruct;
use vmalloc::AllocError;
use vmalloc::area::RegionId;
use vmalloc::error::Shortage;
use vmalloc::machine::Machine;
use vmalloc::machine::format::MemType;
use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};

/// Frames that are taken out of an array at a time.
const GATHERED: usize = 64;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Binds the whole area, but for its guard, to the frames of `array`.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the array has not as many; those of
    /// [`Kernel::map_kernel_range_noflush`]. Nothing is bound then that was not before.
    ///
    /// # Safety
    /// Y3.
    ///
    /// # Source
    /// `map_vm_area`.
    pub unsafe fn map_vm_area(&self, area: &VmStruct, prot: Pgprot, array: &PageArray) -> Result<(), Error> {
        let arguments =
            [("area", Value::Address(area.addr)), ("prot", Value::Prot(prot)), ("pages", Value::Address(array.at()))];
        let _call = self.enter("map_vm_area", &arguments);
        let pages = area.area_size() >> PAGE_SHIFT;
        if array.len() != pages {
            return Err(Error::BadArgument(array.len()));
        }
        // SAFETY: Y3, handed on.
        unsafe { self.map_array(area, prot, array) }?;
        self.host.flush_cache_vmap(PageRange::new(VirtAddr(area.addr), pages));
        Ok(())
    }

    /// Binds the frames of `array` from the area's start on, all or none.
    ///
    /// # Safety
    /// Y3.
    unsafe fn map_array(&self, area: &VmStruct, prot: Pgprot, array: &PageArray) -> Result<(), Error> {
        let mut frames = [Pfn(0); GATHERED];
        for done in (0..array.len()).step_by(GATHERED) {
            let at = area.addr + done * PAGE_SIZE;
            let mapped = match self.pages_from(array, done, &mut frames) {
                // SAFETY: Y3, handed on.
                Ok(some) => unsafe { self.map_kernel_range_noflush(at, prot, some) },
                Err(error) => Err(error),
            };
            if let Err(error) = mapped {
                self.unmap_behind(area.addr, done);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Unmaps the first pages of an area, which this call had mapped.
    pub(crate) fn unmap_behind(&self, start: usize, pages: usize) {
        if pages > 0 {
            // SAFETY: Y3: nobody uses them yet.
            let undone = unsafe { self.unmap_kernel_range_noflush(start, pages * PAGE_SIZE) };
            debug_assert!(undone.is_ok(), "they were mapped a moment ago");
        }
    }

    /// Binds `frames` to the pages from `at` on, all or none; caches are the caller's to
    /// flush.
    ///
    /// # Errors
    /// [`Error::NoArea`], [`Error::OutsideArea`]; [`Error::Alloc`]: EBUSY for a page that
    /// is bound, or that waits for a flush where nobody may wait, EINVAL for a frame that no entry can name, ENOMEM for want of tables.
    ///
    /// # Safety
    /// Y3.
    ///
    /// # Source
    /// `map_kernel_range_noflush`, `vmap_pages_range_noflush`; where newer kernels make
    /// ENOMEM of all errors, these say which it was.
    pub unsafe fn map_kernel_range_noflush(&self, at: usize, prot: Pgprot, frames: &[Pfn]) -> Result<(), Error> {
        let pages = pages_at(at, frames.len())?;
        let record = self.area_by_parts(pages)?;
        self.flush_if_stale(record.stale)?;
        self.claimed_list(frames, prot.memory, || {
            // SAFETY: P5: the area is flushed, and Y3; P6: Y3.
            unsafe { self.vm.map_part(at, frames, prot.prot, prot.memory) }?;
            if prot.memory != MemType::WriteBack {
                self.note_memory(record.start, prot.memory);
            }
            Ok(())
        })
    }

    /// Binds `frames` to the pages from `start` to `end` of a sparse area.
    ///
    /// # Errors
    /// EINVAL where the area is not sparse, or has no guard, or the direct mapping's
    /// permissions depend on it, or there are not as many frames as pages; E2BIG above
    /// all that the machine has; ERANGE outside of the area; EBUSY for a page that is bound.
    /// Nothing has changed then.
    ///
    /// # Safety
    /// Y3.
    ///
    /// # Source
    /// `vm_area_map_pages`.
    pub unsafe fn vm_area_map_pages(
        &self,
        area: &VmStruct,
        start: usize,
        end: usize,
        frames: &[Pfn],
    ) -> Result<(), Error> {
        let arguments =
            [("area", Value::Address(area.addr)), ("start", Value::Address(start)), ("end", Value::Address(end))];
        let _call = self.enter("vm_area_map_pages", &arguments);
        let pages = self.sparse_part(area, start, end)?;
        if frames.len() != pages.pages {
            return Err(Error::BadArgument(frames.len()));
        }
        // SAFETY: Y3, handed on.
        unsafe { self.map_kernel_range_noflush(start, Pgprot::KERNEL, frames) }?;
        self.host.flush_cache_vmap(pages);
        Ok(())
    }

    /// Unbinds the pages from `start` to `end` of a sparse area, and flushes.
    ///
    /// # Errors
    /// As [`Kernel::vm_area_map_pages`].
    ///
    /// # Safety
    /// Y1, Y3.
    ///
    /// # Source
    /// `vm_area_unmap_pages`.
    pub unsafe fn vm_area_unmap_pages(&self, area: &VmStruct, start: usize, end: usize) -> Result<(), Error> {
        let arguments =
            [("area", Value::Address(area.addr)), ("start", Value::Address(start)), ("end", Value::Address(end))];
        let _call = self.enter("vm_area_unmap_pages", &arguments);
        self.sparse_part(area, start, end)?;
        // SAFETY: Y1, Y3, handed on.
        unsafe { self.unmap_kernel_range(start, end - start) }
    }

    /// The pages of a part of a sparse area.
    fn sparse_part(&self, area: &VmStruct, start: usize, end: usize) -> Result<PageRange, Error> {
        const FORBIDDEN: VmFlags = VmFlags::NO_GUARD.union(VmFlags::FLUSH_RESET_PERMS);
        let about = |flags: VmFlags| Error::WrongFlags { has: area.flags.bits(), about: flags.bits() };
        if !area.flags.contains(VmFlags::SPARSE) {
            return Err(about(VmFlags::SPARSE));
        }
        if area.flags.intersects(FORBIDDEN) {
            return Err(about(FORBIDDEN));
        }
        let (pages, total) = (end.saturating_sub(start) >> PAGE_SHIFT, self.total_pages());
        if pages > total {
            return Err(Error::ExceedsTotal { pages, total });
        }
        if start < area.addr || end > area.end() || start > end {
            return Err(Error::OutsideArea { start, end, area: area.addr, area_end: area.end() });
        }
        pages_at(start, pages)
            .and_then(|pages| if end.is_multiple_of(PAGE_SIZE) { Ok(pages) } else { Err(Error::NotAligned(end)) })
    }

    /// Unbinds `bytes` bytes from `at` on, of one area, and flushes; the rest of the area
    /// stays as it is.
    ///
    /// # Errors
    /// [`Error::NotAligned`], [`Error::NoArea`], [`Error::OutsideArea`].
    ///
    /// # Safety
    /// Y1, Y3.
    ///
    /// # Source
    /// `unmap_kernel_range`, and `unmap_vm_area` of 2.6, which flushes at once.
    pub unsafe fn unmap_kernel_range(&self, at: usize, bytes: usize) -> Result<(), Error> {
        let pages = pages_at(at, bytes.div_ceil(PAGE_SIZE))?;
        self.area_by_parts(pages)?;
        self.host.flush_cache_vunmap(pages);
        // SAFETY: Y1, Y3, handed on.
        unsafe { self.unmap_kernel_range_noflush(at, bytes) }?;
        self.flush_tlb_kernel_range(at, at + pages.bytes());
        Ok(())
    }

    /// Unbinds `bytes` bytes from `at` on, of one area, and returns the pages that were
    /// bound; caches and TLBs are the caller's to flush. Until then CPUs may reach the
    /// frames, and one that is given up waits.
    ///
    /// # Errors
    /// As [`Kernel::unmap_kernel_range`].
    ///
    /// # Safety
    /// Y1, Y3.
    ///
    /// # Source
    /// `unmap_kernel_range_noflush`.
    pub unsafe fn unmap_kernel_range_noflush(&self, at: usize, bytes: usize) -> Result<usize, Error> {
        let pages = pages_at(at, bytes.div_ceil(PAGE_SIZE))?;
        let record = self.area_by_parts(pages)?;
        // SAFETY: P5: Y1 and Y3.
        let cleared = unsafe { self.vm.unmap_part(at, pages.pages) }?;
        // After the entries are cleared: a flush with this tag has begun later.
        self.with_record(record.start, |record| record.stale = self.flushes.tag());
        Ok(cleared)
    }

    /// No CPU reaches what was unmapped of these addresses before; false where the
    /// caller may not wait for that.
    ///
    /// # Source
    /// `flush_tlb_kernel_range`. Everything is flushed, as the library always does.
    pub fn flush_tlb_kernel_range(&self, start: usize, end: usize) -> bool {
        let _ = (start, end);
        self.flush_all()
    }

    /// Flushes, and notes what that covers.
    fn flush_all(&self) -> bool {
        // What was unmapped before this was cleared before the flush.
        let tag = self.flushes.tag.fetch_add(1, SeqCst);
        let done = self.vm.unmap_aliases();
        if done {
            self.flushes.covered.fetch_max(tag, SeqCst);
        }
        done
    }

    /// Makes up for a flush that was left out: no flush with the tag `stale`, or a later one,
    /// has been done.
    pub(crate) fn flush_if_stale(&self, stale: usize) -> Result<(), Error> {
        if stale <= self.flushes.covered.load(SeqCst) || self.flush_all() {
            return Ok(());
        }
        let stale = Shortage::Addresses { pages: 1, widest: self.vm.widest_hole(RegionId(0)).unwrap_or(0) };
        Err(AllocError::WouldWait(self.machine().context(), stale).into())
    }
}

/// Which flushes cover what.
#[derive(Debug)]
pub(crate) struct Flushes {
    /// What is unmapped now is covered by a flush that begins later: its tag.
    tag: AtomicUsize,
    /// The latest tag that a whole flush had.
    covered: AtomicUsize,
}

impl Flushes {
    pub(crate) const fn new() -> Flushes {
        Flushes { tag: AtomicUsize::new(1), covered: AtomicUsize::new(0) }
    }

    /// The tag of the flush that covers what has been unmapped.
    pub(crate) fn tag(&self) -> usize {
        self.tag.load(SeqCst)
    }
}

/// So many pages from `at` on.
pub(crate) fn pages_at(at: usize, pages: usize) -> Result<PageRange, Error> {
    if !at.is_multiple_of(PAGE_SIZE) {
        return Err(Error::NotAligned(at));
    }
    let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| at.checked_add(bytes));
    match end {
        Some(_) if pages > 0 => Ok(PageRange::new(VirtAddr(at), pages)),
        _ => Err(Error::BadArgument(pages)),
    }
}
