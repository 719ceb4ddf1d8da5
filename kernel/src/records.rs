//! What the subsystem keeps of an area beside what the library knows.
//!
//! The library's slot says where an area is, how large, of what kind and by whom. A
//! traditional `vm_struct` says more: flags that callers set, an array of pages, the
//! bytes that were asked for. Areas that have any of it have a record, which is found
//! by the page where they start. An area without a record is the library's alone.
//!
//! # Rules
//! - **J7** A record knows by which request its area was made. Whoever frees an area past
//!   this crate, by the library's own `free`, leaves its record behind: the record is told
//!   from that of the next area there, is nobody's, and what it has goes back when it is met,
//!   or when the subsystem is dropped.
//! - **J14** Whoever frees an area by parts marks its record first. Nobody else finds it then.
//!   Where the library refuses to unmap, to an NMI in the middle of one of its calls, the mark is
//!   taken off, and nothing has changed; else the record is taken out before the addresses and frames
//!   are given back.

use crate::array::PageArray;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::map::Map;
use crate::sync::Ordering::{Relaxed, SeqCst};
use vmalloc::machine::Machine;
use vmalloc::machine::format::MemType;
use vmalloc::{Caller, Info, Kind};

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
    /// How a device is cached that the library maps.
    pub(crate) memory: Option<MemType>,
    /// How the area's own pages are cached.
    pub(crate) cached: MemType,
    /// The flush that covers what was unmapped last; 0 = none is owed.
    pub(crate) stale: usize,
    /// The request by which the area was made (J7).
    made: Option<Made>,
    /// A free of an area by parts goes on (J14).
    leaving: bool,
}

/// What an area has from the request that made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Made {
    kind: Kind,
    caller: Caller,
}

impl Made {
    fn of(info: &Info) -> Made {
        Made { kind: info.kind, caller: info.caller }
    }
}

impl Record {
    /// A record of an area that starts there.
    pub(crate) fn new(start: usize, flags: VmFlags, built: Built, requested: usize) -> Record {
        Record {
            start,
            flags,
            built,
            array: None,
            nr_pages: 0,
            requested,
            phys: None,
            memory: None,
            cached: MemType::WriteBack,
            stale: 0,
            made: None,
            leaving: false,
        }
    }

    /// How many areas of memory with another memory type than memory has it is: one or none.
    fn is_odd(&self) -> usize {
        (self.cached != MemType::WriteBack) as usize
    }

    /// Whether it is the record of this area, and not of one that was there before (J7).
    pub(crate) fn is_of(&self, info: &Info) -> bool {
        self.start == info.start.0 && self.made == Some(Made::of(info))
    }
}

