//! What the machine promises, before the library comes into it.

use super::{Outcome, PATIENCE, check, note};
use crate::cpu::{self, apic, local};
use crate::instructions::wrmsr;
use crate::trap::{self, Fault, NMI_HOOK, TICK_HOOK};
use crate::{boot, clock, vm};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::*};
use vmalloc::machine::Machine;
use vmalloc_x86_64::cpu::{PAT, PAT_MSR, State, Unmet};
use vmalloc_x86_64::tlb::Method;
use vmalloc_x86_64::{check_cpu, interrupts};

static DONE: AtomicU64 = AtomicU64::new(0);

pub fn every_cpu_does_what_it_is_given() -> Outcome {
    DONE.store(0, SeqCst);
    cpu::on_all(|cpu| {
        DONE.fetch_or(u64::from(cpu == cpu::index() as usize) << cpu, SeqCst);
    });
    let all = u64::MAX >> (64 - cpu::count());
    check!(DONE.load(SeqCst) == all, "CPUs {:#b} of {all:#b}", DONE.load(SeqCst));
    Ok(())
}

pub fn an_nmi_comes_to_a_cpu_that_is_idle() -> Outcome {
    NMI_HOOK.set(|| {
        // In an NMI one may look: at the stack of this CPU, which is an area.
        let stack = cpu::here().stack().start;
        DONE.fetch_add(vm().find(stack).is_some() as u64, SeqCst);
    });
    for cpu in 0..cpu::count() {
        let (before, found) = (cpu::counters(cpu).nmis.load(SeqCst), DONE.load(SeqCst));
        apic::nmi(local::of(cpu).apic());
        let patience = clock::ns() + PATIENCE;
        while cpu::counters(cpu).nmis.load(SeqCst) == before || DONE.load(SeqCst) == found {
            check!(clock::ns() < patience, "no NMI came to CPU {cpu}, or it did not find its stack");
            core::hint::spin_loop();
        }
    }
    NMI_HOOK.clear();
    Ok(())
}

/// With interrupts off, so that nothing else runs in the wrong state.
pub fn a_cpu_in_the_wrong_state_is_named() -> Outcome {
    cpu::on_all(|_| note(name_wrong_states()));
    check!(super::all_right(), "a CPU said otherwise");
    Ok(())
}

/// CR0.WP.
const WP: u64 = 1 << 16;

fn set_cr0(value: u64) {
    // SAFETY: only [`WP`] changes, with interrupts off, and nobody stores to what is read-only.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags)) }
}

fn name_wrong_states() -> Outcome {
    const RESET: u64 = 0x0007_0406_0007_0406;
    let (levels, method) = (vm().machine().levels(), Method::GlobalPages);
    check!(check_cpu(levels, method) == Ok(()), "a right state: {:?}", State::of_this_cpu());
    let flags = interrupts::off();
    // SAFETY: nothing is mapped with a type that differs, and the right value comes back.
    unsafe { wrmsr(PAT_MSR, RESET) };
    let types = check_cpu(levels, method);
    // SAFETY: the value from before.
    unsafe { wrmsr(PAT_MSR, PAT) };
    let cr0 = State::of_this_cpu().cr0;
    set_cr0(cr0 & !WP);
    let protection = check_cpu(levels, method);
    set_cr0(cr0);
    interrupts::restore(flags);
    check!(types == Err(Unmet::MemoryTypes { pat: RESET }), "the types after a reset: {types:?}");
    check!(protection == Err(Unmet::WriteProtect), "without CR0.WP: {protection:?}");
    check!(check_cpu(9 - levels, method).is_err(), "the levels are not looked at");
    Ok(())
}

pub fn a_probe_survives_a_page_fault() -> Outcome {
    let value = 0x1234_5678_9abc_def0_u64;
    let at = core::ptr::from_ref(&value).expose_provenance();
    check!(trap::load(at) == Ok(value), "what is mapped reads as {:x?}", trap::load(at));
    let nowhere = vm().machine().region().end - 8;
    check!(trap::load(nowhere) == Err(Fault { at: nowhere }), "a load of nothing: {:x?}", trap::load(nowhere));
    // SAFETY: nobody's.
    let stored = unsafe { trap::store(nowhere, 1) };
    check!(stored == Err(Fault { at: nowhere }), "a store to nothing: {stored:x?}");
    let text = a_probe_survives_a_page_fault as *const () as usize;
    // SAFETY: D2: this does nothing but fault.
    let stored = unsafe { trap::store(text, 1) };
    check!(stored == Err(Fault { at: text }), "the image's text was written to");
    Ok(())
}

/// Nanoseconds between two ticks that are to come often.
const OFTEN: u32 = 50_000;

pub fn the_red_zone_and_sse_survive_nested_traps() -> Outcome {
    TICK_HOOK.set(in_the_tick);
    clock::tick_every(OFTEN);
    let start = cpu::here().counters.ticks.load(SeqCst);
    let (patience, mut broken) = (clock::ns() + PATIENCE, 0);
    while clock::ns() < patience && cpu::here().counters.ticks.load(SeqCst) < start + 300 {
        (0..500).for_each(|_| broken += leaf() as u64);
    }
    TICK_HOOK.clear();
    clock::tick_every(boot::settings().tick);
    let ticks = cpu::here().counters.ticks.load(SeqCst) - start;
    check!(ticks >= 50, "{ticks} ticks are too few to tell");
    check!(broken == 0, "{broken} words lost in {ticks} ticks");
    Ok(())
}

/// A page fault, a trap in a trap; and another value in a register.
fn in_the_tick() {
    let _nothing = trap::load(vm().machine().region().end - 8);
    // SAFETY: changes a register, and says so.
    unsafe { asm!("pcmpeqd xmm9, xmm9", out("xmm9") _, options(nomem, nostack)) }
}

/// What a compiler may make of a leaf function: words under rsp, and one in an
/// SSE register, for a while. Whether any has changed.
fn leaf() -> bool {
    let changed: u64;
    // SAFETY: writes into its own red zone only: the compiler keeps out of it,
    // since `nostack` is not said.
    unsafe {
        asm!(
            "mov {v}, 0x1234567", "mov [rsp - 8], {v}", "mov [rsp - 128], {v}", "movq xmm9, {v}",
            "mov {n:e}, 50", "2: dec {n:e}", "jnz 2b",
            "movq {c}, xmm9", "xor {c}, {v}",
            "mov {n}, [rsp - 8]", "xor {n}, {v}", "or {c}, {n}",
            "mov {n}, [rsp - 128]", "xor {n}, {v}", "or {c}, {n}",
            v = out(reg) _, n = out(reg) _, c = out(reg) changed, out("xmm9") _
        );
    }
    changed != 0
}
