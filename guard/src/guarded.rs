//! [`Guarded`]: the allocator of a Rust program.

use crate::place::Want;
use crate::settings::{Path, Settings, Side};
use crate::trace::Mark;
use crate::{fault, here, process, report, scratch};
use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;

/// An allocator over another one: some allocations, or all, have guard pages.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: vmalloc_guard::Guarded = vmalloc_guard::Guarded::sampled(1000);
/// # fn main() { assert_eq!(vec![1; 100].len(), 100) }
/// ```
///
/// The settings of a process are those of the first allocation.
#[derive(Clone, Copy, Debug)]
pub struct Guarded<A = System> {
    settings: Settings,
    below: A,
}

impl Guarded {
    /// One of `every` allocations is guarded, on average.
    pub const fn sampled(every: u32) -> Guarded {
        Guarded { settings: Settings::every(every), below: System }
    }

    /// Every allocation is guarded, as long as there is room.
    pub const fn all() -> Guarded {
        Guarded::sampled(1)
    }

    /// Over another allocator, which serves what is not guarded.
    ///
    /// ```
    /// use std::alloc::System;
    /// use vmalloc_guard::Guarded;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: Guarded<System> = Guarded::all().over(System);
    /// # fn main() { assert_eq!(vec![1; 100].len(), 100) }
    /// ```
    pub const fn over<B>(self, below: B) -> Guarded<B> {
        Guarded { settings: self.settings, below }
    }
}

impl<A> Guarded<A> {
    /// The most guarded allocations alive; the rest is the other allocator's.
    pub const fn live(mut self, most: usize) -> Guarded<A> {
        self.settings.live = most;
        self
    }

    /// Where the bytes lie in their pages.
    pub const fn side(mut self, side: Side) -> Guarded<A> {
        self.settings.side = side;
        self
    }

    /// Makes chance repeatable, for a program that does the same each time.
    pub const fn seed(mut self, seed: u64) -> Guarded<A> {
        self.settings.seed = Some(seed);
        self
    }

    /// Writes reports as JSON to the end of a file, rather than as text to stderr. `%p` is the process's
    /// number.
    pub const fn report(mut self, path: Path) -> Guarded<A> {
        self.settings.report = Some(path);
        self
    }

    /// Lists at the exit which guarded allocations are left, by who made them.
    pub const fn leaks(mut self) -> Guarded<A> {
        self.settings.leaks = true;
        self
    }

    /// Pages of freed allocations that stay out of use. They cost addresses, and no memory.
    pub const fn quarantine(mut self, pages: usize) -> Guarded<A> {
        self.settings.quarantine = pages;
        self
    }

    /// A guarded allocation, with clear bytes; `None` = the other allocator's.
    #[cold]
    #[inline(never)]
    fn guarded(&self, layout: Layout) -> Option<*mut u8> {
        if scratch::is_on() {
            return Some(scratch::alloc(layout));
        }
        let engine = process::due(|| self.settings)?;
        let want = Want { size: layout.size(), align: layout.align() };
        engine.alloc(want, Mark::here()).map(core::ptr::NonNull::as_ptr)
    }
}

/// Frees an address that may be owned: what cannot be freed ends the program.
#[cold]
#[inline(never)]
fn free(at: *mut u8) {
    if scratch::is_on() || process::is_crippled() {
        return;
    }
    let Some(engine) = process::engine() else { return };
    if let Err(finding) = engine.free(at.addr(), Mark::here()) {
        report::tell(&finding);
        fault::abort();
    }
}

// SAFETY: a guarded allocation is as large and as aligned as asked for, and its own until it is freed;
// all others are the other allocator's. Each gets its own back: what is owned is told by its address.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Guarded<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if here::is_due()
            && let Some(at) = self.guarded(layout)
        {
            return at;
        }
        // SAFETY: the caller's promise.
        unsafe { self.below.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if process::may_own(at.addr()) {
            return free(at);
        }
        // SAFETY: the caller's promise, and the other allocator made it.
        unsafe { self.below.dealloc(at, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if here::is_due()
            && let Some(at) = self.guarded(layout)
        {
            return at;
        }
        // SAFETY: the caller's promise.
        unsafe { self.below.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !process::may_own(at.addr()) && !here::is_due() {
            // SAFETY: the caller's promise, and the other allocator made it.
            return unsafe { self.below.realloc(at, layout, size) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.moved(at, layout, size) }
    }
}

impl<A: GlobalAlloc> Guarded<A> {
    /// An allocation that is guarded, or is about to be, moves.
    ///
    /// # Safety
    /// As for `realloc`.
    #[cold]
    unsafe fn moved(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: the size is none that overflows.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let new = self.guarded(wanted);
        if new.is_none() && !process::may_own(at.addr()) {
            // SAFETY: the caller's promise, and the other allocator made it.
            return unsafe { self.below.realloc(at, layout, size) };
        }
        // SAFETY: the caller's promise; two allocations do not overlap.
        unsafe {
            let new = new.unwrap_or_else(|| self.below.alloc(wanted));
            if !new.is_null() {
                new.copy_from_nonoverlapping(at, layout.size().min(size));
                self.dealloc(at, layout);
            }
            new
        }
    }
}
