//! Signal handlers in the middle of calls: none waits for the call that it
//! interrupted, and nothing that one does is lost.

mod common;

use common::*;
use std::sync::atomic::{AtomicPtr, Ordering::*};
use std::time::Duration;
use vmalloc::{Policy, Req, Vmalloc};
use vmalloc_process::{Bombarded, Places, anything, frames_in_all, handled, on_signal, random, seconds};
use vmalloc_window::{Window, builder};

/// The instance that handlers call.
static INSTANCE: AtomicPtr<Vmalloc<Window>> = AtomicPtr::new(std::ptr::null_mut());
/// Areas of a page, to be taken and freed by anybody.
static AREAS: Places = Places::new();

fn instance() -> &'static Vmalloc<Window> {
    // SAFETY: set for as long as there are threads and signals.
    unsafe { &*INSTANCE.load(Acquire) }
}

extern "C" fn handler(_: i32) {
    handled(|| {
        let vm = instance();
        AREAS.allocate_in_a_handler(vm);
        anything(vm);
        let machine = vm.machine();
        let _ = (machine.usage(), machine.refusals(), machine.mappings());
    });
}

/// What is interrupted: calls and nothing else, for a handler that interrupts the
/// heap of the process must not come back to it.
fn calls(vm: &Vmalloc<Window>) {
    match random(32) {
        0 => _ = vm.purge(),
        1 => _ = vm.tick(),
        4 => _ = vm.machine().usage(),
        5 => _ = vm.machine().refusals(),
        2 => vm.set_policy([Policy::Unmap, Policy::Keep][random(2) as usize]),
        3 => {
            // SAFETY: V1: nobody uses it.
            unsafe { vm.free(vm.alloc(Req::pages(100)).expect("memory enough")) }.expect("made just now");
        }
        _ => AREAS.allocate(vm).expect("memory enough"),
    }
}

fn run(threads: usize, time: Duration) {
    let vm = builder().window(1 << 30).memory(64 << 20).cpus(4).build().unwrap();
    INSTANCE.store((&raw const vm).cast_mut(), Release);
    let frames = frames_in_all(&vm);
    Bombarded { threads, time }.run(|_| (), || calls(&vm));
    AREAS.take_back(&vm);
    assert_nothing_is_left(&vm, frames);
}

#[test]
fn a_signal_in_the_middle_of_calls_on_2_4_and_8_threads_never_hangs() {
    on_signal(handler);
    // Half of the time of the stage, in all.
    [2, 4, 8].into_iter().for_each(|threads| run(threads, seconds() / 6));
    assert!(AREAS.refused() > 0, "no signal came in the middle of a call");
}
