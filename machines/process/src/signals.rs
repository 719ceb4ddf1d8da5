//! Signal handlers in the middle of calls: none may wait for the call that it interrupted.
//!
//! A test has a static [`Places`], which its handler trades areas in, and runs threads that
//! are [`Bombarded`]. A handler must not panic: the first thing that is wrong is kept, and told at
//! the end.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};
use vmalloc::machine::{Context, Machine};
use vmalloc::{AllocError, FreeError, Gfp, Req, Vmalloc};

/// The most threads.
const MOST: usize = 8;
/// Places for areas.
const PLACES: usize = 64;

/// Signals handled, by thread.
static HANDLED: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// The first thing that must not be.
static WRONG: Mutex<Option<Wrong>> = Mutex::new(None);

/// What must not be.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Wrong {
    /// A page of an area has not the word that was written to it.
    Word { area: usize, found: usize },
    /// A live area was not freed.
    Free(FreeError),
    /// An allocation was refused where it may not be.
    Alloc(AllocError),
}

thread_local! {
    static ME: Cell<usize> = const { Cell::new(usize::MAX) };
    static RANDOM: Cell<u64> = const { Cell::new(1) };
}

/// A number of the thread's own sequence.
pub fn random(below: u64) -> u64 {
    let next = RANDOM.get().wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    RANDOM.set(next);
    (next >> 33) % below
}

/// Handlers must not panic or wait: somebody else's fault will do where the lock is held.
fn tell(wrong: Wrong) {
    if let Ok(mut first) = WRONG.try_lock() {
        first.get_or_insert(wrong);
    }
}

/// Makes `handler` the handler of the signal that is sent.
pub fn on_signal(handler: extern "C" fn(i32)) {
    // SAFETY: the handler does what handlers may do here, and `handled` puts errno back.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
}

/// A handler's work, with errno as it was before.
pub fn handled(work: impl FnOnce()) {
    // SAFETY: this thread's errno.
    let errno = unsafe { *libc::__errno_location() };
    let me = ME.get();
    work();
    HANDLED[me % MOST].fetch_add(1, Release);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Areas of a page, to be taken and freed by anybody.
pub struct Places {
    areas: [AtomicUsize; PLACES],
    refused: AtomicU64,
}

impl Default for Places {
    fn default() -> Places {
        Places::new()
    }
}

impl Places {
    /// Nothing is anywhere.
    pub const fn new() -> Places {
        Places { areas: [const { AtomicUsize::new(0) }; PLACES], refused: AtomicU64::new(0) }
    }

    /// Calls that were refused in handlers.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Puts an area of a page into a place, and frees the one that was there.
    pub fn trade<M: Machine>(&self, vm: &Vmalloc<M>, new: usize) {
        let old = self.areas[random(PLACES as u64) as usize].swap(new, AcqRel);
        if let Some(at) = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(old)) {
            // SAFETY: V1: taken out of its place, it is the caller's alone.
            let (found, freed) = unsafe { (at.cast::<usize>().read(), vm.free(at)) };
            if found != old {
                tell(Wrong::Word { area: old, found });
            }
            freed.unwrap_or_else(|error| tell(Wrong::Free(error)));
        }
    }

    /// Makes an area, which says where it is, and puts it into a place.
    ///
    /// # Errors
    /// What the library says.
    pub fn allocate<M: Machine>(&self, vm: &Vmalloc<M>) -> Result<(), AllocError> {
        let area = vm.alloc(Req::pages(1).gfp(Gfp::ATOMIC | Gfp::NOWARN))?;
        // SAFETY: allocated just now.
        unsafe { area.cast::<usize>().write(area.as_ptr().expose_provenance()) };
        self.trade(vm, area.addr().get());
        Ok(())
    }

    /// As [`Places::allocate`], in a handler: it may be refused there, and not otherwise; and a free.
    pub fn allocate_in_a_handler<M: Machine>(&self, vm: &Vmalloc<M>) {
        match self.allocate(vm) {
            Ok(()) => (),
            Err(AllocError::WrongContext(Context::Nmi)) => _ = self.refused.fetch_add(1, Relaxed),
            Err(error) => tell(Wrong::Alloc(error)),
        }
        self.trade(vm, 0);
    }

    /// What is left in the places is freed.
    pub fn take_back<M: Machine>(&self, vm: &Vmalloc<M>) {
        for area in &self.areas {
            if let Some(at) = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(area.swap(0, AcqRel))) {
                // SAFETY: V1: nobody else is left.
                unsafe { vm.free(at) }.expect("it lives");
            }
        }
    }
}

/// Now and then what a handler calls beside allocations and frees.
pub fn anything<M: Machine>(vm: &Vmalloc<M>) {
    match random(64) {
        0 => _ = vm.purge(),
        1 => _ = vm.unmap_aliases(),
        2 => _ = vm.work(),
        3 => _ = vm.stats(),
        4 => _ = vm.reclaim(1),
        5..16 => _ = vm.tick(),
        _ => {}
    }
}

/// Threads that are interrupted again and again.
pub struct Bombarded {
    /// How many.
    pub threads: usize,
    /// How long.
    pub time: Duration,
}

impl Bombarded {
    /// Runs `calls` in each thread, which `begin` is told its number. They are calls and nothing else:
    /// a handler that interrupts the heap of the process must not come back to it.
    #[track_caller]
    pub fn run(&self, begin: impl Fn(usize) + Sync, calls: impl Fn() + Sync) {
        HANDLED.iter().for_each(|handled| handled.store(0, Relaxed));
        let (ready, stop) = (Barrier::new(self.threads + 1), AtomicBool::new(false));
        let ids = [const { AtomicU64::new(0) }; MOST];
        std::thread::scope(|scope| {
            for (n, id) in ids[..self.threads].iter().enumerate() {
                let (ready, stop, begin, calls) = (&ready, &stop, &begin, &calls);
                scope.spawn(move || {
                    ME.set(n);
                    RANDOM.set(n as u64 * 77 + 1);
                    begin(n);
                    // SAFETY: no arguments.
                    id.store(unsafe { libc::pthread_self() }, Release);
                    ready.wait();
                    while !stop.load(Acquire) {
                        calls();
                    }
                });
            }
            ready.wait();
            let threads: Vec<libc::pthread_t> = ids[..self.threads].iter().map(|id| id.load(Acquire)).collect();
            self.bombard(&threads);
            stop.store(true, Release);
        });
        assert_eq!(*WRONG.lock().expect("nobody panics with it"), None, "in a handler");
    }

    /// Sends each thread its next signal when it has handled the last one; ends the process if nothing
    /// goes on any more.
    fn bombard(&self, threads: &[libc::pthread_t]) {
        let (begin, mut sent) = (Instant::now(), [0u64; MOST]);
        let mut last = (begin, 0);
        loop {
            let over = begin.elapsed() > self.time;
            let mut all = 0;
            for (n, &thread) in threads.iter().enumerate() {
                let handled = HANDLED[n].load(Acquire);
                all += handled;
                if handled == sent[n] && !over {
                    sent[n] += 1;
                    // SAFETY: the thread runs until the test has stopped it.
                    assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
                }
            }
            if over && all == sent.iter().sum() {
                return;
            }
            if all != last.1 {
                last = (Instant::now(), all);
            } else if last.0.elapsed() > Duration::from_secs(30) {
                eprintln!("{} threads hang after {all} signals", threads.len());
                std::process::abort();
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}
