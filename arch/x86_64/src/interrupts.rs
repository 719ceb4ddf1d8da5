//! The interrupt flag.

use core::arch::asm;

/// The interrupt flag in RFLAGS.
const ENABLED: usize = 1 << 9;

/// Turns interrupts off and returns the flags as they were.
#[inline(always)]
pub fn off() -> usize {
    let flags: usize;
    // SAFETY: at privilege 0, which `cli` needs, holding interrupts off breaks
    // nothing. No `nomem`: what is protected stays behind this.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) }
    flags
}

/// Turns interrupts on again if they were on in `flags`.
#[inline(always)]
pub fn restore(flags: usize) {
    if flags & ENABLED != 0 {
        on();
    }
}

/// Turns interrupts on.
#[inline(always)]
pub fn on() {
    // SAFETY: whoever turns them on has its handlers in place.
    unsafe { asm!("sti", options(nostack)) }
}

/// Whether interrupts are on.
#[inline]
pub fn are_on() -> bool {
    let flags: usize;
    // SAFETY: reads the flags.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(nomem, preserves_flags)) }
    flags & ENABLED != 0
}
