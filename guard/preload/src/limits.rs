//! The calls by which a program allows itself less: the guard gives up what would be missed. Sources:
//! setrlimit(2), mlockall(2), prctl(2), seccomp(2).
//!
//! - Fewer addresses (RLIMIT_AS), or all of them locked: the window gets smaller.
//! - No call of Linux but to read, to write and to end (SECCOMP_MODE_STRICT): nothing is guarded any more, and
//!   the next allocator, which has seen little of the program's, gets memory while it may.

use crate::next::{self, MLOCKALL, PRCTL, PRLIMIT, SETRLIMIT};
use core::ffi::{c_int, c_ulong};
use guard::raw;
use libc::{PR_SET_SECCOMP, RLIMIT_AS, SECCOMP_MODE_STRICT, pid_t, rlimit};

/// What a limit is of.
type Resource = libc::__rlimit_resource_t;
type Set = unsafe extern "C" fn(Resource, *const rlimit) -> c_int;
type SetOf = unsafe extern "C" fn(pid_t, Resource, *const rlimit, *mut rlimit) -> c_int;
type Lock = unsafe extern "C" fn(c_int) -> c_int;
type Control = unsafe extern "C" fn(c_int, c_ulong, c_ulong, c_ulong, c_ulong) -> c_int;

/// A limit is about to be set.
///
/// # Safety
/// It is one, or null.
unsafe fn expect(resource: Resource, limit: *const rlimit) {
    // SAFETY: the caller's promise.
    if let Some(limit) = unsafe { limit.as_ref() }
        && resource == RLIMIT_AS
    {
        raw::limit_addresses(limit.rlim_cur as usize);
    }
}

/// See setrlimit(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setrlimit(resource: Resource, limit: *const rlimit) -> c_int {
    // SAFETY: the form is setrlimit's; the caller's promise.
    unsafe {
        expect(resource, limit);
        SETRLIMIT.get::<Set>()(resource, limit)
    }
}

/// The same by another name.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setrlimit64(resource: Resource, limit: *const rlimit) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { setrlimit(resource, limit) }
}

/// See prlimit(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prlimit(process: pid_t, resource: Resource, new: *const rlimit, old: *mut rlimit) -> c_int {
    // SAFETY: the form is prlimit's; the caller's promise.
    unsafe {
        if process == 0 || process == libc::getpid() {
            expect(resource, new);
        }
        PRLIMIT.get::<SetOf>()(process, resource, new, old)
    }
}

/// The same by another name.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prlimit64(process: pid_t, resource: Resource, new: *const rlimit, old: *mut rlimit) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { prlimit(process, resource, new, old) }
}

/// See mlockall(2). What may be locked is counted in addresses.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlockall(flags: c_int) -> c_int {
    raw::limit_addresses(0);
    // SAFETY: the form is mlockall's; the caller's promise.
    unsafe { MLOCKALL.get::<Lock>()(flags) }
}

/// See prctl(2). The C library declares it with as many arguments as there are, which is the same here.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prctl(what: c_int, first: c_ulong, second: c_ulong, third: c_ulong, fourth: c_ulong) -> c_int {
    if (what, first) == (PR_SET_SECCOMP, SECCOMP_MODE_STRICT as c_ulong) {
        raw::cripple();
        next::fill();
    }
    // SAFETY: the form is that of this function; the caller's promise.
    unsafe { PRCTL.get::<Control>()(what, first, second, third, fourth) }
}
