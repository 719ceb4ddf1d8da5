//! `__register_atfork`, which is what `pthread_atfork` calls: whoever sets a handler of a fork before the first
//! allocation does not come before the guard. Source: the Linux Standard Base, `__register_atfork`.
//!
//! Before a fork handlers are called in the opposite order. The guard's, which stops all others that
//! allocate, has to be the last: another one may wait for a thread that allocates.

use crate::next::REGISTER_ATFORK;
use core::ffi::{c_int, c_void};
use guard::raw;

type Register = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, *mut c_void) -> c_int;

/// See pthread_atfork(3).
///
/// # Safety
/// As there; `module` is that of the caller.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __register_atfork(
    prepare: *mut c_void,
    parent: *mut c_void,
    child: *mut c_void,
    module: *mut c_void,
) -> c_int {
    raw::attend_forks();
    // SAFETY: the form is that of this function; the caller's promise.
    unsafe { REGISTER_ATFORK.get::<Register>()(prepare, parent, child, module) }
}
