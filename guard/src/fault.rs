//! Faults: our handler comes first, and the program's own after it.
//!
//! ```text
//!   SIGSEGV, SIGBUS ─▶ ours: is the address owned? a report ─▶ below: the program's own handler,
//!                                                             or death by the signal, core and all
//! ```
//!
//! # Rules
//! - **X1** Without an owned address nothing happens here, but that the program's own handler is called;
//!   or that a backtrace ends which was read from a stack that is none (`unwind.rs`).
//! - **X2** A signal that Linux would have killed the program for does so: the default is restored, and
//!   the faulting instruction runs again.
//! - **X3** There may be little stack, half of which Linux itself has filled: what tells of a fault is
//!   found out in the copy that writes the report.

use crate::actions::{below, by_default};
use crate::finding::Access;
use crate::process;
use crate::report::{self, Fault};
use crate::trace::{Mark, Registers};
use core::ffi::{c_int, c_void};
use libc::{SA_SIGINFO, SIG_DFL, SIG_IGN, SIGBUS, siginfo_t, ucontext_t};

/// A memory error that no instruction of this thread has met. Source: sigaction(2).
const BUS_MCEERR_AO: c_int = 5;

/// The address of our handler.
pub fn handler() -> usize {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_fault;
    handler as usize
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: Linux passes both.
    let (code, at, context) =
        unsafe { ((*info).si_code, (*info).si_addr().addr(), &mut *context.cast::<ucontext_t>()) };
    if code > 0 && is_of_a_walk(context) {
        return;
    }
    if code > 0 && process::may_own(at) {
        tell(at, context);
    }
    pass(signal, code, info, context);
}

/// Whether a backtrace has read what cannot be read: it goes on, without.
fn is_of_a_walk(context: &mut ucontext_t) -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::unwind::rescue(context);
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[cold]
#[inline(never)]
fn tell(at: usize, context: &ucontext_t) {
    let errno = crate::os::errno();
    let (by, access) = where_and_how(context);
    report::tell_fault(Fault::new(at, access, by));
    crate::os::set_errno(errno);
}

/// The program's own handler, or what Linux does without one.
fn pass(signal: c_int, code: c_int, info: *mut siginfo_t, context: &mut ucontext_t) {
    let (handler, flags) = below(signal).take();
    match handler {
        SIG_IGN if code <= 0 => (),
        SIG_DFL | SIG_IGN => end(signal, code),
        // SAFETY: the program has set it as a handler of this form; what is passed is Linux's.
        _ if flags & SA_SIGINFO != 0 => unsafe {
            core::mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut ucontext_t)>(handler)(
                signal, info, context,
            )
        },
        // SAFETY: as above.
        _ => unsafe { core::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal) },
    }
}

/// X2. A signal that somebody sent is sent again: there is no instruction that would.
#[cold]
fn end(signal: c_int, code: c_int) {
    by_default(signal);
    if code <= 0 || (signal, code) == (SIGBUS, BUS_MCEERR_AO) {
        // SAFETY: no pointers.
        unsafe { libc::raise(signal) };
    }
}

/// The program ends as the C library ends it for a free that it refuses.
pub fn abort() -> ! {
    // SAFETY: no arguments.
    unsafe { libc::abort() }
}

#[cfg(target_arch = "x86_64")]
fn where_and_how(context: &ucontext_t) -> (Registers, Access) {
    let registers = &context.uc_mcontext.gregs;
    // The error code of a page fault: bit 1 is a store. Source: SDM, volume 3, 4.7.
    let is_store = registers[libc::REG_ERR as usize] & 2 != 0;
    let register = |n: i32| registers[n as usize] as usize;
    let by = Registers { pc: register(libc::REG_RIP), sp: register(libc::REG_RSP), bp: register(libc::REG_RBP) };
    (by, if is_store { Access::Write } else { Access::Read })
}

#[cfg(target_arch = "aarch64")]
fn where_and_how(context: &ucontext_t) -> (Registers, Access) {
    let registers = &context.uc_mcontext;
    let by = Registers { pc: registers.pc as usize, sp: registers.sp as usize, bp: registers.regs[29] as usize };
    (by, Access::Unknown)
}

/// Unwinds once, so that what the unwinder prepares at its first call is prepared.
pub fn prime() {
    #[cfg(target_arch = "x86_64")]
    crate::unwind::prime();
    let _ = crate::trace::Trace::here(Mark::here());
}
