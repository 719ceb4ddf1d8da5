//! The calls to Linux, each with the one meaning that the guard needs. None allocates, and none
//! waits for anything but Linux.

use core::ffi::{c_int, c_void};
use core::ptr::{NonNull, null_mut};

/// Linux 6.13: pages lose their bytes, and each access faults.
const MADV_GUARD_INSTALL: c_int = 102;

/// The bytes of a page.
pub const PAGE: usize = vmalloc::units::PAGE_SIZE;

/// This thread's error number.
pub fn errno() -> c_int {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() }
}

/// Sets this thread's error number.
pub fn set_errno(number: c_int) {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() = number };
}

fn map(bytes: usize, protection: c_int) -> Option<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: without MAP_FIXED a mapping replaces nothing.
    let at = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { None } else { NonNull::new(at.cast()) }
}

/// `bytes` of addresses where every access faults.
pub fn reserve(bytes: usize) -> Option<NonNull<u8>> {
    map(bytes, libc::PROT_NONE)
}

/// `bytes` of clear memory.
pub fn memory(bytes: usize) -> Option<NonNull<u8>> {
    map(bytes, libc::PROT_READ | libc::PROT_WRITE)
}

/// Opens `bytes` from `at` on for loads and stores.
///
/// # Safety
/// They are the caller's, from [`reserve`].
pub unsafe fn open(at: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { libc::mprotect(at.as_ptr().cast(), bytes, libc::PROT_READ | libc::PROT_WRITE) == 0 }
}

/// Closes whole pages: their bytes are gone, and each access faults. False where Linux refuses.
///
/// # Safety
/// The pages are the caller's, and nobody uses them rightly.
pub unsafe fn close(at: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { libc::madvise(at.as_ptr().cast::<c_void>(), bytes, MADV_GUARD_INSTALL) == 0 }
}

/// Whether `bytes` from `at` on are to be in a core. Where Linux refuses, they stay as they are.
///
/// # Safety
/// The addresses are the caller's.
pub unsafe fn dump(at: usize, bytes: usize, is_wanted: bool) {
    let how = if is_wanted { libc::MADV_DODUMP } else { libc::MADV_DONTDUMP };
    // SAFETY: the caller's promise.
    unsafe { libc::madvise(core::ptr::with_exposed_provenance_mut(at), bytes, how) };
}

fn clock(which: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(which, &mut now) };
    now
}

/// Milliseconds since some start: a load, not a call.
pub fn now_ms() -> u64 {
    let now = clock(libc::CLOCK_MONOTONIC_COARSE);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// A number that is seldom the same twice.
pub fn chance() -> u64 {
    clock(libc::CLOCK_MONOTONIC).tv_nsec as u64 ^ (process() as u64) << 32
}

/// This thread, as Linux numbers it.
pub fn thread() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// This process.
pub fn process() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::getpid() as u32 }
}

/// Bytes of memory of the computer.
pub fn ram() -> usize {
    // SAFETY: it is plain numbers, and Linux fills it.
    let info = unsafe {
        let mut info: libc::sysinfo = core::mem::zeroed();
        libc::sysinfo(&mut info);
        info
    };
    (info.totalram as usize).saturating_mul(info.mem_unit as usize)
}

/// Writes all of `text`. What cannot be written is lost; returns whether all was written.
pub fn write(file: c_int, mut text: &[u8]) -> bool {
    while !text.is_empty() {
        // SAFETY: the bytes are the caller's.
        match unsafe { libc::write(file, text.as_ptr().cast(), text.len()) } {
            done @ 1.. => text = &text[done as usize..],
            _ if errno() == libc::EINTR => (),
            _ => return false,
        }
    }
    true
}

/// Lets other threads run.
pub fn yield_now() {
    // SAFETY: no arguments.
    unsafe { libc::sched_yield() };
}
