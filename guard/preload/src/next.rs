//! The next allocator: each function by its address, which is at first that of a function that looks
//! it up.
//!
//! ```text
//!   malloc() ─▶ MALLOC ─▶ first_malloc: look all up ─▶ MALLOC
//!                    └──▶ the next one's malloc
//! ```
//!
//! What allocates while the lookup is going on (the dynamic linker, to note an error) gets memory from
//! [`FIRST`].

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_uint, c_ulong, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};
use libc::rlimit;

/// Bytes for what allocates before there is a next allocator.
const FIRST_BYTES: usize = 1 << 16;

#[repr(align(64))]
struct First(UnsafeCell<[u8; FIRST_BYTES]>);

// SAFETY: each byte is given out once.
unsafe impl Sync for First {}

static FIRST: First = First(UnsafeCell::new([0; FIRST_BYTES]));
static USED: AtomicUsize = AtomicUsize::new(0);
/// Whether a lookup is going on.
static LOOKING: AtomicBool = AtomicBool::new(false);

/// Clear memory that is never given back.
fn first(size: usize) -> *mut u8 {
    let start = USED.fetch_add(size.saturating_add(16).next_multiple_of(16), Relaxed) + 16;
    match start.checked_add(size) {
        // SAFETY: it is inside, and nobody else's.
        Some(end) if end <= FIRST_BYTES => unsafe {
            let at = FIRST.0.get().cast::<u8>().add(start);
            at.sub(8).cast::<usize>().write(size);
            at
        },
        _ => null_mut(),
    }
}

/// Whether `at` was given out by [`first`].
#[inline(always)]
pub fn is_first(at: *mut u8) -> bool {
    at.addr().wrapping_sub(FIRST.0.get().addr()) < FIRST_BYTES
}

/// The bytes of what [`first`] gave out.
pub fn first_size(at: *mut u8) -> usize {
    // SAFETY: `first` wrote it.
    unsafe { at.sub(8).cast::<usize>().read() }
}

/// A function of the next allocator.
pub struct Next(AtomicPtr<c_void>, &'static CStr);

impl Next {
    /// Its address, as a function of this form.
    ///
    /// # Safety
    /// `F` is a pointer to a function of the form that it has.
    #[inline(always)]
    pub unsafe fn get<F: Copy>(&self) -> F {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let at = self.0.load(Relaxed);
        // SAFETY: the caller's promise; a function's address has the size of a pointer.
        unsafe { core::mem::transmute_copy(&at) }
    }

    fn look_up(&self) {
        // SAFETY: the name is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.1.as_ptr()) };
        if !found.is_null() {
            self.0.store(found, Relaxed);
        }
    }
}

/// Bytes that an allocator of the C library has at hand, more or less, once it was used.
const AT_HAND: usize = 100 << 10;

/// The next allocator asks Linux for memory now rather than later.
pub fn fill() {
    // SAFETY: the forms are malloc's and free's; what was allocated is freed once.
    unsafe {
        let malloc = MALLOC.get::<unsafe extern "C" fn(usize) -> *mut u8>();
        let free = FREE.get::<unsafe extern "C" fn(*mut u8)>();
        free(malloc(AT_HAND));
    }
}

macro_rules! next {
    ($($name:ident = $symbol:literal, $first:ident($($arg:ident: $type:ty),*) -> $result:ty, $meanwhile:expr;)*) => {
        $(
            #[doc = concat!("The next `", stringify!($first), "`.")]
            pub static $name: Next = Next(AtomicPtr::new($first as *mut c_void), $symbol);

            unsafe extern "C" fn $first($($arg: $type),*) -> $result {
                if !look_up() {
                    return $meanwhile;
                }
                // SAFETY: the form is that of this function.
                let next: unsafe extern "C" fn($($type),*) -> $result = unsafe { $name.get() };
                if core::ptr::fn_addr_eq(next, $first as unsafe extern "C" fn($($type),*) -> $result) {
                    return $meanwhile;
                }
                // SAFETY: the caller's promise.
                unsafe { next($($arg),*) }
            }
        )*

        /// Looks everything up, if that is not going on.
        pub fn attend() {
            look_up();
        }

        /// Looks everything up; false if that is going on.
        fn look_up() -> bool {
            if LOOKING.swap(true, Acquire) {
                return false;
            }
            $($name.look_up();)*
            LOOKING.store(false, Release);
            true
        }
    };
}

next! {
    MALLOC = c"malloc", malloc(size: usize) -> *mut u8, first(size);
    CALLOC = c"calloc", calloc(count: usize, size: usize) -> *mut u8, first(count.saturating_mul(size));
    REALLOC = c"realloc", realloc(_at: *mut u8, size: usize) -> *mut u8, first(size);
    FREE = c"free", free(_at: *mut u8) -> (), Default::default();
    MEMALIGN = c"memalign", memalign(_align: usize, _size: usize) -> *mut u8, null_mut();
    USABLE = c"malloc_usable_size", usable(_at: *mut u8) -> usize, 0;
    SIGACTION = c"sigaction",
        sigaction(_signal: c_int, _new: *const libc::sigaction, _old: *mut libc::sigaction) -> c_int, -1;
    SIGNAL = c"signal", signal(_signal: c_int, _handler: usize) -> usize, libc::SIG_ERR;
    SYSV_SIGNAL = c"__sysv_signal", sysv_signal(_signal: c_int, _handler: usize) -> usize, libc::SIG_ERR;
    SIGSET = c"sigset", sigset(_signal: c_int, _handler: usize) -> usize, libc::SIG_ERR;
    SIGIGNORE = c"sigignore", sigignore(_signal: c_int) -> c_int, -1;
    SETRLIMIT = c"setrlimit", setrlimit(_resource: c_uint, _limit: *const rlimit) -> c_int, -1;
    PRLIMIT = c"prlimit",
        prlimit(_process: c_int, _resource: c_uint, _new: *const rlimit, _old: *mut rlimit) -> c_int, -1;
    MLOCKALL = c"mlockall", mlockall(_flags: c_int) -> c_int, -1;
    PRCTL = c"prctl",
        prctl(_what: c_int, _first: c_ulong, _second: c_ulong, _third: c_ulong, _fourth: c_ulong) -> c_int, -1;
    REGISTER_ATFORK = c"__register_atfork", register_atfork(
        _prepare: *mut c_void, _parent: *mut c_void, _child: *mut c_void, _module: *mut c_void
    ) -> c_int, libc::ENOMEM;
    SIGINTERRUPT = c"siginterrupt", siginterrupt(_signal: c_int, _is_wanted: c_int) -> c_int, -1;
}
