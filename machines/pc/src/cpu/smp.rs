//! Starting a CPU: INIT, then SIPI, to the trampoline of start.s.
//!
//! One after the other, so that one trampoline serves all.
//!
//! # Source
//! Intel SDM vol. 3A §9.4.4 (multiple-processor initialisation).

use super::apic;
use super::local::{self, Local};
use crate::{clock, memory};
use core::ptr::from_ref;

/// Where the trampoline is copied to: a page below 1 MiB. start.s says the same.
const TRAMPOLINE: u64 = 0x8000;

// SAFETY: start.s defines them; they are linked at their physical addresses, and
// only these are used.
unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_words: u8;
    static trampoline_end: u8;
}

/// Starts the CPU with the interrupt controller `apic` and waits for it.
pub fn start(apic: u32, index: u32) {
    let local = local::make(index);
    local.set_apic(apic);
    lay_trampoline(local);
    apic::init_other(apic);
    clock::delay_us(200);
    apic::start_other(apic, TRAMPOLINE);
    let patience = clock::ns() + 20_000_000_000;
    while !local.has_started() {
        assert!(clock::ns() < patience, "CPU {index} (APIC {apic}) does not start");
        core::hint::spin_loop();
    }
}

fn lay_trampoline(local: &'static Local) {
    // SAFETY: addresses only.
    let [start, words, end] =
        unsafe { [&trampoline_start, &trampoline_words, &trampoline_end] }.map(|at| from_ref(at).addr() as u64);
    let to = memory::direct(TRAMPOLINE);
    let values = [memory::root().phys(), local.stack().end as u64, from_ref(local).expose_provenance() as u64];
    // SAFETY: the first MiB is not the zones' (D3), and no CPU is in the
    // trampoline: each is waited for.
    unsafe {
        to.copy_from_nonoverlapping(memory::direct(start), (end - start) as usize);
        to.add((words - start) as usize).cast::<[u64; 3]>().write(values);
    }
}
