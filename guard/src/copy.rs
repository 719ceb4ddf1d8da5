//! A copy of the process, to write a report in.
//!
//! The program has failed, perhaps in the middle of its allocator, perhaps with little stack left. A
//! copy of it may do what it likes: its memory is its own, other threads are not in it, and if it fails
//! as well, or takes too long, the program dies no differently. The program waits for it meanwhile.
//! It is not told of its end: the copy has no signal to send.

use crate::aside;
use crate::os;
use crate::scratch;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

/// Bytes of stack: reading debug information takes some.
const STACK: usize = 8 << 20;
/// Seconds that a copy may take.
const PATIENCE: u32 = 60;

/// Runs `f` in a copy of the process. False if that could not be, or did not end well.
pub fn run(f: &dyn Fn()) -> bool {
    let Some(stack) = os::memory(STACK) else { return false };
    // SAFETY: the stack is as large as that. The copy gets a pointer to its own copy of `f`.
    unsafe {
        let copy = libc::clone(enter, stack.add(STACK).as_ptr().cast(), 0, (&raw const f).cast_mut().cast());
        let done = copy > 0 && ended_well(copy);
        libc::munmap(stack.as_ptr().cast(), STACK);
        done
    }
}

fn ended_well(copy: c_int) -> bool {
    let mut status = 0;
    // SAFETY: the status is writable.
    while unsafe { libc::waitpid(copy, &mut status, libc::__WALL) } != copy {
        if os::errno() != libc::EINTR {
            return false;
        }
    }
    status == 0
}

extern "C" fn enter(f: *mut c_void) -> c_int {
    scratch::begin();
    aside::inherit();
    // SAFETY: `run` passed it, and this is the copy's own.
    unsafe {
        undisturbed();
        (*f.cast::<&dyn Fn()>())();
        libc::_exit(0)
    }
}

/// The copy dies of what it does wrong, and of taking too long. It has every signal blocked but the one for
/// the latter (R1 of `report.rs`): the program's handlers are for the program. What cannot be blocked
/// kills it.
///
/// # Safety
/// This is the copy.
unsafe fn undisturbed() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGALRM] {
        crate::actions::by_default(signal);
    }
    // SAFETY: a set is plain bits, and the call fills it.
    unsafe {
        let mut alarm: libc::sigset_t = core::mem::zeroed();
        libc::sigaddset(&mut alarm, libc::SIGALRM);
        libc::sigprocmask(libc::SIG_UNBLOCK, &alarm, null_mut());
        // A core of the copy would lie over the program's.
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::alarm(PATIENCE);
    }
}
