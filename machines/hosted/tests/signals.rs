//! Signal handlers in the middle of calls: none waits for the call that it
//! interrupted, and nothing that one does is lost.

mod common;

use common::assert_nothing_is_left;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::*};
use std::time::Duration;
use vmalloc::units::Pfn;
use vmalloc::{Gfp, Policy, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder, prefer};
use vmalloc_process::{Bombarded, Places, anything, frames_in_all, handled, on_signal, random, seconds};

const PLACES: usize = 64;

/// The instance that handlers call.
static INSTANCE: AtomicPtr<Vmalloc<Hosted>> = AtomicPtr::new(std::ptr::null_mut());
/// Areas of a page, to be taken and freed by anybody.
static AREAS: Places = Places::new();
/// Frames, to be taken and freed by anybody.
static FRAMES: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];

fn instance() -> &'static Vmalloc<Hosted> {
    // SAFETY: set for as long as there are threads and signals.
    unsafe { &*INSTANCE.load(Acquire) }
}

fn trade_frame(vm: &Vmalloc<Hosted>, new: u64) {
    give(vm, FRAMES[random(PLACES as u64) as usize].swap(new, AcqRel));
}

fn give(vm: &Vmalloc<Hosted>, frame: u64) {
    if frame != 0 {
        // SAFETY: P3: taken out of its place, the hold is the caller's.
        unsafe { vm.free_frame(Pfn(frame)) };
    }
}

extern "C" fn handler(_: i32) {
    handled(|| {
        let vm = instance();
        AREAS.allocate_in_a_handler(vm);
        trade_frame(vm, vm.alloc_frame(Gfp::ATOMIC | Gfp::NOWARN, None).map_or(0, |frame| frame.0));
        anything(vm);
    });
}

/// What is interrupted: calls and nothing else, for a handler that interrupts the
/// heap of the process must not come back to it.
fn calls(vm: &Vmalloc<Hosted>) {
    match random(32) {
        0 => _ = vm.purge(),
        1 => _ = vm.tick(),
        2 => {
            let frames = [0; 3].map(|_| vm.alloc_frame(Gfp::KERNEL, None).expect("memory enough"));
            // SAFETY: P4, V1, P3: held until the end, used by nobody.
            unsafe {
                let ram = vm.map_ram(&frames, None).expect("memory enough");
                vm.unmap_ram(ram, 3).expect("mapped just now");
                frames.iter().for_each(|&frame| vm.free_frame(frame));
            }
        }
        3 => trade_frame(vm, vm.alloc_frame(Gfp::KERNEL, None).map_or(0, |frame| frame.0)),
        4 => vm.set_policy([Policy::Unmap, Policy::Keep][random(2) as usize]),
        5 => {
            // SAFETY: V1: nobody uses it.
            unsafe { vm.free(vm.alloc(Req::pages(100)).expect("memory enough")) }.expect("made just now");
        }
        _ => AREAS.allocate(vm).expect("memory enough"),
    }
}

fn run(threads: usize, time: Duration) {
    let vm = builder().memory(64 << 20).region(1 << 30).cpus(4).build().unwrap();
    INSTANCE.store((&raw const vm).cast_mut(), Release);
    let frames = frames_in_all(&vm);
    Bombarded { threads, time }.run(|n| prefer(n as u32), || calls(&vm));
    AREAS.take_back(&vm);
    FRAMES.iter().for_each(|place| give(&vm, place.swap(0, AcqRel)));
    assert_nothing_is_left(&vm, frames);
}

#[test]
fn a_signal_in_the_middle_of_calls_on_2_4_and_8_threads_never_hangs() {
    on_signal(handler);
    // Half of the time of the stage, in all.
    [2, 4, 8].into_iter().for_each(|threads| run(threads, seconds() / 6));
    assert!(AREAS.refused() > 0, "no signal came in the middle of a call");
}
