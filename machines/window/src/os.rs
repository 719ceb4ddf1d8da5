//! The calls to Linux, each with the one meaning that this machine needs. None allocates.
//!
//! # Contract
//! - **O1** A call names addresses of a reservation of ours only, so that it changes nothing that
//!   somebody else mapped.
//! - **O2** Pages that lose their bytes are in use by nobody: the library clears an area's entries
//!   before it names its pages here.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::{NonNull, null_mut};
use vmalloc::machine::format::Prot;
use vmalloc::units::{PAGE_SIZE, PageRange};

/// Linux 6.13: pages lose their bytes, and each access faults. It costs no mapping.
const MADV_GUARD_INSTALL: c_int = 102;
/// Linux 6.13: the opposite. Pages without a guard stay as they are.
const MADV_GUARD_REMOVE: c_int = 103;
/// Linux 5.18: as MADV_DONTNEED, for locked memory too.
const MADV_DONTNEED_LOCKED: c_int = 24;

/// The protection of pages that nobody may reach.
pub const CLOSED: c_int = libc::PROT_NONE;
/// The protection of open pages.
pub const OPEN: c_int = libc::PROT_READ | libc::PROT_WRITE;

fn errno() -> i32 {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() }
}

fn done(result: c_int) -> Result<(), i32> {
    if result == 0 { Ok(()) } else { Err(errno()) }
}

fn pointer(range: PageRange) -> *mut c_void {
    core::ptr::with_exposed_provenance_mut(range.start.0)
}

/// The bits of a live page's protection.
pub fn protection(prot: Prot) -> c_int {
    let bit = |p, bits| if prot.contains(p) { bits } else { 0 };
    libc::PROT_READ | bit(Prot::WRITE, libc::PROT_WRITE) | bit(Prot::EXEC, libc::PROT_EXEC)
}

/// `bytes` of private addresses, aligned to `align`, where every access faults.
pub fn reserve(bytes: usize, align: usize) -> Result<NonNull<u8>, i32> {
    let wide = bytes.checked_add(align).ok_or(libc::ENOMEM)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: without MAP_FIXED a mapping replaces nothing.
    let start = unsafe { libc::mmap(null_mut(), wide, CLOSED, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(errno());
    }
    start.expose_provenance();
    let start = NonNull::new(start.cast::<u8>()).ok_or(libc::EFAULT)?;
    let before = start.align_offset(align);
    // SAFETY: all of it is inside of what was just mapped.
    unsafe {
        release(start, before);
        release(start.add(before + bytes), align - before);
        Ok(start.add(before))
    }
}

/// Gives addresses back.
///
/// # Safety
/// O1, and nobody uses them again.
pub unsafe fn release(start: NonNull<u8>, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the caller's promise. Failing leaks addresses, no more.
        unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    }
}

/// Changes the protection of `range`.
///
/// # Safety
/// O1.
pub unsafe fn protect(range: PageRange, bits: c_int) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    done(unsafe { libc::mprotect(pointer(range), range.bytes(), bits) })
}

/// Takes the bytes of `range` away, and makes each access fault, whatever its protection.
///
/// # Safety
/// O1, O2.
pub unsafe fn install_guards(range: PageRange) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    done(unsafe { libc::madvise(pointer(range), range.bytes(), MADV_GUARD_INSTALL) })
}

/// Lets `range` be reached as its protection says. Its pages are clear where they had a guard.
///
/// # Safety
/// O1.
pub unsafe fn remove_guards(range: PageRange) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    done(unsafe { libc::madvise(pointer(range), range.bytes(), MADV_GUARD_REMOVE) })
}

/// Takes the bytes of `range` away, also where it is locked.
///
/// # Safety
/// O1, O2.
pub unsafe fn discard(range: PageRange) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    let advise = |how| done(unsafe { libc::madvise(pointer(range), range.bytes(), how) });
    advise(MADV_DONTNEED_LOCKED).or_else(|_| advise(libc::MADV_DONTNEED))
}

