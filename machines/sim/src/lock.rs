//! The lock of a machine with one driver: it never waits, unless CPUs interleave.

use crate::{order, turn};
use core::sync::atomic::{AtomicBool, Ordering};
use vmalloc::lock_api::{GuardSend, RawMutex};

/// Where one CPU runs at a time, a lock that is taken while somebody has it would wait for ever, since one
/// host thread runs all CPUs and interrupts keep off pinned ones: that is a
/// deadlock of the library's, and panics.
#[derive(Debug)]
pub struct SoloLock(AtomicBool);

// SAFETY: `try_lock` answers true to one caller until `unlock`.
unsafe impl RawMutex for SoloLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: SoloLock = SoloLock(AtomicBool::new(false));
    type GuardMarker = GuardSend;

    fn lock(&self) {
        turn::step();
        while !self.try_lock() {
            assert!(turn::is_racing(), "deadlock: the lock is taken, and only its holder could run");
            turn::wait();
        }
    }

    fn try_lock(&self) -> bool {
        let was_free = !self.0.swap(true, Ordering::Acquire);
        if was_free {
            order::taken(core::ptr::from_ref(self).addr());
        }
        was_free
    }

    unsafe fn unlock(&self) {
        order::left(core::ptr::from_ref(self).addr());
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc::lock_api::Mutex;

    #[test]
    #[should_panic(expected = "deadlock")]
    fn taking_it_twice_is_a_deadlock() {
        let lock = Mutex::<SoloLock, ()>::new(());
        let _first = lock.lock();
        let _second = lock.lock();
    }

    #[test]
    fn it_can_be_taken_again_after_it_was_given_back() {
        let lock = Mutex::<SoloLock, u32>::new(1);
        *lock.lock() += 1;
        assert!(lock.try_lock().is_some_and(|n| *n == 2));
    }
}
