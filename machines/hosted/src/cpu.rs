//! CPUs of a process: an index a thread, not a processor.
//!
//! The library keeps stocks for each CPU and enters them by index. A thread
//! has an index that it prefers; where it finds another thread inside, it
//! moves on to the next index and prefers that one from then on. So threads
//! spread over the indices, and nobody waits while an index is free.
//!
//! A thread counts how deep it is pinned, so that a signal handler knows that it is
//! in the middle of a call. The counter has neither an initialiser to run nor a
//! destructor, so a handler may read it at any time.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering, Ordering::Relaxed, compiler_fence};
use std::thread;
use vmalloc::machine::{Context, Pinned};

/// The index that the next new thread prefers.
static NEXT: AtomicU32 = AtomicU32::new(0);

const UNKNOWN: u32 = u32::MAX;

thread_local! {
    static PREFERRED: Cell<u32> = const { Cell::new(UNKNOWN) };
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// This thread is pinned, once more, before anything that the call does.
#[inline]
pub fn enter() {
    DEPTH.set(DEPTH.get() + 1);
    compiler_fence(Ordering::SeqCst);
}

/// The youngest pin ends, after all that the call did.
#[inline]
pub fn leave() {
    compiler_fence(Ordering::SeqCst);
    DEPTH.set(DEPTH.get() - 1);
}

/// Whether this thread was pinned when it was pinned last.
#[inline]
pub fn is_nested() -> bool {
    DEPTH.get() > 1
}

/// Makes this thread prefer the index `cpu`, of any instance (counted round
/// where the instance has fewer).
pub fn prefer(cpu: u32) {
    PREFERRED.set(cpu);
}

/// Runs `f` as if it were an interrupt handler: the library must not wait.
pub fn in_interrupt<R>(f: impl FnOnce() -> R) -> R {
    /// Also when `f` unwinds.
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            INTERRUPTED.set(self.0);
        }
    }
    let _back = Back(INTERRUPTED.replace(true));
    f()
}

/// Where this thread is.
pub fn context() -> Context {
    if INTERRUPTED.get() { Context::HardIrq } else { Context::Task }
}

/// The index to try first.
#[inline]
pub fn first(cpus: u32) -> Pinned {
    let preferred = match PREFERRED.get() {
        UNKNOWN => choose(),
        preferred => preferred,
    };
    // A division costs more than all else here.
    Pinned { cpu: if preferred < cpus { preferred } else { preferred % cpus }, saved: 0 }
}

/// A new thread's choice.
#[cold]
fn choose() -> u32 {
    let chosen = NEXT.fetch_add(1, Relaxed);
    PREFERRED.set(chosen);
    chosen
}

/// The index to try after `was`; after each whole round others get a turn.
pub fn next(was: Pinned, cpus: u32) -> Pinned {
    let tried = was.saved + 1;
    if tried.is_multiple_of(cpus as usize) {
        thread::yield_now();
    }
    let cpu = (was.cpu + 1) % cpus;
    PREFERRED.set(cpu);
    Pinned { cpu, saved: tried }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_index_is_followed_by_the_next_and_the_thread_stays_there() {
        prefer(6);
        let at = first(4);
        assert_eq!(at.cpu, 2);
        let at = next(at, 4);
        let at = next(at, 4);
        assert_eq!((at.cpu, at.saved), (0, 2));
        assert_eq!(first(4).cpu, 0);
    }

    #[test]
    fn new_threads_get_indices_in_turn() {
        let index = || thread::spawn(|| first(1 << 16).cpu).join().unwrap();
        assert_ne!(index(), index());
    }

    #[test]
    fn an_interrupt_ends_with_its_handler_even_if_that_panics() {
        assert_eq!(context(), Context::Task);
        let nested = in_interrupt(|| (in_interrupt(context), context()));
        assert_eq!(nested, (Context::HardIrq, Context::HardIrq));
        let unwound = std::panic::catch_unwind(|| in_interrupt(|| std::panic::resume_unwind(Box::new(()))));
        assert!(unwound.is_err());
        assert_eq!(context(), Context::Task);
    }
}
