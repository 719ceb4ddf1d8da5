//! The library's events, on their way to the leak detector.

use super::{HEARS, LEAKS};
use crate::cpu;
use crate::machine::VM;
use core::sync::atomic::Ordering::Relaxed;
use vmalloc::machine::event::Event;
use vmalloc_kernel::kmemleak::Origin;

/// An event of the library's: a few instructions, until somebody wants to hear.
#[inline(always)]
pub fn note(event: Event) {
    if HEARS.load(Relaxed) {
        tell(event);
    }
}

#[cold]
#[inline(never)]
fn tell(event: Event) {
    LEAKS.note(VM.machine(), event, || Origin::new("swapper", cpu::index(), &[]));
}
