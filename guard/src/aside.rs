//! A stack of the guard's own, for what needs more than the program's may have: that may be one of a signal
//! handler or of a coroutine, with two thousand bytes left.
//!
//! No signal is delivered to who is on it: a handler may look where its thread's stack is, as garbage collectors
//! do. There is one such stack. Whoever finds it taken waits for a while, for many threads with small stacks may
//! begin at once, and then stays on its own: a copy of the process may have nobody left to give it back.

use crate::os::{self, Mask};
use core::ffi::c_void;
use lock_api::MutexGuard;
use vmalloc_window::RawLock;

const BYTES: usize = 64 << 10;
/// Turns of others before who waits does not any more: some milliseconds. Work takes some microseconds.
const PATIENCE: usize = 1 << 14;

#[repr(align(4096))]
struct Stack([u8; BYTES]);

static STACK: lock_api::Mutex<RawLock, Stack> =
    lock_api::Mutex::const_new(<RawLock as lock_api::RawMutex>::INIT, Stack([0; BYTES]));

type Work<'w> = &'w mut dyn FnMut();

/// The stack is this thread's, and no signal comes to it: one whose handler jumps away would leave it taken for
/// ever. Returns which signals were kept out before.
fn take() -> Option<(MutexGuard<'static, RawLock, Stack>, Mask)> {
    for _ in 0..PATIENCE {
        let was = Mask::block_all();
        if let Some(stack) = STACK.try_lock() {
            return Some((stack, was));
        }
        was.set();
        os::yield_now();
    }
    None
}

/// In a copy of the process: whoever had it is not there, for a thread that has it makes none.
pub fn inherit() {
    if STACK.is_locked() {
        // SAFETY: there is one thread, and it does not have it.
        unsafe { STACK.force_unlock() };
    }
}

/// Calls `work`, which must not come back here.
pub fn run(mut work: Work<'_>) {
    let Some((mut stack, was)) = take() else { return work() };
    let top = stack.0.as_mut_ptr_range().end;
    // SAFETY: the stack is this thread's as long as it holds the lock, and has an aligned end. What is called
    // gets what it expects, and returns.
    unsafe {
        core::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {call}",
            "mov rsp, r12",
            top = in(reg) top,
            call = sym call,
            in("rdi") (&raw mut work).cast::<c_void>(),
            out("r12") _,
            clobber_abi("C"),
        );
    }
    drop(stack);
    was.set();
}

/// # Safety
/// `run` passed it.
unsafe extern "C" fn call(work: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { (*work.cast::<Work<'_>>())() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_on_another_stack_and_where_that_is_taken_on_its_own() {
        let here = || {
            let local = 0u8;
            core::hint::black_box(&raw const local).addr()
        };
        let own = here();
        let mut at = [0; 2];
        run(&mut || {
            at[0] = here();
            run(&mut || at[1] = here());
        });
        let is_aside = |at: usize| (STACK.data_ptr().addr()..STACK.data_ptr().addr() + BYTES).contains(&at);
        assert_eq!((is_aside(at[0]), is_aside(at[1]), is_aside(own)), (true, true, false));
        assert!(!STACK.is_locked());
    }
}
