//! Freeing: `vfree`, `vunmap`, and what an area by parts owns.

use crate::array::PageArray;
use crate::call::Value;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::records::{Built, Record};
use core::ptr::{NonNull, with_exposed_provenance_mut};
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, VirtAddr};
use vmalloc::{Caller, FreeError, Info, Kind};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Frees an area that any of the allocating functions returned, with its array and
    /// its frames. Null is nothing. From any context but an NMI in the middle of another
    /// call of the subsystem.
    ///
    /// # Errors
    /// [`Error::NotAligned`] and [`Error::Free`], after the message that the traditional
    /// function warns with; [`Error::WrongContext`] for an area with VM_FLUSH_RESET_PERMS from where
    /// nobody may wait, and for one by parts in an NMI in the middle of a call of the library; [`Error::OutOfBounds`] where the area is watched and somebody has
    /// written past it (J9). Nothing has changed then.
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Cost
    /// O(pages). Source: `vfree`: `Trying to vfree() bad address (%p)`, `Trying to vfree()
    /// nonexistent vm area (%p)`.
    #[track_caller]
    pub unsafe fn vfree(&self, at: *const u8) -> Result<(), Error> {
        // SAFETY: Y1, handed on.
        unsafe { self.vfree_by(at, Caller::here()) }
    }

    /// As [`Kernel::vfree`], on behalf of `by`: where another language stands in between, the place of
    /// this call says nothing.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// Y1.
    pub unsafe fn vfree_by(&self, at: *const u8, by: Caller) -> Result<(), Error> {
        let at = at.addr();
        let _call = self.enter("vfree", &[("addr", Value::Address(at))]);
        if at == 0 {
            return Ok(());
        }
        if !at.is_multiple_of(PAGE_SIZE) {
            self.printk(Kern::Err, format_args!("Trying to vfree() bad address ({})", Pointer(at)));
            return Err(Error::NotAligned(at));
        }
        self.unbroken(at)?;
        let is_right = |flags: VmFlags| !flags.contains(VmFlags::MAP) || flags.contains(VmFlags::MAP_PUT_PAGES);
        self.free_area(at, is_right, by).inspect_err(|error| {
            if !matches!(error, Error::WrongContext(_)) {
                self.printk(Kern::Err, format_args!("Trying to vfree() nonexistent vm area ({})", Pointer(at)));
            }
        })
    }

    /// Unmaps what [`Kernel::vmap`] mapped; its frames stay whose they are. Null is
    /// nothing.
    ///
    /// # Errors
    /// As [`Kernel::vfree`], with `vunmap` for its name.
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Source
    /// `vunmap`.
    #[track_caller]
    pub unsafe fn vunmap(&self, at: *const u8) -> Result<(), Error> {
        let at = at.addr();
        let _call = self.enter("vunmap", &[("addr", Value::Address(at))]);
        if at == 0 {
            return Ok(());
        }
        self.not_in_interrupt()?;
        if !at.is_multiple_of(PAGE_SIZE) {
            self.printk(Kern::Err, format_args!("Trying to vunmap() bad address ({})", Pointer(at)));
            return Err(Error::NotAligned(at));
        }
        self.unmap_area(at).inspect_err(|_| {
            self.printk(Kern::Err, format_args!("Trying to vunmap() nonexistent vm area ({})", Pointer(at)));
        })
    }

    #[track_caller]
    fn unmap_area(&self, at: usize) -> Result<(), Error> {
        if let Some(record) = self.claim_record(at, |record| record.flags.contains(VmFlags::MAP))? {
            return self.free_recorded(record, Caller::here());
        }
        let start = pointer(at).ok_or(Error::NoArea(at))?;
        // SAFETY: V1: Y1.
        Ok(unsafe { self.vm.vunmap(start) }?)
    }

    /// Frees the area that starts at `at`, if its flags are right, on behalf of `by`.
    pub(crate) fn free_area(&self, at: usize, is_right: fn(VmFlags) -> bool, by: Caller) -> Result<(), Error> {
        let is_device = |record: &Record| record.memory.is_some();
        let mut resets = false;
        let taken = self.claim_record(at, |record| {
            let is_ours = is_right(record.flags) && !is_device(record);
            resets = is_ours && record.flags.contains(VmFlags::FLUSH_RESET_PERMS);
            is_ours && !resets
        })?;
        if resets {
            self.reset_permissions(at)?;
            return self.free_area(at, is_right, by);
        }
        match taken {
            Some(record) => self.free_recorded(record, by),
            None => {
                // The address may be another's as soon as the area is freed.
                let leaving = self.begin_free(at);
                let freed = self.free_unrecorded(at, by);
                self.end_free(leaving, freed.is_ok());
                freed
            }
        }
    }

    /// Frees an area that has no record, or one that says that another function frees it.
    fn free_unrecorded(&self, at: usize, by: Caller) -> Result<(), Error> {
        let info = self.vm.find(at);
        if let Some(record) = info.filter(|_| self.has_records()).and_then(|info| self.record_of(&info)) {
            return Err(Error::WrongFlags { has: record.flags.bits(), about: VmFlags::MAP.bits() });
        }
        // The library frees no mapping of frames that are somebody else's, and no device.
        let is_freed = |info: &Info| info.start.0 == at && (info.kind.owns() || info.kind == Kind::Reserved);
        if info.as_ref().is_some_and(is_freed) {
            // Afterwards the address may be another's.
            self.host.untracked(at);
        }
        self.free_whole(at, by)
    }

    /// Frees an area of the library's own.
    fn free_whole(&self, at: usize, by: Caller) -> Result<(), Error> {
        let start = pointer(at).ok_or(Error::NoArea(at))?;
        // SAFETY: V1: Y1.
        Ok(unsafe { self.vm.free_by(start, by) }?)
    }

    /// Frees an area whose record was claimed.
    pub(crate) fn free_recorded(&self, record: Record, by: Caller) -> Result<(), Error> {
        let Some(info) = self.vm.find(record.start).filter(|info| record.is_of(info)) else {
            self.end_claim(&record, true);
            self.free_left_over(&record);
            return Err(Error::Free(FreeError::NotAnArea(VirtAddr(record.start))));
        };
        if record.built == Built::ByParts {
            self.unmap_all(&record, info.range().bytes())?;
        }
        self.untrack(record.start);
        let freed = match record.built {
            Built::ByParts => {
                self.free_pages_of(&record);
                self.give_addresses(record.start);
                Ok(())
            }
            Built::Whole if info.kind == Kind::Vmap => {
                // SAFETY: V1: Y1.
                let unmap = |at| unsafe { self.vm.vunmap(at) };
                pointer(record.start).map_or(Ok(()), unmap).map_err(Error::from)
            }
            Built::Whole => self.free_whole(record.start, by),
        };
        // The library refuses an area that is gone, past this crate.
        if let Some(array) = &record.array {
            self.free_array(array);
        }
        freed
    }

    /// Frees what a record has whose area was freed past this crate (J7). The library has
    /// unbound the pages of one by parts, and frames wait for their flush.
    pub(crate) fn free_left_over(&self, record: &Record) {
        if record.built == Built::ByParts {
            self.free_pages_of(record);
        }
        if let Some(array) = &record.array {
            self.free_array(array);
        }
        self.host.untracked(record.start);
    }

    /// The leak detector hears that an area is about to go.
    fn untrack(&self, at: usize) {
        self.host.untracked(at);
        self.forget_freed(at);
    }

    /// Gives the frames back that an area by parts has as its own. CPUs may still reach
    /// them: each waits for its flush.
    fn free_pages_of(&self, record: &Record) {
        let Some(array) = &record.array else { return };
        for n in 0..record.nr_pages.min(array.len()) {
            if let Some(frame) = self.page_of(array, n) {
                self.give_frame(frame);
            }
        }
    }

    /// Gives an array back; the frames in it stay whose they are.
    pub(crate) fn free_array(&self, array: &PageArray) {
        let freed = match array.is_vpages() {
            true => self.free_area(array.at(), |_| true, Caller::here()),
            false => self.put_object(array.at()),
        };
        debug_assert!(freed.is_ok(), "the array was ours: {freed:?}");
    }
}

/// An address as a pointer.
pub(crate) fn pointer(at: usize) -> Option<NonNull<u8>> {
    NonNull::new(with_exposed_provenance_mut(at))
}

/// An address as `%p` prints it: all digits of a word, and nothing before them.
pub(crate) struct Pointer(pub(crate) usize);

impl core::fmt::Display for Pointer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:0width$x}", self.0, width = size_of::<usize>() * 2)
    }
}
