//! The state of a CPU that the library's entries rely on.
//!
//! | State | Relied on by |
//! |---|---|
//! | EFER.NXE | entries of data, which have bit 63 set |
//! | CR0.WP | entries that are read-only |
//! | CR4.PGE, CR4.PCIDE | the flush: entries are global, and CR3 does not discard those |
//! | CR4.LA57 | the number of levels that the tables have |
//! | PAT | memory types, which entries name by their index in it |
//! | CR4.PKS | areas, whose protection key is 0 |
//!
//! # Source
//! Intel SDM vol. 3A §4.1 (what each bit changes), §4.10.4 (what a write of CR3 keeps), §11.12
//! (PAT); vol. 4 (the registers' numbers).

use crate::tlb::Method;
use core::arch::asm;
use core::fmt;

/// The value of [`PAT_MSR`] that the library's formats rely on: from the lowest byte up WB, WC, UC−,
/// UC, WB, WP, UC−, WT. Other kernels use the same. The first and the fourth type are those of a CPU
/// after a reset, so that what is mapped as write-back or uncached already stays so.
pub const PAT: u64 = 0x0407_0506_0007_0106;
/// The number of the model-specific register that holds the memory types.
pub const PAT_MSR: u32 = 0x277;

const EFER_MSR: u32 = 0xc000_0080;
const PKRS_MSR: u32 = 0x6e1;
const EFER_NXE: u64 = 1 << 11;
const CR0_WP: u64 = 1 << 16;
const CR4_PGE: u64 = 1 << 7;
const CR4_LA57: u64 = 1 << 12;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_PKS: u64 = 1 << 24;
/// Access and stores with key 0 are forbidden.
const PKRS_KEY_0: u64 = 3;

/// The registers that [`State::check`] looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// IA32_EFER.
    pub efer: u64,
    /// CR0.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_PKRS; 0 where CR4.PKS is clear.
    pub pkrs: u64,
}

/// A state that the library relies on and the CPU does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmet {
    /// EFER.NXE is clear: bit 63 of an entry is reserved then, so every access to an area faults.
    NoExecute,
    /// CR0.WP is clear: read-only entries do not stop the kernel's own stores.
    WriteProtect,
    /// CR4.PGE or CR4.PCIDE is set, and [`Method::Root`] does not discard what it keeps.
    GlobalPages {
        /// CR4.
        cr4: u64,
    },
    /// CR4.LA57 says another number of levels than `Machine::levels`.
    Levels {
        /// What `Machine::levels` returns.
        told: u8,
        /// What the CPU walks.
        walked: u8,
    },
    /// IA32_PAT is not [`PAT`]: entries have other memory types than they should.
    MemoryTypes {
        /// IA32_PAT.
        pat: u64,
    },
    /// CR4.PKS is set, and IA32_PKRS restricts key 0, which all areas have.
    ProtectionKeys {
        /// IA32_PKRS.
        pkrs: u64,
    },
}

/// Checks that the calling CPU has the state that the library relies on. `levels` is what
/// `Machine::levels` returns, and `flush` is the method that `Machine::flush` uses. Call it on each
/// CPU before its `cpu_online`, at privilege 0: elsewhere the reads fault.
///
/// # Errors
/// The first state that is not as it must be.
pub fn check_cpu(levels: u8, flush: Method) -> Result<(), Unmet> {
    State::of_this_cpu().check(levels, flush)
}

impl State {
    /// The state of the calling CPU, at privilege 0.
    pub fn of_this_cpu() -> State {
        let (cr0, cr4): (u64, u64);
        // SAFETY: reads two registers.
        unsafe {
            asm!("mov {}, cr0", "mov {}, cr4", out(reg) cr0, out(reg) cr4, options(nomem, nostack, preserves_flags));
        }
        let pkrs = if cr4 & CR4_PKS != 0 { read(PKRS_MSR) } else { 0 };
        State { efer: read(EFER_MSR), cr0, cr4, pat: read(PAT_MSR), pkrs }
    }

