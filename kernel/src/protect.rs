//! Protections that change: `set_memory_ro` and its siblings, and the direct mapping's with them.
//!
//! | Function | Pages | Direct mapping of their frames, where the area owns them |
//! |---|---|---|
//! | `set_memory_ro` | no stores | no stores |
//! | `set_memory_rw` | stores | stores |
//! | `set_memory_x` | execution | no stores |
//! | `set_memory_nx` | no execution | as it was |
//! | `set_memory_rox` | execution, and no stores | no stores |
//! | the free of an area with VM_FLUSH_RESET_PERMS | neither | nothing, then stores |
//!
//! # Rules
//! - **J20** At no moment can a CPU execute a frame by its area and store to it by the direct
//!   mapping. So stores by the direct mapping end, and all CPUs flush, before pages become
//!   executable; and pages are executable no more, and all CPUs have flushed, before such stores
//!   begin again. An area of which the direct mapping was changed has VM_FLUSH_RESET_PERMS.

use crate::call::Value;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::{DirectMap, Host};
use crate::kernel::Kernel;
use crate::records::{Built, Record};
use core::ops::Range;
use vmalloc::machine::format::{Entry, Format, MemType, Prot};
use vmalloc::machine::{Context, Machine};
use vmalloc::table::Walker;
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};
use vmalloc::{AllocError, Info, Kind};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Takes the right to store away from the `numpages` pages from `addr` on. They are mapped, and
    /// of one area. When it returns no CPU can store to them, by the direct mapping neither.
    ///
    /// # Errors
    /// [`Error::NotAligned`], [`Error::NoArea`], [`Error::OutsideArea`]; [`Error::Alloc`]: EINVAL for
    /// the first page that is not mapped, or that would be written and executed; EBUSY from where
    /// nobody may wait; ENOMEM, also where the machine refuses. Nothing has changed then, unless it
    /// refuses later ones of pages that differ.
    ///
    /// # Safety
    /// Y9.
    ///
    /// # Cost
    /// O(pages), and a flush of all CPUs. Source: `set_memory_ro`.
    pub unsafe fn set_memory_ro(&self, addr: usize, numpages: usize) -> Result<(), Error> {
        self.set_memory("set_memory_ro", (addr, numpages), |prot| prot.difference(Prot::WRITE))
    }

    /// As [`Kernel::set_memory_ro`], and gives the right to store.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// Y9.
    ///
    /// # Source
    /// `set_memory_rw`.
    pub unsafe fn set_memory_rw(&self, addr: usize, numpages: usize) -> Result<(), Error> {
        self.set_memory("set_memory_rw", (addr, numpages), |prot| prot.union(Prot::WRITE))
    }

    /// As [`Kernel::set_memory_ro`], and gives the right to execute. Two flushes.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// Y9.
    ///
    /// # Source
    /// `set_memory_x`.
    pub unsafe fn set_memory_x(&self, addr: usize, numpages: usize) -> Result<(), Error> {
        self.set_memory("set_memory_x", (addr, numpages), |prot| prot.union(Prot::EXEC))
    }

    /// As [`Kernel::set_memory_ro`], and takes the right to execute away.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// Y9.
    ///
    /// # Source
    /// `set_memory_nx`.
    pub unsafe fn set_memory_nx(&self, addr: usize, numpages: usize) -> Result<(), Error> {
        self.set_memory("set_memory_nx", (addr, numpages), |prot| prot.difference(Prot::EXEC))
    }

    /// [`Kernel::set_memory_ro`], and then [`Kernel::set_memory_x`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// Y9.
    ///
    /// # Source
    /// `set_memory_rox`.
    pub unsafe fn set_memory_rox(&self, addr: usize, numpages: usize) -> Result<(), Error> {
        self.set_memory("set_memory_rox", (addr, numpages), |_| Prot::RX)
    }

    /// The area that starts at `addr` resets the direct mapping when it is freed.
    ///
    /// # Errors
    /// [`Error::NoArea`]; [`Error::WrongFlags`] for an area that does not own its frames;
    /// [`Error::Alloc`] for want of memory. Nothing has changed then.
    ///
    /// # Source
    /// `set_vm_flush_reset_perms`.
    pub fn set_vm_flush_reset_perms(&self, addr: usize) -> Result<(), Error> {
        let _call = self.enter("set_vm_flush_reset_perms", &[("addr", Value::Address(addr))]);
        let info = self.vm.find(addr).filter(|info| info.start.0 == addr).ok_or(Error::NoArea(addr))?;
        if !self.owns_frames(&info) {
            return Err(Error::WrongFlags { has: 0, about: VmFlags::FLUSH_RESET_PERMS.bits() });
        }
        self.resets_permissions(&info)
    }

    fn set_memory(
        &self,
        name: &'static str,
        (addr, numpages): (usize, usize),
        change: fn(Prot) -> Prot,
    ) -> Result<(), Error> {
        let _call = self.enter(name, &[("addr", Value::Address(addr)), ("numpages", Value::Number(numpages))]);
        let (info, pages) = self.pages_of_area(addr, numpages)?;
        self.may_change(pages.clone(), change)?;
        let owns = self.owns_frames(&info);
        // Each page by what it allows in the end. A change that is made again changes nothing.
        let to_be = |is_one: fn(Prot) -> bool| {
            let pages = pages.clone().step_by(PAGE_SIZE);
            pages.filter(move |&page| self.at(page).is_some_and(|at| is_one(change(at.1))))
        };
        let is_fixed = |prot: Prot| !prot.contains(Prot::WRITE);
        if owns && to_be(is_fixed).next().is_some() {
            self.resets_permissions(&info)?;
            to_be(is_fixed).for_each(|page| self.set_direct(page..page + PAGE_SIZE, DirectMap::ReadOnly));
        }
        let gives_execution = change(Prot::RO).contains(Prot::EXEC);
        if gives_execution {
            self.protect_runs(pages.clone(), |prot| change(prot).difference(Prot::EXEC))?;
        }
        self.protect_runs(pages.clone(), change)?;
        let is_data = |prot: Prot| prot.contains(Prot::WRITE) && !prot.contains(Prot::EXEC);
        if owns {
            to_be(is_data).for_each(|page| self.set_direct(page..page + PAGE_SIZE, DirectMap::Default));
        }
        Ok(())
    }

    /// The area that has all of these pages, and their addresses.
    fn pages_of_area(&self, addr: usize, numpages: usize) -> Result<(Info, Range<usize>), Error> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Error::NotAligned(addr));
        }
        let info = self.vm.find(addr).ok_or(Error::NoArea(addr))?;
        let (area, area_end) = (info.start.0, info.start.0 + info.range().bytes());
        let end = numpages.checked_mul(PAGE_SIZE).and_then(|bytes| addr.checked_add(bytes)).unwrap_or(usize::MAX);
        if numpages == 0 || end > area_end {
            return Err(Error::OutsideArea { start: addr, end, area, area_end });
        }
        Ok((info, addr..end))
    }

    /// Whether all pages are mapped, and none would be written and executed that is not already.
    fn may_change(&self, pages: Range<usize>, change: fn(Prot) -> Prot) -> Result<(), Error> {
        const BOTH: Prot = Prot::WRITE.union(Prot::EXEC);
        for at in pages.step_by(PAGE_SIZE) {
            let (_, was) = self.at(at).ok_or(AllocError::NotMapped(VirtAddr(at)))?;
            if change(was).contains(BOTH) && !was.contains(BOTH) {
                return Err(AllocError::WriteExec.into());
            }
        }
        match self.machine().context() {
            Context::Task => Ok(()),
            context => Err(Error::WrongContext(context)),
        }
    }

    /// Whether the area's frames are its own, so that nobody else needs their direct mapping.
    fn owns_frames(&self, info: &Info) -> bool {
        let by_parts = || self.record_of(info).is_some_and(|record| record.nr_pages > 0);
        info.kind.owns() || (info.kind == Kind::Reserved && by_parts())
    }

    /// The frame of the page at `at`, and what the page allows as far as the format tells.
    fn at(&self, at: usize) -> Option<(Pfn, Prot)> {
        // SAFETY: T1: Y9, or the area is being freed: its pages stay as they are.
        let (frame, prot) = unsafe { Walker::new(self.machine()) }.translate(VirtAddr(at))?;
        let tells = M::Table::decode(M::Table::leaf(Pfn(0), Prot::RO, MemType::WriteBack, 1), 1);
        let all_execute = matches!(tells, Entry::Leaf { prot: Prot::RX, .. });
        Some((frame, if all_execute { prot.difference(Prot::EXEC) } else { prot }))
    }

    /// Changes the protection of pages that are mapped, as long as they are alike by one call.
    fn protect_runs(&self, pages: Range<usize>, change: impl Fn(Prot) -> Prot) -> Result<(), Error> {
        let mut at = pages.start;
        while at < pages.end {
            let was = self.at(at).map(|at| at.1);
            let alike = (at..pages.end).step_by(PAGE_SIZE).take_while(|&page| self.at(page).map(|at| at.1) == was);
            let run = alike.count();
            if let Some(mut prot) = was.map(&change) {
                // What is both now was meant to be.
                prot.set(Prot::BOTH, prot.contains(Prot::WRITE | Prot::EXEC));
                // SAFETY: V2: Y9.
                unsafe { self.vm.protect(at, run, prot) }?;
            }
            at += run * PAGE_SIZE;
        }
        Ok(())
    }

    fn set_direct(&self, pages: Range<usize>, to: DirectMap) {
        let frames = pages.step_by(PAGE_SIZE).filter_map(|at| self.at(at));
        frames.for_each(|(frame, _)| self.host.set_direct_map(frame, to));
    }

    /// The area is marked as one that resets the direct mapping at its free.
    fn resets_permissions(&self, info: &Info) -> Result<(), Error> {
        let start = info.start.0;
        let marks = |record: &mut Record| record.flags |= VmFlags::FLUSH_RESET_PERMS;
        if self.record_of(info).and_then(|_| self.with_record(start, marks)).is_some() {
            return Ok(());
        }
        let made = if info.kind == Kind::VmapOwned { VmFlags::MAP | VmFlags::MAP_PUT_PAGES } else { VmFlags::ALLOC };
        let mut record = Record::new(start, made | VmFlags::FLUSH_RESET_PERMS, Built::Whole, info.bytes);
        record.nr_pages = info.pages;
        self.keep_record(record, GfpFlags::KERNEL)
    }

    /// Before the area at `start` is freed: none of its frames can be stored to or executed by its
    /// pages any more, and then each has its direct mapping again (J20).
    ///
    /// # Errors
    /// [`Error::WrongContext`] from where nobody may wait; [`Error::Alloc`] where the machine refuses.
    /// The direct mapping is not writable then.
    pub(crate) fn reset_permissions(&self, start: usize) -> Result<(), Error> {
        let info = self.vm.find(start).ok_or(Error::NoArea(start))?;
        let pages = start..start + info.range().bytes();
        match self.machine().context() {
            Context::Task => (),
            context => return Err(Error::WrongContext(context)),
        }
        self.set_direct(pages.clone(), DirectMap::Invalid);
        self.protect_runs(pages.clone(), |_| Prot::RO)?;
        self.set_direct(pages, DirectMap::Default);
        self.with_record(start, |record| record.flags.remove(VmFlags::FLUSH_RESET_PERMS));
        Ok(())
    }
}
