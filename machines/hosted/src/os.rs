//! The calls to Linux, each with the one meaning that this machine needs.
//!
//! # Contract
//! - **O1** A call names addresses of a [`Mapping`] only, so that it replaces
//!   nothing that somebody else mapped.
//! - **O2** A range whose mapping is replaced is in use by nobody: the library
//!   binds clean pages only, and clears before it flushes.

use crate::process::Process;
use libc::c_int;
use std::alloc::{Layout, alloc_zeroed};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;
use vmalloc::machine::format::Prot;
use vmalloc::units::{PAGE_SIZE, PageRange};

/// Linux 6.13, for files since 6.15: accesses fault, without a VMA of its own.
const MADV_GUARD_INSTALL: c_int = 102;

/// The error number of the last call.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn done(result: c_int) -> Result<(), i32> {
    if result == 0 { Ok(()) } else { Err(errno()) }
}

fn placed(result: *mut libc::c_void) -> Result<NonNull<u8>, i32> {
    if result == libc::MAP_FAILED {
        return Err(errno());
    }
    result.expose_provenance();
    NonNull::new(result.cast()).ok_or(libc::EFAULT)
}

fn protection(prot: Prot) -> c_int {
    let bit = |p, bits| if prot.contains(p) { bits } else { 0 };
    libc::PROT_READ | bit(Prot::WRITE, libc::PROT_WRITE) | bit(Prot::EXEC, libc::PROT_EXEC)
}

fn pointer(range: PageRange) -> *mut libc::c_void {
    std::ptr::with_exposed_provenance_mut(range.start.0)
}

/// Addresses that this process gave to us, until the drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    /// Whose addresses they are.
    process: Process,
}

// SAFETY: it is a piece of address space; the pointer is what we got it as.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is reached through a `&Mapping` itself.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `bytes` of addresses, aligned to `align`, where every access faults.
    pub fn reserve(bytes: usize, align: usize) -> Result<Mapping, i32> {
        let wide = bytes.checked_add(align).ok_or(libc::ENOMEM)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED a mapping replaces nothing.
        let start = placed(unsafe { libc::mmap(null_mut(), wide, libc::PROT_NONE, flags, -1, 0) })?;
        let before = start.align_offset(align);
        // SAFETY: both are inside of what was just mapped, and so is what they leave.
        let start = unsafe {
            unmap(start, before);
            unmap(start.add(before + bytes), align - before);
            start.add(before)
        };
        Ok(Mapping { start, bytes, process: Process::this() })
    }

    /// All of `file`, in this process only: a child does not get the mapping,
    /// nor what is made from it by [`alias`].
    pub fn share(file: &OwnedFd, bytes: usize, access: c_int) -> Result<Mapping, i32> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED a mapping replaces nothing.
        let start = placed(unsafe { libc::mmap(null_mut(), bytes, access, flags, file.as_raw_fd(), 0) })?;
        let mapping = Mapping { start, bytes, process: Process::this() };
        // SAFETY: the range is ours.
        done(unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTFORK) })?;
        Ok(mapping)
    }

    /// The byte at `offset`.
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset < self.bytes, "{offset:#x} of {:#x}", self.bytes);
        // SAFETY: the callers stay inside.
        unsafe { self.start.add(offset) }
    }

    /// Whether this process is the one that has it.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.process.is_this()
    }

    /// The first address.
    pub fn start(&self) -> usize {
        self.start.addr().get()
    }

    /// The length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.process.is_this() {
            // SAFETY: ours, and the owner of the last pointer into it is gone.
            unsafe { unmap(self.start, self.bytes) }
        }
    }
}

/// # Safety
/// The range is the caller's, and nobody uses it again.
unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the caller's promise. Failing leaks addresses, no more.
        unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    }
}

