//! CPUs of a process: the processor that a thread runs on, by its number.
//!
//! The library keeps chunks for each CPU and enters them by index. A thread asks Linux at each call
//! which processor it is on, which is a load where the C library has registered a restartable
//! sequence. So there is nothing to take at a thread's first call and nothing to give back at its
//! end: it works before `main`, in a child after a fork, and while a thread's own values are being
//! dropped. A thread may be moved to another processor in the middle of a call. It then holds its
//! old index a little longer, and others that find it taken go on to the next.
//!
//! A thread counts how deep it is pinned, so that a signal handler knows that it is in the middle of
//! a call. The counter has neither an initialiser nor a destructor.

use core::cell::Cell;
use core::sync::atomic::{Ordering, compiler_fence};
use vmalloc::machine::Pinned;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// This thread is pinned, once more, before anything that the call does.
#[inline]
pub fn enter() {
    // `LocalKey::set` is a call; this is an addition.
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    compiler_fence(Ordering::SeqCst);
}

/// The youngest pin ends, after all that the call did.
#[inline]
pub fn leave() {
    compiler_fence(Ordering::SeqCst);
    DEPTH.with(|depth| depth.set(depth.get() - 1));
}

/// Whether this thread was pinned when it was pinned last.
#[inline]
pub fn is_nested() -> bool {
    DEPTH.get() > 1
}

/// Calls `f` as a call, in the middle of which a signal handler is nested; and says whether this one is.
pub fn pinned<R>(f: impl FnOnce(bool) -> R) -> R {
    enter();
    let result = f(is_nested());
    leave();
    result
}

/// A number that no other thread has while this one lives; in the child of a fork it is the same.
pub fn thread() -> usize {
    DEPTH.with(|depth| core::ptr::from_ref(depth).addr())
}

/// The index to try first.
#[inline]
pub fn first(cpus: u32) -> Pinned {
    // SAFETY: no arguments.
    let processor = unsafe { libc::sched_getcpu() } as u32;
    // A division costs more than all else here.
    Pinned { cpu: if processor < cpus { processor } else { processor % cpus }, saved: 0 }
}

/// The index to try after `was`; after each whole round others get a turn.
pub fn next(was: Pinned, cpus: u32) -> Pinned {
    let tried = was.saved + 1;
    if tried.is_multiple_of(cpus as usize) {
        yield_now();
    }
    Pinned { cpu: (was.cpu + 1) % cpus, saved: tried }
}

/// Lets another thread run.
pub fn yield_now() {
    // SAFETY: no arguments.
    unsafe { libc::sched_yield() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_finds_its_index_taken_tries_each_other_one() {
        let mut at = first(5);
        let mut seen = [false; 5];
        for _ in 0..5 {
            seen[at.cpu as usize] = true;
            at = next(at, 5);
        }
        assert_eq!((seen, at.saved), ([true; 5], 5));
    }

    #[test]
    fn a_call_in_the_middle_of_a_call_is_nested() {
        enter();
        assert!(!is_nested());
        enter();
        assert!(is_nested());
        leave();
        leave();
        assert!(!is_nested());
    }
}
