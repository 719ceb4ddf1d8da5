//! The guard without Rust's allocator traits, for the library that is preloaded.
//!
//! An allocation asks [`is_due`]; if it is, [`alloc`] may serve it. A free asks [`may_own`]; if it may,
//! [`free`] takes it. Everything else goes to the next allocator.

use crate::place::Want;
use crate::settings::Settings;
use crate::trace::Mark;
use crate::{engine, fault, process, report, scratch, trace};
use core::alloc::Layout;
use core::ops::Range;

pub use crate::actions::{SetHandler, interposed, is_ours, set_below};
pub use crate::here::is_due;
pub use crate::process::{attend_forks, cripple, limit_addresses, may_own};
pub use crate::stderr::look as look_at_stderr;

/// The guard is made now, where there is stack for it, rather than at the first allocation.
pub fn begin() {
    // SAFETY: the guard is made once.
    process::begin(|| unsafe { Settings::from_environment() });
}

/// An allocation with clear bytes; null = the next allocator's.
#[cold]
#[inline(never)]
pub fn alloc(size: usize, align: usize) -> *mut u8 {
    // SAFETY: the guard is made once.
    let engine = process::due(|| unsafe { Settings::from_environment() });
    let made = engine.and_then(|engine| engine.alloc(Want { size, align }, Mark::here()));
    made.map_or(core::ptr::null_mut(), core::ptr::NonNull::as_ptr)
}

/// Whether there is a guard, which knows its settings.
pub fn is_made() -> bool {
    process::engine().is_some()
}

/// Frees an address that may be owned. What cannot be freed ends the program.
///
/// # Safety
/// Nobody uses it any more.
#[cold]
#[inline(never)]
pub unsafe fn free(at: *mut u8) {
    if process::is_crippled() {
        return;
    }
    let Some(engine) = process::engine() else { return };
    if let Err(finding) = engine.free(at.addr(), Mark::here()) {
        report::tell(&finding);
        fault::abort();
    }
}

/// The bytes of an allocation that may be owned. What is none ends the program: its caller is about to
/// use it.
///
/// # Safety
/// As for malloc_usable_size(3).
#[cold]
pub unsafe fn size(at: *mut u8) -> usize {
    match process::engine().and_then(|engine: &engine::Engine| engine.find(at.addr())) {
        Some(place) => place.size,
        None => {
            // SAFETY: it does not live, so that nothing is freed.
            unsafe { free(at) };
            0
        }
    }
}

/// The allocator's own code, which no backtrace shall name.
pub fn leave_out(code: Range<usize>) {
    trace::leave_out(code);
}

/// The heap of the library itself, which only those use who write a report.
pub struct Heap;

// SAFETY: what is allocated is new, and is never given out again.
unsafe impl core::alloc::GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        scratch::alloc(layout)
    }

    unsafe fn dealloc(&self, _at: *mut u8, _layout: Layout) {}
}
