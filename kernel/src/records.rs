//! What the subsystem keeps of an area beside what the library knows.
//!
//! The library's slot says where an area is, how large, of what kind and by whom. A
//! traditional `vm_struct` says more: flags that callers set, an array of pages, the
//! bytes that were asked for. Areas that have any of it have a record, which is found
//! by the page where they start. An area without a record is the library's alone.

use crate::array::PageArray;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::map::Map;
use vmalloc::machine::Machine;

/// The records, by the page where their areas start.
pub(crate) type Records = Map<Record>;

// SAFETY: the map's pointers lead to records in its own frames, which its lock guards.
unsafe impl<T: Send> Send for Map<T> {}

/// Who binds the area's pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Built {
    /// The library, which frees them as well.
    Whole,
    /// The steps of this crate, in a reservation.
    ByParts,
}

/// What is kept of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// Its first byte.
    pub(crate) start: usize,
    /// Its flags.
    pub(crate) flags: VmFlags,
    /// Who binds its pages.
    pub(crate) built: Built,
    /// The array of its pages, if it has one.
    pub(crate) array: Option<PageArray>,
    /// Of these so many are the area's to free.
    pub(crate) nr_pages: usize,
    /// Bytes that were asked for.
    pub(crate) requested: usize,
    /// The physical address of a device.
    pub(crate) phys: Option<u64>,
    /// The flush that covers what was unmapped last; 0 = none is owed.
    pub(crate) stale: usize,
}

impl Record {
    /// A record of an area that starts there.
    pub(crate) fn new(start: usize, flags: VmFlags, built: Built, requested: usize) -> Record {
        Record { start, flags, built, array: None, nr_pages: 0, requested, phys: None, stale: 0 }
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Adds a record.
    pub(crate) fn keep_record(&self, record: Record, gfp: GfpFlags) -> Result<(), Error> {
        let machine = self.machine();
        let at = (record.start, gfp);
        self.stocked(&self.records, at, |records| _ = records.add(machine, record.start, record))
    }

    /// A copy of the record of the area that starts at `start`.
    pub(crate) fn record(&self, start: usize) -> Option<Record> {
        self.with_record(start, |record| *record)
    }

    /// Calls `f` with the record of the area that starts at `start`, under the lock.
    pub(crate) fn with_record<R>(&self, start: usize, f: impl FnOnce(&mut Record) -> R) -> Option<R> {
        let machine = self.machine();
        let found = self.locked(&self.records, |records| {
            let mut record = records.get(machine, start)?;
            // SAFETY: what the map names is a record, and the lock keeps others out.
            let record = unsafe { record.as_mut() };
            (record.start == start).then(|| f(record))
        });
        found.ok().flatten()
    }

    /// Takes the record of the area that starts at `start` out, if `is_right` says so.
    ///
    /// # Errors
    /// [`Error::WrongContext`]: it cannot be told whether there is one.
    pub(crate) fn take_record(
        &self,
        start: usize,
        is_right: impl FnOnce(&Record) -> bool,
    ) -> Result<Option<Record>, Error> {
        let machine = self.machine();
        self.locked(&self.records, |records| {
            // SAFETY: what the map names is a record, and the lock keeps others out.
            let record = unsafe { records.get(machine, start)?.as_ref() };
            if record.start == start && is_right(record) { records.remove(machine, start) } else { None }
        })
    }

    /// Frees what the subsystem made and nobody freed.
    pub(crate) fn free_all_areas(&mut self) {
        let machine = self.machine();
        while let Some(record) = self.records.get_mut().first(machine) {
            // SAFETY: what the map names is a record, and nobody else is inside.
            let start = unsafe { record.as_ref() }.start;
            if let Some(record) = self.records.get_mut().remove(machine, start) {
                let freed = self.free_recorded(record);
                debug_assert!(freed.is_ok(), "it was ours: {freed:?}");
            }
        }
        let vm = self.vm;
        // SAFETY: P3: the frames are the map's.
        self.records.get_mut().take_apart(machine, &mut |frame| unsafe { vm.free_frame(frame) });
    }
}
