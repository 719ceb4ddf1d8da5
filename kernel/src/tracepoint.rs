//! The three tracepoints of vmalloc, made of the library's events.
//!
//! | Tracepoint | Event | What is computed |
//! |---|---|---|
//! | `alloc_vmap_area` | publish, failure | the guard is counted; bounds are the region's that the tracer was told |
//! | `free_vmap_area_noflush` | claim | pages that wait for a flush, with this one; the limit by the number of CPUs |
//! | `purge_vmap_area_lazy` | retire, of at least one page | the lowest and the highest address freed since the last |
//!
//! An event names no alignment: it is told as a page. The pages of a resize are told by nobody,
//! as elsewhere.

use crate::sync::{AtomicUsize, Ordering::Relaxed};
use core::fmt;
use core::ops::Range;
use vmalloc::machine::event::Event;
use vmalloc::units::PAGE_SIZE;

/// Bytes that may wait for a flush, for each bit of the number of CPUs.
const LAZY_BYTES: usize = 32 << 20;

/// A tracepoint with its fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracepoint {
    /// An area was made, or refused.
    AllocVmapArea {
        /// Its first byte; 0 where it was refused.
        addr: usize,
        /// Its bytes, with the guard.
        size: usize,
        /// A page.
        align: usize,
        /// The first address that would do.
        vstart: usize,
        /// The last one.
        vend: usize,
        /// Whether it was refused.
        failed: bool,
    },
    /// An area was freed, and waits for a flush.
    FreeVmapAreaNoflush {
        /// Its first byte.
        va_start: usize,
        /// Pages that wait, with its own.
        nr_lazy: usize,
        /// The pages that may wait before somebody flushes.
        nr_lazy_max: usize,
    },
    /// Areas can be used again.
    PurgeVmapAreaLazy {
        /// The lowest address freed since the last purge.
        start: usize,
        /// The end of the highest.
        end: usize,
        /// Areas, as near as pages tell: those that were freed since.
        npurged: usize,
    },
}

impl fmt::Display for Tracepoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Tracepoint::AllocVmapArea { addr, size, align, vstart, vend, failed } => write!(
                f,
                "alloc_vmap_area: va_start: {addr} size={size} align={align} vstart={vstart:#x} vend={vend:#x} failed={}",
                failed as u8
            ),
            Tracepoint::FreeVmapAreaNoflush { va_start, nr_lazy, nr_lazy_max } => {
                write!(f, "free_vmap_area_noflush: va_start={va_start:#x} nr_lazy={nr_lazy} nr_lazy_max={nr_lazy_max}")
            }
            Tracepoint::PurgeVmapAreaLazy { start, end, npurged } => {
                write!(f, "purge_vmap_area_lazy: start={start:#x} end={end:#x} num_purged={npurged}")
            }
        }
    }
}

/// Makes tracepoints of events.
#[derive(Debug)]
pub struct Tracer {
    bounds: Range<usize>,
    nr_lazy_max: usize,
    lazy_pages: AtomicUsize,
    lazy_areas: AtomicUsize,
    lowest: AtomicUsize,
    highest: AtomicUsize,
}

impl Tracer {
    /// A tracer of areas in `bounds`, on a machine of so many CPUs.
    pub const fn new(bounds: Range<usize>, cpus: u32) -> Tracer {
        let bits = (u32::BITS - cpus.leading_zeros()) as usize;
        Tracer {
            bounds,
            nr_lazy_max: bits * (LAZY_BYTES / PAGE_SIZE),
            lazy_pages: AtomicUsize::new(0),
            lazy_areas: AtomicUsize::new(0),
            lowest: AtomicUsize::new(usize::MAX),
            highest: AtomicUsize::new(0),
        }
    }

    /// The tracepoint of an event, if it has one. For
    /// [`Machine::note`](vmalloc::machine::Machine::note): from any context, by atomics alone.
    pub fn tracepoint(&self, event: &Event) -> Option<Tracepoint> {
        match *event {
            Event::Publish { start, pages, .. } => Some(self.alloc(start.0, pages, false)),
            Event::Failure { bytes, .. } => Some(self.alloc(0, bytes.div_ceil(PAGE_SIZE), true)),
            Event::Claim { start, pages, .. } => Some(self.free(start.0, pages)),
            Event::Retire(pages) if pages > 0 => Some(self.purge(pages)),
            _ => None,
        }
    }

    fn alloc(&self, addr: usize, pages: usize, failed: bool) -> Tracepoint {
        let size = pages.saturating_add(1).saturating_mul(PAGE_SIZE);
        let (vstart, vend) = (self.bounds.start, self.bounds.end.wrapping_sub(1));
        Tracepoint::AllocVmapArea { addr, size, align: PAGE_SIZE, vstart, vend, failed }
    }

    fn free(&self, va_start: usize, pages: usize) -> Tracepoint {
        self.lowest.fetch_min(va_start, Relaxed);
        self.highest.fetch_max(va_start.saturating_add((pages + 1) * PAGE_SIZE), Relaxed);
        self.lazy_areas.fetch_add(1, Relaxed);
        let nr_lazy = self.lazy_pages.fetch_add(pages, Relaxed) + pages;
        Tracepoint::FreeVmapAreaNoflush { va_start, nr_lazy, nr_lazy_max: self.nr_lazy_max }
    }

    fn purge(&self, pages: usize) -> Tracepoint {
        // Pages that a resize gave up were never counted.
        let fewer = |lazy: usize| Some(lazy.saturating_sub(pages));
        let _ = self.lazy_pages.fetch_update(Relaxed, Relaxed, fewer);
        let npurged = self.lazy_areas.swap(0, Relaxed);
        let (start, end) = (self.lowest.swap(usize::MAX, Relaxed), self.highest.swap(0, Relaxed));
        Tracepoint::PurgeVmapAreaLazy { start, end, npurged }
    }
}
