//! Redzones: what lies behind the bytes that were asked for, in the last page of an area.
//!
//! An area is whole pages, so a write past its last byte hits memory that nobody else has, and
//! is not noticed until the area grows by a few bytes, or is read back. With
//! [`Kernel::with_redzones`] these bytes are a canary: a pattern that is written when the area is
//! made, and looked at when it is freed or resized, by [`Kernel::check`], and by
//! [`Kernel::check_redzones`]. No byte of the pattern is 0 or a letter, which is what overruns
//! mostly write.
//!
//! ```text
//!   first page            last page              guard
//!   ├─── bytes that were asked for ──┤ canary ├──────────┤
//! ```
//!
//! # Rules
//! - **J8** An area is *watched* from the time when its canary is whole until it is freed or
//!   resized: the flag `VM_KASAN` of its record says so. What user space may map is not watched,
//!   for it is given whole pages; nor is an area whose record finds no memory.
//! - **J9** An overrun is told once: the canary is whole again afterwards. A free that finds one is
//!   refused and changes nothing else, so the next free of the area succeeds.
//!
//! Source: a memory-error detector's report `vmalloc-out-of-bounds` is about the same bytes.

use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::listing::Symbol;
use crate::memory::Place;
use crate::records::{Built, Record};
use crate::sync::{AtomicUsize, Ordering::Relaxed};
use core::ptr::NonNull;
use vmalloc::error::Broken;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Caller, Info};

/// What user space may map.
const SHOWN: VmFlags = VmFlags::USERMAP.union(VmFlags::DMA_COHERENT);

/// Bytes that are compared at a time.
const BUFFER: usize = 256;

/// A byte behind an area that is not what was written there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun {
    /// Its address.
    pub at: usize,
    /// What it is.
    pub found: u8,
    /// The area's first byte.
    pub start: usize,
    /// The bytes that were asked for.
    pub size: usize,
    /// Who asked for them.
    pub caller: Caller,
}

/// What redzones have seen since the subsystem began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RedzoneStats {
    /// Canaries that were written.
    pub written: usize,
    /// Areas with a tail that are not watched, for want of memory.
    pub left_out: usize,
    /// Canaries that were looked at.
    pub checked: usize,
    /// Overruns that were told.
    pub caught: usize,
}

/// Whether areas are watched, and what was seen.
#[derive(Debug)]
pub(crate) struct Redzones {
    on: bool,
    written: AtomicUsize,
    left_out: AtomicUsize,
    checked: AtomicUsize,
    caught: AtomicUsize,
}

impl Redzones {
    pub(crate) const fn new() -> Redzones {
        Redzones {
            on: false,
            written: AtomicUsize::new(0),
            left_out: AtomicUsize::new(0),
            checked: AtomicUsize::new(0),
            caught: AtomicUsize::new(0),
        }
    }
}

