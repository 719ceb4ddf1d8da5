//! Ends that are to be seen: what the image says when it dies.
//!
//! None of these comes back: each is a boot of its own, whose output and exit
//! code somebody else looks at.

use crate::subsystem::kernel;
use crate::{cpu, vm};
use core::arch::asm;
use core::hint::black_box;
use core::ptr::NonNull;
use vmalloc::Req;
use vmalloc::units::PAGE_SIZE;
use vmalloc_kernel::stacks::Stacks;

const ALL: &[(&str, fn())] = &[
    ("guard", || hit_guard()),
    ("freed", || use_after_free()),
    ("overflow", || overflow()),
    ("overflow-task", || overflow_task()),
    ("overflow-in-trap", || overflow_in_trap()),
    ("text", || write_text()),
];

/// Dies as `name` says; comes back where there is no such end.
pub fn crash(name: &str) {
    for (known, die) in ALL {
        if *known == name {
            die();
        }
    }
    ALL.iter().for_each(|(name, _)| println!("crash {name}"));
}

fn area() -> NonNull<u8> {
    match vm().alloc(Req::bytes(5000)) {
        Ok(at) => at,
        Err(why) => panic!("{why}"),
    }
}

/// 24 bytes past the last page of an area of 5000 bytes.
fn hit_guard() {
    let at = area();
    // SAFETY: none: it faults, which is what is to be seen.
    unsafe { at.add(2 * PAGE_SIZE + 24).cast::<u64>().write_volatile(1) }
}

fn use_after_free() {
    let at = area();
    // SAFETY: V1 is broken below, on purpose.
    let freed = unsafe { vm().free(at) };
    assert!(freed.is_ok(), "{freed:?}");
    // A flush, after which it faults; a purge would forget whose it was.
    vm().unmap_aliases();
    // SAFETY: none: it faults, which is what is to be seen.
    black_box(unsafe { at.add(16).cast::<u64>().read_volatile() });
}

fn overflow() {
    black_box(deeper(1));
}

/// A task's stack overflows, not the CPU's.
fn overflow_task() {
    let stacks = Stacks::new(kernel(), 4);
    match stacks.alloc_thread_stack(None) {
        // SAFETY: nobody else has the stack; does not come back.
        Ok(stack) => unsafe {
            let top = stack.addr().get() + stacks.bytes();
            asm!("mov rsp, {}", "call {}", "ud2", in(reg) top, sym overflow_here, options(noreturn))
        },
        Err(why) => panic!("{why}"),
    }
}

extern "C" fn overflow_here() {
    black_box(deeper(1));
}

#[expect(unconditional_recursion, reason = "the stack is to overflow")]
fn deeper(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    deeper(frame[3] + 1) + frame[5]
}

/// A trap where the stack has no room for its frame.
fn overflow_in_trap() {
    let low = cpu::here().stack().start + 64;
    // SAFETY: does not come back.
    unsafe {
        asm!("mov rsp, {}", "int {}", "ud2", in(reg) low, const crate::trap::Vector::Nothing as u8, options(noreturn))
    }
}

fn write_text() {
    let at = NonNull::new(write_text as *mut ()).map(NonNull::cast::<u64>);
    // SAFETY: none: it faults (D2), which is what is to be seen.
    at.into_iter().for_each(|at| unsafe { at.write_volatile(0) });
}
