//! An instance under the process's own allocator: built at the first allocation of all, before `main`,
//! and called by everything from then on, at the end of threads and in children.

mod common;

use common::is_readable;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use vmalloc::{Gfp, Req, Vmalloc};
use vmalloc_process::{in_child, work};
use vmalloc_window::{AtFork, Window, builder};

const NONE: u32 = 0;
const BUILDING: u32 = 1;
const READY: u32 = 2;

/// Every allocation is an area of its own.
struct Areas {
    state: AtomicU32,
    vm: UnsafeCell<MaybeUninit<Vmalloc<Window>>>,
    made: AtomicUsize,
    /// Allocations that came while this thread was inside the instance.
    nested: AtomicUsize,
}

// SAFETY: `vm` is written once, by the thread that moved the state from NONE, before it is READY.
unsafe impl Sync for Areas {}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static AT_FORK: AtFork = AtFork::new();

impl Areas {
    fn vm(&'static self) -> Option<&'static Vmalloc<Window>> {
        if self.state.compare_exchange(NONE, BUILDING, Acquire, Acquire).is_ok() {
            let vm = builder().window(64 << 30).memory(4 << 30).build().expect("a process has room");
            // SAFETY: this thread alone is here.
            unsafe { (*self.vm.get()).write(vm) };
            self.state.store(READY, Release);
        }
        // SAFETY: it was written before the state was READY.
        (self.state.load(Acquire) == READY).then(|| unsafe { (*self.vm.get()).assume_init_ref() })
    }

    /// Runs `f` inside; `None` if this thread is inside already.
    fn inside<R>(&'static self, f: impl FnOnce(&'static Vmalloc<Window>) -> R) -> Option<R> {
        if INSIDE.replace(true) {
            self.nested.fetch_add(1, Relaxed);
            return None;
        }
        let result = self.vm().map(f);
        INSIDE.set(false);
        result
    }
}

struct Global;

static AREAS: Areas = Areas {
    state: AtomicU32::new(NONE),
    vm: UnsafeCell::new(MaybeUninit::uninit()),
    made: AtomicUsize::new(0),
    nested: AtomicUsize::new(0),
};

// SAFETY: an area is as large as asked for and page-aligned; what the instance does not serve the
// system's allocator does, and each gets its own back.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let req = Req::bytes(layout.size()).align(layout.align().max(4096)).gfp(Gfp::KERNEL | Gfp::NOWARN);
        match AREAS.inside(|vm| vm.alloc(req)) {
            Some(Ok(area)) => {
                AREAS.made.fetch_add(1, Relaxed);
                area.as_ptr()
            }
            // SAFETY: the caller's promise.
            _ => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let mine = |vm: &Vmalloc<Window>| vm.contains(at.addr());
        let area = NonNull::new(at).filter(|_| AREAS.inside(mine) == Some(true));
        match area {
            // SAFETY: V1: the caller's promise.
            Some(area) => AREAS.inside(|vm| unsafe { vm.free(area) }).expect("outside").expect("it lives"),
            // SAFETY: as above.
            None => unsafe { System.dealloc(at, layout) },
        }
    }
}

#[global_allocator]
static GLOBAL: Global = Global;

extern "C" fn prepare() {
    AREAS.inside(|vm| assert!(AT_FORK.prepare(vm)));
}

extern "C" fn parent() {
    AT_FORK.parent();
}

extern "C" fn child() {
    AT_FORK.child();
}

#[test]
fn everything_of_a_process_is_an_area_before_main_at_the_end_of_threads_and_in_children() {
    assert!(AREAS.made.load(Relaxed) > 0, "the first allocations are older than the test");
    // SAFETY: the handlers may run in any thread, and allocate nothing.
    assert_eq!(unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) }, 0);
    for _ in 0..10 {
        std::thread::scope(|scope| {
            (1..=8).for_each(|mark| _ = scope.spawn(move || assert_eq!(work(mark), 490)));
            for _ in 0..4 {
                let status = in_child(|| (work(3) != 490) as u8);
                assert_eq!(status, 0, "{status:#x}");
            }
        });
    }
    let gone = Box::new([7u8; 5000]);
    let at = gone.as_ptr();
    assert!(is_readable(at));
    drop(gone);
    AREAS.inside(Vmalloc::purge);
    assert!(!is_readable(at));
    assert_eq!(AREAS.nested.load(Relaxed), 0, "the instance allocated");
    // The harness's own thread may be in the middle of a call.
    assert!((0..100).any(|_| AREAS.inside(|vm| vm.check()) == Some(Ok(()))));
    println!("{} areas", AREAS.made.load(Relaxed));
}
