//! malloc and its family. Sources: malloc(3), posix_memalign(3), malloc_usable_size(3), as glibc has them.

use crate::next::{self, CALLOC, FREE, MALLOC, MEMALIGN, REALLOC, USABLE};
use core::ffi::c_int;
use core::ptr::null_mut;
use guard::raw;
use libc::{EINVAL, ENOMEM};

/// What every allocation is aligned to.
const ALIGN: usize = 16;
const PAGE: usize = 4096;
/// No allocation is larger.
const MOST: usize = isize::MAX as usize;

type Malloc = unsafe extern "C" fn(usize) -> *mut u8;
type Calloc = unsafe extern "C" fn(usize, usize) -> *mut u8;
/// The form of a function.
pub type Realloc = unsafe extern "C" fn(*mut u8, usize) -> *mut u8;
/// The form of a function.
pub type Free = unsafe extern "C" fn(*mut u8);
/// The form of a function.
pub type Usable = unsafe extern "C" fn(*mut u8) -> usize;

// SAFETY: the declaration is that of the C library.
unsafe extern "C" {
    static environ: *const *const u8;
}

/// Sets the error number.
pub fn fail(number: c_int) -> *mut u8 {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() = number };
    null_mut()
}

/// A guarded allocation, if one is due and can be had.
#[inline(always)]
fn guarded(size: usize, align: usize) -> *mut u8 {
    if raw::is_due() { due(size, align) } else { null_mut() }
}

/// The settings are in the environment, which is not there before the C library is ready, and may be
/// gone later.
#[cold]
#[inline(never)]
fn due(size: usize, align: usize) -> *mut u8 {
    // SAFETY: the C library's own, a pointer.
    if size > MOST || !raw::is_made() && unsafe { environ }.is_null() {
        return null_mut();
    }
    crate::signals::attend();
    raw::alloc(size, align)
}

/// See malloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> *mut u8 {
    let at = guarded(size, ALIGN);
    if !at.is_null() {
        return at;
    }
    // SAFETY: the form is malloc's.
    unsafe { MALLOC.get::<Malloc>()(size) }
}

/// See malloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut u8 {
    if raw::is_due()
        && let Some(bytes) = count.checked_mul(size)
    {
        let at = due(bytes, ALIGN);
        if !at.is_null() {
            return at;
        }
    }
    // SAFETY: the form is calloc's.
    unsafe { CALLOC.get::<Calloc>()(count, size) }
}

/// Whether `at`, if it was allocated, was by another allocator: the next one, or the C library.
#[inline(always)]
pub fn is_next(at: *mut u8) -> bool {
    !raw::may_own(at.addr()) && !next::is_first(at)
}

/// See malloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(at: *mut u8) {
    if raw::may_own(at.addr()) {
        // SAFETY: the caller's promise.
        return unsafe { raw::free(at) };
    }
    if !next::is_first(at) {
        // SAFETY: the form is free's, and the next allocator made it.
        unsafe { FREE.get::<Free>()(at) }
    }
}

/// `free` of C23. The C library's own would not know what is guarded.
///
/// # Safety
/// As for `free`; the size is what was asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(at: *mut u8, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { free(at) }
}

/// The same for what has an alignment.
///
/// # Safety
/// As for `free`; the numbers are what was asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(at: *mut u8, _align: usize, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { free(at) }
}

/// See malloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(at: *mut u8, size: usize) -> *mut u8 {
    if !is_next(at) || raw::is_due() {
        // SAFETY: the caller's promise.
        return unsafe { moved(at, size) };
    }
    // SAFETY: the form is realloc's, and the next allocator made it.
    unsafe { REALLOC.get::<Realloc>()(at, size) }
}

/// An allocation that is guarded, or is about to be, moves.
///
/// # Safety
/// As for `realloc`.
#[cold]
unsafe fn moved(at: *mut u8, size: usize) -> *mut u8 {
    let is_next = is_next(at);
    // SAFETY: the caller's promise: `at` is null, or lives; two allocations do not overlap.
    unsafe {
        if size == 0 && !at.is_null() && !is_next {
            free(at);
            return null_mut();
        }
        let new = if size == 0 { null_mut() } else { due(size, ALIGN) };
        if new.is_null() && is_next {
            return REALLOC.get::<Realloc>()(at, size);
        }
        let new = if new.is_null() { MALLOC.get::<Malloc>()(size) } else { new };
        if !new.is_null() && !at.is_null() {
            new.copy_from_nonoverlapping(at, malloc_usable_size(at).min(size));
            free(at);
        }
        new
    }
}

/// See malloc(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(at: *mut u8, count: usize, size: usize) -> *mut u8 {
    match count.checked_mul(size) {
        // SAFETY: the caller's promise.
        Some(bytes) => unsafe { realloc(at, bytes) },
        None => fail(ENOMEM),
    }
}

/// See posix_memalign(3). An alignment that is no power of two is rounded up, as glibc does.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut u8 {
    match align.checked_next_power_of_two() {
        // SAFETY: the caller's promise.
        Some(align) => unsafe { aligned(align.max(ALIGN), size) },
        None => fail(EINVAL),
    }
}

/// # Safety
/// `align` is a power of two.
unsafe fn aligned(align: usize, size: usize) -> *mut u8 {
    let at = guarded(size, align);
    if !at.is_null() {
        return at;
    }
    // SAFETY: the form is memalign's.
    unsafe { MEMALIGN.get::<Calloc>()(align, size) }
}

/// See posix_memalign(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { memalign(align, size) }
}

/// See posix_memalign(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(to: *mut *mut u8, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<usize>()) {
        return EINVAL;
    }
    // SAFETY: the alignment is a power of two; and the caller's promise.
    unsafe {
        let at = aligned(align.max(ALIGN), size);
        if at.is_null() {
            return ENOMEM;
        }
        to.write(at);
    }
    0
}

/// See posix_memalign(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valloc(size: usize) -> *mut u8 {
    // SAFETY: a page is a power of two.
    unsafe { aligned(PAGE, size) }
}

/// See posix_memalign(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pvalloc(size: usize) -> *mut u8 {
    match size.max(1).checked_next_multiple_of(PAGE) {
        // SAFETY: as above.
        Some(size) => unsafe { aligned(PAGE, size) },
        None => fail(ENOMEM),
    }
}

/// See malloc_usable_size(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(at: *mut u8) -> usize {
    if raw::may_own(at.addr()) {
        // SAFETY: the caller's promise.
        return unsafe { raw::size(at) };
    }
    if next::is_first(at) {
        return next::first_size(at);
    }
    // SAFETY: the form is malloc_usable_size's, and the next allocator made it.
    unsafe { USABLE.get::<Usable>()(at) }
}
