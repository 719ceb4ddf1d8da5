//! The calls to Linux, each with the one meaning that the guard needs. None allocates, and none
//! waits for anything but Linux.

use core::ffi::{CStr, c_int, c_void};
use core::ops::Range;
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

/// The signals that a thread keeps out.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl Mask {
    /// None.
    pub const fn none() -> Mask {
        // SAFETY: a set is plain bits.
        Mask(unsafe { core::mem::zeroed() })
    }

    /// Keeps every signal out of this thread; returns which it kept out before.
    pub fn block_all() -> Mask {
        let (mut all, mut was) = (Mask::none(), Mask::none());
        // SAFETY: both are writable.
        unsafe {
            libc::sigfillset(&mut all.0);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all.0, &mut was.0);
        }
        was
    }

    /// Keeps these out of this thread, and no others.
    pub fn set(&self) {
        // SAFETY: it is a set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, null_mut()) };
    }

    /// Those that wait until this thread lets them in.
    pub fn waiting() -> Mask {
        let mut waiting = Mask::none();
        // SAFETY: it is writable.
        unsafe { libc::sigpending(&mut waiting.0) };
        waiting
    }

    /// Those that this thread keeps out.
    pub fn now() -> Mask {
        let mut now = Mask::none();
        // SAFETY: it is writable, and nothing is set.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, core::ptr::null(), &mut now.0) };
        now
    }

    /// Whether `signal` is one of them.
    pub fn has(&self, signal: c_int) -> bool {
        // SAFETY: it is a set.
        unsafe { libc::sigismember(&self.0, signal) == 1 }
    }
}

/// Takes a signal that waits, as if it had never come.
pub fn forget_signal(signal: c_int) {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set is a set, and this time is no time.
    unsafe {
        let mut only = Mask::none();
        libc::sigaddset(&mut only.0, signal);
        libc::sigtimedwait(&only.0, null_mut(), &now);
    }
}

/// Whether a call that writes or waits may end this thread (`pthread_setcancelstate`); returns what was.
pub fn set_cancel(state: c_int) -> c_int {
    // SAFETY: the declaration is that of the C library.
    unsafe extern "C" {
        fn pthread_setcancelstate(state: c_int, was: *mut c_int) -> c_int;
    }
    let mut was = state;
    // SAFETY: it is writable.
    unsafe { pthread_setcancelstate(state, &mut was) };
    was
}

/// No call ends this thread.
pub const CANCEL_DISABLE: c_int = 1;

/// The word at `at`, wherever that is. Linux is asked, so that nothing faults.
pub fn peek(at: usize) -> Option<usize> {
    let mut word = 0usize;
    let to = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size_of::<usize>() };
    let from = libc::iovec { iov_base: core::ptr::without_provenance_mut(at), iov_len: size_of::<usize>() };
    // SAFETY: Linux writes a word, and reads what it can.
    let got = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) };
    (got == size_of::<usize>() as isize).then_some(word)
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

/// The first bytes of a file, as many as there is room for; none if it cannot be read. The calls are Linux's
/// own: those of the C library may end a thread (`pthread_cancel`), which an allocation must not.
pub fn contents<'r>(path: &CStr, room: &'r mut [u8]) -> &'r [u8] {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string, and Linux writes no more than there is room for.
    let got = unsafe {
        let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags);
        let got = libc::syscall(libc::SYS_read, file, room.as_mut_ptr(), room.len());
        libc::syscall(libc::SYS_close, file);
        got
    };
    &room[..got.max(0) as usize]
}

/// A file to write to the end of, made if there is none. A pipe that nobody reads is none.
pub fn open_end(path: &CStr) -> Option<c_int> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: the path is a C string. What may wait is `write`.
    let file = unsafe { libc::open(path.as_ptr(), flags | libc::O_NONBLOCK, 0o644) };
    // SAFETY: no pointers.
    unsafe { libc::fcntl(file, libc::F_SETFL, libc::O_APPEND) };
    (file >= 0).then_some(file)
}

/// Which file a descriptor is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    /// Its device.
    pub device: u64,
    /// Its number there.
    pub number: u64,
}

/// The file of a descriptor; `None` if it is not open.
pub fn file(descriptor: c_int) -> Option<File> {
    told(descriptor).map(|told| File { device: told.st_dev, number: told.st_ino })
}

fn told(descriptor: c_int) -> Option<libc::stat> {
    // SAFETY: it is plain numbers, and Linux fills it.
    unsafe {
        let mut told: libc::stat = core::mem::zeroed();
        (libc::fstat(descriptor, &mut told) == 0).then_some(told)
    }
}

/// A second descriptor of the same file, with `least` or a higher number, closed by exec(2).
pub fn second(descriptor: c_int, least: c_int) -> Option<c_int> {
    // SAFETY: no pointers.
    let second = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, least) };
    (second >= 0).then_some(second)
}

/// Gives addresses back.
///
/// # Safety
/// They are the caller's, and nobody uses them.
pub unsafe fn release(at: Range<usize>) {
    // SAFETY: the caller's promise. Of none Linux says EINVAL.
    unsafe { libc::munmap(core::ptr::with_exposed_provenance_mut(at.start), at.len()) };
}

/// Milliseconds that a pipe may be full.
const PATIENCE: c_int = 5000;

/// Writes all of `text`. What cannot be written is lost; returns whether all was written. A file gets it in one
/// piece; a pipe that is full for long, since who reads it waits for the program's end, gets no more.
pub fn write(file: c_int, mut text: &[u8]) -> bool {
    while !text.is_empty() {
        let piece = if is_regular(file) { text } else { &text[..text.len().min(libc::PIPE_BUF)] };
        if !has_room(file) {
            return false;
        }
        // SAFETY: the bytes are the caller's.
        match unsafe { libc::write(file, piece.as_ptr().cast(), piece.len()) } {
            done @ 1.. => text = &text[done as usize..],
            _ if matches!(errno(), libc::EINTR | libc::EAGAIN) => (),
            _ => return false,
        }
    }
    true
}

fn is_regular(file: c_int) -> bool {
    told(file).is_some_and(|told| told.st_mode & libc::S_IFMT == libc::S_IFREG)
}

/// Whether a write of a piece would not wait, now or after a while.
fn has_room(file: c_int) -> bool {
    let mut asked = libc::pollfd { fd: file, events: libc::POLLOUT, revents: 0 };
    // SAFETY: it is one, and writable.
    unsafe { libc::poll(&mut asked, 1, PATIENCE) != 0 }
}

/// Lets other threads run.
pub fn yield_now() {
    // SAFETY: no arguments.
    unsafe { libc::sched_yield() };
}
