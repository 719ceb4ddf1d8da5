//! The lock of the machine: a word, and the kernel's queue where it is taken.
//!
//! An allocator may sit on this machine, so a lock must not allocate. Locks that park threads in a
//! table of their own do, when they first have to wait.
//!
//! ```text
//!   0 free ──lock──▶ 1 taken ──a second caller──▶ 2 taken, and somebody may wait
//! ```

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering::*};
use lock_api::GuardSend;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const WAITED_FOR: u32 = 2;

/// Turns before a caller sleeps: the usual section is a few instructions, or one call to Linux.
const TURNS: usize = 100;

/// A futex.
#[derive(Debug)]
pub struct RawLock(AtomicU32);

/// A lock around `T`.
pub type Lock<T> = lock_api::Mutex<RawLock, T>;

// SAFETY: only the caller that changed the word from FREE holds it, until it stores FREE.
unsafe impl lock_api::RawMutex for RawLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait asks for it")]
    const INIT: RawLock = RawLock(AtomicU32::new(FREE));
    type GuardMarker = GuardSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            self.wait();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.0.compare_exchange(FREE, TAKEN, Acquire, Relaxed).is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        if self.0.swap(FREE, Release) == WAITED_FOR {
            futex(&self.0, libc::FUTEX_WAKE, 1);
        }
    }

    fn is_locked(&self) -> bool {
        self.0.load(Relaxed) != FREE
    }
}

/// A lock that a fork holds across the call.
pub trait Held {
    /// Takes it, and keeps it.
    fn hold(&self);
    /// Gives it back.
    ///
    /// # Safety
    /// The calling thread holds it, by [`Held::hold`].
    unsafe fn give_back(&self);
}

impl<T> Held for Lock<T> {
    fn hold(&self) {
        core::mem::forget(self.lock());
    }
    unsafe fn give_back(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.force_unlock() }
    }
}

impl RawLock {
    #[cold]
    fn wait(&self) {
        for _ in 0..TURNS {
            spin_loop();
            if lock_api::RawMutex::try_lock(self) {
                return;
            }
        }
        // Whoever has slept cannot tell whether others still do, so it leaves the mark.
        while self.0.swap(WAITED_FOR, Acquire) != FREE {
            futex(&self.0, libc::FUTEX_WAIT, WAITED_FOR);
        }
    }
}

fn futex(word: &AtomicU32, call: i32, value: u32) {
    let forever = core::ptr::null::<libc::timespec>();
    // SAFETY: the word outlives the call. Whatever wakes the caller, it looks at the word again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), call | libc::FUTEX_PRIVATE_FLAG, value, forever) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn of_many_threads_one_is_inside() {
        let sum = Lock::new(0u64);
        let add = || (0..20_000).for_each(|_| *sum.lock() += 1);
        thread::scope(|scope| (0..6).for_each(|_| _ = scope.spawn(add)));
        assert_eq!(sum.into_inner(), 120_000);
    }

    #[test]
    fn a_caller_that_sleeps_is_woken() {
        let lock = Lock::new(());
        let held = lock.lock();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| drop(lock.lock()));
            thread::sleep(std::time::Duration::from_millis(30));
            assert!(!waiter.is_finished() && lock.is_locked());
            drop(held);
        });
        assert!(!lock.is_locked());
    }
}
