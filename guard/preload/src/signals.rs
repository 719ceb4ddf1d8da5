//! `sigaction` and `signal`: what the program sets for a fault goes below the guard's handler. Sources:
//! sigaction(2), signal(2).

use crate::next::{SIGACTION, SIGNAL};
use core::ffi::c_int;
use core::mem::zeroed;
use core::sync::atomic::{AtomicBool, Ordering::*};
use guard::raw;
use libc::sigaction as Action;

type Signal = unsafe extern "C" fn(c_int, usize) -> usize;

static ATTENDED: AtomicBool = AtomicBool::new(false);

/// The guard knows the next `sigaction`, and which code is its own.
pub fn attend() {
    if ATTENDED.load(Relaxed) {
        return;
    }
    raw::interposed(next_sigaction);
    raw::leave_out(own_code());
    ATTENDED.store(true, Relaxed);
}

/// The next library's.
///
/// # Safety
/// As for sigaction(2).
unsafe extern "C" fn next_sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    // SAFETY: the form is sigaction's; the caller's promise.
    unsafe { SIGACTION.get::<raw::SetHandler>()(signal, new, old) }
}

// SAFETY: the linker has both; their addresses alone are asked for.
unsafe extern "C" {
    static __ehdr_start: u8;
    static etext: u8;
}

/// From the start of this library to the end of its code, as the linker says.
fn own_code() -> core::ops::Range<usize> {
    let (start, end) = (&raw const __ehdr_start, &raw const etext);
    start.addr()..end.addr()
}

/// See sigaction(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    if !raw::is_ours(signal) {
        // SAFETY: the caller's promise.
        return unsafe { next_sigaction(signal, new, old) };
    }
    attend();
    // SAFETY: the caller's promise.
    unsafe { raw::set_below(signal, new, old) }
}

/// See signal(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(signal: c_int, handler: usize) -> usize {
    if !raw::is_ours(signal) {
        // SAFETY: the form is signal's; the caller's promise.
        return unsafe { SIGNAL.get::<Signal>()(signal, handler) };
    }
    attend();
    // SAFETY: an action is plain numbers; the caller's promise.
    unsafe {
        let (mut new, mut old): (Action, Action) = (zeroed(), zeroed());
        new.sa_sigaction = handler;
        new.sa_flags = libc::SA_RESTART;
        libc::sigaddset(&mut new.sa_mask, signal);
        let done = raw::set_below(signal, &new, &mut old);
        if done == 0 { old.sa_sigaction } else { libc::SIG_ERR }
    }
}
