//! Time: the tick, nanoseconds, instructions.
//!
//! QEMU's interrupt controllers count nanoseconds, which is what the counter
//! of the CPU is measured with at the start. Under `-icount shift=0` both count
//! instructions.

use crate::cpu::apic;
use crate::instructions::rdtsc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of the time-stamp counter in 2²⁰ ns; 0 before it was measured.
static RATE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds of the measurement.
const MEASURED: u32 = 2_000_000;

/// Measures the time-stamp counter. The calling CPU does not tick yet.
pub fn init() {
    apic::count_down();
    let start = rdtsc();
    while apic::counted() < MEASURED {
        core::hint::spin_loop();
    }
    let counts = (rdtsc() - start) as u128;
    RATE.store(((counts << 20) / apic::counted() as u128) as u64, Relaxed);
}

/// Instructions so far, under `-icount shift=0`; else some fast clock.
#[inline(always)]
pub fn instructions() -> u64 {
    rdtsc()
}

/// Nanoseconds since some start; 0 before the clock was measured.
pub fn ns() -> u64 {
    match RATE.load(Relaxed) {
        0 => 0,
        rate => (((rdtsc() as u128) << 20) / rate as u128) as u64,
    }
}

/// The calling CPU ticks every `ns` nanoseconds; never with 0.
pub fn tick_every(ns: u32) {
    apic::tick_every(ns);
}

/// Waits.
pub fn delay_us(us: u64) {
    let end = ns() + us * 1000;
    while ns() < end {
        core::hint::spin_loop();
    }
}
