//! CPUs of a process: an index a thread, not a processor.
//!
//! The library keeps magazines and chunks for each CPU and enters them by index. An index belongs to one
//! thread while that thread lives: the thread takes the lowest that is free at its first call, and
//! gives it back when it ends. Where an instance has fewer indices than there are threads, the
//! surplus threads share them, one inside at a time. A surplus thread that finds another one inside
//! moves on to the next index and prefers that one from then on. An owner goes elsewhere for that
//! call alone.
//!
//! A thread counts how deep it is pinned, so that a signal handler knows that it is
//! in the middle of a call. The counter has neither an initialiser to run nor a
//! destructor, so a handler may read it at any time.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, Ordering::Relaxed, compiler_fence};
use std::thread;
use vmalloc::machine::{Context, Pinned};
use vmalloc::units::MAX_CPUS;

/// Which indices belong to a thread, one bit each. After a fork those of the threads that are not
/// there any more stay taken.
static OWNED: [AtomicU64; MAX_CPUS / 64] = [const { AtomicU64::new(0) }; MAX_CPUS / 64];
/// The index that the next thread prefers which owns none.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// The key whose destructor gives a thread's index back. A thread-local with a destructor would
/// take memory when it is first used, which a signal handler must not.
static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();

const UNKNOWN: u32 = u32::MAX;

thread_local! {
    static PREFERRED: Cell<u32> = const { Cell::new(UNKNOWN) };
    static OWN: Cell<u32> = const { Cell::new(UNKNOWN) };
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
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

/// Whether this thread is pinned: it is a signal handler in the middle of a call.
pub fn is_inside() -> bool {
    DEPTH.get() > 0
}

/// Makes this thread prefer the index `cpu`, of any instance (counted round
/// where the instance has fewer).
pub fn prefer(cpu: u32) {
    OWN.set(UNKNOWN);
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
    let own = take();
    OWN.set(own.unwrap_or(UNKNOWN));
    let chosen = own.unwrap_or_else(|| NEXT.fetch_add(1, Relaxed));
    PREFERRED.set(chosen);
    chosen
}

/// Takes the lowest index that belongs to nobody, until this thread ends.
fn take() -> Option<u32> {
    let key = (*KEY.get()?)?;
    let free = |index: &u32| {
        let bit = 1 << (index % 64);
        OWNED[*index as usize / 64].fetch_or(bit, Relaxed) & bit == 0
    };
    let index = (0..MAX_CPUS as u32).find(free)?;
    // SAFETY: the key is never deleted. The value is a number, not 0, since 0 has no destructor.
    let kept = unsafe { libc::pthread_setspecific(key, std::ptr::without_provenance(index as usize + 1)) } == 0;
    if !kept {
        give(index);
    }
    kept.then_some(index)
}

fn give(index: u32) {
    OWNED[index as usize / 64].fetch_and(!(1 << (index % 64)), Relaxed);
}

/// Before the first call of any thread: a signal handler may make that.
pub fn prepare() {
    KEY.get_or_init(make_key);
}

fn make_key() -> Option<libc::pthread_key_t> {
    /// The thread ends: its index is free again. If it calls once more it chooses once more.
    extern "C" fn end(value: *mut libc::c_void) {
        PREFERRED.set(UNKNOWN);
        OWN.set(UNKNOWN);
        give(value.addr() as u32 - 1);
    }
    let mut key = 0;
    // SAFETY: `key` is ours, and `end` may run at the end of any thread.
    (unsafe { libc::pthread_key_create(&mut key, Some(end)) } == 0).then_some(key)
}

/// The index to try after `was`; after each whole round others get a turn.
pub fn next(was: Pinned, cpus: u32) -> Pinned {
    let tried = was.saved + 1;
    if tried.is_multiple_of(cpus as usize) {
        thread::yield_now();
    }
    let cpu = (was.cpu + 1) % cpus;
    if OWN.get() >= cpus {
        PREFERRED.set(cpu);
    }
    Pinned { cpu, saved: tried }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn a_surplus_thread_moves_on_from_a_busy_index_and_stays_there() {
        let moved = || {
            prefer(6);
            let at = first(4);
            assert_eq!(at.cpu, 2);
            let at = next(next(at, 4), 4);
            assert_eq!((at.cpu, at.saved), (0, 2));
            first(4).cpu
        };
        assert_eq!(thread::spawn(moved).join().unwrap(), 0);
    }

    #[test]
    fn an_owner_leaves_a_busy_index_for_one_call_alone() {
        prepare();
        let stays = || {
            let own = first(1 << 16);
            let other = next(Pinned { cpu: own.cpu, saved: 0 }, 1 << 16);
            (own.cpu, other.cpu, first(1 << 16).cpu)
        };
        let (own, other, again) = thread::spawn(stays).join().unwrap();
        assert!(own != other && own == again, "{own}, {other}, {again}");
    }

    #[test]
    fn an_index_belongs_to_one_thread_while_it_lives() {
        prepare();
        let all = Barrier::new(20);
        let index = || {
            let index = first(1 << 16).cpu;
            all.wait();
            (index, first(1 << 16).cpu)
        };
        let mut indices = thread::scope(|scope| {
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(index)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(indices.iter().all(|(before, after)| before == after));
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), 20, "{indices:?}");
    }

    #[test]
    fn an_index_is_free_again_when_its_thread_has_ended() {
        prepare();
        let index = || thread::spawn(|| first(1 << 16).cpu).join().unwrap();
        let highest = (0..2 * MAX_CPUS).map(|_| index()).max();
        assert!(highest < Some(MAX_CPUS as u32 / 2), "{highest:?}");
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
