//! A correct program, every allocation of which is guarded: before `main`, in many threads, at their end, in
//! children, in signal handlers. Nothing changes for it.

mod common;

use common::in_child;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use vmalloc_guard::{Guarded, raw};
use vmalloc_process::work;

#[global_allocator]
static ALLOCATOR: Guarded = Guarded::all().quarantine(1000);

thread_local! {
    static SIGNALS: RefCell<Vec<Vec<usize>>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn threads_their_ends_and_children_are_served() {
    let first = Box::new(1);
    assert!(raw::may_own((&raw const *first).addr()));
    for _ in 0..10 {
        std::thread::scope(|scope| {
            (1..=8).for_each(|mark| _ = scope.spawn(move || assert_eq!(work(mark), 490)));
            for _ in 0..4 {
                let end = in_child(|| assert_eq!(work(3), 490));
                assert_eq!((end.code, end.text.as_str()), (Some(0), ""));
            }
        });
    }
}

#[test]
fn large_alignments_are_kept() {
    for align in (0..=16).map(|n| 1usize << n) {
        let layout = std::alloc::Layout::from_size_align(100, align).expect("small");
        // SAFETY: the size is not 0; it is freed as it was made.
        unsafe {
            let at = std::alloc::alloc_zeroed(layout);
            assert!(at.addr().is_multiple_of(align));
            assert_eq!(std::slice::from_raw_parts(at, 100), [0; 100]);
            std::alloc::dealloc(at, layout);
        }
    }
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// Allocates and frees, wherever the thread is.
extern "C" fn handler(_: i32) {
    let n = HANDLED.fetch_add(1, Relaxed);
    SIGNALS.with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut() {
            kept.push(vec![n]);
            if kept.len() > 50 {
                kept.clear();
            }
        }
    });
}

#[test]
fn signals_in_the_middle_of_calls_neither_hang_nor_lose_anything() {
    let handle: extern "C" fn(i32) = handler;
    // The other allocator must not be interrupted by itself: guarded ones are the guard's alone, and the
    // handler gets the other's only where it has interrupted the guard.
    let end = in_child(|| {
        // SAFETY: the handler does what it may do here; the timer is this process's.
        unsafe {
            libc::signal(libc::SIGALRM, handle as *const () as libc::sighandler_t);
            let often = libc::timeval { tv_sec: 0, tv_usec: 200 };
            let timer = libc::itimerval { it_interval: often, it_value: often };
            libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0);
        }
        while HANDLED.load(Relaxed) < 2000 {
            assert_eq!(work(3), 490);
        }
    });
    assert_eq!((end.code, end.text.as_str()), (Some(0), ""), "{end:?}");
}

#[test]
fn a_stack_that_overflows_is_told_as_ever() {
    fn deeper(n: usize) -> usize {
        let room = std::hint::black_box([n; 1000]);
        if room[0] == usize::MAX { 0 } else { deeper(n + 1) + room[999] }
    }
    let end = in_child(|| _ = std::hint::black_box(deeper(0)));
    assert!(end.text.contains("has overflowed its stack"), "{end:?}");
    assert_eq!(end.signal, Some(libc::SIGABRT));
}