/// A file of `bytes` bytes that exists in memory only. For a size beyond RLIMIT_FSIZE Linux would send
/// SIGXFSZ: EFBIG without a call ([`file_limit`]).
pub fn memory_file(bytes: usize) -> Result<OwnedFd, i32> {
    if bytes as u64 > file_limit() {
        return Err(libc::EFBIG);
    }
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"vmalloc".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = bytes.try_into().map_err(|_| libc::EFBIG)?;
    // SAFETY: plain call.
    done(unsafe { libc::ftruncate(fd, length) })?;
    Ok(file)
}

/// Lets Linux have the memory of a part of `file`, which reads as zeros from here on.
pub fn punch(file: &OwnedFd, offset: usize, bytes: usize) -> Result<(), i32> {
    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: it changes the file's bytes alone, which nobody has (K2).
    done(unsafe { libc::fallocate(file.as_raw_fd(), how, offset as libc::off_t, bytes as libc::off_t) })
}

/// The same by the mapping of the file: where a process may not change files.
pub fn remove(from: &Mapping, offset: usize, bytes: usize) -> Result<(), i32> {
    // SAFETY: the range is in the mapping, and nobody has its bytes (K2).
    done(unsafe { libc::madvise(from.at(offset).as_ptr().cast(), bytes, libc::MADV_REMOVE) })
}

/// Bytes of memory that Linux holds for `file`.
pub fn resident(file: &OwnedFd) -> Result<usize, i32> {
    // SAFETY: a status of zeros is one.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: it is writable.
    done(unsafe { libc::fstat(file.as_raw_fd(), &mut status) })?;
    // By POSIX's unit, whatever the file system's own.
    Ok(status.st_blocks as usize * 512)
}

/// The largest file that this process may make.
pub fn file_limit() -> u64 {
    limit(libc::RLIMIT_FSIZE)
}

/// Bytes of addresses that this process may have, if that is limited.
pub fn address_limit() -> Option<u64> {
    Some(limit(libc::RLIMIT_AS)).filter(|&limit| limit != libc::RLIM_INFINITY)
}

fn limit(of: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: it is writable.
    unsafe { libc::getrlimit(of, &mut limit) };
    limit.rlim_cur
}

/// Bytes of RAM and swap of this computer; `None` where Linux does not tell.
pub fn memory_and_swap() -> Option<u64> {
    // SAFETY: zeros are one, and it is writable.
    let (told, info) = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        (libc::sysinfo(&mut info), info)
    };
    (told == 0).then(|| (info.totalram + info.totalswap) * u64::from(info.mem_unit))
}

/// `count` zeros that no memory is taken for before they are written; `None` where there are no addresses for them.
pub fn zeros<T: Zero>(count: usize) -> Option<Box<[T]>> {
    let layout = Layout::array::<T>(count).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout is not of size 0.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) })?.cast();
    // SAFETY: it was allocated with the layout of this slice, whose zeros are values (T is Zero).
    Some(unsafe { Box::from_raw(NonNull::slice_from_raw_parts(start, count).as_ptr()) })
}

/// Types of which zero bytes are a value.
///
/// # Safety
/// They are.
pub unsafe trait Zero {}
// SAFETY: a number.
unsafe impl Zero for u32 {}
// SAFETY: a number.
unsafe impl Zero for u128 {}
// SAFETY: a number in memory.
unsafe impl Zero for AtomicU64 {}

/// Maps a part of `file` at `to` as `prot` says, at once: where Linux lets nothing become executable that was
/// not (PR_SET_MDWE). A fork in between gets it, too.
///
/// # Safety
/// O1 and O2 for `to`.
pub unsafe fn map(file: &OwnedFd, offset: usize, to: PageRange, prot: Prot) -> Result<(), i32> {
    let (flags, offset) = (libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED, offset as libc::off_t);
    // SAFETY: the caller's promise.
    placed(unsafe { libc::mmap(pointer(to), to.bytes(), protection(prot), flags, file.as_raw_fd(), offset) })?;
    // SAFETY: as above.
    done(unsafe { libc::madvise(pointer(to), to.bytes(), libc::MADV_DONTFORK) })
}

