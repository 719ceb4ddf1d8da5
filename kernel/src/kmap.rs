//! Mappings of single pages at fixed places: for memory that has no direct mapping, and for
//! devices that are needed before anything else is.
//!
//! ```text
//!   fixmap   a page for each purpose; its address follows from the purpose's number
//!   pkmap    1,024 entries (512 with PAE) that all CPUs share: kmap, kunmap
//!   local    16 pages a CPU, the newest goes first: kmap_local_page, kunmap_local
//! ```
//!
//! Each has its addresses from a region of the library's that serves nobody else
//! ([`layout`](crate::layout) computes where), placement *lowest*, which begins a page below:
//! the first page of a region is nobody's. A low frame needs none of them but the fixmap: its
//! address is that of the direct mapping.
//!
//! # Rules
//! - **J11** A page that was unmapped is mapped again only after all CPUs have flushed; a page
//!   that one CPU alone uses, after this CPU has.
//! - **J12** An entry of the pkmap is *clean* (count 0: nothing is mapped), *unused* (count 1:
//!   mapped, by nobody used, and not flushed) or *used* (count n: by n − 1). Unused entries
//!   become clean together, with one flush, when the search for a clean one wraps.
//! - **J13** What a CPU maps for itself it unmaps in the order turned around, and the task
//!   stays on that CPU meanwhile.

mod fixmap;
mod local;
mod pkmap;

pub use fixmap::{Fixmap, fix_to_virt, virt_to_fix};
pub use local::{KM_MAX_IDX, KmapLocal};
pub use pkmap::{LAST_PKMAP, LAST_PKMAP_PAE, Pkmap};

use crate::error::Error;
use crate::flags::Pgprot;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::sync::{AtomicUsize, Ordering::SeqCst, breaks};
use core::num::NonZero;
use core::ptr::NonNull;
use vmalloc::Req;
use vmalloc::area::{Guard, RegionId};
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// Addresses that a kernel has for mappings of this kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The region of the library's that they lie in.
    pub region: RegionId,
    /// The base of the pkmap, or the first address behind the fixmap (`FIXADDR_TOP`).
    pub at: usize,
    /// The first frame without a direct mapping (`max_low_pfn`).
    pub high_from: Pfn,
}

/// Pages of a region, taken for good.
struct Window<'k, M: Machine, H: Host> {
    kernel: &'k Kernel<'k, M, H>,
    area: NonNull<u8>,
    /// A flush with this tag covers all that was unmapped here.
    stale: AtomicUsize,
}

impl<'k, M: Machine, H: Host> Window<'k, M, H> {
    /// Takes `pages` pages from `start` on.
    fn new(kernel: &'k Kernel<'k, M, H>, region: RegionId, start: usize, pages: usize) -> Result<Self, Error> {
        let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| start.checked_add(bytes));
        let end = end.ok_or(Error::BadArgument(pages))?;
        let req = Req::pages(pages).region(region).within(start..end).guard(Guard::None);
        let area = kernel.vm.reserve(req)?;
        Ok(Window { kernel, area, stale: AtomicUsize::new(0) })
    }

    /// Maps `frame` at `at`, which is flushed (J11).
    ///
    /// # Safety
    /// Y3, and J11.
    unsafe fn map(&self, at: usize, frame: Pfn, prot: Pgprot) -> Result<(), Error> {
        // SAFETY: P5: J11, and Y3; P6: Y3.
        unsafe { self.kernel.vm.map_part(at, &[frame], prot.prot, prot.memory) }?;
        Ok(())
    }

    /// Unmaps the page at `at`; whether one was mapped. CPUs may reach it until they flush.
    ///
    /// # Safety
    /// Y1, Y3.
    unsafe fn unmap(&self, at: usize) -> Result<bool, Error> {
        // SAFETY: P5: Y1 and Y3.
        let unmapped = unsafe { self.kernel.vm.unmap_part(at, 1) }?;
        // After the entry is cleared: a flush with this tag has begun later.
        self.stale.store(self.kernel.flushes.tag(), SeqCst);
        Ok(unmapped > 0)
    }

    /// Flushes, unless that has been done since the last page was unmapped (J11).
    fn flush(&self) -> Result<(), Error> {
        if breaks!(EntriesUnflushed) {
            return Ok(());
        }
        self.kernel.flush_if_stale(self.stale.load(SeqCst))
    }
}

impl<M: Machine, H: Host> Drop for Window<'_, M, H> {
    fn drop(&mut self) {
        // SAFETY: V1: nobody uses the pages any more, or they were not this kernel's to use.
        let freed = unsafe { self.kernel.vm.free(self.area) };
        debug_assert!(freed.is_ok(), "it was reserved");
    }
}

/// An address as a pointer.
fn pointer(at: usize) -> Result<NonNull<u8>, Error> {
    NonZero::new(at).map(NonNull::with_exposed_provenance).ok_or(Error::BadArgument(at))
}
