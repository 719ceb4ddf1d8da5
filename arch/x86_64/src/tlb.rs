//! Discarding translations on the calling CPU.
//!
//! # What has never run
//! The tests boot QEMU 7.2, whose emulated CPUs have neither INVPCID nor address-space
//! ids: [`Method::Invpcid`] is chosen right and compiles, but no test has executed it.
//! [`Method::GlobalPages`], with CR4.PGE set and clear, and [`Method::Root`] are tested.

use crate::interrupts;
use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// How everything is discarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// INVPCID, type 2: all address-space ids, global translations too.
    Invpcid,
    /// CR4.PGE changed and changed back, whatever it was: the same, on any CPU that has
    /// global pages.
    GlobalPages,
    /// CR3 written anew: enough for a CPU without global pages and address-space ids.
    Root,
}

impl Method {
    /// The one that this CPU has.
    pub fn of_this_cpu() -> Method {
        Method::of(__cpuid_count)
    }

    /// The one of a CPU that answers `cpuid(leaf, subleaf)`: the first of the three that
    /// it has. What CR4 says at the moment does not matter.
    pub fn of(cpuid: impl Fn(u32, u32) -> CpuidResult) -> Method {
        // A CPU answers for a leaf that it does not have with another one's bits.
        let has = |leaf| cpuid(0, 0).eax >= leaf;
        match () {
            () if has(7) && cpuid(7, 0).ebx >> 10 & 1 != 0 => Method::Invpcid,
            () if cpuid(1, 0).edx >> 13 & 1 != 0 => Method::GlobalPages,
            () => Method::Root,
        }
    }

    /// Discards every translation and every paging-structure entry of this
    /// CPU: those of all address-space ids and global ones too.
    #[inline]
    pub fn everything(self) {
        match self {
            Method::Invpcid => invpcid_all(),
            Method::GlobalPages => flip_global_pages(),
            Method::Root => reload_root(),
        }
    }

    /// Discards the translations of the pages at these addresses, those of all address-space ids:
    /// by INVLPG, a page each, or everything where that does not reach them.
    #[inline]
    pub fn pages(self, pages: impl IntoIterator<Item = usize>) {
        match is_reached_by_page(cr4()) {
            true => pages.into_iter().for_each(page),
            false => self.everything(),
        }
    }
}

const PGE: u64 = 1 << 7;
const PCIDE: u64 = 1 << 17;

/// Whether INVLPG discards what it should. It discards global translations, and those of the id in
/// use. So with several ids the pages must be global.
const fn is_reached_by_page(cr4: u64) -> bool {
    cr4 & (PGE | PCIDE) != PCIDE
}

#[inline]
fn cr4() -> u64 {
    let cr4;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) }
    cr4
}

#[inline]
fn page(at: usize) {
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

/// Only a write that changes PGE discards anything, so the bit is flipped: kernels that
/// isolate page tables keep it clear. With interrupts off: a handler that wrote CR4 in
/// between would be undone.
fn flip_global_pages() {
    let flags = interrupts::off();
    // SAFETY: CR4 is what it was afterwards; a change of PGE discards copies
    // only.
    unsafe {
        asm!(
            "mov {was}, cr4", "mov {flipped}, {was}", "xor {flipped}, {pge}", "mov cr4, {flipped}", "mov cr4, {was}",
            was = out(reg) _, flipped = out(reg) _, pge = const PGE, options(nostack)
        );
    }
    interrupts::restore(flags);
}

/// With interrupts off: a handler that wrote CR3 in between would be undone.
fn reload_root() {
    let flags = interrupts::off();
    // SAFETY: CR3 is what it was; the write discards copies only.
    unsafe { asm!("mov {root}, cr3", "mov cr3, {root}", root = out(reg) _, options(nostack, preserves_flags)) }
    interrupts::restore(flags);
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVPCID: u32 = 1 << 10;
    const PGE: u32 = 1 << 13;

    #[test]
    fn a_page_alone_is_discarded_where_all_address_spaces_are_reached() {
        let reached = [0, super::PGE, super::PGE | PCIDE, PCIDE].map(is_reached_by_page);
        assert_eq!(reached, [true, true, true, false], "with ids and without global pages those of others stay");
    }

    /// The method of a CPU whose last leaf is `last`, with `ebx` in leaf 7 and `edx` in leaf 1.
    /// Leaves past the last answer as Intel's do: with the last one's bits, all of them set.
    fn method(last: u32, ebx: u32, edx: u32) -> Method {
        let none = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
        Method::of(|leaf, _| match leaf {
            0 => CpuidResult { eax: last, ..none },
            _ if leaf > last => CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 },
            1 => CpuidResult { edx, ..none },
            7 => CpuidResult { ebx, ..none },
            _ => none,
        })
    }

    #[test]
    fn a_cpu_with_invpcid_uses_it_whatever_else_it_has() {
        assert_eq!(method(13, INVPCID, PGE), Method::Invpcid);
        assert_eq!(method(7, INVPCID, 0), Method::Invpcid);
    }

    #[test]
    fn a_cpu_without_invpcid_flips_the_bit_for_global_pages() {
        assert_eq!(method(13, !INVPCID, PGE), Method::GlobalPages);
    }

    #[test]
    fn a_cpu_without_global_pages_loads_its_root_anew() {
        assert_eq!(method(13, !INVPCID, !PGE), Method::Root);
        assert_eq!(method(1, 0, 0), Method::Root);
    }

    #[test]
    fn a_leaf_past_the_last_promises_nothing() {
        assert_eq!(method(5, 0, PGE), Method::GlobalPages);
        assert_eq!(method(6, 0, 0), Method::Root);
    }
}
