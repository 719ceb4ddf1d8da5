//! Areas that are there before the instance serves: `vm_area_add_early`.
//!
//! A kernel maps some things while it boots: its own image, per-CPU data. It notes their
//! addresses here, and when the instance serves it takes them over, so that nobody else
//! gets them.
//!
//! Source: `vm_area_add_early` (a fixed place; overlap is a bug), `vm_area_register_early`
//! (the lowest place that fits).

use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::request::Request;
use arrayvec::ArrayVec;
use core::ops::Range;
use vmalloc::Info;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;

/// Early areas at most.
pub const MAX_EARLY: usize = 16;

/// Areas that were noted, by address.
#[derive(Debug, Default)]
pub struct EarlyAreas(ArrayVec<Range<usize>, MAX_EARLY>);

impl EarlyAreas {
    /// None.
    pub const fn new() -> EarlyAreas {
        EarlyAreas(ArrayVec::new_const())
    }

    /// Notes an area of `bytes` bytes at `at`.
    ///
    /// # Errors
    /// [`Error::NotAligned`]; [`Error::OutsideArea`] with the one that it overlaps;
    /// [`Error::TooLarge`] where there are [`MAX_EARLY`] already. Nothing has changed then.
    pub fn add(&mut self, at: usize, bytes: usize) -> Result<(), Error> {
        let end = at.checked_add(bytes).ok_or(Error::BadArgument(bytes))?;
        if let Some(odd) = [at, end].into_iter().find(|odd| !odd.is_multiple_of(PAGE_SIZE)) {
            return Err(Error::NotAligned(odd));
        }
        if bytes == 0 {
            return Err(Error::BadArgument(bytes));
        }
        if let Some(other) = self.0.iter().find(|other| at < other.end && other.start < end) {
            return Err(Error::OutsideArea { start: at, end, area: other.start, area_end: other.end });
        }
        if self.0.is_full() {
            return Err(Error::TooLarge { bytes: MAX_EARLY + 1, limit: MAX_EARLY });
        }
        let place = self.0.partition_point(|other| other.start < at);
        self.0.insert(place, at..end);
        Ok(())
    }

    /// Notes an area of `bytes` bytes at the lowest multiple of `align` within `bounds` that
    /// is free, and returns where that is.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for an alignment that is no power of two, or where nothing is
    /// free; those of [`EarlyAreas::add`].
    pub fn register(&mut self, bytes: usize, align: usize, bounds: Range<usize>) -> Result<usize, Error> {
        let align = align.max(PAGE_SIZE);
        if !align.is_power_of_two() {
            return Err(Error::BadArgument(align));
        }
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Error::BadArgument(bytes))?;
        let mut at = bounds.start.checked_next_multiple_of(align).ok_or(Error::BadArgument(align))?;
        for other in self.0.iter().filter(|other| other.end > bounds.start) {
            if at.saturating_add(bytes) > other.start {
                at = other.end.max(at).checked_next_multiple_of(align).ok_or(Error::BadArgument(align))?;
            }
        }
        match at.checked_add(bytes) {
            Some(end) if end <= bounds.end => self.add(at, bytes).map(|()| at),
            _ => Err(Error::BadArgument(bytes)),
        }
    }

    /// What was noted, by address.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.iter().cloned()
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Takes early areas over: they are areas of addresses, without a guard, whose entries
    /// are the embedder's. Under the placement Classes each begins at a unit of 64 pages.
    ///
    /// # Errors
    /// What the library refuses for the first that it refuses; none is taken over then, and who
    /// has a part of it is told as `vmalloc bug: 0x..-0x.. overlaps with 0x..-0x..`.
    #[track_caller]
    pub fn import_early(&self, early: &EarlyAreas) -> Result<(), Error> {
        let taken = |area: Range<usize>| {
            let (vm_flags, gfp_mask) = (VmFlags::NO_GUARD, GfpFlags::KERNEL | GfpFlags::NOWARN);
            let request = Request { start: area.start, end: area.end, vm_flags, gfp_mask, ..self.request(area.len()) };
            self.__get_vm_area_node(&request)
        };
        for (done, area) in early.iter().enumerate() {
            if let Err(error) = taken(area.clone()) {
                self.tell_overlap(&area);
                for area in early.iter().take(done) {
                    // SAFETY: Y1: nobody was told of it.
                    let _ = unsafe { self.remove_vm_area(area.start) };
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Says who has a part of an early area.
    fn tell_overlap(&self, area: &Range<usize>) {
        let has = |info: &Info| info.start.0 < area.end && area.start < info.start.0 + info.size();
        if let Some(other) = self.vm.areas().find(has) {
            let (start, end) = (other.start.0, other.start.0 + other.size());
            let (from, to) = (area.start, area.end);
            self.printk(
                Kern::Warning,
                format_args!("vmalloc bug: {from:#x}-{to:#x} overlaps with {start:#x}-{end:#x}"),
            );
        }
    }
}