/// The record of the area that starts at `start`, if the map has one.
fn named<'r, M: Machine>(records: &'r mut Records, machine: &M, start: usize) -> Option<&'r mut Record> {
    // SAFETY: what the map names is a record, and the lock keeps others out.
    Some(unsafe { records.get(machine, start)?.as_mut() }).filter(|record| record.start == start)
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Adds the record of an area that has none.
    pub(crate) fn keep_record(&self, mut record: Record, gfp: GfpFlags) -> Result<(), Error> {
        let machine = self.machine();
        let at = (record.start, gfp);
        let info = self.vm.find(record.start).ok_or(Error::NoArea(record.start))?;
        record.made = Some(Made::of(&info));
        self.forget_left_over(record.start)?;
        self.recorded.fetch_add(1, Relaxed);
        self.odd_memory.fetch_add(record.is_odd(), SeqCst);
        let kept = self.stocked(&self.records, at, |records| _ = records.add(machine, record.start, record));
        kept.inspect_err(|_| self.uncount(&record))
    }

    /// What an earlier area has left behind at `start`, where one was made a moment ago, is
    /// nobody's (J7).
    pub(crate) fn forget_left_over(&self, start: usize) -> Result<(), Error> {
        if let Some(left) = self.take_record(start, |_| true)? {
            self.free_left_over(&left);
        }
        Ok(())
    }

    /// A copy of the record of an area. One that an earlier area there has left behind is taken
    /// out (J7).
    pub(crate) fn record_of(&self, info: &Info) -> Option<Record> {
        let record = self.record(info.start.0)?;
        if record.is_of(info) {
            return Some(record);
        }
        let left = self.take_record(record.start, |now| *now == record).ok().flatten();
        left.inspect(|left| self.free_left_over(left));
        None
    }

    /// A copy of the record of an area, if it has one; `None` where another caller has the lock.
    pub(crate) fn record_without_waiting(&self, info: &Info) -> Option<Option<Record>> {
        let machine = self.machine();
        let was = machine.pin();
        let found = self.records.try_lock().map(|mut records| {
            let record = named(&mut records, machine, info.start.0)?;
            Some(*record).filter(|record| record.is_of(info) && !record.leaving)
        });
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(was) };
        found
    }

    /// A copy of the record for the area that starts at `start`.
    pub(crate) fn record(&self, start: usize) -> Option<Record> {
        self.with_record(start, |record| *record)
    }

    /// Calls `f` with the record of the area that starts at `start`, under the lock.
    pub(crate) fn with_record<R>(&self, start: usize, f: impl FnOnce(&mut Record) -> R) -> Option<R> {
        if !self.has_records() {
            return None;
        }
        let machine = self.machine();
        let found = self
            .locked(&self.records, |records| named(records, machine, start).filter(|record| !record.leaving).map(f));
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
        if !self.has_records() {
            return Ok(None);
        }
        let machine = self.machine();
        let taken = self.locked(&self.records, |records| {
            named(records, machine, start).filter(|record| !record.leaving && is_right(record))?;
            records.remove(machine, start)
        })?;
        taken.inspect(|record| self.uncount(record));
        Ok(taken)
    }

    /// A record is not there any more.
    fn uncount(&self, record: &Record) {
        self.recorded.fetch_sub(1, Relaxed);
        self.odd_memory.fetch_sub(record.is_odd(), SeqCst);
    }

    /// Takes the record of the area that starts at `start` for a free of it, if `is_right` says
    /// so: out, or else, of an area by parts, marks it (J14).
    ///
    /// # Errors
    /// [`Error::WrongContext`] as [`Kernel::take_record`]; [`Error::NoArea`] where another caller
    /// frees the area already.
    pub(crate) fn claim_record(
        &self,
        start: usize,
        is_right: impl FnOnce(&Record) -> bool,
    ) -> Result<Option<Record>, Error> {
        if !self.has_records() {
            return Ok(None);
        }
        let machine = self.machine();
        let claimed = self.locked(&self.records, |records| {
            let Some(record) = named(records, machine, start) else { return Ok(None) };
            match record.leaving {
                true => return Err(Error::NoArea(start)),
                false if is_right(record) => (),
                false => return Ok(None),
            }
            if record.built == Built::Whole {
                return Ok(records.remove(machine, start));
            }
            record.leaving = true;
            Ok(Some(*record))
        })??;
        claimed.filter(|record| !record.leaving).inspect(|record| self.uncount(record));
        Ok(claimed)
    }

    /// What is bound of the area whose record was marked is unmapped: the record is taken out. Or
    /// else that was refused, and it is the area's again (J14).
    pub(crate) fn end_claim(&self, record: &Record, unmapped: bool) {
        let machine = self.machine();
        let end = |records: &mut Records| match unmapped {
            true => records.remove(machine, record.start),
            false => {
                let marked = named(records, machine, record.start);
                marked.into_iter().for_each(|marked| marked.leaving = false);
                None
            }
        };
        // This caller has had the lock once, so it is another CPU's if it is not free, and will be.
        let removed = loop {
            match self.locked(&self.records, end) {
                Ok(removed) => break removed,
                Err(_) => machine.relax(),
            }
        };
        removed.inspect(|record| self.uncount(record));
    }

    /// Whether any area has a record. Whoever made one knows that there is: it was counted
    /// before the area was told of.
    #[inline]
    pub(crate) fn has_records(&self) -> bool {
        self.recorded.load(Relaxed) != 0
    }

    /// Frees what the subsystem made and nobody freed.
    pub(crate) fn free_all_areas(&mut self) {
        let machine = self.machine();
        while let Some(record) = self.records.get_mut().first(machine) {
            // SAFETY: what the map names is a record, and nobody else is inside.
            let (start, flags) = unsafe { (record.as_ref().start, record.as_ref().flags) };
            if flags.contains(VmFlags::FLUSH_RESET_PERMS) {
                let _ = self.reset_permissions(start);
            }
            if let Some(record) = self.records.get_mut().remove(machine, start) {
                // What was freed past this crate is an error that nobody waits for (J7).
                let _ = self.free_recorded(record, Caller::here());
            }
        }
        let vm = self.vm;
        // SAFETY: P3: the frames are the map's.
        self.records.get_mut().take_apart(machine, &mut |frame| unsafe { vm.free_frame(frame) });
    }
}