/// The first page of `range` that has memory: all of them if Linux does not tell.
pub fn first_resident(range: PageRange) -> Option<usize> {
    let mut first = 0;
    for some in range.slices(512) {
        let mut pages = [0u8; 512];
        // SAFETY: it changes nothing in the range, and there is a byte for each page.
        if unsafe { libc::mincore(pointer(some), some.bytes(), pages.as_mut_ptr()) } != 0 {
            return Some(first);
        }
        match pages[..some.pages].iter().position(|page| page & 1 != 0) {
            Some(page) => return Some(first + page),
            None => first += some.pages,
        }
    }
    None
}

/// Keeps huge pages out of `range`: a touch of one page shall cost one page.
///
/// # Safety
/// O1.
pub unsafe fn small_pages(range: PageRange) {
    // SAFETY: the caller's promise. Linux may be built without huge pages, and refuses then.
    unsafe { libc::madvise(pointer(range), range.bytes(), libc::MADV_NOHUGEPAGE) };
}

/// Whether Linux has guards (6.13), by trying one on a page that is not locked.
pub fn has_guards() -> bool {
    let Ok(start) = reserve(PAGE_SIZE, PAGE_SIZE) else { return false };
    let page = PageRange::new(vmalloc::units::VirtAddr(start.addr().get()), 1);
    // SAFETY: O1, O2: the page is ours, and nobody else knows it.
    unsafe {
        libc::munlock(pointer(page), page.bytes());
        let works = install_guards(page).is_ok();
        release(start, PAGE_SIZE);
        works
    }
}

/// Time since some start.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Processors that this process may run on; 1 where Linux does not tell.
pub fn processors() -> u32 {
    // SAFETY: a set is plain bits, and Linux writes no more than its size.
    unsafe {
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        match libc::sched_getaffinity(0, size_of_val(&set), &mut set) {
            0 => libc::CPU_COUNT(&set).max(1) as u32,
            _ => 1,
        }
    }
}

/// Bytes of memory of the computer.
pub fn memory() -> usize {
    // SAFETY: it is plain numbers, and Linux fills it.
    let info = unsafe {
        let mut info: libc::sysinfo = core::mem::zeroed();
        libc::sysinfo(&mut info);
        info
    };
    (info.totalram as usize).saturating_mul(info.mem_unit as usize)
}

/// Calls `f` with the pieces of a file. The calls are Linux's own: those of the C library may end a thread
/// (`pthread_cancel`), which an allocation must not.
fn read(path: &CStr, mut f: impl FnMut(&[u8])) {
    let mut buffer = [0u8; 4096];
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string, and Linux writes no more than the buffer's length.
    unsafe {
        let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags);
        while let got @ 1.. = libc::syscall(libc::SYS_read, file, buffer.as_mut_ptr(), buffer.len()) {
            f(&buffer[..got as usize]);
        }
        libc::syscall(libc::SYS_close, file);
    }
}

/// The mappings that the process has now; 0 where nobody tells.
pub fn mappings() -> usize {
    let mut lines = 0;
    read(c"/proc/self/maps", |text| lines += text.iter().filter(|&&b| b == b'\n').count());
    lines
}

/// The mappings that a process may have (`vm.max_map_count`).
pub fn most_mappings() -> Option<usize> {
    let mut number = None;
    let digit = |n: usize, b: &u8| n.saturating_mul(10).saturating_add((b - b'0') as usize);
    read(c"/proc/sys/vm/max_map_count", |text| {
        number = Some(text.iter().take_while(|b| b.is_ascii_digit()).fold(0, digit));
    });
    number
}

/// Writes to stderr. What cannot be written is lost. As in [`read`], the call is Linux's own.
pub fn complain(text: &[u8]) {
    // SAFETY: the bytes are the caller's.
    unsafe { libc::syscall(libc::SYS_write, libc::STDERR_FILENO, text.as_ptr(), text.len()) };
}

/// The name of an error number that these calls return.
pub fn name(number: i32) -> &'static str {
    match number {
        libc::ENOMEM => "ENOMEM, no memory or too many mappings",
        libc::EINVAL => "EINVAL, not possible for these pages",
        libc::EAGAIN => "EAGAIN, more locked memory than allowed",
        libc::EACCES => "EACCES, not permitted",
        libc::EPERM => "EPERM, not permitted",
        libc::EDQUOT => "EDQUOT, the budget of mappings is spent",
        libc::EFAULT => "EFAULT, outside of the window",
        _ => "see errno(3)",
    }
}
