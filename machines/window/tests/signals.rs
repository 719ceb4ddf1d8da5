//! Signal handlers in the middle of calls: none waits for the call that it
//! interrupted, and nothing that one does is lost.

mod common;

use common::*;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};
use vmalloc::machine::Context;
use vmalloc::{AllocError, Gfp, Policy, Req, Vmalloc};
use vmalloc_window::{Window, builder};

const MOST: usize = 8;
const PLACES: usize = 64;

/// The instance that handlers call.
static INSTANCE: AtomicPtr<Vmalloc<Window>> = AtomicPtr::new(std::ptr::null_mut());
/// Areas of a page, to be taken and freed by anybody.
static AREAS: [AtomicUsize; PLACES] = [const { AtomicUsize::new(0) }; PLACES];
/// Signals handled, by thread; calls that were refused in them; and what must not be.
static HANDLED: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static REFUSED: AtomicU64 = AtomicU64::new(0);
static ODD: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ME: Cell<usize> = const { Cell::new(usize::MAX) };
    static RANDOM: Cell<u64> = const { Cell::new(1) };
}

fn random(below: u64) -> u64 {
    let next = RANDOM.get().wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    RANDOM.set(next);
    (next >> 33) % below
}

/// Handlers must not panic: what is wrong is counted.
fn expect(right: bool) {
    ODD.fetch_add(!right as u64, Relaxed);
}

fn instance() -> &'static Vmalloc<Window> {
    // SAFETY: set for as long as there are threads and signals.
    unsafe { &*INSTANCE.load(Acquire) }
}

/// Puts an area of a page into a place, and frees the one that was there.
fn trade_area(vm: &Vmalloc<Window>, new: usize) {
    let old = AREAS[random(PLACES as u64) as usize].swap(new, AcqRel);
    if let Some(at) = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(old)) {
        // SAFETY: V1: taken out of its place, it is the caller's alone.
        unsafe {
            expect(at.cast::<usize>().read() == old);
            expect(vm.free(at).is_ok());
        }
    }
}

fn allocate(vm: &Vmalloc<Window>) -> Result<(), AllocError> {
    let area = vm.alloc(Req::pages(1).gfp(Gfp::ATOMIC | Gfp::NOWARN))?;
    // SAFETY: allocated just now.
    unsafe { area.cast::<usize>().write(area.as_ptr().expose_provenance()) };
    trade_area(vm, area.addr().get());
    Ok(())
}

extern "C" fn handler(_: i32) {
    // SAFETY: this thread's errno.
    let errno = unsafe { *libc::__errno_location() };
    let (vm, me) = (instance(), ME.get());
    match allocate(vm) {
        Ok(()) => (),
        Err(AllocError::WrongContext(context)) => {
            expect(context == Context::Nmi);
            REFUSED.fetch_add(1, Relaxed);
        }
        Err(_) => expect(false),
    }
    trade_area(vm, 0);
    match random(64) {
        0 => _ = vm.purge(),
        1 => _ = vm.unmap_aliases(),
        2 => _ = vm.work(),
        3 => _ = vm.stats(),
        4 => _ = vm.reclaim(1),
        5..16 => _ = vm.tick(),
        _ => {}
    }
    HANDLED[me % MOST].fetch_add(1, Release);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// What is interrupted: calls and nothing else, for a handler that interrupts the
/// heap of the process must not come back to it.
fn calls(vm: &Vmalloc<Window>) {
    match random(32) {
        0 => _ = vm.purge(),
        1 => _ = vm.tick(),
        2 => vm.set_policy([Policy::Unmap, Policy::Keep][random(2) as usize]),
        3 => {
            // SAFETY: V1: nobody uses it.
            unsafe { vm.free(vm.alloc(Req::pages(100)).expect("memory enough")) }.expect("made just now");
        }
        _ => allocate(vm).expect("memory enough"),
    }
}

/// Sends each thread its next signal when it has handled the last one; ends the
/// process if nothing goes on any more.
fn bombard(threads: &[libc::pthread_t], time: Duration) {
    let (begin, mut sent) = (Instant::now(), [0u64; MOST]);
    let mut last = (begin, 0);
    loop {
        let over = begin.elapsed() > time;
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

fn run(count: usize, time: Duration) {
    let vm = builder().window(1 << 30).memory(64 << 20).cpus(4).build().unwrap();
    INSTANCE.store((&raw const vm).cast_mut(), Release);
    HANDLED.iter().for_each(|handled| handled.store(0, Relaxed));
    let frames = frames_in_all(&vm);
    let (ready, stop) = (std::sync::Barrier::new(count + 1), AtomicBool::new(false));
    let ids = [const { AtomicU64::new(0) }; MOST];
    std::thread::scope(|scope| {
        for (n, id) in ids[..count].iter().enumerate() {
            let (vm, ready, stop) = (&vm, &ready, &stop);
            scope.spawn(move || {
                ME.set(n);
                RANDOM.set(n as u64 * 77 + 1);
                // SAFETY: no arguments.
                id.store(unsafe { libc::pthread_self() }, Release);
                ready.wait();
                while !stop.load(Acquire) {
                    calls(vm);
                }
            });
        }
        ready.wait();
        let threads: Vec<libc::pthread_t> = ids[..count].iter().map(|id| id.load(Acquire)).collect();
        bombard(&threads, time);
        stop.store(true, Release);
    });
    (0..PLACES).for_each(|place| take_back(&vm, place));
    assert_eq!(ODD.load(Relaxed), 0, "in a handler");
    assert_nothing_is_left(&vm, frames);
}

/// What is left in a place is freed.
fn take_back(vm: &Vmalloc<Window>, place: usize) {
    if let Some(at) = NonNull::new(byte(AREAS[place].swap(0, AcqRel))) {
        // SAFETY: V1: nobody else is left.
        unsafe { vm.free(at) }.unwrap();
    }
}

#[test]
fn a_signal_in_the_middle_of_calls_on_2_4_and_8_threads_never_hangs() {
    let handle: extern "C" fn(i32) = handler;
    // SAFETY: the handler does what handlers may do here, and puts errno back.
    unsafe { libc::signal(libc::SIGUSR1, handle as *const () as libc::sighandler_t) };
    // Half of the time of the stage, in all.
    [2, 4, 8].into_iter().for_each(|threads| run(threads, seconds() / 6));
    assert!(REFUSED.load(Relaxed) > 0, "no signal came in the middle of a call");
}
