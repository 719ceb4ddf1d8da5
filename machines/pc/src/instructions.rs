//! Privileged instructions: ports, model-specific and control registers.
//!
//! Rust has no way to say them but `asm!`. Each does one thing to this CPU or
//! to a device; whoever calls says why that is right.

use core::arch::asm;

/// Reads a byte from a port.
pub fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: the devices that are read (UART, PIC) lose nothing that anybody
    // else waits for.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Writes a byte to a port.
///
/// # Safety
/// The device behind the port does nothing to memory.
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller's.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes a double word to a port.
///
/// # Safety
/// As for [`outb`].
pub unsafe fn outl(port: u16, value: u32) {
    // SAFETY: the caller's.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a model-specific register that this CPU has.
pub fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading changes nothing; one that is missing traps, and is reported.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack)) }
    (high as u64) << 32 | low as u64
}

/// Writes a model-specific register.
///
/// # Safety
/// What it changes is the caller's to change.
pub unsafe fn wrmsr(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller's.
    unsafe { asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack)) }
}

/// Whether this CPU traps after each instruction from here on.
#[inline(always)]
pub fn trap_each(on: bool) {
    const TRAP: u64 = 1 << 8;
    let (keep, set) = if on { (!0, TRAP) } else { (!TRAP, 0) };
    // SAFETY: the flag changes nothing but what the handler sees.
    unsafe {
        asm!(
            "pushfq", "and [rsp], {keep}", "or [rsp], {set}", "popfq",
            keep = in(reg) keep, set = in(reg) set
        );
    }
}

/// The time-stamp counter: under `-icount shift=0`, instructions.
#[inline(always)]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    (high as u64) << 32 | low as u64
}

/// The address of the last page fault.
pub fn cr2() -> usize {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// The root table in use, as a physical address.
pub fn cr3() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value & !0xfff
}

/// Uses another root table.
///
/// # Safety
/// It maps whatever is used from here on, where it was.
pub unsafe fn set_cr3(root: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) }
}

/// CR4.
pub fn cr4() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Clears CR4.PGE: no translation is kept as a global one from here on.
pub fn clear_global_pages() {
    const PGE: u64 = 1 << 7;
    // SAFETY: global translations are a matter of speed; the change discards copies only.
    unsafe { asm!("mov cr4, {}", in(reg) cr4() & !PGE, options(nostack, preserves_flags)) }
}

/// Waits for an interrupt, turning interrupts on just before: none gets lost.
/// They are off again afterwards.
pub fn wait_for_interrupt() {
    // SAFETY: handlers are in place before anybody waits. `sti` takes effect
    // after the next instruction, so no interrupt comes before `hlt`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: nothing runs here any more.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
