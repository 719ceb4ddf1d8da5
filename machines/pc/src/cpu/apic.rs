//! The local interrupt controller: interrupts to other CPUs, and the tick.
//!
//! By MSRs where the CPU has the x2APIC, else through its page, which the
//! fixmap maps uncached. A register has the same number in both: its offset in
//! the page, and that over 16 from MSR 0x800 on.
//!
//! # Interrupts of one vector coalesce
//! Two kicks may arrive as one. Nobody counts them: a kicked CPU reads the
//! generation (`on_kick`), and what counts is what it publishes.
//!
//! # Source
//! Intel SDM vol. 3A chapter "APIC".

use super::here;
use super::local::count;
use crate::instructions::{inb, outb, rdmsr, wrmsr};
use crate::memory::{self, Fixed};
use crate::trap::Vector;
use core::arch::x86_64::{__cpuid, __cpuid_count, _mm_lfence, _mm_mfence};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vmalloc::units::CpuSet;
use vmalloc_x86_64::interrupts;

const BASE: u32 = 0x1b;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2: u64 = 1 << 10;

const ID: u32 = 0x20;
const END: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_TO: u32 = 0x310;
const TIMER: u32 = 0x320;
const TIMER_START: u32 = 0x380;
const TIMER_NOW: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_START: u32 = 6 << 8;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DIVIDE_BY_1: u32 = 0b1011;

/// Whether registers are MSRs: the same on all CPUs.
static X2: AtomicBool = AtomicBool::new(false);

/// Turns the calling CPU's on; the tick is still off.
pub fn init() {
    // CPUID.1:ECX, bit 21.
    let x2 = __cpuid(1).ecx >> 21 & 1 != 0;
    X2.store(x2, Relaxed);
    let base = rdmsr(BASE) | BASE_ENABLE | if x2 { BASE_X2 } else { 0 };
    // SAFETY: turns it on where it is.
    unsafe { wrmsr(BASE, base) }
    if !x2 {
        memory::fix(Fixed::Apic, base);
    }
    if here().index() == 0 {
        mask_legacy();
    }
    here().set_apic(id());
    write(SPURIOUS, SOFTWARE_ENABLE | Vector::Spurious as u32);
    write(TIMER_DIVIDE, DIVIDE_BY_1);
}

/// Nothing comes from the two old interrupt controllers.
fn mask_legacy() {
    // SAFETY: masks.
    unsafe {
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
    }
    let _masked = inb(0x21);
}

/// The calling CPU's number, before its controller is on.
pub fn boot_id() -> u32 {
    // CPUID.0BH:EDX where there is that leaf, else CPUID.1:EBX, bits 24 to 31.
    let has_leaf = __cpuid(0).eax >= 0xb && __cpuid_count(0xb, 0).ebx != 0;
    if has_leaf { __cpuid_count(0xb, 0).edx } else { __cpuid(1).ebx >> 24 }
}

/// The calling CPU's number.
fn id() -> u32 {
    if X2.load(Relaxed) { read(ID) } else { read(ID) >> 24 }
}

/// Whether MSRs are used.
pub fn is_x2() -> bool {
    X2.load(Relaxed)
}

/// The interrupt has been handled.
#[inline]
pub fn end_of_interrupt() {
    write(END, 0);
}

/// Ticks every `counts` of the controller's clock; never with 0.
pub fn tick_every(counts: u32) {
    let off = if counts == 0 { MASKED } else { 0 };
    write(TIMER, Vector::Tick as u32 | PERIODIC | off);
    write(TIMER_START, counts);
}

/// Counts down from the largest number, without interrupts; [`counted`] says
/// how far it came.
pub fn count_down() {
    write(TIMER, MASKED);
    write(TIMER_START, u32::MAX);
}

/// Counts since [`count_down`].
pub fn counted() -> u32 {
    u32::MAX - read(TIMER_NOW)
}

/// Makes each of `cpus` discard its translations soon.
pub fn kick(cpus: &CpuSet) {
    for cpu in cpus.iter() {
        count(&here().counters.kicks_sent);
        send(super::local::of(cpu).apic(), Vector::Kick as u32 | ASSERT);
    }
}

/// Makes a CPU look whether there is work.
pub fn wake(apic: u32) {
    send(apic, Vector::Wake as u32 | ASSERT);
}

/// An interrupt that cannot be held off.
pub fn nmi(apic: u32) {
    send(apic, DELIVER_NMI | ASSERT);
}

/// Resets a CPU.
pub fn init_other(apic: u32) {
    send(apic, DELIVER_INIT | ASSERT);
}

/// Makes a CPU that was reset begin at `at`, a page below 1 MiB.
pub fn start_other(apic: u32, at: u64) {
    send(apic, DELIVER_START | ASSERT | (at >> 12) as u32);
}

/// Interrupts off: a handler that sends one too must not come in between.
fn send(to: u32, command: u32) {
    let flags = interrupts::off();
    if X2.load(Relaxed) {
        // SAFETY: every CPU that runs this has SSE2.
        unsafe {
            // This register is not serialising: what was stored before comes first.
            _mm_mfence();
            _mm_lfence();
        }
        // SAFETY: the command register; what is sent is this module's business.
        unsafe { wrmsr(msr(COMMAND), (to as u64) << 32 | command as u64) }
    } else {
        write(COMMAND_TO, to << 24);
        write(COMMAND, command);
        while read(COMMAND) & PENDING != 0 {
            core::hint::spin_loop();
        }
    }
    interrupts::restore(flags);
}

fn msr(register: u32) -> u32 {
    0x800 + (register >> 4)
}

fn page(register: u32) -> NonNull<u32> {
    let at = memory::fixed(Fixed::Apic) + register as usize;
    // SAFETY: not 0.
    unsafe { NonNull::new_unchecked(core::ptr::with_exposed_provenance_mut(at)) }
}

fn read(register: u32) -> u32 {
    if X2.load(Relaxed) {
        return rdmsr(msr(register)) as u32;
    }
    // SAFETY: `init` mapped the page.
    unsafe { page(register).read_volatile() }
}

#[inline]
fn write(register: u32, value: u32) {
    if X2.load(Relaxed) {
        // SAFETY: a register of the controller, which is this module's.
        unsafe { wrmsr(msr(register), value as u64) }
    } else {
        // SAFETY: `init` mapped the page.
        unsafe { page(register).write_volatile(value) }
    }
}
