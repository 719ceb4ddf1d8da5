//! The calls that set a handler: what the program sets for a fault goes below the guard's handler. Sources:
//! sigaction(2), signal(2), bsd_signal(3), sysv_signal(3), sigset(3), siginterrupt(3), and what glibc does.

use crate::next::{SIGACTION, SIGIGNORE, SIGINTERRUPT, SIGNAL, SIGSET, SYSV_SIGNAL};
use core::ffi::c_int;
use core::mem::zeroed;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicBool, Ordering::*};
use guard::raw;
use libc::{SA_NODEFER, SA_RESETHAND, SA_RESTART, SIG_ERR, SIG_IGN, SIGBUS, sigaction as Action, sigset_t};

type Signal = unsafe extern "C" fn(c_int, usize) -> usize;
type Ignore = unsafe extern "C" fn(c_int) -> c_int;
type Interrupt = unsafe extern "C" fn(c_int, c_int) -> c_int;

/// What sigset(3) is told, and says, of a signal that is kept out.
const SIG_HOLD: usize = 2;
/// Whether siginterrupt(3) has been called for SIGSEGV and SIGBUS.
static INTERRUPTS: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

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

/// The same by another name.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { sigaction(signal, new, old) }
}

/// Sets a handler for one of our signals. Returns the one before.
///
/// # Safety
/// The handler is one.
unsafe fn set(signal: c_int, handler: usize, flags: c_int, is_kept_out: bool) -> usize {
    if handler == SIG_ERR {
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() = libc::EINVAL };
        return SIG_ERR;
    }
    // SAFETY: an action is plain numbers; the caller's promise.
    unsafe {
        let (mut new, mut old): (Action, Action) = (zeroed(), zeroed());
        new.sa_sigaction = handler;
        new.sa_flags = flags;
        if is_kept_out {
            libc::sigaddset(&mut new.sa_mask, signal);
        }
        if sigaction(signal, &new, &mut old) == 0 { old.sa_sigaction } else { SIG_ERR }
    }
}

fn interrupts(signal: c_int) -> &'static AtomicBool {
    &INTERRUPTS[(signal == SIGBUS) as usize]
}

/// See signal(2).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(signal: c_int, handler: usize) -> usize {
    // SAFETY: the form is signal's; the caller's promise.
    unsafe {
        if !raw::is_ours(signal) {
            return SIGNAL.get::<Signal>()(signal, handler);
        }
        let flags = if interrupts(signal).load(Relaxed) { 0 } else { SA_RESTART };
        set(signal, handler, flags, true)
    }
}

/// See bsd_signal(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bsd_signal(number: c_int, handler: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { signal(number, handler) }
}

/// The same by another name.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ssignal(number: c_int, handler: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { signal(number, handler) }
}

/// See sysv_signal(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sysv_signal(signal: c_int, handler: usize) -> usize {
    // SAFETY: the form is sysv_signal's; the caller's promise.
    unsafe {
        if !raw::is_ours(signal) {
            return SYSV_SIGNAL.get::<Signal>()(signal, handler);
        }
        set(signal, handler, SA_RESETHAND | SA_NODEFER, false)
    }
}

/// What `signal` is called in programs that ask for System V's or X/Open's.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sysv_signal(signal: c_int, handler: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { sysv_signal(signal, handler) }
}

/// See sigset(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigset(signal: c_int, handler: usize) -> usize {
    // SAFETY: the form is sigset's; the caller's promise.
    unsafe {
        if !raw::is_ours(signal) {
            return SIGSET.get::<Signal>()(signal, handler);
        }
        if handler == SIG_HOLD {
            return held(signal, libc::SIG_BLOCK, || handler_of(signal));
        }
        let before = set(signal, handler, 0, false);
        if before == SIG_ERR { before } else { held(signal, libc::SIG_UNBLOCK, || before) }
    }
}

/// Keeps a signal out, or lets it in. Returns [`SIG_HOLD`] if it was kept out, and `handler` if not.
fn held(signal: c_int, how: c_int, handler: impl FnOnce() -> usize) -> usize {
    // SAFETY: a set is plain bits.
    unsafe {
        let (mut only, mut was): (sigset_t, sigset_t) = (zeroed(), zeroed());
        libc::sigaddset(&mut only, signal);
        libc::pthread_sigmask(how, &only, &mut was);
        if libc::sigismember(&was, signal) == 1 { SIG_HOLD } else { handler() }
    }
}

fn handler_of(signal: c_int) -> usize {
    // SAFETY: an action is plain numbers, and the call fills it.
    unsafe {
        let mut now: Action = zeroed();
        if sigaction(signal, null(), &mut now) == 0 { now.sa_sigaction } else { SIG_ERR }
    }
}

/// See sigset(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigignore(signal: c_int) -> c_int {
    // SAFETY: the form is sigignore's; the caller's promise.
    unsafe {
        if !raw::is_ours(signal) {
            return SIGIGNORE.get::<Ignore>()(signal);
        }
        if set(signal, SIG_IGN, 0, false) == SIG_ERR { -1 } else { 0 }
    }
}

/// See siginterrupt(3).
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn siginterrupt(signal: c_int, is_wanted: c_int) -> c_int {
    // SAFETY: the form is siginterrupt's; an action is plain numbers, and the call fills it.
    unsafe {
        if !raw::is_ours(signal) {
            return SIGINTERRUPT.get::<Interrupt>()(signal, is_wanted);
        }
        let mut action: Action = zeroed();
        if sigaction(signal, null(), &mut action) != 0 {
            return -1;
        }
        interrupts(signal).store(is_wanted != 0, Relaxed);
        let others = action.sa_flags & !SA_RESTART;
        action.sa_flags = if is_wanted != 0 { others } else { others | SA_RESTART };
        sigaction(signal, &action, null_mut())
    }
}
