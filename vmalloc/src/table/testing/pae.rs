//! The MMU of x86-32 with PAE. SDM §4.4: CR3 names the page-directory-pointer table, whose four
//! entries bits 31:30 of the address select; bits 29:21 and 20:12 select a PDE and a PTE.

use super::{Boxed, FRAME_64, Mmu, Seen, assert_preset, bit, large_page, memory_type};
use crate::machine::Machine;
use crate::sync::plain::Ordering::SeqCst;
use crate::table::X86Pae;
use crate::units::{Pfn, VirtAddr};

/// SDM table 4-8: bits 2:1, 8:5 and 63:MAXPHYADDR of a PDPTE are reserved.
fn assert_no_reserved_bits(pdpte: u64) {
    assert_eq!((bit(pdpte, 1), bit(pdpte, 2), pdpte >> 5 & 0xf, pdpte >> 52), (0, 0, 0, 0), "{pdpte:#x}");
}

impl Mmu for X86Pae {
    fn access(machine: &Boxed<X86Pae>, at: VirtAddr) -> Option<Seen> {
        let va = at.0 as u64;
        assert!(va < 1 << 32, "{va:#x} is no address of 32 bits");
        let pdpte = machine.word64(machine.root().phys() + 8 * (va >> 30)).load(SeqCst);
        if bit(pdpte, 0) == 0 {
            return None;
        }
        assert_no_reserved_bits(pdpte);
        let pde = machine.word64((pdpte & FRAME_64) + 8 * (va >> 21 & 511)).load(SeqCst);
        if bit(pde, 0) == 0 {
            return None;
        }
        assert_preset(pde);
        let leaf = |entry: u64, base: u64, pat: u32, write: u64, nx: u64| {
            assert_eq!((bit(entry, 6), bit(entry, 8)), (bit(entry, 1), 1), "dirty with writable only, global");
            let memory = memory_type(bit(entry, pat), bit(entry, 4), bit(entry, 3));
            Some(Seen { frame: Pfn::containing(base), write: write == 1, exec: nx == 0, memory })
        };
        if bit(pde, 7) == 1 {
            let base = large_page(pde, 1 << 21) + va % (1 << 21);
            return leaf(pde, base, 12, bit(pde, 1), bit(pde, 63));
        }
        let pte = machine.word64((pde & FRAME_64) + 8 * (va >> 12 & 511)).load(SeqCst);
        if bit(pte, 0) == 0 {
            return None;
        }
        assert_preset(pte);
        leaf(pte, pte & FRAME_64, 7, bit(pde, 1) & bit(pte, 1), bit(pde, 63) | bit(pte, 63))
    }

    fn locate(machine: &Boxed<X86Pae>, at: VirtAddr, level: u8) -> u64 {
        let va = at.0 as u64;
        let below = |entry: u64| machine.word64(entry).load(SeqCst) & FRAME_64;
        let pdpte = machine.root().phys() + 8 * (va >> 30);
        match level {
            3 => pdpte,
            2 => below(pdpte) + 8 * (va >> 21 & 511),
            _ => below(below(pdpte) + 8 * (va >> 21 & 511)) + 8 * (va >> 12 & 511),
        }
    }

    fn plant(machine: &Boxed<X86Pae>, at: VirtAddr, level: u8, word: u64) {
        machine.word64(Self::locate(machine, at, level)).store(word, SeqCst)
    }

    fn planted(machine: &Boxed<X86Pae>, at: VirtAddr, level: u8) -> u64 {
        machine.word64(Self::locate(machine, at, level)).load(SeqCst)
    }

    fn borders(_: u8) -> [usize; 3] {
        [0xf7a0_0000, 0x8000_0000, 0xc000_0000]
    }

    const HAS_NX: bool = true;
}