    /// Checks this state, as [`check_cpu`] does.
    ///
    /// # Errors
    /// The first state that is not as it must be.
    pub fn check(&self, levels: u8, flush: Method) -> Result<(), Unmet> {
        let walked = if self.cr4 & CR4_LA57 == 0 { 4 } else { 5 };
        let kept = flush == Method::Root && self.cr4 & (CR4_PGE | CR4_PCIDE) != 0;
        match () {
            () if self.efer & EFER_NXE == 0 => Err(Unmet::NoExecute),
            () if self.cr0 & CR0_WP == 0 => Err(Unmet::WriteProtect),
            () if kept => Err(Unmet::GlobalPages { cr4: self.cr4 }),
            () if levels != walked => Err(Unmet::Levels { told: levels, walked }),
            () if self.pat != PAT => Err(Unmet::MemoryTypes { pat: self.pat }),
            () if self.pkrs & PKRS_KEY_0 != 0 => Err(Unmet::ProtectionKeys { pkrs: self.pkrs }),
            () => Ok(()),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { efer, cr0, cr4, pat, pkrs } = self;
        write!(f, "EFER {efer:#x}, CR0 {cr0:#x}, CR4 {cr4:#x}, PAT {pat:#018x}, PKRS {pkrs:#x}")
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unmet::NoExecute => f.write_str("EFER.NXE is clear: entries of data have a reserved bit set"),
            Unmet::WriteProtect => f.write_str("CR0.WP is clear: read-only entries do not stop the kernel"),
            Unmet::GlobalPages { cr4 } => {
                write!(f, "CR4.PGE or CR4.PCIDE is set (CR4 {cr4:#x}): a write of CR3 does not discard everything")
            }
            Unmet::Levels { told, walked } => {
                write!(f, "CR4.LA57 makes the CPU walk {walked} levels, but the machine says {told}")
            }
            Unmet::MemoryTypes { pat } => write!(f, "PAT is {pat:#018x} and not {PAT:#018x}"),
            Unmet::ProtectionKeys { pkrs } => write!(f, "CR4.PKS is set and PKRS {pkrs:#x} restricts key 0"),
        }
    }
}

impl core::error::Error for Unmet {}

/// Reads a model-specific register that every CPU of 64 bits has, or that CR4 says is there.
fn read(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: a read changes nothing.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    (high as u64) << 32 | low as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    const RIGHT: State = State { efer: EFER_NXE, cr0: CR0_WP, cr4: CR4_PGE, pat: PAT, pkrs: 0 };

    #[test]
    fn a_cpu_in_the_state_that_is_relied_on_passes() {
        for method in [Method::Invpcid, Method::GlobalPages] {
            assert_eq!(RIGHT.check(4, method), Ok(()));
            assert_eq!(State { cr4: CR4_PCIDE | CR4_LA57, ..RIGHT }.check(5, method), Ok(()));
            assert_eq!(State { cr4: CR4_PKS, pkrs: !PKRS_KEY_0, ..RIGHT }.check(4, method), Ok(()));
        }
        assert_eq!(State { cr4: 0, ..RIGHT }.check(4, Method::Root), Ok(()), "nothing is global");
    }

    #[test]
    fn each_state_that_is_missing_is_refused_by_name() {
        let refused = |state: State| state.check(4, Method::Invpcid).unwrap_err();
        assert_eq!(refused(State { efer: !EFER_NXE, ..RIGHT }), Unmet::NoExecute);
        assert_eq!(refused(State { cr0: !CR0_WP, ..RIGHT }), Unmet::WriteProtect);
        assert_eq!(refused(State { cr4: CR4_LA57, ..RIGHT }), Unmet::Levels { told: 4, walked: 5 });
        assert_eq!(RIGHT.check(5, Method::Invpcid), Err(Unmet::Levels { told: 5, walked: 4 }));
        let reset = 0x0007_0406_0007_0406;
        assert_eq!(refused(State { pat: reset, ..RIGHT }), Unmet::MemoryTypes { pat: reset });
        for pkrs in [1, 2, 3] {
            assert_eq!(refused(State { cr4: CR4_PKS, pkrs, ..RIGHT }), Unmet::ProtectionKeys { pkrs });
        }
        for cr4 in [CR4_PGE, CR4_PCIDE, CR4_PGE | CR4_PCIDE] {
            assert_eq!(State { cr4, ..RIGHT }.check(4, Method::Root), Err(Unmet::GlobalPages { cr4 }));
        }
    }

    #[test]
    fn what_is_refused_says_its_values_in_hex() {
        let said = Unmet::MemoryTypes { pat: 0x0007_0406_0007_0406 }.to_string();
        assert_eq!(said, "PAT is 0x0007040600070406 and not 0x0407050600070106");
        assert_eq!(std::format!("{RIGHT:?}"), "EFER 0x800, CR0 0x10000, CR4 0x80, PAT 0x0407050600070106, PKRS 0x0");
    }
}
