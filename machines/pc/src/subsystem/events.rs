//! The library's events, on their way to the leak detector.

use super::{HEARS, LEAKS};
use crate::cpu;
use crate::machine::VM;
use core::sync::atomic::Ordering::Relaxed;
use vmalloc::machine::event::Event;
use vmalloc::units::VirtAddr;
use vmalloc::{Caller, Kind};
use vmalloc_kernel::kmemleak::Origin;

/// An event of the library's: a few instructions, until somebody wants to hear. Those of every call
/// are taken apart, so that they are put together, in memory, only where somebody does.
#[inline(always)]
pub fn note(event: Event) {
    if !HEARS.load(Relaxed) {
        return;
    }
    match event {
        Event::Publish { start, pages, kind, caller } => tell_publish(start, pages, kind, caller),
        Event::Claim { start, pages, freer } => tell_claim(start, pages, freer),
        other => tell(other),
    }
}

#[cold]
#[inline(never)]
fn tell_publish(start: VirtAddr, pages: usize, kind: Kind, caller: Caller) {
    tell(Event::Publish { start, pages, kind, caller });
}

#[cold]
#[inline(never)]
fn tell_claim(start: VirtAddr, pages: usize, freer: Caller) {
    tell(Event::Claim { start, pages, freer });
}

#[cold]
#[inline(never)]
fn tell(event: Event) {
    LEAKS.note(VM.machine(), event, || Origin::new("swapper", cpu::index(), &[]));
}
