//! Discarding translations on the calling CPU.

use crate::interrupts;
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

/// How everything is discarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// INVPCID, type 2: all address-space ids, global translations too.
    Invpcid,
    /// CR4.PGE off and on: the same, on any CPU that has global pages.
    GlobalPages,
}

impl Method {
    /// The one that this CPU has.
    pub fn of_this_cpu() -> Method {
        // CPUID.(7,0):EBX, bit 10.
        let has_invpcid = __cpuid_count(7, 0).ebx >> 10 & 1 != 0;
        if has_invpcid { Method::Invpcid } else { Method::GlobalPages }
    }

    /// Discards every translation and every paging-structure entry of this
    /// CPU: those of all address-space ids and global ones too.
    #[inline]
    pub fn everything(self) {
        match self {
            Method::Invpcid => invpcid_all(),
            Method::GlobalPages => toggle_global_pages(),
        }
    }
}

/// Discards the translations of the page at `at`, and this address space's
/// paging-structure entries.
#[inline]
pub fn page(at: usize) {
    // SAFETY: a TLB holds copies; discarding one changes nothing in memory. No
    // `nomem`: accesses are not moved across.
    unsafe { asm!("invlpg [{}]", in(reg) at, options(nostack, preserves_flags)) }
}

#[inline]
fn invpcid_all() {
    const ALL_AND_GLOBAL: u64 = 2;
    let descriptor = [0u64; 2];
    // SAFETY: the CPU has the instruction (`Method`), and discards copies only.
    unsafe {
        asm!("invpcid {}, [{}]", in(reg) ALL_AND_GLOBAL, in(reg) &descriptor, options(nostack, preserves_flags));
    }
}

/// With interrupts off: a handler that wrote CR4 in between would be undone.
fn toggle_global_pages() {
    const PGE: u64 = 1 << 7;
    let flags = interrupts::off();
    // SAFETY: CR4 is what it was afterwards; a change of PGE discards copies
    // only.
    unsafe {
        asm!(
            "mov {was}, cr4", "mov {without}, {was}", "and {without}, {not_pge}", "mov cr4, {without}", "mov cr4, {was}",
            was = out(reg) _, without = out(reg) _, not_pge = const !PGE as i64, options(nostack)
        );
    }
    interrupts::restore(flags);
}
