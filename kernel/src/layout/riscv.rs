//! 64-bit RISC-V: vmalloc ends where the direct map begins, and has half as many addresses.

use super::{GIB, Layout, Part, TIB};

/// A 64-bit RISC-V machine, by the levels of its page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Riscv {
    /// Three levels.
    Sv39,
    /// Four levels.
    Sv48,
}

impl Riscv {
    /// Where the parts lie.
    pub fn layout(&self) -> Layout {
        let (machine, page_offset, vmalloc) = match self {
            Riscv::Sv39 => ("riscv Sv39", 0xffff_ffd6_0000_0000, 64 * GIB),
            Riscv::Sv48 => ("riscv Sv48", 0xffff_af80_0000_0000, 32 * TIB),
        };
        let parts = [
            Part::new("vmalloc", page_offset - vmalloc, page_offset),
            Part::new("direct map", page_offset, page_offset + 2 * vmalloc),
        ];
        Layout::new(machine, None, &parts)
    }
}