impl<'v, M: Machine, H: Host> Kernel<'v, M, H> {
    /// The same subsystem, in which the areas that it makes from here on are watched: a write
    /// past the bytes that were asked for is told at the free, or earlier where somebody looks.
    ///
    /// # Cost
    /// A record an area whose size is not a multiple of pages, and a write and a look at its tail.
    #[must_use]
    pub const fn with_redzones(mut self) -> Kernel<'v, M, H> {
        self.redzones.on = true;
        self
    }

    /// Looks at all watched areas, and tells each overrun once. Returns how many there were.
    ///
    /// # Cost
    /// O(areas), and the tail of each that is watched.
    pub fn check_redzones(&self) -> usize {
        self.vm.areas().filter(|info| self.told_overrun(info).is_some()).count()
    }

    /// As [`Vmalloc::check`](vmalloc::Vmalloc::check), and then the redzones, of which nothing is
    /// told or repaired.
    ///
    /// # Errors
    /// The first rule found broken; J8 at the first byte past an area that was written to.
    ///
    /// # Cost
    /// O(everything). Call it while nobody else calls.
    pub fn check(&self) -> Result<(), Broken> {
        self.vm.check()?;
        let overrun = self.vm.areas().find_map(|info| self.look(&info, false));
        overrun.map_or(Ok(()), |overrun| Err(Broken { rule: "J8", at: overrun.at }))
    }

    /// What redzones have seen.
    pub fn redzone_stats(&self) -> RedzoneStats {
        let Redzones { written, left_out, checked, caught, .. } = &self.redzones;
        let [written, left_out, checked, caught] =
            [written, left_out, checked, caught].map(|count| count.load(Relaxed));
        RedzoneStats { written, left_out, checked, caught }
    }

    /// Writes the canary behind `size` bytes of a new or resized area, if areas are watched.
    pub(crate) fn watch(&self, at: NonNull<u8>, size: usize, gfp: GfpFlags) {
        let at = at.addr().get();
        if !self.redzones.on || size.is_multiple_of(PAGE_SIZE) {
            return;
        }
        let shown = self.with_record(at, |record| record.flags.intersects(SHOWN));
        if shown == Some(true) {
            return;
        }
        let watched = self.write_canary(at, size).and_then(|()| self.mark_watched(at, size, gfp));
        let count = if watched.is_ok() { &self.redzones.written } else { &self.redzones.left_out };
        count.fetch_add(1, Relaxed);
    }

    fn mark_watched(&self, at: usize, size: usize, gfp: GfpFlags) -> Result<(), Error> {
        if self.with_record(at, |record| record.flags |= VmFlags::KASAN).is_some() {
            return Ok(());
        }
        let mut record = Record::new(at, VmFlags::ALLOC | VmFlags::KASAN, Built::Whole, size);
        record.nr_pages = size.div_ceil(PAGE_SIZE);
        self.keep_record(record, gfp)
    }

    /// Before an area is freed: refuses where its canary is not whole (J9).
    pub(crate) fn unbroken(&self, at: usize) -> Result<(), Error> {
        if !self.redzones.on {
            return Ok(());
        }
        let info = self.vm.find(at).filter(|info| info.start.0 == at);
        match info.and_then(|info| self.told_overrun(&info)) {
            Some(Overrun { at, start, size, .. }) => Err(Error::OutOfBounds { at, start, size }),
            None => Ok(()),
        }
    }

    /// Before an area is resized: it is watched no more. The bytes that were asked for, if it was.
    pub(crate) fn unwatch(&self, at: usize) -> Result<Option<usize>, Error> {
        self.unbroken(at)?;
        let watched = self.with_record(at, |record| {
            let watched = record.flags.contains(VmFlags::KASAN);
            record.flags.remove(VmFlags::KASAN);
            watched.then_some(record.requested)
        });
        Ok(watched.flatten())
    }

    /// The overrun behind an area, which is told, and the canary is whole again.
    fn told_overrun(&self, info: &Info) -> Option<Overrun> {
        let overrun = self.look(info, true)?;
        let Overrun { at, found, start, size, caller } = overrun;
        self.redzones.caught.fetch_add(1, Relaxed);
        let (past, caller) = (at - start - size, Symbol(self.machine(), caller));
        let line = format_args!(
            "BUG: vmalloc-out-of-bounds at {at:#x}: {found:#04x}, {past} bytes past the area of {size} bytes at {start:#x} by {caller}"
        );
        self.printk(Kern::Err, line);
        Some(overrun)
    }

    /// The first byte behind a watched area that is not the canary's; where that is to be repaired
    /// the canary is whole again. Under the lock of the records: whoever frees or resizes the area
    /// needs it first, so nothing of a later area there is read or written.
    fn look(&self, info: &Info, repair: bool) -> Option<Overrun> {
        let record = self.record_of(info).filter(|record| record.flags.contains(VmFlags::KASAN))?;
        self.redzones.checked.fetch_add(1, Relaxed);
        let (start, size) = (record.start, record.requested);
        let frame = self.vm.frame_at(start + size)?;
        let look = |page: NonNull<u8>| {
            self.with_record(start, |now| {
                let is_same = *now == record && self.vm.frame_at(start + size) == Some(frame);
                // SAFETY: Y2: the area lives as long as the lock is held, and `page` is its last one.
                if is_same { unsafe { first_odd(page, tail(start, size), repair) } } else { None }
            })
        };
        let (at, found) = self.with_bytes(frame, look).ok()???;
        Some(Overrun { at, found, start, size, caller: info.caller })
    }

    fn write_canary(&self, start: usize, size: usize) -> Result<(), Error> {
        let mut buffer = [0; BUFFER];
        for from in tail(start, size).step_by(BUFFER) {
            let part = &mut buffer[..BUFFER.min(tail(start, size).end - from)];
            part.iter_mut().enumerate().for_each(|(place, byte)| *byte = canary(from + place));
            self.write_place(Place::Area(from), part)?;
        }
        Ok(())
    }
}

/// What lies behind `size` bytes at `start`, in their last page.
fn tail(start: usize, size: usize) -> core::ops::Range<usize> {
    start + size..(start + size).next_multiple_of(PAGE_SIZE)
}

/// The first byte of the canary in this tail that is another one; whether it is `repair`ed.
///
/// # Safety
/// The tail lies in the page that `page` shows. What others write meanwhile may be read torn.
unsafe fn first_odd(page: NonNull<u8>, tail: core::ops::Range<usize>, repair: bool) -> Option<(usize, u8)> {
    // SAFETY: the caller's promise.
    let byte = |at: usize| unsafe { page.add(at % PAGE_SIZE) };
    // SAFETY: as above.
    let read = |at: usize| unsafe { byte(at).read_volatile() };
    let odd = tail.clone().map(|at| (at, read(at))).find(|&(at, found)| found != canary(at))?;
    if repair {
        // SAFETY: as above.
        tail.for_each(|at| unsafe { byte(at).write_volatile(canary(at)) });
    }
    Some(odd)
}

/// The canary's byte at an address: neighbours differ, and bit 7 is set.
const fn canary(at: usize) -> u8 {
    (at as u8).wrapping_mul(0x4d) | 0x80
}