/// Maps at `to` what `from` maps from `offset` on, with `from`'s protection.
/// One call, and a child does not get it at any moment.
///
/// # Safety
/// O1 and O2 for `to`; the source range is inside `from`, a shared mapping.
pub unsafe fn alias(from: &Mapping, offset: usize, to: PageRange) -> Result<(), i32> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let source = from.at(offset).as_ptr().cast();
    // SAFETY: a length of 0 leaves the source as it is; O1, O2.
    placed(unsafe { libc::mremap(source, 0, to.bytes(), flags, pointer(to)) }).map(drop)
}

/// Lets nobody reach `range` again, and keeps the addresses.
///
/// # Safety
/// O1, O2.
pub unsafe fn reserve_again(range: PageRange) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    unsafe { none(range, libc::MAP_FIXED) }
}

/// Reserves `range` where a call that failed left a hole in the mapping.
///
/// # Safety
/// O1.
pub unsafe fn mend(range: PageRange) -> Result<(), i32> {
    // SAFETY: this never replaces anything.
    match unsafe { none(range, libc::MAP_FIXED_NOREPLACE) } {
        Err(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// # Safety
/// O1, O2, where `how` replaces.
unsafe fn none(range: PageRange, how: c_int) -> Result<(), i32> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | how;
    // SAFETY: the caller's promise.
    placed(unsafe { libc::mmap(pointer(range), range.bytes(), libc::PROT_NONE, flags, -1, 0) }).map(drop)
}

/// Lets `range` be used as `prot` says.
///
/// # Safety
/// O1, O2.
pub unsafe fn protect(range: PageRange, prot: Prot) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    done(unsafe { libc::mprotect(pointer(range), range.bytes(), protection(prot)) })
}

/// Makes each access to `range` fault, whatever its mapping allows.
///
/// # Safety
/// O1, O2.
pub unsafe fn install_guards(range: PageRange) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    done(unsafe { libc::madvise(pointer(range), range.bytes(), MADV_GUARD_INSTALL) })
}

/// Fills in the page tables now rather than by a fault a page. A hint.
pub fn populate(range: PageRange) {
    // SAFETY: this changes no byte and no mapping.
    unsafe { libc::madvise(pointer(range), range.bytes(), libc::MADV_POPULATE_READ) };
}

/// Time since some start.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whether a byte can be read, without reading it: a call that is handed the
/// address fails with EFAULT where a load would have faulted.
///
/// The answer holds for now. It takes a few system calls: for tests, and for
/// people who look around.
pub fn is_readable(at: *const u8) -> bool {
    let Ok(file) = memory_file(PAGE_SIZE) else { return false };
    // SAFETY: the kernel checks the address.
    unsafe { libc::pwrite(file.as_raw_fd(), at.cast(), 1, 0) == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc::units::VirtAddr;

    #[test]
    fn a_reservation_is_aligned_and_not_readable_and_goes_with_its_owner() {
        let area = Mapping::reserve(3 * PAGE_SIZE, 1 << 21).unwrap();
        assert_eq!((area.start() % (1 << 21), area.bytes()), (0, 3 * PAGE_SIZE));
        assert!(!is_readable(area.at(0).as_ptr()));
        let again = PageRange::new(VirtAddr(area.start()), 3);
        // SAFETY: O1; there is no hole.
        assert_eq!(unsafe { mend(again) }, Ok(()));
    }

    #[test]
    fn a_file_that_is_larger_than_files_may_be_is_refused() {
        assert_eq!(memory_file(usize::MAX).err(), Some(libc::EFBIG));
    }

    #[test]
    fn a_range_of_the_kernel_is_not_readable() {
        assert!(is_readable(&7));
        assert!(!is_readable(std::ptr::without_provenance(usize::MAX - 9)));
        assert!(!is_readable(std::ptr::null()));
    }
}
